"""Accounts: limits with their balances, and the partitions that have one."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Label, and_, bindparam, func, or_, select, tuple_, update

from ledger.core.amounts import Amount
from ledger.core.books import Books
from ledger.core.datasets import Account, AccountKey, Balance
from ledger.store.columns import NOBODY
from ledger.store.repository import Repository, among
from ledger.store.rows import account_of, amounts_row, key_row
from ledger.store.tables import accounts

_QUANTITIES: Final = ("mu_sq_pico", "delta_atto")
_PARTS: Final = ("limit", "spent", "held", "left")
_KEY_COLUMNS: Final = ("dataset_id", "partition", "project", "principal_id")


_CHANGE: Final = update(accounts).where(
    *(accounts.c[name] == bindparam(f"of_{name}") for name in ("tenant_id", *_KEY_COLUMNS))
)
_OF_WHOLE: Final = {
    is_one: select(accounts).where(
        accounts.c.tenant_id == bindparam("tenant"),
        among(accounts.c.dataset_id, "ids", is_one=is_one),
        accounts.c.partition == "",
        among(accounts.c.project, "projects", is_one=is_one),
        or_(accounts.c.principal_id == NOBODY, accounts.c.principal_id == bindparam("principals"))
        if is_one
        else accounts.c.principal_id.in_(bindparam("principals", expanding=True)),
    )
    for is_one in (False, True)
}
"""The accounts of many datasets and holders; and those of one dataset that are nobody's or one principal's."""


class AccountReader(Repository):
    """Reads accounts, one by one and summed up."""

    def matching(self, condition: ColumnElement[bool]) -> list[Account]:
        query = select(accounts).where(accounts.c.tenant_id == self.tenant_id, condition)
        return [account_of(row) for row in self.connection.execute(query)]

    def of_whole(self, ids: Collection[UUID], projects: Collection[str], principals: Collection[UUID]) -> list[Account]:
        """Return the accounts of datasets that are counted as a whole: nobody's, these projects', these principals'."""
        is_one = len(ids) == 1 and not projects and len(principals) < 2
        values: dict[str, Any] = {"tenant": self.tenant_id}
        if is_one:
            values |= {"ids": next(iter(ids)), "projects": "", "principals": next(iter(principals), NOBODY)}
        else:
            # At most one of the two columns names somebody.
            names, holders = ["", *sorted(projects)], [NOBODY, *sorted(principals)]
            values |= {"ids": ids, "projects": names, "principals": holders}
        return [account_of(row) for row in self.connection.execute(_OF_WHOLE[is_one], values)]

    def page(self, dataset_id: UUID, *, after: AccountKey | None, limit: int) -> list[Account]:
        """Return all accounts of a dataset, in the order of their keys."""
        parts = (accounts.c.project, accounts.c.principal_id, accounts.c.partition)
        query = select(accounts).where(self._in([dataset_id]))
        if after is not None:
            position = tuple_(
                after.project or "", after.principal_id or NOBODY, after.partition or "", types=[p.type for p in parts]
            )
            query = query.where(tuple_(*parts) > position)
        return [account_of(row) for row in self.connection.execute(query.order_by(*parts).limit(limit))]

    def balances(self, dataset_ids: Collection[UUID]) -> dict[tuple[UUID, str | None], Balance]:
        """Return the balance of each of these datasets over its partitions, and of each of its projects, as (dataset,
        project)."""
        aggregates = [column for quantity in _QUANTITIES for column in _aggregates(quantity)]
        query = (
            select(accounts.c.dataset_id, accounts.c.project, *aggregates)
            .where(self._in(dataset_ids), accounts.c.principal_id == NOBODY)
            .group_by(accounts.c.dataset_id, accounts.c.project)
        )
        # For each quantity its parts, in the order of a balance's fields.
        return {
            (dataset_id, project or None): Balance(*map(Amount, parts[: len(_PARTS)], parts[len(_PARTS) :]))
            for dataset_id, project, *parts in self.connection.execute(query)
        }

    def partition_page(self, dataset_id: UUID, *, after: str | None, limit: int) -> list[Account]:
        """Return a dataset's partitions by name, as their accounts."""
        query = select(accounts).where(self._in([dataset_id]), is_base(), accounts.c.partition > (after or ""))
        return [account_of(row) for row in self.connection.execute(query.order_by(accounts.c.partition).limit(limit))]

    def partition_counts(self, dataset_ids: Collection[UUID]) -> dict[UUID, int]:
        """Return how many partitions each of these datasets has."""
        query = (
            select(accounts.c.dataset_id, func.count())
            .where(self._in(dataset_ids), is_base(), accounts.c.partition != "")
            .group_by(accounts.c.dataset_id)
        )
        return {row[0]: row[1] for row in self.connection.execute(query)}

    def overdrawn(self, dataset_ids: Collection[UUID]) -> list[Account]:
        """Return the accounts of these datasets that are overdrawn."""
        is_overdrawn = or_(accounts.c.overdrawn_mu_sq_pico > 0, accounts.c.overdrawn_delta_atto > 0)
        return self.matching(and_(accounts.c.dataset_id.in_(dataset_ids), is_overdrawn))

    def holding(self, dataset_ids: Collection[UUID]) -> list[Account]:
        """Return the accounts of these datasets in which something is held."""
        is_held = or_(accounts.c.held_mu_sq_pico > 0, accounts.c.held_delta_atto > 0)
        return self.matching(and_(accounts.c.dataset_id.in_(dataset_ids), is_held))

    def _in(self, dataset_ids: Collection[UUID]) -> ColumnElement[bool]:
        return and_(accounts.c.tenant_id == self.tenant_id, accounts.c.dataset_id.in_(dataset_ids))


class AccountWriter(AccountReader):
    """Saves the accounts that a decision changed."""

    def save(self, before: Books, after: Books) -> None:
        """Write the new and changed accounts."""
        old = before.accounts
        self._add([account for key, account in after.accounts.items() if key not in old])
        self._update([account for key, account in after.accounts.items() if key in old and account != old[key]])

    def _add(self, new: Collection[Account]) -> None:
        if new:
            rows = [{**key_row(account.key), **amounts_row(account)} for account in new]
            self._add_rows(accounts, rows)

    def _update(self, changed: Collection[Account]) -> None:
        rows = [
            {
                "of_tenant_id": self.tenant_id,
                **{f"of_{name}": value for name, value in key_row(account.key).items()},
                **amounts_row(account),
            }
            for account in changed
        ]
        if rows:
            self.connection.execute(_CHANGE, rows)


def _aggregates(quantity: str) -> list[Label[Any]]:
    limit, spent, held = (accounts.c[f"{part}_{quantity}"] for part in ("limit", "spent", "held"))
    return [
        func.max(limit).label(f"limit_{quantity}"),
        func.max(spent).label(f"spent_{quantity}"),
        func.max(held).label(f"held_{quantity}"),
        # In this order no 64-bit integer overflows: held is never above the limit.
        func.min(limit - held - spent).label(f"left_{quantity}"),
    ]


def is_base() -> ColumnElement[bool]:
    """Return the condition for the account of a whole dataset."""
    return and_(accounts.c.project == "", accounts.c.principal_id == NOBODY)
