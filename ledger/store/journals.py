"""Entries: read and appended."""

from __future__ import annotations

from typing import Final

TAIL_MAX: Final = 200
"""How far back in a journal refusals in a row are counted, in entries."""
