"""What this build of cmf runs with on this machine."""

from __future__ import annotations

import os
import platform
import sys
from typing import Any

import numpy as np
import scipy

from cmf._kernels.interleaved import highest_level
from cmf._version import __version__

__all__ = ["show_config", "simd_level"]

LEVELS = ("baseline", "avx2", "avx512")
VARIABLE = "CMF_SIMD"


def simd_level() -> int:
    """Choose the instruction-set level of the kernels.

    Returns
    -------
    int
        Position in `LEVELS`: the best that the processor has, or a lower one that the environment
        variable ``CMF_SIMD`` names. It is read at every call.

    Raises
    ------
    ValueError
        If ``CMF_SIMD`` names no level.
    """
    highest = highest_level()
    wanted = os.environ.get(VARIABLE, "")
    if not wanted:
        return highest
    if wanted not in LEVELS:
        raise ValueError(
            f"the environment variable {VARIABLE} must be one of {', '.join(LEVELS)}, "
            f"got {wanted!r}"
        )
    return min(highest, LEVELS.index(wanted))


def show_config(mode: str = "stdout") -> dict[str, Any] | None:
    """Print, or return, what cmf runs with: versions and instruction-set levels.

    Parameters
    ----------
    mode : {"stdout", "dicts"}, default "stdout"
        Whether to print the facts or to return them.

    Returns
    -------
    dict or None
        With ``"dicts"``: the names of the facts and their values.

    Examples
    --------
    >>> import cmf
    >>> sorted(cmf.show_config(mode="dicts"))
    ['cmf', 'machine', 'numpy', 'python', 'scipy', 'simd', 'simd_available']
    """
    if mode not in ("stdout", "dicts"):
        raise ValueError(f"mode must be 'stdout' or 'dicts', got {mode!r}")
    facts = {
        "cmf": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "machine": f"{sys.platform} {platform.machine()}",
        "simd": LEVELS[simd_level()],
        "simd_available": list(LEVELS[: highest_level() + 1]),
    }
    if mode == "dicts":
        return facts
    for name, fact in facts.items():
        sys.stdout.write(f"{name:15}{' '.join(fact) if isinstance(fact, list) else fact}\n")
    return None
