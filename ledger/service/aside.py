"""Work that grows with what a caller sent: small work runs at once, large work in threads that tenants use in turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar
from uuid import UUID

from ledger.service.turns import Turns, Urgency

THREADS: Final = 2
ON_LOOP_BYTES_MAX: Final = 16 * 1024
"""The most bytes of JSON to work on at once: a millisecond or so."""
WAITING_OF_TENANT_MAX: Final = 64
SECONDS_MAX: Final = 60

T = TypeVar("T")


class Aside:
    """Runs work next to the event loop. Its coroutines belong to one loop."""

    def __init__(self) -> None:
        self._turns = Turns(threads=THREADS, name="ledger-aside", of_tenant_max=WAITING_OF_TENANT_MAX)

    def close(self) -> None:
        """End the threads."""
        self._turns.close()

    async def run(self, tenant_id: UUID, work: Callable[[], T], *, size: int | None) -> T:
        """Return the result of the work. size: the bytes that it works on; None if unknown or too much for the loop.

        Raises what the work raises, and Overloaded if too much work of the tenant waits.
        """
        if size is not None and size <= ON_LOOP_BYTES_MAX:
            return work()
        job = self._turns.submit(tenant_id, work, urgency=Urgency.DECISION, limit_seconds=SECONDS_MAX)
        try:
            return await asyncio.wrap_future(job.answer)
        except asyncio.CancelledError:
            self._turns.drop(job)
            raise
