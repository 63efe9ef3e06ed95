"""Costs beside what is left: what they depend on, and the shares of delta of which the cheapest is taken."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Context, Decimal
from functools import reduce
from typing import Final

from ledger.accounting.certify import DELTA_MIN
from ledger.accounting.shares import Room
from ledger.core.amounts import ZERO, Amount
from ledger.core.datasets import Account
from ledger.core.decision.filter import guaranteed
from ledger.service.certificates import delta_of, share_of

SHARE_POWERS: Final = range(1, 9)
"""The shares of delta that a run is costed at: the limit times 10^-k for each of these k."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What a certified run's cost depends on in addition to its mechanism, as it is before the lock.

    base: the least limit of mu² among the accounts that carry a guarantee, in units of 1e-12; None if a dataset costs
    each run by itself. limit_atto: the least limit of delta. room: the least that is left.
    """

    base: int | None
    limit_atto: int
    room: Room

    @classmethod
    def of(cls, accounts: Iterable[Account], *, is_residual: bool) -> Situation:
        """Return the situation of a run that charges these accounts. is_residual: whether all of its datasets cost runs
        beside what is left."""
        charged = list(accounts)
        carrying = guaranteed(charged)
        base = min((account.limit.mu_sq_pico for account in carrying), default=0)
        atto = min((account.limit.delta_atto for account in charged), default=0)
        left = min((account.remaining.mu_sq_pico for account in carrying), default=0)
        remaining = reduce(Amount.least, (account.remaining for account in charged)) if charged else ZERO
        return cls(base if base > 0 and is_residual else None, atto, Room(left, remaining))

    def shares(self) -> tuple[Decimal, ...]:
        """Return the shares of delta that a run is costed at if it names none: from large to small. Without residual
        costs a hundredth of the limit."""
        if self.base is None:
            return (share_of(Amount(0, self.limit_atto)),)
        context = Context(prec=6, rounding=ROUND_FLOOR)
        offered = [
            context.plus(delta_of(self.limit_atto // 10**power)).normalize()
            for power in SHARE_POWERS
            if self.limit_atto // 10**power > 0
        ]
        return tuple(share for share in offered if share >= DELTA_MIN) or (share_of(Amount(0, self.limit_atto)),)
