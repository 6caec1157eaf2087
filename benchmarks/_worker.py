"""Both ends of a worker: a process that holds one library and one problem and fits on request.

A worker reads requests from its standard input and answers on its standard output, one line of JSON
each. Whatever the library prints goes to standard error. The ratings are read once, in the form the
library wants; the seconds of an answer are measured inside.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from benchmarks import peers
from benchmarks._memory import forget_peak, peak_memory
from benchmarks._problem import Problem

ROOT = Path(__file__).parents[1]
# Seconds for which all processors are kept busy before anything is timed.
AWAKE = 0.3


class Worker:
    """The end that asks.

    `tree` is a folder with a build of cmf to use in place of the one that this process imports.
    """

    def __init__(
        self,
        library: str,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        tree: Path | None = None,
    ) -> None:
        """Start the process; it reads its ratings while we go on."""
        import cmf  # not above: the other end takes it from `tree`

        path = [tree or Path(cmf.__file__).parents[1], ROOT]
        settings = {
            "PYTHONSAFEPATH": "1",  # else the current folder, with a cmf in it, would go first
            "PYTHONPATH": os.pathsep.join(map(str, path)),
            "PYTHONWARNINGS": "ignore",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks._worker", library, str(folder)],
            env={**os.environ, **settings, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        print(json.dumps(request), file=requests, flush=True)
        line = answers.readline()
        if not line:
            raise RuntimeError(f"a worker ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"a worker failed:\n{answer['error']}")
        return answer

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()


def _serve(library: str, folder: str, answers: IO[str]) -> None:
    """Answer requests until there are no more."""
    problem = Problem.load(Path(folder))
    trainer = peers.module(library).Trainer(problem)
    for line in sys.stdin:
        try:
            answer = _answer(problem, trainer, **json.loads(line))
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)


def _answer(
    problem: Problem,
    trainer: peers.Trainer,
    n_epochs: int | None = None,
    settings: dict[str, Any] | None = None,
    repeat: int = 1,
) -> dict[str, Any]:
    """Fit and return the mean seconds of `repeat` fits; without epochs, judge the last fit.

    The answer to a fit also has how far the memory in use has risen above where it stood before.
    A fit of no epochs only tells that the ratings have been read.
    """
    if n_epochs == 0:
        return {}
    if n_epochs is None:
        return {"rmse": problem.rmse(trainer.predict(*problem.test_pairs()))}
    _wake_processors()
    trainer.model = None  # else the memory of the last model would count as there before
    before = forget_peak()
    seconds = [trainer.fit(n_epochs, settings or {}) for _ in range(repeat)]
    return {"seconds": sum(seconds) / repeat, "memory": peak_memory() - before}


def _wake_processors() -> None:
    """Keep all processors busy for a moment.

    One that has idled, as it does while a contestant runs on another, takes a tenth of a second to
    come up to its speed: most of a short fit, nothing of a long one.
    """
    until = time.perf_counter() + AWAKE
    block = bytes(2**16)

    def hash_on(_: int) -> None:
        while time.perf_counter() < until:
            hashlib.sha256(block)  # without the GIL

    n_processors = os.cpu_count() or 1
    with ThreadPoolExecutor(n_processors) as pool:
        list(pool.map(hash_on, range(n_processors)))


def _main() -> None:
    """Keep standard output for answers, whatever the library prints, from C code too."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _serve(sys.argv[1], sys.argv[2], answers)


if __name__ == "__main__":
    _main()
