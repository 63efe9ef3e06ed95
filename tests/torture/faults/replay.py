"""Add up an exported journal in exact integers: what docs/reference/export.md states, and nothing else.

Only datasets whose runs are costed each by themselves (`costing` is `standalone`), without projects and limits of
principals: those that the clients use.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

COUNTERS: Final = (
    "lost",
    "doubled",
    "changed",
    "phantom",
    "overspent",
    "wrongly refused",
    "disordered",
    "broken",
)
SHOWN_MAX: Final = 20
_ENTRY: Final = re.compile(r'\{"seq":([1-9][0-9]*),"hash":"([0-9a-f]{64})","entry":(\{.*\})\}', re.DOTALL)
_REQUEST: Final = re.compile(r'\{"request":(.*)\}', re.DOTALL)
Amount = tuple[int, int]
"""mu² in 1e-12, and -log(1 - delta) in 1e-18."""
ZERO: Final[Amount] = (0, 0)


@dataclass(slots=True)
class Findings:
    """How often each promise was broken, and the first of each in words."""

    counts: Counter[str] = field(default_factory=Counter)
    shown: list[str] = field(default_factory=list)

    def note(self, counter: str, what: str) -> None:
        """Count one."""
        if counter not in COUNTERS:
            raise ValueError(counter)
        self.counts[counter] += 1
        if self.counts[counter] <= SHOWN_MAX:
            self.shown.append(f"{counter}: {what}")


@dataclass(slots=True)
class Account:
    """A limit, and what is counted against it."""

    limit: Amount
    spent: Amount = ZERO
    held: Amount = ZERO
    overdrawn: Amount = ZERO

    def left(self) -> Amount:
        """What a cost must fit into; below zero if it is overdrawn."""
        return minus(self.limit, plus(self.spent, self.held))

    def over(self) -> Amount:
        """What is used beyond the limit."""
        left = self.left()
        return max(0, -left[0]), max(0, -left[1])


@dataclass(frozen=True, slots=True)
class Step:
    """What the counters need of an entry."""

    seq: int
    kind: str
    run: str = ""
    key: str = ""
    amount: Amount = ZERO
    """Of a decision its cost, of a settlement its charge."""
    fits: bool = True
    """Whether a run that was decided here fitted into every account of it here."""
    proposal: str = ""
    reason: str = ""
    request: Any = None


@dataclass(slots=True)
class Run:
    """A run in one journal."""

    cost: Amount
    accounts: Sequence[str | None]
    state: str = "held"
    charged: Amount = ZERO


class Journal:
    """A dataset's export, read line by line."""

    def __init__(self, name: str, findings: Findings) -> None:
        self.name, self.findings = name, findings
        self.steps: list[Step] = []
        self.accounts: dict[str | None, Account] = {}
        """By partition; None is the dataset's own."""
        self.runs: dict[str, Run] = {}
        self._prev, self._at, self._request = "0" * 64, "", None
        self._is_ended = False

    def read(self, lines: Iterable[str]) -> Journal:
        """Read an export; what is wrong with it is noted."""
        texts = iter(lines)
        json.loads(next(texts))
        for line in texts:
            self._line(line.rstrip("\n"))
        if not self._is_ended:
            self._note("broken", "the export has no head")
        return self

    def _note(self, counter: str, what: str) -> None:
        self.findings.note(counter, f"{self.name}, seq {len(self.steps) + 1}: {what}")

    def _line(self, line: str) -> None:
        if found := _ENTRY.fullmatch(line):
            self._chained(int(found[1]), found[2], found[3])
            self._request = None
        elif found := _REQUEST.fullmatch(line):
            self._request = json.loads(found[1])
        else:
            head = json.loads(line)["head"]
            self._is_ended = True
            if (head["seq"], head["hash"]) != (len(self.steps), self._prev):
                self._note("broken", "the head is not that of the last entry")

    def _chained(self, seq: int, stated: str, text: str) -> None:
        entry = json.loads(text)
        if hashlib.sha256(text.encode()).hexdigest() != stated or entry["prev"] != self._prev:
            self._note("broken", "its hash, or the hash of the entry before, is another")
        if (seq, entry["seq"]) != (len(self.steps) + 1, seq):
            self._note("broken", f"its number is {seq}")
        if entry["at"] < self._at:
            self._note("broken", "it is older than the entry before")
        self._prev, self._at = stated, entry["at"]
        self.steps.append(self._applied(entry))

    def _applied(self, entry: Mapping[str, Any]) -> Step:
        """What an entry does, and whether its balances are what that comes to."""
        request = entry.get("request", self._request)
        try:
            step: Step = getattr(self, "_" + entry["kind"].replace("-", "_"))(entry, request)
            touched = self._eased(entry)
        except (AttributeError, KeyError) as error:
            self._note("broken", f"{entry['kind']} does not follow: {error!r}")
            return Step(entry["seq"], entry["kind"], entry.get("run", ""))
        stated = stated_in(entry)
        for name in touched | set(stated):
            if stated.get(name) != self.accounts.get(name):
                self._note(
                    "broken", f"the balance of {name} is {stated.get(name)}, and adds up to {self.accounts.get(name)}"
                )
        return step

    def _eased(self, entry: Mapping[str, Any]) -> set[str | None]:
        """The accounts that the entry touches. What one is overdrawn by is never more than it uses beyond its limit."""
        touched = set(self.runs[entry["run"]].accounts) if "run" in entry and entry["run"] in self.runs else set()
        if entry["kind"] in ("dataset-registered", "budget-set"):
            touched = set(self.accounts)
        touched |= {None} & set(self.accounts) | set(entry.get("names", ()))
        for name in touched:
            account = self.accounts[name]
            over = account.over()
            account.overdrawn = least(account.overdrawn, over)
            if account.overdrawn != over:
                self._note("overspent", f"{entry['kind']} leaves {name} {over} beyond its limit")
        return touched

    # --- what each kind does

    def _dataset_registered(self, entry: Mapping[str, Any], request: Any) -> Step:
        limit = amount_of(entry["limit"])
        self.accounts = {name: Account(limit) for name in stated_in(entry)}
        return Step(entry["seq"], entry["kind"])

    def _dataset_changed(self, entry: Mapping[str, Any], request: Any) -> Step:
        return _change(entry)

    def _budget_set(self, entry: Mapping[str, Any], request: Any) -> Step:
        for account in self.accounts.values():
            account.limit = amount_of(entry["limit"])
        return _change(entry)

    def _partitions_added(self, entry: Mapping[str, Any], request: Any) -> Step:
        self.accounts |= {name: Account(amount_of(entry["limit"])) for name in entry["names"]}
        return _change(entry)

    def _change_proposed(self, entry: Mapping[str, Any], request: Any) -> Step:
        proposes = entry["proposes"]
        reason = proposes.get("reason") or proposes.get("request", {}).get("reason", "")
        return Step(entry["seq"], entry["kind"], entry.get("about_run", ""), proposal=entry["proposal"], reason=reason)

    def _run_approved(self, entry: Mapping[str, Any], request: Any) -> Step:
        run = self.runs.setdefault(entry["run"], Run(amount_of(entry["cost"]), self._charges(request)))
        fits = self._fits(run)
        if not fits:
            self._note("overspent", f"run {entry['run']} was approved, and does not fit")
        for name in run.accounts:
            self.accounts[name].held = plus(self.accounts[name].held, run.cost)
        return _decision(entry, request, fits=fits)

    def _run_refused(self, entry: Mapping[str, Any], request: Any) -> Step:
        run = self.runs.setdefault(entry["run"], Run(amount_of(entry["cost"]), self._charges(request), state="refused"))
        fits = self._fits(run)
        if fits != (not entry["binding"]):
            self._note("wrongly refused" if fits else "broken", f"run {entry['run']}: binding is {entry['binding']}")
        return _decision(entry, request, fits=fits)

    def _run_started(self, entry: Mapping[str, Any], request: Any) -> Step:
        self._move(entry["run"], "held", to="started")
        return Step(entry["seq"], entry["kind"], entry["run"])

    def _run_reported(self, entry: Mapping[str, Any], request: Any) -> Step:
        return Step(entry["seq"], entry["kind"], entry["run"])

    def _run_settled(self, entry: Mapping[str, Any], request: Any) -> Step:
        run = self._move(entry["run"], "started", to="settled")
        run.charged = amount_of(entry["charged"])
        late = amount_of(entry["overrun"]["cost"]) if "overrun" in entry else ZERO
        if plus(minus(run.charged, late), amount_of(entry["returned"])) != run.cost:
            self._note("broken", f"what was charged and returned of run {entry['run']} is not its cost")
        for name in run.accounts:
            account = self.accounts[name]
            account.held = minus(account.held, run.cost)
            account.spent = plus(account.spent, minus(run.charged, late))
        self._late(run, late, self.name in entry.get("overrun", {}).get("frozen", ()))
        return Step(entry["seq"], entry["kind"], entry["run"], amount=run.charged)

    def _run_voided(self, entry: Mapping[str, Any], request: Any) -> Step:
        run = self._move(entry["run"], "held", "started", to="voided")
        kept = amount_of(entry["kept"]) if "kept" in entry else ZERO
        if plus(kept, amount_of(entry["returned"])) != run.cost:
            self._note("broken", f"what was kept and returned of run {entry['run']} is not its cost")
        for name in run.accounts:
            account = self.accounts[name]
            account.held, account.spent = minus(account.held, run.cost), plus(account.spent, kept)
        return Step(entry["seq"], entry["kind"], entry["run"], proposal=entry.get("proposal", {}).get("id", ""))

    def _run_corrected(self, entry: Mapping[str, Any], request: Any) -> Step:
        run = self.runs[entry["run"]]
        late, returned, before = (amount_of(entry[name]) for name in ("late", "returned", "before"))
        if before != run.charged or amount_of(entry["charged"]) != minus(plus(before, late), returned):
            self._note("broken", f"the correction of run {entry['run']} does not add up")
        run.charged = amount_of(entry["charged"])
        for name in run.accounts:
            self.accounts[name].spent = minus(self.accounts[name].spent, returned)
        self._late(run, late, self.name in entry["frozen"])
        return _change(entry, run=entry["run"], reason=(request or {}).get("reason", ""))

    # --- runs

    def _charges(self, request: Any) -> list[str | None]:
        """The accounts of a run: those of the partitions that it names, or all that there are."""
        if None in self.accounts:
            return [None]
        (named,) = (one for one in request["datasets"] if one == self.name or _name(one) == self.name)
        return list(named["partitions"]) if isinstance(named, dict) and named.get("partitions") else list(self.accounts)

    def _fits(self, run: Run) -> bool:
        lefts = [self.accounts[name].left() for name in run.accounts]
        return all(run.cost[0] <= left[0] and run.cost[1] <= left[1] for left in lefts)

    def _late(self, run: Run, cost: Amount, is_frozen: bool) -> None:
        """Charge what was recorded late, also if it does not fit."""
        if cost == ZERO:
            return
        does_not_fit = False
        for name in run.accounts:
            account = self.accounts[name]
            left = account.left()
            fits = account.overdrawn == ZERO and cost[0] <= left[0] and cost[1] <= left[1]
            account.spent = plus(account.spent, cost)
            if not fits:
                does_not_fit = True
                account.overdrawn = most(account.overdrawn, account.over())
        if does_not_fit != is_frozen:
            self._note("broken", "a late charge froze the dataset although it fits, or did not although it does not")

    def _move(self, run: str, *states: str, to: str) -> Run:
        found = self.runs[run]
        if found.state not in states:
            self._note("doubled", f"run {run} is {found.state}, and becomes {to}")
        found.state = to
        return found


def _decision(entry: Mapping[str, Any], request: Any, *, fits: bool) -> Step:
    cost = amount_of(entry["cost"])
    return Step(entry["seq"], entry["kind"], entry["run"], entry["idempotency_key"], cost, fits, request=request)


def _change(entry: Mapping[str, Any], *, run: str = "", reason: str = "") -> Step:
    """A change, with the reason that was given for it."""
    proposal = entry.get("proposal", {}).get("id", "")
    return Step(entry["seq"], entry["kind"], run, proposal=proposal, reason=reason or entry.get("reason", ""))


def _name(named: Any) -> Any:
    return named["name"] if isinstance(named, dict) else named


def stated_in(entry: Mapping[str, Any]) -> dict[str | None, Account]:
    """The balances that an entry states, by partition."""
    groups = [*entry.get("accounts", ()), *([entry["balance"]] if "balance" in entry else [])]
    return {name: account_of(group) for group in groups for name in group.get("partitions", [None])}


def account_of(group: Mapping[str, Any]) -> Account:
    """A balance as it is written."""
    return Account(*(amount_of(group[part]) for part in ("limit", "spent", "held", "overdrawn")))


def amount_of(written: Mapping[str, str]) -> Amount:
    """An amount as it is written."""
    return int(written["mu_sq_pico"]), int(written["delta_atto"])


def plus(one: Amount, other: Amount) -> Amount:
    """The sum of both quantities."""
    return one[0] + other[0], one[1] + other[1]


def minus(one: Amount, other: Amount) -> Amount:
    """The difference of both quantities."""
    return one[0] - other[0], one[1] - other[1]


def least(one: Amount, other: Amount) -> Amount:
    """The smaller of each quantity."""
    return min(one[0], other[0]), min(one[1], other[1])


def most(one: Amount, other: Amount) -> Amount:
    """The larger of each quantity."""
    return max(one[0], other[0]), max(one[1], other[1])


def read_exports(folder: Path, findings: Findings) -> dict[str, Journal]:
    """All exports in a folder, by dataset."""
    journals: dict[str, Journal] = {}
    for file in sorted(folder.glob("*.jsonl")):
        with file.open(encoding="utf-8", newline="\n") as lines:
            journals[file.stem] = Journal(file.stem, findings).read(lines)
    return journals
