"""The accounts in which a run does not fit, and by how much."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NotRequired

from typing_extensions import TypedDict

from ledger.accounting.display import PLAIN
from ledger.core.amounts import ZERO, Amount, Quantity, percent_of
from ledger.core.datasets import Account, AccountKey
from ledger.service.shapes.runs import Binding


class _OfShare(TypedDict):
    """Identifies an account of a dataset, if it is not a principal's."""

    partition: NotRequired[str]
    project: NotRequired[str]


class _OfPrincipal(TypedDict):
    principal: NotRequired[str]


def bindings(dataset: str, accounts: Iterable[Account], cost: Amount, needed: Amount) -> list[Binding]:
    """Return the accounts in which a run does not fit, and by how much. needed: how much must be left in accounts that
    are not a principal's."""
    return [binding_of(dataset, *bound) for bound in bound_by(accounts, cost, needed)]


def bound_by(accounts: Iterable[Account], cost: Amount, needed: Amount) -> list[tuple[Account, Amount, Quantity]]:
    """Return the accounts in which a run does not fit, with what it asks of each; arguments as for `bindings`."""
    return [
        (account, asked, quantity)
        for account in accounts
        for asked in (needed if account.key.principal_id is None else cost,)
        for quantity in asked.exceeds(account.remaining)
    ]


def binding_of(dataset: str, account: Account, asked: Amount, quantity: Quantity) -> Binding:
    """Return an account in which a run does not fit."""
    digits = "mu_sq_pico" if quantity == "mu" else "delta_atto"
    limit, left = getattr(account.limit, digits), getattr(account.remaining.most(ZERO), digits)
    return Binding(
        name=dataset,
        **of_share(account.key),
        **_of_principal(account.key),
        quantity=quantity,
        requested=PLAIN[quantity](asked),
        remaining=PLAIN[quantity](account.remaining.most(ZERO)),
        limit=PLAIN[quantity](account.limit),
        percent_requested=percent_of(getattr(asked, digits), limit, up=True),
        percent_remaining=percent_of(left, limit, up=False),
    )


def of_share(key: AccountKey) -> _OfShare:
    """Return which part of a dataset an account is of."""
    names = _OfShare()
    if key.partition is not None:
        names["partition"] = key.partition
    if key.project is not None:
        names["project"] = key.project
    return names


def _of_principal(key: AccountKey) -> _OfPrincipal:
    return _OfPrincipal() if key.principal_id is None else _OfPrincipal(principal=str(key.principal_id))
