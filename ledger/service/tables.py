"""Costs beside what is left: what they depend on, and the share of delta that is cheapest now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Context, Decimal
from fractions import Fraction
from typing import Final

from ledger.accounting import amounts
from ledger.accounting.beside import Offer
from ledger.accounting.certify import DELTA_MIN
from ledger.core.amounts import Amount
from ledger.core.books import Books
from ledger.core.decision.filter import is_residual
from ledger.core.runs import Use
from ledger.service.certificates import delta_of, share_of

SHARE_POWERS: Final = range(1, 9)
"""The shares of delta that a run is costed at: the limit times 10^-k for each of these k."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What a certified run's cost depends on in addition to its mechanism, as it is before the lock.

    base: the least limit of mu² among the accounts, in units of 1e-12; None if a dataset costs each run by itself.
    limit_atto: the least limit of delta. left: the least that remains.
    """

    base: int | None
    limit_atto: int
    left: Amount

    @classmethod
    def of(cls, books: Books, uses: Sequence[Use]) -> Situation:
        """Return the situation of a run by the limits and balances that were read."""
        limits = [dataset.limit for dataset in books.datasets.values() if dataset.limit is not None]
        limits += [share.limit for share in books.projects.values()]
        fair = [dataset.fair_use.held for dataset in books.datasets.values() if dataset.fair_use.held is not None]
        least = min((limit.mu_sq_pico for limit in limits), default=0)
        atto = min((limit.delta_atto for limit in (*limits, *fair)), default=0)
        remaining = [account.remaining for account in books.accounts.values()] or limits
        left = Amount(
            min((amount.mu_sq_pico for amount in remaining), default=0),
            min((amount.delta_atto for amount in remaining), default=0),
        )
        charged = [
            use.dataset_id
            for use in uses
            if books.datasets[use.dataset_id].limit is not None
            or any(share.dataset_id == use.dataset_id for share in books.projects.values())
        ]
        is_beside = least > 0 and is_residual(books, charged)
        return cls(least if is_beside else None, atto, left)

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


def cheapest(offered: Sequence[Offer], left: Amount) -> Offer:
    """Return the offer that takes the least part of what is left: of mu² or of delta, whichever is more. If none fits,
    that which comes nearest."""
    return min(offered, key=lambda offer: (_part_of(_needed(offer, left), left), offer.delta))


def _needed(offer: Offer, left: Amount) -> Amount:
    amount = offer.cost.amount
    if offer.table is None:
        return amount
    best = offer.table.best(left.mu_sq_pico)
    if best is None:
        return Amount(offer.table.least_needed, amount.delta_atto)
    return Amount(offer.table.costs[best], amount.delta_atto)


def is_mu_dearer(offer: Offer, left: Amount) -> bool:
    """Return whether an offer takes at least as large a part of mu² as of delta."""
    mu, delta = _parts_of(_needed(offer, left), left)
    return mu >= delta


def _part_of(asked: Amount, left: Amount) -> Fraction:
    return max(_parts_of(asked, left))


def _parts_of(asked: Amount, left: Amount) -> tuple[Fraction, Fraction]:
    """Return the parts of mu² and of delta that are asked for; of nothing left, more than any part."""
    pairs = ((asked.mu_sq_pico, left.mu_sq_pico), (asked.delta_atto, left.delta_atto))
    mu, delta = (Fraction(amount, has) if has > 0 else Fraction(amount + 1) * amounts.ATTO for amount, has in pairs)
    return mu, delta
