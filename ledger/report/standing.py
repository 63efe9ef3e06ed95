"""The first pass: the balances of a dataset's journal at both ends of a period, in integers.

It keeps accounts, sums and open runs; of an ended run only its part of a sum. `ledger.core.journal` checks every entry
before it is counted, and nothing after a wrong entry is counted.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Final, Literal
from uuid import UUID

from ledger.core.amounts import ZERO, Amount
from ledger.core.datasets import Account, AccountKey, Balance
from ledger.core.entries import NO_HASH, Sealed
from ledger.core.journal import chain, replay, tenant
from ledger.core.journal.requested import request_of
from ledger.core.least import Charges
from ledger.encoding import JsonObject
from ledger.errors import JournalBroken
from ledger.report.source import Question, Source, TenantSource

POINTS_MAX: Final = 512
"""The most points of a figure over time. Beyond that, points are left out, but never the extremes."""
DISTINCT_MAX: Final = 100
"""How many different assumptions of runs are counted separately."""


@dataclass(frozen=True, slots=True)
class Broken:
    """The first wrong entry, and what is wrong with it."""

    seq: int
    detail: str


@dataclass(frozen=True, slots=True)
class Point:
    """A dataset's balance after an entry, each quantity of mu² in its integer unit."""

    at: str
    seq: int
    limit: int
    spent: int
    held: int


class Series:
    """A balance over time in at most POINTS_MAX points: the first, the last, and the extremes of each interval."""

    def __init__(self) -> None:
        self._points: list[Point] = []
        self._newest: Point | None = None

    def add(self, point: Point) -> None:
        if self._newest is not None:
            same = (self._newest.limit, self._newest.spent, self._newest.held)
            if same == (point.limit, point.spent, point.held):
                return
        self._newest = point
        self._points.append(point)
        if len(self._points) > 4 * POINTS_MAX:
            self._points = _thinned(self._points)

    def points(self) -> list[Point]:
        points = self._points
        while len(points) > POINTS_MAX:
            points = _thinned(points)
        return points


def _thinned(points: list[Point]) -> list[Point]:
    """Halve the points: of each eight keep the four with the most and least counted, and the same of limits."""
    first, *middle, last = points
    kept = [first]
    for start in range(0, len(middle), 8):
        stretch = middle[start : start + 8]
        chosen = {
            choose(range(len(stretch)), key=lambda index: number(stretch[index]))
            for choose in (min, max)
            for number in (_counted, _limit)
        }
        kept += [stretch[index] for index in sorted(chosen)]
    return [*kept, last]


def _counted(point: Point) -> int:
    return point.spent + point.held


def _limit(point: Point) -> int:
    return point.limit


class Greatest:
    """The largest of many changing numbers, in logarithmic time for each change."""

    def __init__(self) -> None:
        self._values: dict[AccountKey, int] = {}
        self._heap: list[tuple[int, str]] = []
        self._names: dict[str, AccountKey] = {}

    def put(self, key: AccountKey, value: int) -> None:
        if self._values.get(key) == value:
            return
        name = key.partition or ""
        self._values[key], self._names[name] = value, key
        heapq.heappush(self._heap, (-value, name))
        if len(self._heap) > 4 * len(self._values) + 64:
            self._heap = [(-number, account_key.partition or "") for account_key, number in self._values.items()]
            heapq.heapify(self._heap)

    def top(self) -> int:
        """Return the largest number; 0 if there is none."""
        while self._heap:
            value, name = self._heap[0]
            if self._values[self._names[name]] == -value:
                return -value
            heapq.heappop(self._heap)
        return 0


@dataclass(slots=True)
class Open:
    """A run that was approved and has not ended."""

    state: Literal["held", "started"]
    seq: int
    at: str
    by: JsonObject
    project: str | None
    cost: Amount
    due: str


@dataclass(slots=True)
class Share:
    """The sums of the runs of one project in a dataset, or of the runs without a project.

    spent: charged to runs that ended within the period. held: the cost of those still open at its end.
    """

    runs: int = 0
    spent: Amount = ZERO
    held: Amount = ZERO


@dataclass(slots=True)
class Exceeded:
    """An account that exceeded its limit within the period, first at this entry. most: the largest excess."""

    seq: int
    at: str
    most: Amount


@dataclass(slots=True)
class Standing:
    """The balances of a dataset's journal at the end of the period.

    last_seq, last_hash, last_at: of the newest entry that is counted. opening: the accounts when the period began; None
    if it has no beginning. carried: the runs that were open then.
    """

    source: Source
    registered: JsonObject = field(default_factory=dict)
    weak_accepted: JsonObject | None = None
    charges: Charges = field(default_factory=Charges)
    state: str = ""
    title: str = ""
    description: str = ""
    budget: JsonObject | None = None
    limit: Amount | None = None
    limit_highest: Amount | None = None
    limit_raised: int = 0
    fair_use: JsonObject | None = None
    accounts: dict[AccountKey, Account] = field(default_factory=dict)
    opening: dict[AccountKey, Account] | None = None
    projects: dict[str, JsonObject] = field(default_factory=dict)
    open: dict[UUID, Open] = field(default_factory=dict)
    carried: frozenset[UUID] = frozenset()
    shares: dict[str | None, Share] = field(default_factory=dict)
    exceeded: dict[AccountKey, Exceeded] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    charged: Amount = ZERO
    returned: Amount = ZERO
    samplings: Counter[str] = field(default_factory=Counter)
    assumed: Counter[str] = field(default_factory=Counter)
    series: Series = field(default_factory=Series)
    last_seq: int = 0
    last_hash: str = ""
    last_at: str = ""
    entries: int = 0
    broken: Broken | None = None

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def is_estimate(self) -> bool:
        return self.registered.get("bound") == "clt"

    def balance(self, project: str | None = None) -> Balance | None:
        """Return the balance over the base accounts, or those of a project: the most that one has spent and holds, and
        the least that is left, because disjoint partitions compose in parallel. None if no account is charged."""
        watched = [account for key, account in self.accounts.items() if is_watched(key, project)]
        if not watched:
            return None
        limit, spent, held, left = watched[0].limit, ZERO, ZERO, watched[0].remaining
        for account in watched:
            limit, left = limit.least(account.limit), left.least(account.remaining)
            spent, held = spent.most(account.spent), held.most(account.held)
        return Balance(limit, spent, held, left)

    def committed(self, project: str | None = None) -> Amount:
        """Return the most that one of these accounts has spent and holds, for each quantity separately."""
        watched = [account for key, account in self.accounts.items() if is_watched(key, project)]
        return reduce(Amount.most, (account.spent + account.held for account in watched), ZERO)


def is_watched(key: AccountKey, project: str | None) -> bool:
    """Return whether the report is about this account: of the dataset itself, or of the project."""
    return key.is_base if project is None else key.project == project


def stand(source: Source, question: Question, *, tenant_id: UUID) -> Standing:
    """Read a whole journal, and add up its entries until the end of the period."""
    standing = Standing(source)
    reader = _Reader(standing, question)
    hashes = _Hashes(source.entries())
    try:
        for entry in replay.walk(hashes, tenant_id=tenant_id, dataset_id=source.dataset_id):
            standing.entries += 1
            reader.read(entry, hashes.newest)
        _demand_head(source.head, standing.entries, hashes.newest)
    except JournalBroken as error:
        standing.broken = Broken(error.seq, error.detail.partition(": ")[2])
    reader.end()
    return standing


class _Hashes:
    """Entries, with the hash of the newest one that was read."""

    def __init__(self, entries: Iterable[Sealed]) -> None:
        self._entries = entries
        self.newest = NO_HASH.hex()

    def __iter__(self) -> Iterator[Sealed]:
        for sealed in self._entries:
            self.newest = sealed.hash.hex()
            yield sealed


def _demand_head(head: JsonObject, entries: int, newest: str) -> None:
    """Check the journal against its head, which shows entries missing at the end. Raises JournalBroken."""
    if head["seq"] > entries:
        raise JournalBroken(f"is missing: the head has {head['seq']} entries", seq=entries + 1)
    if (head["seq"], head["hash"]) != (entries, newest):
        raise JournalBroken("is not the one that the head names", seq=entries)


class _Reader:
    """Add up the entries, one by one."""

    def __init__(self, standing: Standing, question: Question) -> None:
        self._standing, self._project = standing, question.project
        self._since, self._until = question.since, question.until
        self._is_over = self._is_within = False
        self._spent, self._held = Greatest(), Greatest()
        self._limit: int | None = None

    def read(self, entry: dict[str, Any], hash_: str) -> None:
        at = entry["at"]
        # Entries are ordered by `seq`: the first one after the end closes the period.
        self._is_over = self._is_over or (self._until is not None and at >= self._until)
        if self._is_over:
            return
        if not self._is_within and (self._since is None or at >= self._since):
            self._begin()
        standing = self._standing
        standing.last_seq, standing.last_hash, standing.last_at = entry["seq"], hash_, at
        standing.charges.read(entry)
        kind: str = entry["kind"]
        if kind.startswith("run-"):
            self._of_run(entry, kind)
        else:
            self._of_dataset(entry, kind)
        self._count_accounts(entry)

    def _begin(self) -> None:
        self._is_within = True
        standing = self._standing
        if self._since is None:
            return
        standing.opening = dict(standing.accounts)
        standing.carried = frozenset(standing.open)
        standing.counts["listed"] += sum(self._is_of_project(run.project) for run in standing.open.values())
        for key, account in standing.accounts.items():
            self._watch_limit(key, account, standing.last_seq, self._since)
        if self._limit is not None:
            self._add_point(self._since, standing.last_seq)

    def _is_of_project(self, project: str | None) -> bool:
        return self._project is None or project == self._project

    def _watch_limit(self, key: AccountKey, account: Account, seq: int, at: str) -> None:
        """Return whether the account is a guarantee; one of a principal only limits what is held at once."""
        if account.overdrawn == ZERO or key.principal_id is not None:
            return
        known = self._standing.exceeded.setdefault(key, Exceeded(seq, at, account.overdrawn))
        known.most = known.most.most(account.overdrawn)

    def end(self) -> None:
        """Close the period if no entry did, and count what is held."""
        if not self._is_within:
            self._begin()
        for run in self._standing.open.values():
            share = self._standing.shares.setdefault(run.project, Share())
            share.held += run.cost

    # --- the dataset

    def _of_dataset(self, entry: dict[str, Any], kind: str) -> None:
        standing = self._standing
        standing.state = entry.get("state", standing.state)
        standing.title = entry.get("title", standing.title)
        standing.description = entry.get("description", standing.description)
        match kind:
            case "dataset-registered":
                standing.registered = entry
                self._limited(entry)
            case "budget-set":
                self._limited(entry)
            case "project-set":
                standing.projects[entry["project"]] = {"budget": entry["budget"], "limit": entry["limit"]}
            case "fair-use-set":
                standing.fair_use = entry["fair_use"]
            case _:
                pass
        if self._is_within:
            standing.counts[kind] += 1

    def _limited(self, entry: dict[str, Any]) -> None:
        standing = self._standing
        if "accepts_weak_protection" in entry:
            standing.weak_accepted = entry
        if entry["limit"] is None:
            return
        limit = Amount.from_facts(entry["limit"])
        if self._is_within and standing.limit is not None and limit.exceeds(standing.limit):
            standing.limit_raised += 1
        standing.budget, standing.limit = entry["budget"], limit
        standing.limit_highest = limit if standing.limit_highest is None else standing.limit_highest.most(limit)

    # --- runs

    def _of_run(self, entry: dict[str, Any], kind: str) -> None:
        standing, run = self._standing, UUID(entry["run"])
        if self._is_within:
            standing.counts[kind] += 1
        standing.state = entry.get("state", standing.state)
        match kind:
            case "run-approved":
                due, cost = entry["start_by"], Amount.from_facts(entry["cost"])
                by, project = entry["actor"], entry.get("project")
                standing.open[run] = Open("held", entry["seq"], entry["at"], by, project, cost, due)
                self._decided(entry)
            case "run-entered":
                self._decided(entry)
                self._ended(None, Amount.from_facts(entry["cost"]), ZERO)
            case "run-refused":
                self._decided(entry)
            case "run-started":
                opened = standing.open[run]
                opened.state, opened.due = "started", entry["settle_by"]
            case "run-reported":
                pass
            case "run-settled":
                charged, returned = Amount.from_facts(entry["charged"]), Amount.from_facts(entry["returned"])
                self._ended(standing.open.pop(run).project, charged, returned)
                if self._is_within:
                    standing.counts["overrun"] += "overrun" in entry
                    self._assumes(entry)
            case "run-corrected":
                self._corrected(entry)
            case _:
                self._ended(standing.open.pop(run).project, ZERO, Amount.from_facts(entry["returned"]))

    def _decided(self, entry: dict[str, Any]) -> None:
        if not self._is_within:
            return
        standing = self._standing
        project = entry.get("project")
        standing.counts["listed"] += self._is_of_project(project)
        standing.shares.setdefault(project, Share()).runs += 1
        parts = _parts(request_of(entry).get("mechanism", {}))
        # A run counts once, however many of its parts are sampled so.
        standing.samplings.update({mechanism["sampling"] for mechanism in parts if "sampling" in mechanism})
        self._assumes(entry)

    def _assumes(self, entry: dict[str, Any]) -> None:
        standing = self._standing
        for sentence in entry.get("assumptions", ()):
            if sentence in standing.assumed or len(standing.assumed) < DISTINCT_MAX:
                standing.assumed[sentence] += 1

    def _ended(self, project: str | None, charged: Amount, returned: Amount) -> None:
        standing = self._standing
        if not self._is_within:
            return
        share = standing.shares.setdefault(project, Share())
        share.spent += charged
        standing.charged, standing.returned = standing.charged + charged, standing.returned + returned

    def _corrected(self, entry: dict[str, Any]) -> None:
        standing = self._standing
        if not self._is_within:
            return
        late, returned = Amount.from_facts(entry["late"]), Amount.from_facts(entry["returned"])
        share = standing.shares.setdefault(entry.get("project"), Share())
        share.spent += late - returned
        standing.charged, standing.returned = standing.charged + late, standing.returned + returned
        self._assumes(entry)

    # --- accounts

    def _count_accounts(self, entry: dict[str, Any]) -> None:
        standing = self._standing
        is_touched = False
        for key, account in chain.accounts_of(entry).items():
            standing.accounts[key] = account
            if is_watched(key, self._project):
                is_touched = True
                self._spent.put(key, account.spent.mu_sq_pico)
                self._held.put(key, account.held.mu_sq_pico)
                self._limit = account.limit.mu_sq_pico
            if self._is_within:
                self._watch_limit(key, account, entry["seq"], entry["at"])
        if is_touched and self._is_within:
            self._add_point(entry["at"], entry["seq"])

    def _add_point(self, at: str, seq: int) -> None:
        self._standing.series.add(Point(at, seq, self._limit or 0, self._spent.top(), self._held.top()))


def _parts(mechanism: JsonObject) -> Iterable[JsonObject]:
    """Return the mechanism itself, or its parts if it is composed."""
    parts = mechanism.get("parts")
    if not isinstance(parts, list):
        yield mechanism
        return
    for part in parts:
        yield from _parts(part)


# --- the tenant's own journal ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class TenantStanding:
    """The sums of the tenant's own journal at the end of the period. policies: the entries that set one within it."""

    source: TenantSource
    second_steward: bool = False
    policies: list[dict[str, Any]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    last_seq: int = 0
    last_hash: str = ""
    broken: Broken | None = None


def stand_tenant(source: TenantSource, question: Question) -> TenantStanding:
    """Read the tenant's whole own journal."""
    standing = TenantStanding(source)
    is_over = False
    hashes, entries = _Hashes(source.entries()), 0
    try:
        for entry in tenant.walk_tenant(hashes, tenant_id=question.tenant_id):
            entries += 1
            at = entry["at"]
            is_over = is_over or (question.until is not None and at >= question.until)
            if is_over:
                continue
            standing.last_seq, standing.last_hash = entry["seq"], hashes.newest
            if entry["kind"] == "policy-set":
                standing.second_steward = bool(entry["second_steward"])
            if question.since is None or at >= question.since:
                standing.counts[entry["kind"]] += 1
                if entry["kind"] == "policy-set":
                    standing.policies.append(entry)
        _demand_head(source.head, entries, hashes.newest)
    except JournalBroken as error:
        standing.broken = Broken(error.seq, error.detail.partition(": ")[2])
    return standing
