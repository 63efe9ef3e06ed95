"""`make torture PARTS=rolling`: restart two servers in turn behind a balancer, and count the answers that broke.

The balancer keeps connections and asks `/readyz` five times a second. An answer is broken if the client's connection
ended without one, or if its status is 500 or more.

    LEDGER_TORTURE_ANSWERS  how many; default: 100000
    LEDGER_DRAIN_SECONDS    of the servers; default: 2
    LEDGER_TORTURE_RECORD   1: add the figures to tests/torture/RESULTS.md
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from uuid import uuid4

from tests.torture import results
from tests.torture.faults.proxy import READY_EVERY_SECONDS, Manners
from tests.torture.faults.run import Setup, Site, opened, scratch
from tests.torture.wire import CUT, Wire, request

ANSWERS: Final = int(os.environ.get("LEDGER_TORTURE_ANSWERS", "100000"))
DRAIN_SECONDS: Final = int(os.environ.get("LEDGER_DRAIN_SECONDS", "2"))
SESSIONS: Final = 12
SERVERS: Final = 2
RUN: Final = {"datasets": ["large-0"], "mechanism": {"type": "gaussian", "noise_multiplier": 3000}}


def main() -> bool:
    """Restart, count, print and record; whether no answer was broken."""
    with scratch() as folder:
        statuses, restarts = asyncio.run(rolled(folder, ANSWERS, DRAIN_SECONDS))
    broken = sum(count for status, count in statuses.items() if is_broken(status))
    answers = sum(statuses.values())
    print(f"\nrolling restart, drain of {DRAIN_SECONDS} s: {answers:,} answers, {restarts} restarts, {broken} broken")
    print(", ".join(f"{count:,} of {status or 'cut'}" for status, count in sorted(statuses.items())))
    figures = {"answers": answers, "restarts": restarts, "broken": broken, "drain_seconds": DRAIN_SECONDS}
    results.record("rolling", figures)
    return not broken


def is_broken(status: int) -> bool:
    """Whether the client did not get what it asked for."""
    return status == CUT or status >= 500


async def rolled(
    folder: Path, answers: int, drain_seconds: int, database: str = "postgresql"
) -> tuple[Counter[int], int]:
    """The statuses of so many answers while servers restart, and how often one did."""
    setup = Setup(database, seed=0, seconds=0, folder=folder, servers=SERVERS, has_volume=False)
    statuses: Counter[int] = Counter()
    async with opened(setup, drain_seconds=str(drain_seconds)) as site:
        await site.tell(Manners([slot.port for slot in site.servers.slots], asks_ready=True))
        await asyncio.sleep(3 * READY_EVERY_SECONDS)
        restarting = asyncio.create_task(_restart(site))
        numbers = iter(range(answers))
        await asyncio.gather(*(_ask(site, numbers, statuses) for _ in range(SESSIONS)))
        restarting.cancel()
        restarts = sum(slot.starts for slot in site.servers.slots) - SERVERS
    return statuses, restarts


async def _restart(site: Site) -> None:
    """End one server after another; each is started again at once, and is ready before the next one's turn."""
    for slot in itertools.cycle(site.servers.slots):
        slot.signal(signal.SIGTERM)
        starts = slot.starts
        while slot.starts == starts:  # noqa: ASYNC110 (it ends by itself)
            await asyncio.sleep(READY_EVERY_SECONDS)
        await site.servers.ready()
        # Until the balancer knows it too.
        await asyncio.sleep(5 * READY_EVERY_SECONDS)


async def _ask(site: Site, numbers: Iterator[int], statuses: Counter[int]) -> None:
    """Ask for runs, and for what is left; count the statuses."""
    with contextlib.closing(Wire(site.url)) as wire:
        for number in numbers:
            key = site.keys["requester"]
            if number % 4:
                content = request("GET", "/v1/me", key=key)
            else:
                content = request("POST", "/v1/runs", f"Idempotency-Key: {uuid4().hex}", key=key, body=RUN)
            try:
                status, _ = await wire.ask(content)
            except OSError:
                status = CUT
            statuses[status] += 1
