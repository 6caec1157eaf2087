"""What all benchmarks share: interleaved timing, ratios, tables and the machine's description."""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

Times = dict[str, list[float]]


def parser(docstring: str | None, *, rounds: int = 5) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has; no `rounds`, no such option."""
    made = argparse.ArgumentParser(
        description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--quick", action="store_true", help="small data: does it run at all?")
    if rounds:
        made.add_argument(
            "--rounds",
            type=int,
            default=rounds,
            help=f"interleaved rounds behind a median (default {rounds})",
        )
    return made


def add_only_option(made: argparse.ArgumentParser, what: str) -> None:
    """Add an option that keeps some of what is compared, called `what`; see `is_chosen`."""
    made.add_argument("--only", default="", help=f"{what} with one of these in the name, by commas")


def is_chosen(name: str, only: str) -> bool:
    """Tell whether a name has in it one of the parts, between commas, of the option `--only`."""
    return any(part in name for part in only.split(","))


def interleave(contestants: Mapping[str, Callable[[], float]], rounds: int) -> Times:
    """Run every contestant once a round and return the seconds that each reports, by name.

    Rounds alternate in direction. Whatever else slows the machine down for a while then hits all
    contestants alike, which one run after the other would not do.
    """
    times: Times = {name: [] for name in contestants}
    for round_number in range(rounds):
        names = list(contestants)
        for name in names if round_number % 2 == 0 else reversed(names):
            times[name].append(contestants[name]())
    return times


def ratios(times: Times, slow: str, fast: str) -> list[float]:
    """Return how many times as long `slow` takes, round by round."""
    return [s / f for s, f in zip(times[slow], times[fast], strict=True)]


def ratio(times: Times, slow: str, fast: str) -> float:
    """Return how many times as long `slow` takes: the median of the ratios of each round."""
    return statistics.median(ratios(times, slow, fast))


def spread(seconds: Sequence[float]) -> str:
    """Return the least and the largest time in percent of the median."""
    middle = statistics.median(seconds)
    return f"{min(seconds) / middle - 1:+.0%} {max(seconds) / middle - 1:+.0%}"


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows as a Markdown table with columns of equal width."""
    cells = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[c]) for row in cells) for c in range(len(header))]
    ruler = ["-" * (width - 1) + ":" if c else "-" * width for c, width in enumerate(widths)]
    for row in [cells[0], ruler, *cells[1:]]:
        padded = (
            cell.rjust(width) if c else cell.ljust(width)
            for c, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print(f"| {' | '.join(padded)} |", flush=True)
    print(flush=True)


def print_machine(*packages: str) -> None:
    """Print the date, the machine, how busy it is, and versions."""
    names = ("cmf-recsys", "numpy", "scipy", *packages)
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{datetime.date.today()}, {_cpu()}, {os.cpu_count()} cores{load}")
    print(
        f"{platform.python_implementation()} {platform.python_version()}, "
        + ", ".join(f"{name} {_version(name)}" for name in names),
        end="\n\n",
        flush=True,
    )


def _cpu() -> str:
    """Return the processor's name with family and model, which say more where names are vague."""
    fields = {}
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines():
            key, _, value = line.partition(":")
            fields[key.strip()] = value.strip()
    if "model name" not in fields:
        return platform.processor() or platform.machine()
    numbers = f" (family {fields['cpu family']}, model {fields['model']})"
    return fields["model name"] + (numbers if "cpu family" in fields else "")


def _version(package: str) -> str:
    """Return the version of a package, or that there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
