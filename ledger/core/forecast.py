"""How long a budget lasts, from what was spent so far."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from ledger.core.amounts import Amount, Quantity, timestamp

DAY_US: Final = 86_400 * 1_000_000
WINDOW_US: Final = 28 * DAY_US
"""How far back a forecast looks."""
HISTORY_US: Final = 7 * DAY_US
RUNS_ENOUGH: Final = 3
"""A forecast needs this much history, or this many runs."""
HORIZON_US: Final = 36_525 * DAY_US
"""A hundred years. A budget that lasts longer has no end in a forecast."""


class Spend(NamedTuple):
    """A run as a forecast sees it: when it was approved, and what it holds or was charged."""

    at_us: int
    amount: Amount


@dataclass(frozen=True, slots=True)
class Forecast:
    """An estimate, by the rate of the last weeks, of how long the rest of an account lasts.

    since_us: start of the period used. runs: how many runs were approved in it. spent: what they hold and were charged,
    together. is_enough: whether that is enough for an estimate. lasts_until_us: None if it lasts for a hundred years or
    more, or if there is no estimate. quantity: which one runs out first.
    """

    since_us: int
    runs: int
    spent: Amount
    remaining: Amount
    is_enough: bool
    lasts_until_us: int | None
    quantity: Quantity | None

    def days_left(self, now_us: int) -> int | None:
        """Return whole days, rounded down."""
        return None if self.lasts_until_us is None else (self.lasts_until_us - now_us) // DAY_US


def forecast(spends: Iterable[Spend], remaining: Amount, *, since_us: int, now_us: int) -> Forecast:
    """Return when an account is used up if spending goes on as since `since_us`: the start of the window, or of the
    dataset if that is younger.

    rate = spent / (now - since), in each quantity; used up at now + remaining / rate, rounded down; the earlier counts.
    The period counts as at least one day, so that a busy first hour is not taken for the usual rate. An estimate needs
    seven days of history with a run in them, or three runs.
    """
    counted = [spend for spend in spends if since_us <= spend.at_us <= now_us]
    spent = Amount(sum(spend.amount.mu_sq_pico for spend in counted), sum(spend.amount.delta_atto for spend in counted))
    past_us = max(now_us - since_us, DAY_US)
    is_enough = len(counted) >= RUNS_ENOUGH or (bool(counted) and now_us - since_us >= HISTORY_US)
    ends: list[tuple[int, Quantity]] = []
    quantities: tuple[tuple[Quantity, int, int], ...] = (
        ("mu", remaining.mu_sq_pico, spent.mu_sq_pico),
        ("delta", remaining.delta_atto, spent.delta_atto),
    )
    for quantity, left, rate in quantities:
        if is_enough and rate > 0:
            ends.append((max(left, 0) * past_us // rate, quantity))
    within = [end for end in ends if end[0] < HORIZON_US]
    lasts_us, first = min(within, key=lambda end: end[0]) if within else (None, None)
    return Forecast(
        since_us, len(counted), spent, remaining, is_enough, None if lasts_us is None else now_us + lasts_us, first
    )


def forecast_facts(outlook: Forecast, *, now_us: int) -> dict[str, Any]:
    """Return a forecast in the form of answers."""
    return {
        "since": timestamp(outlook.since_us),
        "runs": outlook.runs,
        "spent": outlook.spent.facts(),
        "remaining": outlook.remaining.facts(),
        "is_enough": outlook.is_enough,
        "lasts_until": None if outlook.lasts_until_us is None else timestamp(outlook.lasts_until_us),
        "days_left": outlook.days_left(now_us),
        "quantity": outlook.quantity,
    }
