"""What another tenant and its monitoring see meanwhile: approvals at a fixed rate, `/healthz`, and memory."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import uuid4

from tests.kit.driver import RELEASE, Served
from tests.torture.wire import CUT, Wire, request

CONNECTIONS: Final = 4
APPROVALS_PER_SECOND: Final = 20
CERTIFIED_PER_SECOND: Final = 0.5
HEALTH_PER_SECOND: Final = 10
LOOKS_PER_SECOND: Final = 2
ANSWERS_SECONDS_MAX: Final = 120.0
"""How long a phase that is over waits for its first answers, if the machine gave it no time for them."""
MB: Final = 1024 * 1024
T = TypeVar("T")
_LAG: Final = re.compile(rb"^ledger_loop_lag_seconds (\S+)$", re.MULTILINE)


@dataclass(slots=True)
class Times:
    """Milliseconds of requests that were due at fixed times, from when each was due; and what they were answered."""

    ms: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    answered: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, status: int, ms: float) -> None:
        """Count a request that was answered so, after so long."""
        self.ms.append(ms)
        self.statuses[status] += 1
        self.answered.set()

    def percentile(self, percent: int) -> float:
        """The smallest time that so many percent do not exceed; 0 if there is none."""
        return sorted(self.ms)[max(0, math.ceil(len(self.ms) * percent / 100) - 1)] if self.ms else 0.0


@dataclass(slots=True)
class Seen:
    """What was seen in one phase."""

    seconds: float = 0.0
    approvals: Times = field(default_factory=Times)
    certified: Times = field(default_factory=Times)
    """Approvals for each of which a certificate is computed."""
    health: Times = field(default_factory=Times)
    newcomers: Times = field(default_factory=Times)
    """`/healthz` too, each on a new connection."""
    lag_ms: list[float] = field(default_factory=list)
    waited_percent: float = 0.0
    """Of the time, how much the server's first thread could have gone on if it had had a processor."""
    own_mb: float = 0.0
    """The most memory that the server's process had."""
    all_mb: float = 0.0
    """The most that it and its children had together; what they share counts once."""


class Watch:
    """A tenant that asks, and the monitoring of a server."""

    def __init__(self, served: Served, key: str) -> None:
        self._served, self._key = served, key
        self._numbers = itertools.count(1)

    async def look(self, seconds: float) -> Seen:
        """What is seen in so many seconds."""
        seen, _ = await self.beside(asyncio.sleep(seconds))
        return seen

    async def beside(self, others: Coroutine[Any, Any, T]) -> tuple[Seen, T]:
        """What is seen until this has ended, and what it returned."""
        seen = Seen()
        begun, waited = time.perf_counter(), _waited_seconds(self._served.pid)
        every = CONNECTIONS / APPROVALS_PER_SECOND
        work = [
            *(self._paced(every, seen.approvals, self._approval, phase=phase) for phase in range(CONNECTIONS)),
            self._paced(1 / CERTIFIED_PER_SECOND, seen.certified, self._certified),
            self._paced(1 / HEALTH_PER_SECOND, seen.health, _health),
            self._paced(1 / HEALTH_PER_SECOND, seen.newcomers, _health, is_kept=False),
            self._measure(seen),
        ]
        tasks = [asyncio.create_task(one) for one in work]
        over = asyncio.create_task(_after(others, [seen.approvals, seen.health, seen.newcomers]))
        await asyncio.wait([over, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        result = await over
        seen.seconds = time.perf_counter() - begun
        seen.waited_percent = 100 * (_waited_seconds(self._served.pid) - waited) / seen.seconds
        return seen, result

    def _approval(self) -> bytes:
        return request("POST", "/v1/runs", f"Idempotency-Key: {uuid4().hex}", key=self._key, body=RELEASE)

    def _certified(self) -> bytes:
        mechanism = {
            "type": "dpsgd",
            "noise_multiplier": 20 + next(self._numbers) / 1000,
            "sampling": "poisson",
            "sample_rate": 0.01,
            "steps": 1000,
        }
        body: dict[str, Any] = {"datasets": ["certified"], "mechanism": mechanism, "delta": 1e-9}
        return request("POST", "/v1/runs", f"Idempotency-Key: {uuid4().hex}", key=self._key, body=body)

    async def _paced(
        self, every_seconds: float, times: Times, make: Callable[[], bytes], *, phase: int = 0, is_kept: bool = True
    ) -> None:
        """One request each so many seconds, the next one after the answer where that comes later."""
        with contextlib.closing(Wire(self._served.url)) as wire:
            due = time.perf_counter() + every_seconds * phase / CONNECTIONS
            while True:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                try:
                    status, _ = await wire.ask(make())
                except OSError:
                    status = CUT
                times.note(status, 1000 * (time.perf_counter() - due))
                if not is_kept:
                    wire.close()
                due += every_seconds

    async def _measure(self, seen: Seen) -> None:
        with contextlib.closing(Wire(self._served.url)) as wire:
            await wire.ask(request("GET", "/metrics"))  # whose lag is that of the time before
            for number in itertools.count():
                resident = await asyncio.to_thread(resident_mb, self._served.pid)
                seen.own_mb = max(seen.own_mb, resident[0])
                seen.all_mb = max(seen.all_mb, sum(resident))
                if number % LOOKS_PER_SECOND == 0:
                    _, text = await wire.ask(request("GET", "/metrics"))
                    seen.lag_ms += [1000 * float(lag) for lag in _LAG.findall(text)]
                await asyncio.sleep(1 / LOOKS_PER_SECOND)


async def _after(others: Coroutine[Any, Any, T], counted: Sequence[Times]) -> T:
    """What the others returned, once each of these has an answer too."""
    result = await others
    async with asyncio.timeout(ANSWERS_SECONDS_MAX):
        for times in counted:
            await times.answered.wait()
    return result


def _health() -> bytes:
    return request("GET", "/healthz")


def resident_mb(pid: int) -> list[float]:
    """The memory of a process, and of each of its children, as Linux shows it: of what is shared, each has its part."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    try:
        children = [int(child) for task in tasks for child in task.read_text().split()]
    except OSError:
        children = []
    return [_resident_mb_of(one) for one in (pid, *children)]


def _resident_mb_of(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0  # it has ended, or this is no Linux
    found = re.search(r"^Pss:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def _waited_seconds(pid: int) -> float:
    """How long the first thread of a process has waited for a processor, as Linux counts it."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0
