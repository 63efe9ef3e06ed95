"""A client process: sessions that ask, start, settle and void, and a steward's that changes budgets by two people.

    python -m tests.torture.faults.clients < PLAN

Each session writes down what it will send, sends it, and tries a few times if it does not learn the outcome.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.torture.faults.records import UNKNOWN, Answer, Book, Intent, now
from tests.torture.wire import CUT, Wire, request

ANSWER_SECONDS_MAX: Final = 8.0
ATTEMPTS: Final = 3
PAUSE_SECONDS: Final = 0.15
STEWARD_PAUSE_SECONDS: Final = 0.1
ZIPF: Final = 1.1
RUNS_OF_BATCH: Final = 100
KEPT_RUNS_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Plan:
    """What a client process is told."""

    name: str
    url: str
    seed: int
    seconds: float
    folder: str
    keys: Mapping[str, str]
    """By who: `requester`, `steward` and `second`."""
    datasets: Sequence[str]
    """The most popular first."""
    partitioned: Sequence[str]
    tight: Sequence[str]
    """Those whose budgets are used up soon."""
    sessions: int = 4
    pause_seconds: float = 0.0
    """Of a session, between two requests."""


@dataclass(slots=True)
class Client:
    """What the sessions of a process share."""

    plan: Plan
    book: Book
    ends_at: int
    held: list[str] = field(default_factory=list)
    started: list[tuple[str, int]] = field(default_factory=list)
    """With the planned steps."""
    settled: list[tuple[str, int]] = field(default_factory=list)
    partitions: int = 0

    def is_over(self) -> bool:
        """Whether no new request is begun."""
        return now() > self.ends_at


async def send(
    wire: Wire, intent: Intent, keys: Mapping[str, str], *, seconds: float = ANSWER_SECONDS_MAX
) -> tuple[int, Any]:
    """Send an intent once: the status and body of the answer, 0 if there was none."""
    lines = ["X-Once: 1"] if intent.is_once else []
    if intent.kind == "ask":
        lines.append(f"Idempotency-Key: {intent.id}")
    content = request(intent.method, intent.path, *lines, key=keys[intent.who], body=intent.content())
    try:
        async with asyncio.timeout(seconds):
            status, body = await wire.ask(content)
        return status, json.loads(body) if body else None
    except (OSError, TimeoutError, ValueError):
        wire.close()
        return CUT, None


class Session:
    """One connection of a client, and its choices."""

    def __init__(self, client: Client, number: int) -> None:
        self.client, self.plan = client, client.plan
        self.random = random.Random(f"{client.plan.seed}/{client.plan.name}/{number}")
        self.wire = Wire(client.plan.url)

    async def call(self, kind: str, path: str, who: str = "requester", body: Any = None, **rest: Any) -> Answer | None:
        """Send a request, again if the outcome is unknown, and return what it came to; None if that is not known."""
        intent = self.client.book.intend(kind, path, who, body, **rest)
        for attempt in range(1 if intent.is_once else ATTEMPTS):
            status, answer = await send(self.wire, intent, self.plan.keys)
            if status not in UNKNOWN:
                return self.client.book.answered(intent, status, answer)
            await asyncio.sleep(PAUSE_SECONDS * (1 + 2 * attempt) * self.random.random())
        return None

    async def read(self, path: str) -> Any:
        """What a GET returns, which is not written down; None without an answer."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                status, body = await self.wire.ask(request("GET", path, key=self.plan.keys["steward"]))
        except (OSError, TimeoutError):
            self.wire.close()
            return None
        return json.loads(body) if status == 200 else None

    def dataset(self) -> str:
        """A dataset by Zipf's law."""
        names = self.plan.datasets
        return self.random.choices(names, [1 / rank**ZIPF for rank in range(1, len(names) + 1)])[0]

    def named(self, name: str) -> Any:
        """The dataset as a run names it."""
        if name in self.plan.partitioned and self.random.random() < 0.8:
            return {"name": name, "partitions": sorted(self.random.sample(["a", "b", "c"], self.random.randint(1, 2)))}
        return name

    def run(self, *, is_small: bool) -> dict[str, Any]:
        """A run of one dataset, sometimes two."""
        names = {self.dataset() for _ in range(2 if self.random.random() < 0.1 else 1)}
        is_tight = any(name in self.plan.tight for name in names)
        noise = self.random.choice([15, 20, 30, 70]) if is_tight else self.random.choice([700, 1000, 3000])
        count = 1 if is_small else self.random.randint(2, 6)
        mechanism = {"type": "gaussian", "noise_multiplier": noise, "count": count}
        return {"datasets": [self.named(name) for name in sorted(names)], "mechanism": mechanism}


class Requester(Session):
    """Asks, and ends what it was given."""

    async def work(self) -> None:
        """One request after another, until the time is over."""
        ways = {self.ask: 4, self.batch: 10, self.start: 4, self.settle: 4, self.void: 2}
        while not self.client.is_over():
            await self.random.choices(list(ways), list(ways.values()))[0]()
            await asyncio.sleep(self.plan.pause_seconds)

    async def ask(self) -> None:
        """One run, to be started later."""
        answer = await self.call("ask", "/v1/runs", body=self.run(is_small=False))
        self._keep(answer)

    async def batch(self) -> None:
        """Up to 100 runs: each on its own, all or none, or as many as fit."""
        count = self.random.choice([RUNS_OF_BATCH, RUNS_OF_BATCH, RUNS_OF_BATCH, 7])
        body: dict[str, Any] = {"runs": [self.run(is_small=True) for _ in range(3)]}
        way = self.random.choices([None, "as_many_as_fit", "atomic"], [8, 2, 1])[0]
        if way is not None:
            body[way] = True
        answer = await self.call("batch", "/v1/runs/batch", body=body, count=count)
        if answer is not None:
            approved = [one.about for one in answer.outcomes if one.kind == "run-approved"]
            self.client.held += self.random.sample(approved, min(2, len(approved)))

    async def start(self) -> None:
        """Start a run that is held."""
        if not self.client.held:
            return
        run = self._pick(self.client.held)
        answer = await self.call("start", f"/v1/runs/{run}/start", about=run)
        if answer is None or answer.status == 200:
            self.client.started.append((run, self.random.randint(1, 6)))

    async def settle(self) -> None:
        """Settle a started run: as planned, early, or with more than was planned."""
        if not self.client.started:
            return
        run, steps = self._pick(self.client.started)
        body = None if self.random.random() < 0.3 else {"steps": steps}
        answer = await self.call("settle", f"/v1/runs/{run}/settle", body=body, about=run)
        if answer is not None and answer.outcomes:
            self.client.settled.append((run, steps))

    async def void(self) -> None:
        """Give back a run that is held."""
        if self.client.held:
            run = self._pick(self.client.held)
            reason = f"void {self.client.book.name} {run}"
            await self.call("void", f"/v1/runs/{run}/void", body={"reason": reason}, about=run)

    def _keep(self, answer: Answer | None) -> None:
        if answer is not None and answer.status == 201:
            self.client.held.append(answer.outcomes[0].about)

    def _pick(self, among: list[Any]) -> Any:
        """Take one, and let go of some if there are many."""
        del among[:-KEPT_RUNS_MAX]
        return among.pop(self.random.randrange(len(among)))


class Steward(Session):
    """Proposes, and approves as somebody else."""

    async def work(self) -> None:
        """One change after another, until the time is over."""
        ways = {self.budget: 6, self.partition: 1, self.correct: 4, self.void: 2, self.thaw: 3}
        while not self.client.is_over():
            await self.random.choices(list(ways), list(ways.values()))[0]()
            await asyncio.sleep(STEWARD_PAUSE_SECONDS + self.plan.pause_seconds)

    async def budget(self) -> None:
        """Raise a budget by two people, or lower it a little by one."""
        name = self.random.choice([self.dataset(), *self.plan.tight])
        shown = await self.read(f"/v1/datasets/{name}")
        if shown is None or not shown["budget"]:
            return
        factor = 0.998 if self.random.random() < 0.3 else 1.01 + 0.02 * self.random.random()
        budget = {**shown["budget"], "mu": round(min(shown["budget"]["mu"] * factor, 100.0), 6)}
        await self.change(f"/v1/datasets/{name}/budget", {"budget": budget, "accepts_weak_protection": True}, "PUT")

    async def partition(self) -> None:
        """Add a partition."""
        self.client.partitions += 1
        name = self.random.choice(self.plan.partitioned)
        names = [f"{self.client.book.name}-{self.client.partitions}"]
        await self.change(f"/v1/datasets/{name}/partitions", {"names": names, "disjoint": True})

    async def thaw(self) -> None:
        """Thaw a dataset that an overrun froze."""
        name = self.random.choice(self.plan.tight)
        shown = await self.read(f"/v1/datasets/{name}")
        if shown is not None and shown["state"] == "frozen":
            await self.change(f"/v1/datasets/{name}", {"state": "active"}, "PATCH")

    async def correct(self) -> None:
        """State that a settled run was something else."""
        if self.client.settled:
            run, _ = self.client.settled.pop(self.random.randrange(len(self.client.settled)))
            mechanism = {"type": "gaussian", "noise_multiplier": self.random.choice([10, 25, 500]), "count": 2}
            body = {
                "mechanism": mechanism,
                "decided_by_output": self.random.random() < 0.3,
                "on_word_of": "the job's author, by its log",
            }
            await self.change(f"/v1/runs/{run}/correction", body, about=run)

    async def void(self) -> None:
        """Void a started run, by two people."""
        if self.client.started:
            run, _ = self.client.started.pop(self.random.randrange(len(self.client.started)))
            reason = f"void {self.client.book.name} {run}"
            await self._second(
                await self.call("void", f"/v1/runs/{run}/void", "steward", {"reason": reason}, about=run)
            )

    async def change(self, path: str, body: dict[str, Any], method: str = "POST", about: str = "") -> None:
        """Change something; if two people must, have the second one approve it."""
        reason = f"{self.client.book.name} {self.random.getrandbits(64):016x}"
        await self._second(
            await self.call("change", path, "steward", {**body, "reason": reason}, method=method, about=about)
        )

    async def _second(self, answer: Answer | None) -> None:
        if answer is not None and answer.status == 202:
            proposal = answer.outcomes[0].about
            body = {"reason": "seen"}
            await self.call("approve", f"/v1/proposals/{proposal}/approve", "second", body, about=proposal)


async def main() -> None:
    """Run the sessions of one process."""
    plan = Plan(**json.loads(sys.stdin.read()))
    client = Client(plan, Book(Path(plan.folder), plan.name), now() + int(plan.seconds * 1e9))
    sessions: list[Requester | Steward] = [Requester(client, number) for number in range(plan.sessions)]
    await asyncio.gather(*(session.work() for session in [*sessions, Steward(client, plan.sessions)]))


if __name__ == "__main__":
    asyncio.run(main())
