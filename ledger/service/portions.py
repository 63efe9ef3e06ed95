"""Which part of a budget an amount is, in percent; the epsilon of a run by itself; how many more runs like one fit.

Percents are of mu², or of delta in nats, and add up. Epsilons do not add up. What is taken is rounded up, and what is
left is rounded down. The accounts of principals, which limit only what one of them holds, are no part of a budget.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import Any, Final, NamedTuple

from ledger.accounting.budgets import report_deltas
from ledger.accounting.display import show_epsilons
from ledger.accounting.numbers import COUNT_MAX
from ledger.core.amounts import ZERO, Amount, percent_of
from ledger.core.datasets import Account, Balance
from ledger.core.entries import Record
from ledger.core.residual import Residual, equal_runs
from ledger.service.shapes.common import (
    EpsilonShown,
    PercentOfBudget,
    PercentOfRun,
    PercentsShown,
    PercentTaken,
)

DELTAS_MAX: Final = 3
"""At how many deltas the epsilon of a run on several datasets is shown."""


class Room(NamedTuple):
    """An account's limit and what is left of it. is_budget: whether it is not a principal's."""

    limit: Amount
    left: Amount
    is_budget: bool = True


def rooms_of(accounts: Iterable[Account]) -> list[Room]:
    """Return the rooms of accounts."""
    return [Room(account.limit, account.remaining, account.key.principal_id is None) for account in accounts]


def rooms_in(entry: Record) -> list[Room]:
    """Return the rooms of the accounts that an entry states; straight from the digits, because every approval needs
    it."""
    rooms = []
    for balance in ([entry["balance"]] if "balance" in entry else []) + list(entry.get("accounts", ())):
        limit, spent, held = balance["limit"], balance["spent"], balance["held"]
        mu, delta = int(limit["mu_sq_pico"]), int(limit["delta_atto"])
        left = Amount(
            mu - int(spent["mu_sq_pico"]) - int(held["mu_sq_pico"]),
            delta - int(spent["delta_atto"]) - int(held["delta_atto"]),
        )
        rooms.append(Room(Amount(mu, delta), left, "principal" not in balance))
    return rooms


def least(rooms: Iterable[Room]) -> Amount | None:
    """Return the least that is left, of each quantity by itself; None if there is no account."""
    left = [room.left for room in rooms]
    return reduce(Amount.least, left) if left else None


def taken(cost: Amount, rooms: Iterable[Room]) -> PercentTaken:
    """Return which percent of the least budget an amount is."""
    budgets = [room.limit for room in rooms if room.is_budget]
    limit = reduce(Amount.least, budgets) if budgets else None
    return PercentTaken(
        percent=None if limit is None else percent_of(cost.mu_sq_pico, limit.mu_sq_pico, up=True),
        percent_of_delta=None if limit is None else percent_of(cost.delta_atto, limit.delta_atto, up=True),
    )


def largest(parts: Iterable[float | None]) -> float | None:
    """Return the largest of some percents; None if none is known."""
    return max((part for part in parts if part is not None), default=None)


def percents(cost: Amount | None, rooms: Sequence[Room]) -> PercentOfBudget:
    """Return which percent of a dataset's budget a run takes, and is left: of the fullest account, by each quantity."""
    budgets = [room for room in rooms if room.is_budget]
    shown = PercentOfBudget(
        percent_left=_least_left([(room.left.mu_sq_pico, room.limit.mu_sq_pico) for room in budgets]),
        percent_of_delta_left=_least_left([(room.left.delta_atto, room.limit.delta_atto) for room in budgets]),
    )
    if cost is not None:
        of = taken(cost, budgets)
        shown["percent"], shown["percent_of_delta"] = of["percent"], of["percent_of_delta"]
    return shown


def _least_left(pairs: Sequence[tuple[int, int]]) -> float | None:
    known = [pair for pair in pairs if pair[1] > 0]
    if not known:
        return None
    part, whole = known[0] if len(known) == 1 else min(known, key=lambda pair: pair[0] / pair[1])
    return percent_of(part, whole, up=False)


def amount_after(decision: Record, entry: Record) -> Amount:
    """Return what a run takes of its budgets after an entry: what it holds, or was charged or keeps."""
    if entry["kind"] in ("run-settled", "run-corrected"):
        return Amount.from_facts(entry["charged"])
    if entry["kind"] == "run-voided":
        return Amount.from_facts(entry["kept"]) if "kept" in entry else ZERO
    return Amount.from_facts(decision["cost"])


def of_run(decision: Record, entries: Iterable[Record], limits: Iterable[Amount]) -> PercentOfRun:
    """Return which percent of the least budget a run takes, by the limits when it was decided, and was charged.
    entries: those of the run on the dataset that it names first. limits: those of its datasets now, for a run that
    charges others only."""
    rooms = rooms_in(decision) or [Room(limit, limit) for limit in limits]
    asked = taken(Amount.from_facts(decision["cost"]), rooms)
    shown = PercentOfRun(percent=asked["percent"], percent_of_delta=asked["percent_of_delta"])
    for entry in entries:
        if entry["kind"] in ("run-settled", "run-voided", "run-corrected", "run-entered"):
            shown["percent_charged"] = taken(amount_after(decision, entry), rooms)["percent"]
    return shown


def of_balance(balance: Balance) -> PercentsShown:
    """Return the parts of a balance in percent of its limit."""
    limit = balance.limit
    parts = ((balance.spent, True), (balance.held, True), (balance.remaining, False))
    spent, held, remaining = (percent_of(part.mu_sq_pico, limit.mu_sq_pico, up=up) for part, up in parts)
    of_delta = [percent_of(part.delta_atto, limit.delta_atto, up=up) for part, up in parts]
    return PercentsShown(
        spent=spent,
        held=held,
        remaining=remaining,
        spent_of_delta=of_delta[0],
        held_of_delta=of_delta[1],
        remaining_of_delta=of_delta[2],
    )


def runs_left(cost: Amount, table: Residual | None, rooms: Iterable[Room]) -> int | None:
    """Return for how many more runs like one the budgets have room now, one after another, if none of them ends; None
    if it charges none. table: its costs beside what is left, if it was costed so."""
    remaining = least(room for room in rooms if room.is_budget)
    if remaining is None:
        return None
    return equal_runs(cost, table, left=remaining.mu_sq_pico, remaining=remaining, most=COUNT_MAX)[0]


# --- epsilon ---------------------------------------------------------------------------------------------------------


def deltas_of(budgets: Iterable[Mapping[str, Any] | None]) -> tuple[float, ...]:
    """Return the deltas at which the epsilon of a run on datasets with these budgets is shown: those of the budgets,
    or a usual one."""
    given = [dict(budget) for budget in budgets if budget is not None]
    declared = sorted({float(budget["at_delta"]) for budget in given if "at_delta" in budget}, reverse=True)
    if declared:
        return tuple(declared[:DELTAS_MAX])
    return (max((report_deltas(budget)[0] for budget in given), default=report_deltas({})[0]),)


def epsilons_of(amounts: Iterable[Amount], deltas: Sequence[float]) -> dict[Amount, list[EpsilonShown]]:
    """Return the epsilon of each amount by itself at these deltas, rounded up."""
    listed = list(amounts)
    known = show_epsilons((amount, delta) for amount in listed for delta in deltas)
    return {amount: [EpsilonShown(delta=delta, value=known[amount, delta]) for delta in deltas] for amount in listed}
