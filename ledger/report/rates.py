"""How often attacks succeed, as the report lists it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ledger.accounting import disclosure
from ledger.core.amounts import Amount


def attacks_at(some: Sequence[Amount]) -> list[dict[str, Any]]:
    """Return the success of the best membership attack, and of guessing a property, for each amount."""
    rates = [disclosure.true_positive_rates(some, false_positive_rate=rate) for rate in disclosure.FALSE_POSITIVE_RATES]
    advantages = disclosure.advantages(some)
    guesses = [disclosure.guessing_rates(some, base_rate=rate) for rate in disclosure.BASE_RATES]
    return [
        {
            "true_positive_rates": [
                {"false_positive_rate": rate, "true_positive_rate": column[index]}
                for rate, column in zip(disclosure.FALSE_POSITIVE_RATES, rates, strict=True)
            ],
            "advantage": advantages[index],
            "guesses": [
                {"base_rate": rate, "success": column[index]}
                for rate, column in zip(disclosure.BASE_RATES, guesses, strict=True)
            ],
        }
        for index in range(len(some))
    ]
