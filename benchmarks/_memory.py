"""The peak of the memory that this process has in use."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

PROCESS = Path("/proc/self")


def peak_memory() -> int:
    """Return the most memory that this program has had in use, in bytes."""
    if (PROCESS / "status").exists():
        # Linux hands ru_maxrss on from a parent process to its child; this number it does not.
        return _status("VmHWM")
    import resource  # of Unix systems only

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def forget_peak() -> int:
    """Let the peak start from the memory in use now, where the system can, and return the peak."""
    with suppress(OSError):
        (PROCESS / "clear_refs").write_text("5")
    return peak_memory()


def _status(name: str) -> int:
    """Return a number of bytes that Linux tells of this process."""
    return 1024 * int((PROCESS / "status").read_text().split(f"{name}:")[1].split()[0])
