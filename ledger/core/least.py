"""The least limit: the least mu² under which the same entries of a journal would have been approved.

Each run is costed at the best position of its own table by what is left under a limit L. With a larger L as much or
more is left at each entry, and no charge is larger: the charge at a position falls from one position to the next, here
also once a part was given back. So what fits under L fits under every larger limit, and bisection finds the least one.

It is an indication. With that limit the runs might have been others, so it bounds what was released only if they were
fixed in advance. docs/explanation/residual.md has more.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final, NamedTuple

from ledger.core.amounts import INT64_MAX, ZERO, Amount
from ledger.core.residual import Residual

CHARGES_MAX: Final = 200_000
"""The most charges of a journal, of each account by itself. Beyond that there is no least limit."""
KINDS: Final = ("run-approved", "run-settled", "run-voided", "run-corrected", "run-entered")
"""The kinds of entries that charge or give back."""


class _Curve(NamedTuple):
    """What a charge can be. needed: how much must be left at each position or at a later one. costs: one for each."""

    needed: tuple[int, ...]
    costs: tuple[int, ...]


_NO_MU: Final = _Curve((0,), (0,))
"""Of a charge of delta alone."""


class _Charge(NamedTuple):
    """An approval or an overrun. seq: of its entry. delta_atto: what it charges of delta."""

    seq: int
    curve: _Curve
    delta_atto: int


class _End(NamedTuple):
    """A run gave back a part. approved: the number of the entry of its approval. costs: its charge by its position."""

    seq: int
    approved: int
    costs: tuple[int, ...]
    delta_atto: int


class _Run(NamedTuple):
    """A run that was approved. level: its position in its table. accounts: the moves of each account that it
    charges."""

    seq: int
    cost: Amount
    curve: _Curve
    level: int
    accounts: tuple[list[_Charge | _End], ...]


class Charges:
    """All that a dataset's journal charged, from its entries in order. The entries are not checked here."""

    def __init__(self) -> None:
        self.is_residual = False
        self._accounts: dict[str | None, list[_Charge | _End]] = {}
        self._runs: dict[str, _Run] = {}
        self._curves: dict[tuple[str, ...], _Curve] = {}
        self._count = 0
        self._read: Mapping[str, Callable[[Mapping[str, Any]], None]] = {
            "dataset-registered": self._costed,
            "dataset-changed": self._costed,
            "run-approved": self._approved,
            "run-settled": self._settled,
            "run-voided": self._voided,
            "run-corrected": self._corrected,
            "run-entered": self._entered,
        }

    def read(self, entry: Mapping[str, Any]) -> None:
        """Read the next entry."""
        read = self._read.get(entry["kind"])
        if read is not None and self._count <= CHARGES_MAX:
            read(entry)
            if self._count > CHARGES_MAX:
                self._accounts, self._runs, self._curves = {}, {}, {}

    def least_limit(self, until: int | None = None) -> Amount | None:
        """Return the least limit of an account of the dataset itself: the most that one of its partitions needs, in
        each quantity. None if there are too many charges. until: the number of the last entry that counts."""
        if self._count > CHARGES_MAX:
            return None
        most = ZERO
        for moves in self._accounts.values():
            counted = moves if until is None else [move for move in moves if move.seq <= until]
            delta_atto = max(accumulate((move.delta_atto for move in counted), initial=0))
            most = Amount(_least(counted, most.mu_sq_pico), max(most.delta_atto, delta_atto))
        return most.saturated

    # --- entries

    def _costed(self, entry: Mapping[str, Any]) -> None:
        self.is_residual = entry.get("costing", "residual" if self.is_residual else "standalone") == "residual"

    def _approved(self, entry: Mapping[str, Any]) -> None:
        cost, facts = Amount.from_facts(entry["cost"]), entry.get("residual")
        accounts = tuple(self._accounts.setdefault(name, []) for name in _charged(entry))
        run = _Run(entry["seq"], cost, self._curve(cost, facts), 0 if facts is None else facts["level"], accounts)
        self._runs[entry["run"]] = run
        self._add(run, _Charge(run.seq, run.curve, cost.delta_atto))

    def _entered(self, entry: Mapping[str, Any]) -> None:
        cost, facts = Amount.from_facts(entry["cost"]), entry.get("residual")
        accounts = tuple(self._accounts.setdefault(name, []) for name in _charged(entry))
        curve = self._curve(cost, facts, is_late=True)
        run = _Run(entry["seq"], cost, curve, 0 if facts is None else facts.get("level", 0), accounts)
        self._runs[entry["run"]] = run
        self._add(run, _Charge(run.seq, curve, cost.delta_atto))

    def _settled(self, entry: Mapping[str, Any]) -> None:
        run, overrun = self._runs[entry["run"]], entry.get("overrun")
        returned = Amount.from_facts(entry["returned"])
        if returned != ZERO:
            charged = run.cost.mu_sq_pico - returned.mu_sq_pico
            costs = _of_parts(run, charged) if entry["stop"] == "data_dependent" else _of_steps(run, charged)
            self._add(run, _End(entry["seq"], run.seq, costs, -returned.delta_atto))
        if overrun is not None:
            cost = Amount.from_facts(overrun["cost"])
            curve = self._curve(cost, overrun.get("residual"), is_late=True)
            self._add(run, _Charge(entry["seq"], curve, cost.delta_atto))

    def _corrected(self, entry: Mapping[str, Any]) -> None:
        """Add what a correction charged. What it gave back of mu² stays counted: which level it would have had under
        another limit is not known."""
        run, late = self._runs[entry["run"]], Amount.from_facts(entry["late"])
        if late.mu_sq_pico:
            self._add(run, _Charge(entry["seq"], self._curve(late, None, is_late=True), late.delta_atto))
        elif change := late.delta_atto - Amount.from_facts(entry["returned"]).delta_atto:
            self._add(run, _Charge(entry["seq"], _NO_MU, change))

    def _voided(self, entry: Mapping[str, Any]) -> None:
        run, returned = self._runs.pop(entry["run"]), Amount.from_facts(entry["returned"])
        if returned != ZERO:
            self._add(run, _End(entry["seq"], run.seq, (0,) * len(run.curve.costs), -returned.delta_atto))

    def _add(self, run: _Run, move: _Charge | _End) -> None:
        for moves in run.accounts:
            moves.append(move)
        self._count += len(run.accounts)

    def _curve(self, cost: Amount, facts: Mapping[str, Any] | None, *, is_late: bool = False) -> _Curve:
        """Return what a charge can be; one object for equal ones."""
        if facts is None:
            key: tuple[str, ...] = (str(cost.mu_sq_pico),)
            return self._curves.setdefault(key, _Curve((cost.mu_sq_pico,), (cost.mu_sq_pico,)))
        key = (facts["base"], facts["costs"], "late" if is_late else "")
        curve = self._curves.get(key)
        if curve is None:
            curve = self._curves[key] = _of_table(Residual.from_facts(facts), is_late=is_late)
        return curve


def _of_table(table: Residual, *, is_late: bool) -> _Curve:
    """Return what a table can charge. A late charge leaves no reserve."""
    places = range(len(table.costs))
    needed = [table.level(at) + table.costs[at] if is_late else table.needed(at) for at in places]
    return _Curve(tuple(accumulate(reversed(needed), min))[::-1], table.costs)


def _charged(entry: Mapping[str, Any]) -> list[str | None]:
    """Return the accounts of the dataset itself that an approval charges: None for the dataset as a whole, or its
    partitions by name."""
    if "balance" in entry:
        return [None]
    groups = [group for group in entry.get("accounts", ()) if "project" not in group and "principal" not in group]
    return [name for group in groups for name in group.get("partitions", ())]


def _of_parts(run: _Run, charged: int) -> tuple[int, ...]:
    """Return the charge at each position for some of the run's equal parts, which are costed by themselves."""
    return tuple(-(-cost * charged // max(run.cost.mu_sq_pico, 1)) for cost in run.curve.costs)


def _of_steps(run: _Run, charged: int) -> tuple[int, ...]:
    """Return the charge at each position for fewer steps: the charge is valid at the run's own level and above. Below
    it the table has only the cost of all steps."""
    return tuple(min(cost, charged) if at >= run.level else cost for at, cost in enumerate(run.curve.costs))


def _least(moves: Sequence[_Charge | _End], at_least: int) -> int:
    """Return the least limit under which these moves fit, but no less than `at_least`, and at most 2^63 - 1. Takes at
    most 64 replays."""
    if _fits(moves, at_least):
        return at_least
    low, high = at_least, min(sum(move.curve.costs[0] for move in moves if isinstance(move, _Charge)), INT64_MAX)
    while high - low > 1:  # `low` does not fit; `high` does, since c(0) of every charge does, or is the most there is
        middle = (low + high) // 2
        low, high = (low, middle) if _fits(moves, middle) else (middle, high)
    return high


def _fits(moves: Iterable[_Charge | _End], limit: int) -> bool:
    """Return whether all of these moves fit under a limit."""
    left, positions = limit, dict[int, tuple[int, int]]()
    for move in moves:
        if isinstance(move, _End):
            at, cost = positions.pop(move.approved)
            left += cost - move.costs[at]
            continue
        at = bisect_right(move.curve.needed, left) - 1
        if at < 0:
            return False
        cost = move.curve.costs[at]
        left -= cost
        positions[move.seq] = at, cost
    return True
