"""httpx, imported at the first request that this process makes itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.deferred import Deferred

if TYPE_CHECKING:
    import httpx
else:
    httpx = Deferred("httpx")

__all__ = ["httpx"]
