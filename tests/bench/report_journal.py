"""A long journal out of nothing: as many runs as are asked for, over a year, the same for the same seed.

Nothing of it is kept in memory but the runs that were read last. Written here entry by entry and not by
`ledger.core.decision.group`, as somebody would who had only docs/reference/export.md.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from ledger.accounting import disclosure
from ledger.core.amounts import Amount, timestamp
from ledger.core.entries import NO_HASH, Sealed
from ledger.core.journal import chain
from ledger.report import document, table
from ledger.report.document import Report
from ledger.report.source import Question, Source

TENANT = UUID(int=7)
DATASET = UUID(int=1)
BEGIN_US = 1_735_689_600_000_000  # 2025-01-01
YEAR_US = 365 * 86_400_000_000
AHEAD = 200
KEPT = 1000
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
    """The journal of a dataset with so many runs: one in twenty is refused, and some are open at the end.

    It is written to a file, and read from there line by line. A run ends at most fourteen decisions after its own, so
    that reading AHEAD lines further than a reader has come is enough to know all of the runs that it asks about.
    """

    def __init__(self, runs: int, folder: Path, *, seed: int = 1, bound: str = "certified") -> None:
        self.runs, self._bound = runs, bound
        self.limit = runs * ONE
        self.spent = self.held = self.entries = 0
        self.given = 0
        """How many entries were read of it, the last time that it was."""
        self._head, self._at_us, self._step_us = NO_HASH, BEGIN_US, YEAR_US // (3 * runs + 1)
        self._costs: dict[UUID, int] = {}
        self._known: OrderedDict[str, list[Sealed]] = OrderedDict()
        self._file = folder / "journal.txt"
        random_ = random.Random(seed)
        with self._file.open("w", encoding="utf-8", newline="\n") as file:
            file.write(f"-\t{self._registered()}\n")
            for first in range(0, runs, 8):
                file.writelines(f"{run}\t{body}\n" for run, body in self._block(first, min(8, runs - first), random_))
        self.head, self.newest_at = {"seq": self.entries, "hash": self._head.hex()}, timestamp(self._at_us)

    def source(self) -> Source:
        """The journal as a report reads it."""
        return Source(DATASET, "events", self.newest_at, self.head, self.sealed, self.of_runs)

    def of_runs(self, ids: Sequence[UUID]) -> Mapping[UUID, Sequence[Sealed]]:
        return {run: self._known[str(run)] for run in ids}

    def sealed(self) -> Iterator[Sealed]:
        """Every entry, from the beginning."""
        self.given = 0
        self._known.clear()
        ahead: deque[Sealed] = deque()
        with self._file.open(encoding="utf-8", newline="\n") as file:
            for text in file:
                run, _, body = text.removesuffix("\n").partition("\t")
                sealed = Sealed(body, chain.digest(body))
                ahead.append(sealed)
                self._known.setdefault(run, []).append(sealed)
                if len(self._known) > KEPT:
                    self._known.popitem(last=False)
                if len(ahead) > AHEAD:
                    self.given += 1
                    yield ahead.popleft()
            while ahead:
                self.given += 1
                yield ahead.popleft()

    def _block(self, first: int, count: int, random_: random.Random) -> list[tuple[UUID, str]]:
        """Some decisions, and what became of the runs, in another order; those of the last block stay open."""
        found: list[tuple[UUID, str]] = []
        open_: list[tuple[UUID, dict[str, Any]]] = []
        for number in range(first, first + count):
            run = UUID(int=10**6 + number)
            found.append((run, self._decided(run, number, open_, random_)))
        if first + count < self.runs:
            random_.shuffle(open_)
            for run, actor in open_:
                found += [(run, body) for body in self._ended(run, actor, random_)]
        return found

    def _registered(self) -> str:
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

    def _decided(self, run: UUID, number: int, open_: list[tuple[UUID, dict[str, Any]]], random_: random.Random) -> str:
        actor = random_.choice(PEOPLE)
        project = random_.choice(PROJECTS)
        fits = number % 20 != 19
        cost = ONE - random_.randrange(1000) if fits else self.limit * 2
        request = {
            "datasets": ["events"],
            "mechanism": {"type": "gaussian", "noise_multiplier": 1000, "count": 4},
            "purpose": f"run {number}",
            "valid_for": "P366D",
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
        if not fits:
            return self._seal("run-refused", actor, {**said, "binding": ["mu"], "binding_elsewhere": []}, run)
        self.held += cost
        self._costs[run] = cost
        open_.append((run, actor))
        return self._seal(
            "run-approved", actor, {**said, "start_by": self._in_days(366), "begin_by": self._in_days(1)}, run
        )

    def _ended(self, run: UUID, actor: dict[str, Any], random_: random.Random) -> Iterator[str]:
        cost = self._costs.pop(run)
        if random_.random() < 0.1:
            self.held -= cost
            yield self._seal("run-voided", actor, {"request": {"reason": "cancelled"}, "returned": facts(cost)}, run)
            return
        yield self._seal("run-started", actor, {"settle_by": self._in_days(30), "begin_by": self._in_days(1)}, run)
        steps = random_.choice((4, 4, 4, 2))
        charged = cost * steps // 4
        self.held -= cost
        self.spent += charged
        stop = "planned" if steps == 4 else "data_dependent"
        amounts = {"charged": facts(charged), "returned": facts(cost - charged)}
        yield self._seal(
            "run-settled",
            actor,
            {"request": {"steps": steps}, "steps": steps, "stop": stop, "accountant": "gdp-2", **amounts},
            run,
        )

    def _in_days(self, days: int) -> str:
        """So long after the next entry."""
        return timestamp(self._at_us + self._step_us + days * 86_400_000_000)

    def _seal(self, kind: str, actor: Mapping[str, Any], said: Mapping[str, Any], run: UUID | None = None) -> str:
        self.entries += 1
        self._at_us += self._step_us
        balance = {"limit": self.limit, "spent": self.spent, "held": self.held, "overdrawn": 0}
        body = chain.canonical(
            {
                **said,
                "v": 4,
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
        self._head = chain.digest(body)
        return body


def peak_kib() -> int:
    """The most memory that this process ever had, in KiB. What getrusage says of it begins with the parent's."""
    said = Path("/proc/self/status").read_text()
    return int(said.partition("VmHWM:")[2].split()[0])


def main() -> None:
    """Writes the report of a journal of so many runs to nowhere, and says what that took; JSON, or CSV where it is
    said. In a process of its own, so that what it took is not what something else took before."""
    runs, form = int(sys.argv[1]), sys.argv[2]
    with tempfile.TemporaryDirectory() as folder:
        made = Journal(runs, Path(folder))
        report = Report(Question("dataset", TENANT, "acme", dataset="events"), [made.source()])
        disclosure.advantages([Amount(1, 0)])  # which imports NumPy and SciPy
        before = peak_kib()
        begin = time.perf_counter()
        pieces = document.lines(report) if form == "json" else table.rows(document.parts(report))
        lines = size = longest = 0
        for piece in pieces:
            lines, size, longest = lines + piece.count("\n"), size + len(piece), max(longest, len(piece))
        took = {"runs": runs, "entries": made.entries, "characters": size, "lines": lines, "piece_max": longest}
        took["seconds"] = round(time.perf_counter() - begin)
        took["rss_before_kib"], took["rss_peak_kib"] = before, peak_kib()
        print(json.dumps(took))


if __name__ == "__main__":
    main()
