"""What an attacker gains at most by what a run releases, in numbers that can be said in words."""

from __future__ import annotations

import math
from typing import Final

from ledger.accounting import disclosure
from ledger.core.amounts import Amount
from ledger.service.shapes.accountant import AttackShown

FALSE_POSITIVES: Final = 0.01
"""How often the attacker is wrong about somebody who is not in the data."""


def on(cost: Amount) -> AttackShown:
    """Return how many of those who are in the data an attacker finds at most, at FALSE_POSITIVES, who knows everything
    else. cost: of the run by itself; beside what is left, a run is charged less than it may reveal. Rounded up."""
    (rate,) = disclosure.true_positive_rates([cost], false_positive_rate=FALSE_POSITIVES)
    wrong_percent, found_percent = 100 * FALSE_POSITIVES, min(math.nextafter(100 * rate, math.inf), 100.0)
    return AttackShown(wrong_percent=wrong_percent, found_percent=found_percent)
