"""The table of budgets: from epsilon at delta 1e-5 to mu, and to what the best attack gains."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from ledger.accounting import amounts, disclosure
from ledger.accounting.budgets import EpsilonBudget, limit_of

AT_DELTA: Final = Decimal("1e-5")
EPSILONS: Final = tuple(map(Decimal, ("0.1", "0.5", "1", "2", "3", "4", "6", "8", "10", "15", "20")))
FALSE_POSITIVE_RATES: Final = (0.001, 0.01)


def table() -> str:
    """The table of `docs/how-to/choose-a-budget.md`: the limit that the ledger sets for each epsilon."""
    limits = [limit_of(EpsilonBudget(epsilon=epsilon, at_delta=AT_DELTA), bound="certified") for epsilon in EPSILONS]
    columns = [
        [f"{epsilon}" for epsilon in EPSILONS],
        [f"{amounts.mu_of(limit):.3f}" for limit in limits],
        *(
            [f"{100 * rate:.1f} %" for rate in disclosure.true_positive_rates(limits, false_positive_rate=alarms)]
            for alarms in FALSE_POSITIVE_RATES
        ),
        [f"{100 * gain:.1f} %" for gain in disclosure.advantages(limits)],
    ]
    heads = (
        "| epsilon at delta 1e-5 | mu | found, at 0.1 % false alarms | found, at 1 % false alarms | best advantage |"
    )
    return "\n".join(
        [heads, "|---|---|---|---|---|", *(f"| {' | '.join(row)} |" for row in zip(*columns, strict=True))]
    )


if __name__ == "__main__":
    print(table())
