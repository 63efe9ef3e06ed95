"""Recompute one export: verify, read, compare, replay, compose, and get a second opinion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final, Literal

from ledger.accounting import ACCOUNTANT
from ledger.accounting.budgets import report_deltas
from ledger.accounting.display import show_epsilons
from ledger.core.amounts import ZERO, Amount
from ledger.core.datasets import AccountKey
from ledger.core.journal import chain
from ledger.core.residual import Residual
from ledger.recompute import opinion
from ledger.recompute.composed import Composition, Ran, Tally
from ledger.recompute.costing import Accountant, Declaration, Difference, Ended, Status, Worked, compare, is_earlier
from ledger.recompute.opinion import Asked, Opinion
from ledger.recompute.reading import opened
from ledger.recompute.replay import Outcome, Replay

DIFFERENCES_MAX: Final = 1000
"""How many differences of each direction are kept, the first ones; all are counted."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """An amount that cannot be recomputed, and why. The recorded amount is used."""

    seq: int
    run: str
    reason: str


@dataclass(frozen=True, slots=True)
class LeastLimit:
    """A least limit, with its epsilon at each delta of the budget; infinity as None."""

    amount: Amount
    epsilons: tuple[tuple[float, float | None], ...]


@dataclass(frozen=True, slots=True)
class Recomputed:
    """The result of recomputing an export.

    accountant: the installed one. recorded: how many amounts each accountant in the entries computed. counts: of all
    amounts by their comparison, with `unknown` for those that cannot be recomputed. differences: undercharged first, up
    to DIFFERENCES_MAX of each direction. accounts: all except those of principals. compositions, opinions: for
    information; None if not asked for. compositions_left_out, opinions_left_out: how many more there would be.
    is_opinion_missing: it was asked for, and dp-accounting is not installed. least_limit: by the recorded tables; None
    if costs are not residual.
    """

    tenant: str
    dataset: str
    seq: int
    head: bytes
    accountant: str
    recorded: Mapping[str, int]
    counts: Mapping[Status | Literal["unknown"], int]
    differences: tuple[Difference, ...]
    unknown: tuple[Unknown, ...]
    accounts: tuple[Outcome, ...]
    compositions: tuple[Composition, ...] | None
    compositions_left_out: int
    opinions: tuple[Opinion, ...] | None
    opinions_left_out: int
    is_opinion_missing: bool
    least_limit: LeastLimit | None

    @property
    def over(self) -> tuple[Outcome, ...]:
        """Return the accounts that would have exceeded their limit at some time."""
        return tuple(account for account in self.accounts if account.first_over is not None)

    @property
    def too_little(self) -> tuple[Opinion, ...]:
        """Return the recorded costs that are less than the second opinion allows."""
        return tuple(second for second in self.opinions or () if not (second.holds or second.is_estimate))

    @property
    def is_as_recorded(self) -> bool:
        """Return whether every amount is as recorded, no account exceeds its limit, and no second opinion objects."""
        wrong = self.counts["undercharged"] + self.counts["overcharged"] + self.counts["unknown"]
        return not (wrong or self.over or self.too_little)


def recompute(lines: Iterable[str], *, with_exact: bool = True, with_opinion: bool = True) -> Recomputed:
    """Recompute every cost of an export, with the installed accountant.

    lines: of an export of a dataset; read twice, first to verify it. with_exact: also compose the spent budget exactly.
    with_opinion: also compare with dp-accounting. Only distinct mechanisms, accounts and open runs are kept in memory.
    Raises JournalBroken and InvalidRequest as `reading.opened` does.
    """
    export = opened(lines)
    recomputation = _Recomputation()
    for entry in export.entries():
        recomputation.read(entry)
    outcomes = recomputation.replay.outcomes()
    compositions, left_out = recomputation.compositions(outcomes) if with_exact else (None, 0)
    missing = with_opinion and not opinion.is_installed()
    second_opinions: tuple[tuple[Opinion, ...] | None, int] = (None, 0)
    if with_opinion and not missing:
        second_opinions = opinion.opinions(
            recomputation.asked, recomputation.accountant, at_delta=recomputation.at_deltas[0]
        )
    return Recomputed(
        export.verified.tenant,
        export.verified.dataset,
        export.verified.journal.seq,
        export.verified.journal.head,
        ACCOUNTANT,
        dict(recomputation.recorded),
        {
            status: recomputation.counts[status]
            for status in ("exact", "within", "undercharged", "overcharged", "dearer", "unknown")
        },
        (*recomputation.differences["undercharged"], *recomputation.differences["overcharged"]),
        tuple(recomputation.unknown),
        outcomes,
        compositions,
        left_out,
        *second_opinions,
        missing,
        _least_limit(export.verified.journal.least_limit, recomputation.at_deltas),
    )


def _least_limit(amount: Amount | None, at_deltas: Sequence[float]) -> LeastLimit | None:
    if amount is None:
        return None
    epsilons = show_epsilons((amount, at_delta) for at_delta in at_deltas)
    return LeastLimit(amount, tuple((at_delta, epsilons[amount, at_delta]) for at_delta in at_deltas))


@dataclass(slots=True)
class _Open:
    """A run that holds its cost: recorded, and recomputed."""

    declaration: Declaration
    cost: tuple[Amount, Amount]
    keys: tuple[AccountKey, ...]
    accountant: str


@dataclass(slots=True)
class _Settled:
    """A run that was settled. charged: recorded, and recomputed. ran: what it was, by what is known now."""

    run: _Open
    charged: tuple[Amount, Amount]
    ran: list[Ran]


@dataclass(slots=True)
class _Recomputation:
    """The state of the recomputation, entry by entry."""

    accountant: Accountant = field(default_factory=Accountant)
    replay: Replay = field(default_factory=Replay)
    counts: Counter[Status | Literal["unknown"]] = field(default_factory=Counter)
    recorded: Counter[str] = field(default_factory=Counter)
    differences: dict[str, list[Difference]] = field(default_factory=lambda: {"undercharged": [], "overcharged": []})
    unknown: list[Unknown] = field(default_factory=list)
    asked: dict[Declaration, Asked] = field(default_factory=dict)
    at_deltas: list[float] = field(default_factory=lambda: report_deltas({}))
    _open: dict[str, _Open] = field(default_factory=dict)
    _settled_runs: dict[str, _Settled] = field(default_factory=dict)
    _tally: Tally | None = None

    @property
    def tally(self) -> Tally:
        if self._tally is None:
            self._tally = Tally(self.accountant)
        return self._tally

    def read(self, entry: Mapping[str, Any]) -> None:
        """Process the next entry."""
        stated = chain.accounts_of(entry)
        self.replay.limits(entry["seq"], [(key, account.limit) for key, account in stated.items()])
        match entry["kind"]:
            case "dataset-registered" | "budget-set":
                self.at_deltas = report_deltas(entry["budget"] or {})
            case "run-approved":
                self._approved(entry, tuple(stated))
            case "run-entered":
                self._entered(entry, tuple(stated))
            case "run-refused":
                self._cost(entry)
            case "run-settled":
                self._settled(entry)
            case "run-corrected":
                self._corrected(entry)
            case "run-voided":
                run = self._open.pop(entry["run"])
                kept = (ZERO, ZERO) if "kept" not in entry else run.cost
                self.replay.move(entry["seq"], run.keys, held=_less(run.cost), spent=kept)
            case _:
                pass

    def compositions(self, outcomes: tuple[Outcome, ...]) -> tuple[tuple[Composition, ...], int]:
        for settled in self._settled_runs.values():
            for ran in settled.ran:
                self.tally.add(ran, settled.run.keys)
        for run in self._open.values():
            self.tally.add(Ran(run.declaration.alone), run.keys, is_held=True)
        return self.tally.compositions(outcomes, self.at_deltas)

    def _approved(self, entry: Mapping[str, Any], keys: tuple[AccountKey, ...]) -> None:
        declaration, amount = Declaration.of(entry), Amount.from_facts(entry["cost"])
        cost = (amount, self._cost(entry))
        alone = _alone(entry)
        self._open[entry["run"]] = _Open(declaration, cost, keys, entry["accountant"])
        self.replay.move(entry["seq"], keys, held=cost)
        self._ask(entry, declaration, alone)

    def _entered(self, entry: Mapping[str, Any], keys: tuple[AccountKey, ...]) -> None:
        """Compare what a past run costs, and charge it at once."""
        declaration, cost = Declaration.of(entry), (Amount.from_facts(entry["cost"]), self._cost(entry))
        self.replay.move(entry["seq"], keys, held=(ZERO, ZERO), spent=cost)
        run = _Open(declaration, cost, keys, entry["accountant"])
        self._settled_runs[entry["run"]] = _Settled(run, cost, [Ran(declaration.alone)])
        self._ask(entry, declaration, _alone(entry))

    def _ask(self, entry: Mapping[str, Any], declaration: Declaration, alone: Amount) -> None:
        """Note a mechanism for the second opinion."""
        asked = self.asked.setdefault(declaration.alone, Asked(entry["seq"], 0, alone))
        asked.runs += 1
        asked.least = min(asked.least, alone, key=lambda cost: (cost.mu_sq_pico, cost.delta_atto))

    def _cost(self, entry: Mapping[str, Any]) -> Amount:
        """Return the recomputed cost of a decided run; the recorded one if it is right or nothing is known."""
        recorded = Amount.from_facts(entry["cost"])
        self.recorded[entry["accountant"]] += 1
        worked = self.accountant.cost(Declaration.of(entry))
        if isinstance(worked, str):
            self._not_known(entry, worked)
            return recorded
        self._table(entry, worked)
        return self._compared(entry, "cost", recorded, worked.amount, worked.tolerance, entry["accountant"])

    def _table(self, entry: Mapping[str, Any], worked: Worked) -> None:
        """Compare the values of a run's table that it is not charged."""
        if worked.table is None:
            return
        recorded = Residual.from_facts(entry["residual"])
        for at, (one, other) in enumerate(zip(recorded.costs, worked.table.costs, strict=False)):
            if at != entry["residual"].get("level", 0):
                asked, right = Amount(one, 0), Amount(other, 0)
                if compare(recorded=asked, recomputed=right, tolerance=worked.tolerance) == "undercharged":
                    self._compared(entry, "table", asked, right, worked.tolerance, entry["accountant"])

    def _settled(self, entry: Mapping[str, Any]) -> None:
        run = self._open.pop(entry["run"])
        recorded, ended = Amount.from_facts(entry["charged"]), Ended.of(entry)
        overrun = entry.get("overrun")
        label = entry.get("accountant") or (run.accountant if overrun is None else overrun["accountant"])
        self.recorded[label] += 1
        charge = self.accountant.charge(run.declaration, ended)
        if isinstance(charge, str):
            self._not_known(entry, charge)
            charged = recorded
        else:
            charged = self._compared(entry, "charged", recorded, charge.total, charge.tolerance, label)
            if overrun is not None:
                excess = ZERO if charge.excess is None else charge.excess
                self._compared(entry, "overrun", Amount.from_facts(overrun["cost"]), excess, charge.tolerance, label)
        self.replay.move(entry["seq"], run.keys, held=_less(run.cost), spent=(recorded, charged))
        ran = Ran(run.declaration.alone, ended.executed)
        self._settled_runs[entry["run"]] = _Settled(run, (recorded, charged), [ran])

    def _corrected(self, entry: Mapping[str, Any]) -> None:
        """Compare what the true mechanism of a settled run costs, and charge it by the rule of corrections."""
        settled = self._settled_runs[entry["run"]]
        terms = settled.run.declaration.terms
        stated = {**entry, "bound": terms.bound, "adjacency": terms.adjacency}
        cost = Amount.from_facts(entry["cost"]), self._cost(stated)
        moved = [
            _difference(mine, old, replaces=entry["replaces"]) for mine, old in zip(cost, settled.charged, strict=True)
        ]
        changes = moved[0], moved[1]
        self.replay.move(entry["seq"], settled.run.keys, held=(ZERO, ZERO), spent=changes)
        settled.charged = settled.charged[0] + changes[0], settled.charged[1] + changes[1]
        ran = Ran(Declaration.of(stated).alone)
        settled.ran = [ran] if entry["replaces"] else [*settled.ran, ran]

    def _compared(
        self,
        entry: Mapping[str, Any],
        what: Literal["cost", "table", "charged", "overrun"],
        recorded: Amount,
        recomputed: Amount,
        tolerance: Fraction | None,
        label: str,
    ) -> Amount:
        """Count and list the comparison of two amounts, and return the right one."""
        status = compare(recorded=recorded, recomputed=recomputed, tolerance=tolerance)
        if status == "overcharged" and is_earlier(label):
            # Earlier rules charged more than the current ones: their charges remain.
            status = "dearer"
        self.counts[status] += 1
        if status == "exact" or status == "within" or status == "dearer":
            return recorded
        listed = self.differences[status]
        if len(listed) < DIFFERENCES_MAX:
            is_refusal = entry["kind"] == "run-refused"
            listed.append(Difference(entry["seq"], entry["run"], what, is_refusal, recorded, recomputed, status, label))
        return recomputed

    def _not_known(self, entry: Mapping[str, Any], reason: str) -> None:
        self.counts["unknown"] += 1
        if len(self.unknown) < DIFFERENCES_MAX:
            self.unknown.append(Unknown(entry["seq"], entry["run"], reason))


def _difference(cost: Amount, charged: Amount, *, replaces: bool) -> Amount:
    """Return what a correction adds to what a run was charged until then."""
    old = charged if replaces else ZERO
    late = (cost - old).most(ZERO)
    return late if late != ZERO else cost - old


def _alone(entry: Mapping[str, Any]) -> Amount:
    """Return what a run costs by itself."""
    cost = Amount.from_facts(entry["cost"])
    if "residual" not in entry:
        return cost
    return Amount(Residual.from_facts(entry["residual"]).costs[0], cost.delta_atto)


def _less(cost: tuple[Amount, Amount]) -> tuple[Amount, Amount]:
    return ZERO - cost[0], ZERO - cost[1]
