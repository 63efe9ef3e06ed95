"""What an attacker gains at most by what a run releases, in numbers that can be said in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ledger.accounting import disclosure
from ledger.core.amounts import Amount

FALSE_POSITIVES: Final = 0.01
"""How often the attacker is wrong about somebody who is not in the data."""


def detected(costs: Sequence[Amount]) -> list[float]:
    """Return for each cost how many of those who are in the data an attacker finds at most, at FALSE_POSITIVES, who
    knows everything else. Rounded up."""
    return disclosure.true_positive_rates(costs, false_positive_rate=FALSE_POSITIVES)
