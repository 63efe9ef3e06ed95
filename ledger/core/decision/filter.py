"""What a run is charged in all of its accounts: one cost, beside the least that is left in any of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from ledger.core.amounts import ZERO, Amount, Quantity
from ledger.core.books import Books
from ledger.core.datasets import Account
from ledger.core.decision.posting import Posting, beyond
from ledger.core.residual import Residual

ByDataset = Mapping[UUID, Sequence[Account]]


def by_dataset(postings: Iterable[Posting]) -> ByDataset:
    """Return the accounts that postings change, by dataset."""
    return {posting.dataset.id: posting.accounts for posting in postings}


@dataclass(frozen=True, slots=True)
class Priced:
    """What is charged, and the position in the table; None if no position fits, and then `cost` is that at r = 0."""

    cost: Amount
    index: int | None
    table: Residual | None

    @property
    def r(self) -> int:
        """Return how much must stay unspent behind the charge: mu², in units of 1e-12."""
        return 0 if self.table is None or self.index is None else self.table.level(self.index)

    def exceeds(self, account: Account) -> list[Quantity]:
        """Return the quantities in which a new run does not fit in this account: mu², if no position of the table
        needs as little as is left; delta, and what a principal may hold, as plain sums."""
        left = account.remaining
        if self.table is None or account.key.principal_id is not None:
            return self.cost.exceeds(left)
        fits = self.index is not None or self.table.best(left.mu_sq_pico) is not None
        quantities: list[Quantity] = [] if fits else ["mu"]
        if self.cost.delta_atto > left.delta_atto:
            quantities.append("delta")
        return quantities


def guaranteed(accounts: Iterable[Account]) -> list[Account]:
    """Return the accounts whose limit is a guarantee: all but principals', which limit only what is held."""
    return [account for account in accounts if account.key.principal_id is None]


def price(books: Books, charged: ByDataset, cost: Amount, table: Residual | None) -> Priced:
    """Return what a new run is charged. Without a table, or if a dataset costs each run by itself, that is `cost`."""
    if table is None or not _is_residual(books, charged):
        return Priced(cost, None, None)
    return _at(cost, table, table.best(_least_left(charged)))


def price_at(charged: ByDataset, cost: Amount, table: Residual, index: int) -> Priced:
    """Return what a new run is charged at a position that was chosen for it. Raises ArithmeticError if it does not fit
    there."""
    if table.needed(index) > _least_left(charged):
        raise ArithmeticError(f"a run is to be charged at position {index} of {table}, and too little is left")
    return _at(cost, table, index)


def price_late(
    books: Books,
    charged: ByDataset,
    cost: Amount,
    table: Residual | None,
    seqs: Mapping[UUID, int],
    *,
    old: int = 0,
) -> Priced:
    """Return what is charged for what was executed beyond a plan, or otherwise than declared, and is recorded now.

    seqs: the run's place in each dataset. charged: the accounts after the run itself was settled. old: the mu² of a
    charge that this one replaces, which counts as left.
    """
    places = [
        (seqs[dataset_id], account) for dataset_id, accounts in charged.items() for account in guaranteed(accounts)
    ]
    is_residual = table is not None and _is_residual(books, charged)
    tried = table if table is not None and is_residual else Residual(1, (cost.mu_sq_pico,))
    slack = min((slack_of(account, place) for place, account in places), default=cost.mu_sq_pico)
    left = min(
        (account.trail.left_at(place, account.remaining.mu_sq_pico) for place, account in places),
        default=cost.mu_sq_pico,
    )
    # An overdrawn account has nothing to give, also not what the old charge was.
    index = None if slack < 0 else tried.late(left + old, slack + old)
    priced = _at(cost, tried, index)
    return priced if is_residual else replace(priced, table=None)


def _at(cost: Amount, table: Residual, index: int | None) -> Priced:
    return Priced(Amount(table.costs[index or 0], cost.delta_atto), index, table)


def _is_residual(books: Books, charged: ByDataset) -> bool:
    return is_residual(books, [dataset_id for dataset_id, accounts in charged.items() if guaranteed(accounts)])


def is_residual(books: Books, dataset_ids: Collection[UUID]) -> bool:
    """Return whether all of these datasets, at least one, cost runs beside what is left."""
    return bool(dataset_ids) and all(books.datasets[id_].costing == "residual" for id_ in dataset_ids)


def _least_left(charged: ByDataset) -> int:
    """Return the least mu² that is left in an account that carries a guarantee."""
    return min(account.remaining.mu_sq_pico for accounts in charged.values() for account in guaranteed(accounts))


def slack_of(account: Account, place: int) -> int:
    """Return how much mu² a charge at an earlier place may be; nothing if the account is overdrawn."""
    return -1 if account.overdrawn != ZERO else account.trail.slack(place, account.remaining.mu_sq_pico)


def table_facts(priced: Priced, by: str | None) -> dict[str, Any]:
    """Return the table in the form of an entry of a dataset. by: another dataset that decides the position."""
    if priced.table is None:
        return {}
    facts: dict[str, Any] = dict(priced.table.facts())
    if priced.index is not None:
        facts["level"] = priced.index
        if by is not None:
            facts["by"] = by
    return {"residual": facts}


def decides_alone(priced: Priced, accounts: Sequence[Account]) -> bool:
    """Return whether the position is the best one by what is left in these accounts of one dataset."""
    own = min((account.remaining.mu_sq_pico for account in guaranteed(accounts)), default=None)
    return priced.table is None or (own is not None and priced.table.best(own) == priced.index)


def deciding(books: Books, charged: ByDataset) -> str:
    """Return the dataset whose account has the least left."""
    least = [
        (min(account.remaining.mu_sq_pico for account in guaranteed(accounts)), books.datasets[dataset_id])
        for dataset_id, accounts in charged.items()
        if guaranteed(accounts)
    ]
    return min(least, key=lambda pair: (pair[0], pair[1].definition.name))[1].definition.name if least else ""


# --- the accounts afterwards -----------------------------------------------------------------------------------------


def noted(account: Account, seq: int, room: int) -> Account:
    """Return the account with an entry that later charges of earlier runs must leave valid."""
    return replace(account, trail=account.trail.noted(seq, room, account.limit.mu_sq_pico))


def held_at(account: Account, priced: Priced, seq: int) -> Account:
    """Return the account with a new run held."""
    account = account.holding(priced.cost)
    if priced.r and account.key.principal_id is None:
        account = noted(account, seq, account.remaining.mu_sq_pico - priced.r)
    return account


def charged_late(account: Account, priced: Priced, *, place: int, seq: int) -> Account:
    """Return the account after a charge at an earlier place. If that does not fit, it is overdrawn."""
    if account.key.principal_id is not None:
        return account
    does_fit = is_late_fit(account, priced, place)
    trail = account.trail.charged(place, priced.cost, priced.r)
    account = replace(account, spent=(account.spent + priced.cost).saturated, trail=trail)
    if priced.r:
        account = noted(account, seq, account.remaining.mu_sq_pico - priced.r)
    return account if does_fit else replace(account, overdrawn=account.overdrawn.most(beyond(account)))


def is_late_fit(account: Account, priced: Priced, place: int) -> bool:
    """Return whether a charge that is recorded after its place fits in this account."""
    fits = priced.index is not None or priced.cost.mu_sq_pico <= slack_of(account, place)
    return fits and priced.cost.delta_atto <= account.trail.delta_at(place, account.remaining.delta_atto)


def short_of(books: Books, charged: ByDataset, r: int) -> list[str]:
    """Return the datasets in which less is left now than the r of a run, which keep the run's charge for that. A cost
    at r = 0 adds up in any order, and is always given back."""
    return sorted(
        books.datasets[dataset_id].definition.name
        for dataset_id, accounts in charged.items()
        if r and any(account.remaining.mu_sq_pico < r for account in guaranteed(accounts))
    )


def given_back(account: Account, *, left: int, r: int, seq: int) -> Account:
    """Return an account that got something back as if the run were the last; left: what was left before it did."""
    return noted(account, seq, left - r) if r and account.key.principal_id is None else account
