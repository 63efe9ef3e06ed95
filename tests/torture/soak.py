"""`make torture PARTS=soak`: a server at half of what it can do, and whether memory, connections or latency grow.

LEDGER_SOAK_MINUTES    how long; default: 30
LEDGER_TORTURE_RECORD  1: add the figures to tests/torture/RESULTS.md, and plot them
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import uuid4

from tests.torture import results
from tests.torture.faults.proxy import Manners
from tests.torture.faults.run import Setup, Site, opened, scratch
from tests.torture.plot import write_lines
from tests.torture.watch import resident_mb
from tests.torture.wire import CUT, Wire, request

MINUTES: Final = float(os.environ.get("LEDGER_SOAK_MINUTES", "30"))
CAPACITY_SECONDS: Final = 20.0
EVERY_SECONDS: Final = 10.0
SESSIONS: Final = 8
PLOT: Final = results.FOLDER / "soak.svg"
RUN: Final = {"datasets": ["large-0"], "mechanism": {"type": "gaussian", "noise_multiplier": 3000}}
QUANTITIES: Final = (
    "memory, MB",
    "connections to PostgreSQL",
    "threads",
    "file descriptors",
    "latency, p50, ms",
    "latency, p99, ms",
)


@dataclass(slots=True)
class Load:
    """Requests of a mix, and how long each took."""

    site: Site
    ms: list[float] = field(default_factory=list)
    failed: int = 0
    answered: int = 0

    async def session(self, every_seconds: float, until: float, phase: float = 0.0) -> None:
        """One request after another, each due at its time: an approval, its start and its settlement."""
        with contextlib.closing(Wire(self.site.url)) as wire:
            due = time.perf_counter() + phase * every_seconds
            run = ""
            for number in itertools.count():
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                if time.perf_counter() > until:
                    return
                begun = max(due, time.perf_counter()) if every_seconds == 0 else due
                run = await self._one(wire, number % 3, run)
                self.ms.append(1000 * (time.perf_counter() - begun))
                due = begun + every_seconds

    async def _one(self, wire: Wire, turn: int, run: str) -> str:
        key = self.site.keys["requester"]
        if turn == 0 or not run:
            content = request("POST", "/v1/runs", f"Idempotency-Key: {uuid4().hex}", key=key, body=RUN)
        else:
            content = request("POST", f"/v1/runs/{run}/{('start', 'settle')[turn - 1]}", key=key)
        try:
            status, body = await wire.ask(content)
        except OSError:
            status, body = CUT, b""
        self.answered += 1
        self.failed += status not in (200, 201)
        return body.partition(b'"id":"')[2][:36].decode() if status == 201 else run


def main() -> bool:
    """Soak, print and record; whether every request was answered."""
    with scratch() as folder:
        rate, load, samples = asyncio.run(soaked(folder, MINUTES * 60))
    trends = {name: trend(samples[name]) for name in QUANTITIES}
    print(f"\nsoak: {MINUTES:.0f} minutes, {load.answered:,} requests at {rate:.1f}/s, {load.failed} failed")
    for name, (first, last, slope) in trends.items():
        print(f"{name:30}{first:>12,.2f} first third{last:>12,.2f} last third{slope:>+12,.4f} a minute")
    figures = {"minutes": MINUTES, "rate": rate, "requests": load.answered, "failed": load.failed, "trends": trends}
    if os.environ.get("LEDGER_TORTURE_RECORD"):
        write_lines(PLOT, "A soak at half of capacity", EVERY_SECONDS / 60, samples)
    results.record("soak", figures)
    return not load.failed


async def soaked(folder: Path, seconds: float) -> tuple[float, Load, Mapping[str, Sequence[float]]]:
    """The rate, the load, and what was sampled."""
    setup = Setup("postgresql", seed=0, seconds=0, folder=folder, servers=1, has_volume=False)
    async with opened(setup) as site:
        await site.tell(Manners([slot.port for slot in site.servers.slots]))
        rate = await _capacity(site) / 2
        load, ends = Load(site), time.perf_counter() + seconds
        every = SESSIONS / rate
        sessions = [asyncio.create_task(load.session(every, ends, number / SESSIONS)) for number in range(SESSIONS)]
        samples: dict[str, list[float]] = {name: [] for name in QUANTITIES}
        while time.perf_counter() < ends:
            await asyncio.sleep(EVERY_SECONDS)
            for name, value in (await asyncio.to_thread(_sample, site, load)).items():
                samples[name].append(value)
        await asyncio.gather(*sessions)
    return rate, load, samples


async def _capacity(site: Site) -> float:
    """How many requests a second are answered, if each session sends the next one at once."""
    load = Load(site)
    begun = time.perf_counter()
    await asyncio.gather(*(load.session(0.0, begun + CAPACITY_SECONDS) for _ in range(SESSIONS)))
    return load.answered / (time.perf_counter() - begun)


def _sample(site: Site, load: Load) -> dict[str, float]:
    """What the server uses now, and how long its answers took since the last sample."""
    (slot,) = site.servers.slots
    taken, load.ms = sorted(load.ms) or [0.0], []
    place = Path(f"/proc/{slot.pid}")
    connections = 0
    if site.cluster is not None:
        with site.cluster.session() as session:
            query = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'ledger_server'"
            connections = (session.execute(query).fetchone() or (0,))[0]
    return dict(
        zip(
            QUANTITIES,
            (
                sum(resident_mb(slot.pid)),
                float(connections),
                float(len(list((place / "task").iterdir()))),
                float(len(list((place / "fd").iterdir()))),
                taken[len(taken) // 2],
                taken[len(taken) * 99 // 100],
            ),
            strict=True,
        )
    )


def trend(values: Sequence[float]) -> tuple[float, float, float]:
    """The means of the first and the last third, and the slope of the line of least squares, for each minute."""
    third = max(1, len(values) // 3)
    minutes = [number * EVERY_SECONDS / 60 for number in range(len(values))]
    middle, mean = sum(minutes) / len(minutes), sum(values) / len(values)
    spread = sum((minute - middle) ** 2 for minute in minutes) or 1.0
    slope = sum((minute - middle) * (value - mean) for minute, value in zip(minutes, values, strict=True)) / spread
    return sum(values[:third]) / third, sum(values[-third:]) / third, slope
