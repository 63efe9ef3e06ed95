"""The faults of a run, as a seed orders them, and what carries each out."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from tests.torture.faults.databases import Cluster, Volume
from tests.torture.faults.servers import FAKETIME, Servers, Slot, is_ready

PAUSES: Final = (0.05, 0.5)
"""Between two faults, in seconds: least and most."""
STOP_SECONDS_MAX: Final = 3.0
FULL_SECONDS_MAX: Final = 3.0
JUMPS_SECONDS: Final = (-86_400, -3600, -60, 60, 3600, 86_400)
WEIGHTS: Final[Mapping[str, int]] = {
    "kill_server": 40,
    "kill_database": 20,
    "stop_server": 2,
    "stop_database": 1,
    "end_server": 1,
    "terminate": 4,
    "terminate_in_commit": 6,
    "fill_disk": 2,
    "exhaust": 1,
    "jump": 2,
    "backup": 1,
    "read_only": 1,
    "kill_client": 1,
}


@dataclass(slots=True)
class Faults:
    """What can go wrong, and how often it did."""

    random: random.Random
    servers: Servers
    cluster: Cluster | None
    disk: Volume | None
    end_client: Callable[[], Awaitable[None]]
    back_up: Callable[[], Awaitable[None]] | None = None
    done: Counter[str] = field(default_factory=Counter)
    jumping: list[asyncio.Task[None]] = field(default_factory=list)

    def ways(self) -> dict[str, int]:
        """The faults that this machine and this database allow, by weight."""
        without: set[str] = {"backup", "read_only"}
        if self.cluster is None:
            without = {"kill_database", "stop_database", "terminate", "terminate_in_commit", "exhaust"}
        if self.disk is None:
            without |= {"fill_disk", "read_only"}
        if not FAKETIME.exists():
            without.add("jump")
        return {name: weight for name, weight in WEIGHTS.items() if name not in without}

    async def run(self, seconds: float) -> None:
        """One fault after another."""
        ways = self.ways()
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            await asyncio.sleep(self.random.uniform(*PAUSES))
            name = self.random.choices(list(ways), list(ways.values()))[0]
            await getattr(self, name)()
        await asyncio.gather(*self.jumping)

    async def _victim(self) -> Slot | None:
        slots = self.random.sample(self.servers.slots, len(self.servers.slots))
        for slot in slots:
            if await is_ready(slot.port):
                return slot
        return None

    async def kill_server(self) -> None:
        """SIGKILL to a server that serves."""
        slot = await self._victim()
        if slot is not None and slot.signal(signal.SIGKILL):
            self.done["kills of servers"] += 1

    async def end_server(self) -> None:
        """SIGTERM to a server that serves."""
        slot = await self._victim()
        if slot is not None and slot.signal(signal.SIGTERM):
            self.done["orderly ends of servers"] += 1

    async def stop_server(self) -> None:
        """SIGSTOP to a server for a while."""
        slot = await self._victim()
        if slot is not None and slot.signal(signal.SIGSTOP):
            self.done["stops of servers"] += 1
            await asyncio.sleep(self.random.random() * STOP_SECONDS_MAX)
            slot.signal(signal.SIGCONT)

    async def kill_database(self) -> None:
        """SIGKILL to PostgreSQL as a whole, and its start with crash recovery."""
        if self.cluster is not None:
            await asyncio.to_thread(self.cluster.kill)
            self.done["kills of PostgreSQL"] += 1
            await asyncio.to_thread(self.cluster.start)

    async def stop_database(self) -> None:
        """SIGSTOP to PostgreSQL as a whole for a while."""
        if self.cluster is not None:
            pids = self.cluster.processes()
            self.cluster.signal(signal.SIGSTOP)
            self.done["stops of PostgreSQL"] += 1
            await asyncio.sleep(self.random.random() * STOP_SECONDS_MAX)
            for pid in [*pids, *self.cluster.processes()]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    async def terminate(self) -> None:
        """End the servers' sessions in PostgreSQL."""
        if self.cluster is not None:
            self.done["sessions ended"] += await asyncio.to_thread(self.cluster.terminate, in_commit=False)

    async def terminate_in_commit(self) -> None:
        """End the sessions that are in a COMMIT."""
        if self.cluster is not None:
            ended = await asyncio.to_thread(self.cluster.terminate, in_commit=True)
            self.done["sessions ended in a COMMIT"] += ended

    async def fill_disk(self) -> None:
        """No room on the database's disk for a while."""
        if self.disk is not None:
            await asyncio.to_thread(self.disk.fill)
            self.done["full disks"] += 1
            await asyncio.sleep(self.random.random() * FULL_SECONDS_MAX)
            self.disk.free()
        await self.revive()

    async def exhaust(self) -> None:
        """No connection to PostgreSQL is left for a while."""
        if self.cluster is not None:
            taken = await asyncio.to_thread(self.cluster.exhaust)
            self.done["connections exhausted"] += 1
            await asyncio.sleep(self.random.random() * STOP_SECONDS_MAX)
            for session in taken:
                session.close()

    async def jump(self) -> None:
        """A server whose clock jumps while it serves, beside other faults."""
        slot = await self._victim()
        if slot is not None and slot.fake is None:
            self.jumping.append(asyncio.create_task(self._jumping(slot)))

    async def _jumping(self, slot: Slot) -> None:
        clock = self.servers.folder / f"clock-{slot.number}"
        clock.write_text("+0\n")
        slot.fake = str(clock)
        slot.signal(signal.SIGKILL)
        self.done["kills of servers"] += 1
        for seconds in self.random.sample(JUMPS_SECONDS, 2):
            await self._served(slot)
            clock.write_text(f"{seconds:+}\n")
            self.done["jumps of a clock"] += 1
            await asyncio.sleep(self.random.random() * STOP_SECONDS_MAX)
        slot.fake = None
        slot.signal(signal.SIGKILL)
        self.done["kills of servers"] += 1

    async def _served(self, slot: Slot) -> None:
        """Wait until this one serves, or a while."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(10 * STOP_SECONDS_MAX):
                await self.servers.ready(slot)

    async def kill_client(self) -> None:
        """SIGKILL to a client process, and a new one in its place."""
        await self.end_client()
        self.done["kills of clients"] += 1

    async def backup(self) -> None:
        """A copy of an SQLite ledger while it is served, which must hold all that was acknowledged before."""
        if self.back_up is not None:
            await self.back_up()
            self.done["backups"] += 1

    async def read_only(self) -> None:
        """SQLite's volume is read-only for a while; it can become so only while nothing is open."""
        if self.disk is None:
            return
        for slot in self.servers.slots:
            slot.is_kept = False
            self.done["kills of servers"] += slot.signal(signal.SIGKILL)
        await self._ended()
        self.done["read-only volumes"] += self.disk.remount("ro")
        for slot in self.servers.slots:
            self.servers.start(slot)
        await asyncio.sleep(2 * STOP_SECONDS_MAX)
        for slot in self.servers.slots:
            self.done["kills of servers"] += slot.signal(signal.SIGKILL)
        await self._ended()
        self.disk.remount("rw")
        for slot in self.servers.slots:
            slot.is_kept = True

    async def _ended(self) -> None:
        while any(slot.is_alive() for slot in self.servers.slots):  # noqa: ASYNC110 (no process of ours, so no event)
            await asyncio.sleep(0.01)

    async def revive(self) -> None:
        """Start PostgreSQL if it ended by itself, as it does if its disk is full."""
        if self.cluster is not None and not self.cluster.is_alive():
            self.done["ends of PostgreSQL by itself"] += 1
            await asyncio.to_thread(self.cluster.start)

    async def heal(self) -> None:
        """End whatever is wrong."""
        if self.disk is not None:
            self.disk.free()
        for slot in self.servers.slots:
            slot.fake, slot.is_kept = None, True
            slot.signal(signal.SIGCONT)
        if self.cluster is not None:
            self.cluster.signal(signal.SIGCONT)
        await self.revive()
