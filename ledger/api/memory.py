"""The memory of the process that serves."""

from __future__ import annotations

import contextlib
import ctypes
from typing import Final

_ARENA_MAX: Final = -8
"""The number of this parameter in the GNU C library."""


def share() -> None:
    """Let all threads take memory from one place. Each would keep some for itself, which adds up to a hundred megabytes
    after large requests; one thread at a time works anyway."""
    with contextlib.suppress(OSError, AttributeError):  # not the GNU C library
        ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)
