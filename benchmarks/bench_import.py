"""Import time over NumPy and scipy.sparse, and the size on disk.

Each round starts two Python processes: one imports numpy and scipy.sparse and then times the import
of cmf, the other only times that of numpy and scipy.sparse. Files are in the page cache after the
first, unmeasured round. Sizes are those of the files in the package's folder, without bytecode
caches, and of a wheel if one is named.

Meaningless on the first start after a boot, and with an import hook of a coverage tool or an
editable build that rebuilds on import.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path

import cmf
from benchmarks._report import interleave, parser, print_machine, print_table, spread

BASE = "import numpy, scipy.sparse"
TIMED = "import time; {before}; t = time.perf_counter(); {timed}; print(time.perf_counter() - t)"
LAZY = ("narwhals", "tqdm", "pandas", "polars", "pyarrow", "sklearn", "matplotlib", "surprise")


def main() -> None:
    """Print times, sizes, and what importing cmf has loaded that it should not."""
    arguments_parser = parser(__doc__, rounds=21)
    arguments_parser.add_argument("--wheel", type=Path, help="a wheel of which to tell the size")
    arguments = arguments_parser.parse_args()
    print_machine()
    contestants = {
        "numpy and scipy.sparse": partial(_seconds, TIMED.format(before="pass", timed=BASE)),
        "cmf on top": partial(_seconds, TIMED.format(before=BASE, timed="import cmf")),
    }
    interleave(contestants, 1)
    times = interleave(contestants, 3 if arguments.quick else arguments.rounds)
    print_table(
        ["import", "ms", "spread"],
        (
            (name, f"{1e3 * statistics.median(seconds):.1f}", spread(seconds))
            for name, seconds in times.items()
        ),
    )
    print_table(["size", "kB"], _sizes(arguments.wheel))
    print("loaded besides:", ", ".join(_loaded()) or "none of " + ", ".join(LAZY))


def _seconds(program: str) -> float:
    """Run a program in a new process and return the number it prints."""
    return float(_run(program))


def _loaded() -> list[str]:
    """Return the packages that `import cmf` should leave alone and does not."""
    names = f"[name for name in {LAZY!r} if name in sys.modules]"
    return _run(f"import sys, cmf; print(*{names})").split()


def _run(program: str) -> str:
    """Run a program in a new process and return what it prints."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _sizes(wheel: Path | None) -> list[tuple[str, str]]:
    """Return names and sizes of what is installed."""
    files = [path for path in Path(cmf.__file__).parent.rglob("*") if path.is_file()]
    groups = {
        "Python": [path for path in files if path.suffix in (".py", ".pyi", ".typed")],
        "extensions": [path for path in files if path.suffix in (".so", ".pyd")],
    }
    if wheel is not None:
        groups["wheel"] = [wheel]
    return [
        (name, f"{sum(path.stat().st_size for path in group) / 1e3:.0f}")
        for name, group in groups.items()
    ]


if __name__ == "__main__":
    main()
