"""A dataset day by day: the balance at the end of each day, and how many runs were approved and refused on it.

Each entry states the balances of the accounts that it touched, so a day's balance is what its last such entry states.
Days are UTC. Accounts of principals are left out: they limit what one of them holds, and are no part of a budget.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, Final, NamedTuple

from ledger.core.amounts import ZERO, Amount
from ledger.core.datasets import Balance
from ledger.core.forecast import DAY_US

MILLION: Final = 1_000_000
NO_BUDGET_PPM: Final = MILLION + 1
"""What a dataset without a budget of its own has left, so that it comes last in the order of fullness."""
LEFT_PPM_MIN: Final = -MILLION


class Place(NamedTuple):
    """An account of a dataset that is not a principal's: its project and its partition, each '' for none."""

    project: str = ""
    partition: str = ""


WHOLE: Final = Place()
NOTHING: Final = Balance(ZERO, ZERO, ZERO, ZERO)


@dataclass(frozen=True, slots=True)
class Day:
    """One account at the end of one day. day: days since 1970. seq: the newest entry that counts. approvals, refusals:
    of the dataset's runs on that day; 0 for all places but the whole."""

    place: Place
    day: int
    seq: int
    balance: Balance
    approvals: int = 0
    refusals: int = 0


def day_of(at_us: int) -> int:
    """Return the day of a time, in days since 1970."""
    return at_us // DAY_US


def stated(record: Mapping[str, Any]) -> Iterator[tuple[Place, Balance]]:
    """Yield the balances that an entry states, of accounts that are not principals'. Amounts are texts of digits, so
    an entry that was read by `json.loads` does."""
    if "balance" in record:
        yield WHOLE, _balance(record["balance"])
    for group in record.get("accounts", ()):
        if "principal" not in group:
            balance = _balance(group)
            for partition in group.get("partitions", (None,)):
                yield Place(group.get("project") or "", partition or ""), balance


def _balance(facts: Mapping[str, Any]) -> Balance:
    limit, spent, held = (
        Amount(int(facts[part]["mu_sq_pico"]), int(facts[part]["delta_atto"])) for part in ("limit", "spent", "held")
    )
    return Balance(limit, spent, held, limit - spent - held)


@dataclass(slots=True)
class Days:
    """The days of a dataset, from its entries in order.

    is_partitioned: the whole is then what the partitions amount to: in each quantity the most counts. standing: the
    balances before the first entry. last: the day of the whole that goes on, if entries of it were counted before.
    """

    is_partitioned: bool
    standing: dict[Place, Balance] = field(default_factory=dict)
    last: Day | None = None
    seq: int = 0
    _touched: dict[Place, int] = field(default_factory=dict)

    def read(self, *, seq: int, kind: str, at_us: int, record: Mapping[str, Any]) -> list[Day]:
        """Count the next entry. Return the days that ended before it."""
        day = day_of(at_us)
        ended = [] if self.last is None or self.last.day == day else self.open_day()
        if self.last is None or self.last.day != day:
            self.last = Day(WHOLE, day, seq, self.standing.get(WHOLE, NOTHING))
            self._touched = {}
        for place, balance in stated(record):
            self.standing[place] = balance
            self._touched[place] = seq
        self.last = replace(
            self.last,
            seq=seq,
            approvals=self.last.approvals + (kind == "run-approved"),
            refusals=self.last.refusals + (kind == "run-refused"),
        )
        self.seq = seq
        return ended

    def open_day(self) -> list[Day]:
        """Return the day that goes on, of each account that was touched on it, the whole first."""
        if self.last is None:
            return []
        if self.is_partitioned:
            self.standing[WHOLE] = together(
                balance for place, balance in self.standing.items() if not place.project and place.partition
            )
        self.last = replace(self.last, balance=self.standing.get(WHOLE, NOTHING))
        others = [
            Day(place, self.last.day, seq, self.standing[place])
            for place, seq in self._touched.items()
            if place != WHOLE
        ]
        return [self.last, *others]


def together(balances: Iterator[Balance]) -> Balance:
    """Return what balances of one budget amount to: the most of each part, and the least of what remains."""
    listed = list(balances)
    if not listed:
        return NOTHING
    return Balance(
        limit=reduce(Amount.most, (one.limit for one in listed)),
        spent=reduce(Amount.most, (one.spent for one in listed)),
        held=reduce(Amount.most, (one.held for one in listed)),
        remaining=reduce(Amount.least, (one.remaining for one in listed)),
    )


def left_ppm(balance: Balance) -> int:
    """Return which part of a budget is left, in millionths, rounded down and cut off at -1,000,000: of mu² or of delta,
    whichever is less. A limit of zero is no budget."""
    if balance.limit == ZERO:
        return NO_BUDGET_PPM
    pairs = (
        (balance.remaining.mu_sq_pico, balance.limit.mu_sq_pico),
        (balance.remaining.delta_atto, balance.limit.delta_atto),
    )
    parts = [left * MILLION // limit for left, limit in pairs if limit > 0]
    return max(min(parts), LEFT_PPM_MIN)
