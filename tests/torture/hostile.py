"""A hostile tenant, and a crowd without keys from the same address, doing everything at once.

A process of its own at a lower priority, since the machine is shared with the server: `python -m tests.torture.hostile`
reads a `Plan` as a line of JSON, prints that it is ready, begins after another line, and prints as JSON what each
attack was answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Final
from uuid import UUID, uuid4

from ledger.access import keys
from tests.torture.wire import CUT, Wire, answer, head, request

NICE: Final = 10
MB: Final = 1024 * 1024
SLOW_BYTES: Final = 2048
"""What a slow client sends or takes a second."""
WAIT_SECONDS: Final = 1.0
"""After an answer that asks to wait, which whoever is not hostile would do for longer."""
LEAVE_SECONDS: Final = 0.1
HOLD_SECONDS: Final = 10.0
AWAITED_SECONDS_MAX: Final = 120.0
"""For answers that are awaited beyond the plan's time."""
ASKED_TO_WAIT: Final = (429, 503)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is attacked, by whom and for how long."""

    url: str
    seconds: float
    webhook_port: int
    key: str
    """An admin's; the others are those of two auditors, each with places of its own."""
    auditors: tuple[str, str]
    plenty: str
    """A dataset with a large budget, and a journal of long entries."""
    tight: tuple[str, ...]
    """Datasets in whose budgets nothing fits."""
    attacks: tuple[str, ...] = ()
    """All of them if none is named."""
    awaited: tuple[str, ...] = ()
    """Attacks without whose first answers it does not end: clients that get no processor are answered late."""

    def as_json(self) -> str:
        """What `read` takes."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Plan:
        """The plan that was written."""
        values = json.loads(text)
        lists = {name: tuple(values[name]) for name in ("auditors", "tight", "attacks", "awaited")}
        return cls(**{**values, **lists})


@dataclass(slots=True)
class Attack:
    """One kind of harm. at_once: how many do it."""

    name: str
    at_once: int
    turn: Callable[[], Awaitable[int]]
    """Does it once, and returns the status of what it was answered."""
    statuses: Counter[int] = field(default_factory=Counter)
    answered: asyncio.Event = field(default_factory=asyncio.Event)

    async def repeat(self) -> None:
        """Do it until cancelled."""
        while True:
            try:
                status = await self.turn()
            except (OSError, asyncio.IncompleteReadError):
                status = CUT
            self.statuses[status] += 1
            if status != CUT:
                self.answered.set()
            if status in ASKED_TO_WAIT:
                await asyncio.sleep(WAIT_SECONDS)


class Hostile:
    """Whoever does what a plan is."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._numbers = itertools.count(1)
        self._wires: list[Wire] = []
        self.attacks = [
            self._asking("composed evaluations", 4, self._composed_evaluation),
            self._asking("batches at the limit of work", 1, lambda: self._batch(40)),
            self._asking("batches of too much work", 1, lambda: self._batch(1000)),
            self._asking("valid bodies of 1 MB", 2, self._padded),
            self._asking("invalid bodies of 1 MB", 2, self._invalid),
            Attack("one-byte strangers", 1000, self._one_byte),
            Attack("slow megabytes with a key", 400, self._slow_megabyte),
            self._asking("evaluations of another delta", 4, self._another_delta),
            self._asking("large certificates", 1, self._large_certificate),
            self._asking("plans", 1, self._plan),
            self._asking("large refused runs", 2, self._refused),
            Attack("slow readers of exports", 8, lambda: self._slow_reader("export")),
            Attack("slow readers of reports", 8, lambda: self._slow_reader("report")),
            self._asking("bodies of 7 MB", 2, lambda: request("POST", "/v1/runs", key=plan.key, raw=_SEVEN_MB)),
            self._asking("reports as PDF", 2, lambda: self._report("pdf")),
            Attack("callers that leave", 4, self._leaver),
            self._asking("wrong keys", 2, lambda: request("GET", "/v1/datasets", key=keys.mint(_UNKNOWN))),
            self._asking("alerts to a slow webhook", 1, self._alert, every_seconds=1),
        ]

    async def run(self) -> dict[str, dict[int, int]]:
        """Do all of it for as long as the plan is, and until each awaited attack has an answer. Return the statuses of
        each attack."""
        webhook = await asyncio.start_server(_take_and_be_silent, "127.0.0.1", self.plan.webhook_port)
        chosen = [one for one in self.attacks if one.name in self.plan.attacks or not self.plan.attacks]
        work = [asyncio.create_task(one.repeat()) for one in chosen for _ in range(one.at_once)]
        over = asyncio.create_task(self._over(chosen))
        done, _ = await asyncio.wait([over, *work], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        for wire in self._wires:
            wire.close()
        webhook.close()
        return {attack.name: dict(attack.statuses) for attack in chosen}

    async def _over(self, chosen: list[Attack]) -> None:
        await asyncio.sleep(self.plan.seconds)
        async with asyncio.timeout(AWAITED_SECONDS_MAX):
            for attack in chosen:
                if attack.name in self.plan.awaited:
                    await attack.answered.wait()

    def _asking(self, name: str, at_once: int, make: Callable[[], bytes], *, every_seconds: float = 0) -> Attack:
        """An attack of whole requests, over connections that are kept."""
        free = [Wire(self.plan.url) for _ in range(at_once)]
        self._wires += free

        async def turn() -> int:
            wire = free.pop()
            try:
                status, _ = await wire.ask(make())
            finally:
                free.append(wire)
            await asyncio.sleep(every_seconds)
            return status

        return Attack(name, at_once, turn)

    # --- whole requests

    def _evaluation(self, mechanism: dict[str, Any], **more: Any) -> bytes:
        return request("POST", "/v1/evaluate", key=self.plan.key, body={"mechanism": mechanism, **more})

    def _parts(self, count: int) -> dict[str, Any]:
        """A composed mechanism that nobody asked for before."""
        first = next(self._numbers) * count
        return {"type": "composed", "parts": [{"type": "zcdp", "rho": (first + n) / 1e9} for n in range(count)]}

    def _composed_evaluation(self) -> bytes:
        return self._evaluation(self._parts(100))

    def _batch(self, runs: int) -> bytes:
        asked = [{**self._run(self._parts(20), self.plan.plenty), "idempotency_key": uuid4().hex} for _ in range(runs)]
        return request("POST", "/v1/runs/batch", key=self.plan.key, body={"runs": asked})

    def _run(self, mechanism: dict[str, Any], *datasets: str) -> dict[str, Any]:
        return {"datasets": datasets, "mechanism": mechanism}

    def _padded(self) -> bytes:
        body = json.dumps({"mechanism": {"type": "gaussian", "noise_multiplier": 5 + next(self._numbers)}})
        return request("POST", "/v1/evaluate", key=self.plan.key, raw=body.encode().ljust(MB))

    def _invalid(self) -> bytes:
        raw = next(_INVALID)
        return request("POST", "/v1/runs", f"Idempotency-Key: {uuid4().hex}", key=self.plan.key, raw=raw)

    def _another_delta(self) -> bytes:
        return self._evaluation(_DPSGD, delta=1e-6 / next(self._numbers))

    def _large_certificate(self) -> bytes:
        mechanism = {
            "type": "dpsgd",
            "noise_multiplier": 0.5 + next(self._numbers) / 1e9,
            "sampling": "poisson",
            "sample_rate": 1e-6,
            "steps": 1_000_000,
        }
        return self._evaluation(mechanism, delta=1e-8)

    def _plan(self) -> bytes:
        mechanism = {**_DPSGD, "steps": 1000 + next(self._numbers)}
        body = {**self._run(mechanism, self.plan.plenty), "solve_for": "noise_multiplier"}
        return request("POST", "/v1/plan", key=self.plan.key, body=body)

    def _refused(self) -> bytes:
        body = {**self._run(self._parts(100), *self.plan.tight), "purpose": "p" * 3000}
        return request("POST", "/v1/runs", f"Idempotency-Key: {uuid4().hex}", key=self.plan.key, body=body)

    def _report(self, form: str) -> bytes:
        key = self.plan.auditors[next(self._numbers) % 2]
        return request("GET", f"/v1/datasets/{self.plan.plenty}/report?format={form}", key=key)

    def _alert(self) -> bytes:
        return request("POST", "/v1/alerting/test", key=self.plan.key)

    # --- halves of requests and of answers

    async def _one_byte(self) -> int:
        """A chunk of one byte, without a key; then nothing, whether or not the other side ends the connection."""
        async with Wire(self.plan.url).connected() as (reader, writer):
            writer.write(head("POST", "/v1/evaluate", "Transfer-Encoding: chunked") + b"1\r\nx\r\n")
            status, _, _ = await answer(reader)
            await asyncio.sleep(HOLD_SECONDS)
            return status

    async def _slow_megabyte(self) -> int:
        """A body of 1 MB that comes slowly, under a good key."""
        async with Wire(self.plan.url).connected() as (reader, writer):
            writer.write(head("POST", "/v1/evaluate", f"Content-Length: {MB}", key=self.plan.key))
            sending = asyncio.create_task(_send_slowly(writer))
            try:
                status, _, _ = await answer(reader)
            finally:
                sending.cancel()
                with contextlib.suppress(asyncio.CancelledError, OSError):
                    await sending
            return status

    async def _slow_reader(self, what: str) -> int:
        """Takes an answer of megabytes slowly."""
        key = self.plan.auditors[next(self._numbers) % 2]
        async with Wire(self.plan.url).connected(receive_bytes=SLOW_BYTES) as (reader, writer):
            writer.write(request("GET", f"/v1/datasets/{self.plan.plenty}/{what}", key=key))
            first = await reader.readline()
            while await reader.read(SLOW_BYTES):
                await _for_a_second()
            return int(first.split()[1]) if first else CUT

    async def _leaver(self) -> int:
        """Asks for what is dear, and leaves."""
        dear = (self._large_certificate, self._composed_evaluation, lambda: self._report("html"))
        async with Wire(self.plan.url).connected() as (reader, writer):
            writer.write(dear[next(self._numbers) % 3]())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LEAVE_SECONDS):
                    status, _, _ = await answer(reader)
                    return status
            return CUT


_DPSGD: Final[dict[str, Any]] = {
    "type": "dpsgd",
    "noise_multiplier": 1.1,
    "sampling": "poisson",
    "sample_rate": 0.01,
    "steps": 1000,
}
_UNKNOWN: Final = UUID(int=7)
_SEVEN_MB: Final = b" " * (7 * MB)


def _invalid_bodies() -> Iterator[bytes]:
    """Bodies of 1 MB that take long to refuse: many members, many numbers, many runs, and one that is no JSON."""
    texts = (
        json.dumps({f"member-{number}": number for number in range(45_000)}),
        json.dumps({"datasets": list(range(140_000)), "mechanism": {"type": "zcdp", "rho": 0.1}}),
        json.dumps({"mechanism": {"type": "composed", "parts": [{"type": "zcdp", "rho": "x"}] * 25_000}}),
        '{"purpose": "' + "x" * (MB - 100),
    )
    yield from itertools.cycle([text.encode()[:MB] for text in texts])


_INVALID: Final = _invalid_bodies()


async def _for_a_second() -> None:
    await asyncio.sleep(1)


async def _send_slowly(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b" " * SLOW_BYTES)
        await writer.drain()
        await _for_a_second()


async def _take_and_be_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A webhook that never answers."""
    with contextlib.suppress(OSError, asyncio.CancelledError):
        await reader.read()
    writer.transport.abort()


def main() -> None:
    """Do what the plan on the standard input is, once it has been told to begin."""
    os.nice(NICE)
    hostile = Hostile(Plan.read(sys.stdin.readline()))
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(asyncio.run(hostile.run())))


if __name__ == "__main__":
    main()
