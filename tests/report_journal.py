"""A long journal out of nothing: as many runs as are asked for, over a year, the same for the same seed.

Nothing of it is kept but the runs that were read last, so that a million of them fit in no more memory than a thousand.
Written here entry by entry and not by `ledger.decide`, as somebody would who had only docs/export.md.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

from ledger import journal
from ledger.model import NO_HASH, timestamp
from ledger.report.source import Sealed, Source

TENANT = UUID(int=7)
DATASET = UUID(int=1)
BEGIN_US = 1_735_689_600_000_000  # 2025-01-01
YEAR_US = 365 * 86_400_000_000
KEPT = 2000
PROJECTS = ("ranking", "search", "speech", None)
PEOPLE = [
    {"key": str(UUID(int=100 + n)), "principal": str(UUID(int=200 + n)), "name": f"team-{n}", "role": "requester"}
    for n in range(4)
]
STEWARD = {"key": str(UUID(int=300)), "principal": str(UUID(int=301)), "name": "the steward", "role": "steward"}
ONE = 1_000_000  # of mu², what a run costs; a limit of a few million of these is in 64 bits


def facts(mu_sq: int) -> dict[str, str]:
    """An amount without a delta."""
    return {"mu_sq_pico": str(mu_sq), "delta_atto": "0"}


class Journal:
    """The journal of a dataset with so many runs: one in twenty is refused, and some are open at the end."""

    def __init__(self, runs: int, *, seed: int = 1, bound: str = "certified") -> None:
        self.runs, self._seed, self._bound = runs, seed, bound
        self._recent: OrderedDict[UUID, list[Sealed]] = OrderedDict()
        self._costs: dict[UUID, int] = {}
        self.spent = self.held = self.entries = 0
        self._head = NO_HASH
        self._at_us = BEGIN_US
        for _ in self.sealed():
            pass
        self.head, self.newest_at = {"seq": self.entries, "hash": self._head.hex()}, timestamp(self._at_us)

    def source(self) -> Source:
        """The journal as a report reads it."""
        return Source(DATASET, "events", self.newest_at, self.head, self.sealed, self.of_runs)

    def of_runs(self, ids: Sequence[UUID]) -> Mapping[UUID, Sequence[Sealed]]:
        return {run: self._recent[run] for run in ids}

    def sealed(self) -> Iterator[Sealed]:
        """Every entry, from the beginning. A run has ended before the next but seven is decided, so that all of it is
        known when a page of decisions goes out: blocks are made whole before their first entry is given."""
        self.spent = self.held = self.entries = 0
        self.limit = self.runs * ONE
        self._head, self._at_us = NO_HASH, BEGIN_US
        self._recent.clear()
        random_ = random.Random(self._seed)
        yield self._registered()
        made = 0
        ahead: list[list[Sealed]] = []
        while made < self.runs or ahead:
            # As much ahead as a reader may have taken in one page.
            while made < self.runs and sum(map(len, ahead)) < 400:
                count = min(8, self.runs - made)
                ahead.append(self._block(made, count, random_))
                made += count
            yield from ahead.pop(0)

    def _block(self, first: int, count: int, random_: random.Random) -> list[Sealed]:
        found: list[Sealed] = []
        open_: list[tuple[UUID, dict[str, Any]]] = []
        for number in range(first, first + count):
            run = UUID(int=10**6 + number)
            found += self._decided(run, number, open_, random_)
        if first + count < self.runs:
            random_.shuffle(open_)
            for run, actor in open_:
                found += self._ended(run, actor, random_)
        while len(self._recent) > KEPT:
            self._recent.popitem(last=False)
        return found

    def _registered(self) -> Sealed:
        said = {
            "privacy_unit": "user",
            "adjacency": "add_or_remove_one",
            "bound": self._bound,
            "size": 100_000_000,
            "title": "Events",
            "description": "",
            "budget": {"mu": 1},
            "limit": facts(self.limit),
            "is_partitioned": False,
            "derived_from": [],
            "state": "active",
        }
        return self._seal("dataset-registered", STEWARD, said)

    def _decided(
        self, run: UUID, number: int, open_: list[tuple[UUID, dict[str, Any]]], random_: random.Random
    ) -> Iterator[Sealed]:
        actor = random_.choice(PEOPLE)
        project = random_.choice(PROJECTS)
        fits = number % 20 != 19
        cost = ONE - random_.randrange(1000) if fits else self.limit * 2
        request = {
            "datasets": ["events"],
            "mechanism": {"type": "gaussian", "noise_multiplier": 1000, "count": 4},
            "purpose": f"run {number}",
            "code": {"repository": "https://git.example/r", "commit": f"{number:040x}"},
            **({} if project is None else {"project": project}),
        }
        said: dict[str, Any] = {
            "request": request,
            "cost": facts(cost),
            "idempotency_key": f"k{number}",
            "via": ["events"],
            "bound": self._bound,
            "adjacency": "add_or_remove_one",
            "method": "gaussian",
            "assumptions": ["noise is drawn from a secure generator"],
            "accountant": "gdp-2",
            **({} if project is None else {"project": project}),
        }
        if fits:
            self.held += cost
            said["start_by"] = timestamp(self._at_us + 86_400_000_000)
            open_.append((run, actor))
            self._recent[run] = []
            yield self._seal("run-approved", actor, said, run)
            self._costs[run] = cost
        else:
            yield self._seal("run-refused", actor, {**said, "binding": ["mu"]}, run)

    def _ended(self, run: UUID, actor: dict[str, Any], random_: random.Random) -> Iterator[Sealed]:
        cost = self._costs.pop(run)
        if random_.random() < 0.1:
            self.held -= cost
            yield self._seal("run-voided", actor, {"request": {"reason": "cancelled"}, "returned": facts(cost)}, run)
            return
        yield self._seal("run-started", actor, {"settle_by": timestamp(self._at_us + 7 * 86_400_000_000)}, run)
        steps = random_.choice((4, 4, 4, 2))
        charged = cost * steps // 4
        self.held -= cost
        self.spent += charged
        stop = "planned" if steps == 4 else "data_dependent"
        amounts = {"charged": facts(charged), "returned": facts(cost - charged)}
        yield self._seal(
            "run-settled", actor, {"request": {"steps": steps}, "steps": steps, "stop": stop, **amounts}, run
        )

    def _seal(self, kind: str, actor: Mapping[str, Any], said: Mapping[str, Any], run: UUID | None = None) -> Sealed:
        self.entries += 1
        self._at_us += YEAR_US // (3 * self.runs + 1)
        balance = {"limit": self.limit, "spent": self.spent, "held": self.held, "overdrawn": 0}
        body = journal.canonical(
            {
                **said,
                "v": 2,
                "tenant": str(TENANT),
                "dataset": "events",
                "dataset_id": str(DATASET),
                "seq": self.entries,
                "at": timestamp(self._at_us),
                "prev": self._head.hex(),
                "kind": kind,
                "actor": actor,
                "balance": {part: facts(value) for part, value in balance.items()},
                **({} if run is None else {"run": str(run)}),
            }
        )
        self._head = journal.digest(body)
        sealed = (body, self._head)
        if run is not None and kind != "run-approved" and run in self._recent:
            self._recent[run].append(sealed)
        return sealed
