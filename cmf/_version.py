"""The version of the installed distribution."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__"]

try:
    __version__ = version("cmf-recsys")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "unknown"
