"""Costs beside what is left: what they depend on, and the share of delta that is cheapest now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_FLOOR, Context, Decimal
from fractions import Fraction
from typing import Final, NamedTuple

from ledger.accounting import amounts, beside, costs, residual
from ledger.accounting.certify import DELTA_MIN
from ledger.accounting.cost import Cost
from ledger.accounting.mechanisms import AnyMechanism
from ledger.accounting.terms import Terms
from ledger.core.amounts import Amount
from ledger.core.books import Books
from ledger.core.decision.filter import is_residual
from ledger.core.residual import Residual
from ledger.core.runs import Use
from ledger.service.certificates import delta_of, share_of

SHARE_POWERS: Final = residual.SHARE_POWERS


@dataclass(frozen=True, slots=True)
class Situation:
    """What a certified run's cost depends on besides its mechanism, as it is before the lock.

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


class Offer(NamedTuple):
    """What a run costs at one share of delta: by itself, and beside what is left; None if that is the same."""

    delta: Decimal
    cost: Cost
    table: Residual | None


def offers(mechanism: AnyMechanism, terms: Terms, shares: Sequence[Decimal], base: int) -> list[Offer]:
    """Return what a run costs at each of these shares. Raises the same as `costs.cost`."""
    return [_offer(mechanism, replace(terms, delta=share), share, base) for share in shares]


def _offer(mechanism: AnyMechanism, terms: Terms, share: Decimal, base: int) -> Offer:
    cost = costs.cost(mechanism, terms)
    table = beside.table(mechanism, terms, base, cost)
    return Offer(share, cost, table if table.costs[-1] < table.costs[0] else None)


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


def _part_of(asked: Amount, left: Amount) -> Fraction:
    pairs = ((asked.mu_sq_pico, left.mu_sq_pico), (asked.delta_atto, left.delta_atto))
    return max(Fraction(amount, has) if has > 0 else Fraction(amount + 1) * amounts.ATTO for amount, has in pairs)
