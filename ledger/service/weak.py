"""Budgets that protect weakly: a steward must state that this is accepted, and the journal keeps it."""

from __future__ import annotations

from typing import Final

from ledger.accounting import disclosure
from ledger.accounting.budgets import EPSILON_WEAK, Budget, Epsilon, epsilon_judged, report_deltas
from ledger.core.amounts import Amount
from ledger.errors import InvalidRequest

FIELD: Final = "accepts_weak_protection"
_WRONGLY: Final = 0.001
"""The false-positive rate at which an attack is described: one of a thousand who are not in the data."""


def is_accepted(budget: Budget | None, limit: Amount | None, *, before: Amount | None, accepts: bool) -> bool:
    """Return whether a budget protects weakly, and a steward accepts that. before: the limit that it replaces; one that
    is not raised needs no statement. Raises InvalidRequest if it protects weakly and nobody states that."""
    if budget is None or limit is None or (before is not None and not limit.exceeds(before)):
        return False
    shown = epsilon_judged(budget.model_dump(exclude_none=True), limit)
    if not shown.is_weak:
        return False
    if not accepts:
        raise InvalidRequest(_detail(budget, limit, shown), field=FIELD)
    return True


def _detail(budget: Budget, limit: Amount, shown: Epsilon) -> str:
    rate = disclosure.true_positive_rates([limit], false_positive_rate=_WRONGLY)[0]
    of = "no finite epsilon" if shown.value is None else f"epsilon {shown.value:.5g}"
    own = report_deltas(budget.model_dump(exclude_none=True))[0]
    why = f", where it is judged because a delta of {own:.5g} would hide it" if own > shown.at_delta else ""
    return (
        f"{FIELD}: this budget has {of} at delta {shown.at_delta:.5g}{why}; above {EPSILON_WEAK} it protects weakly."
        " An attacker who guesses which persons are in the data, and is wrong about 1 of 1,000 who are not, can find up"
        f" to {100 * rate:.3g} % of those who are. Set a smaller budget; or, if that is acceptable, state it:"
        f" {FIELD}: true (on the command line --accept-weak-protection). The journal and the report keep the statement"
    )
