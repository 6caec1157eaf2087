"""The libraries that are compared, one module each, all with the same face.

A module has ``INSTALL``, how to get the library, ``present()``, whether it is there, and a
``Trainer`` like the one described here. Nothing of a library is imported before its trainer is
made, which happens in a process of its own.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any, Protocol

from benchmarks._problem import Problem

MODULES = {
    "cmf": "benchmarks.peers.own",
    "LIBMF": "benchmarks.peers.libmf",
    "Surprise": "benchmarks.peers.surprise",
    "cornac": "benchmarks.peers.cornac",
    "cmfrec": "benchmarks.peers.cmfrec",
}


class Trainer(Protocol):
    """A library with the training ratings in memory, in the form in which it wants them.

    Attributes
    ----------
    model : object
        What the last fit has left, and all of it.
    """

    model: Any

    def __init__(self, problem: Problem) -> None:
        """Bring the ratings into the library's own form, which no time includes."""

    def fit(self, n_epochs: int, settings: dict[str, Any]) -> float:
        """Train anew and return the seconds of the whole fit."""

    def predict(self, users: Any, items: Any) -> Any:
        """Return what the last fit predicts for pairs."""


def module(library: str) -> ModuleType:
    """Return the module of a library of this package."""
    return import_module(MODULES[library])
