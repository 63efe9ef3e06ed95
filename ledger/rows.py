"""Rows of the tables as the nouns of `ledger.model`, and back."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import Row

from ledger import journal
from ledger.model import Account, Amount, Dataset, Definition, Entry, Run


def _amount(row: Row[Any], part: str) -> Amount:
    return Amount(getattr(row, f"{part}_mu_sq_pico"), getattr(row, f"{part}_delta_atto"))


def account_of(row: Row[Any]) -> Account:
    """An account, with its four amounts."""
    return Account(
        row.id,
        row.dataset_id,
        limit=_amount(row, "limit"),
        spent=_amount(row, "spent"),
        held=_amount(row, "held"),
        overdrawn=_amount(row, "overdrawn"),
    )


def account_row(tenant_id: UUID, account: Account) -> dict[str, Any]:
    """An account as it is written."""
    row: dict[str, Any] = {"tenant_id": tenant_id, "id": account.id, "dataset_id": account.dataset_id}
    for part in ("limit", "spent", "held", "overdrawn"):
        amount: Amount = getattr(account, part)
        row[f"{part}_mu_sq_pico"] = amount.mu_sq_pico
        row[f"{part}_delta_atto"] = amount.delta_atto
    return row


def definition_of(row: Row[Any]) -> Definition:
    """What never changes of a dataset."""
    return Definition(row.id, row.name, row.privacy_unit, row.adjacency, row.bound, row.size)


def dataset_of(row: Row[Any]) -> Dataset:
    """A dataset."""
    return Dataset(
        definition_of(row),
        title=row.title,
        description=row.description,
        budget=journal.parse(row.budget),
        state=row.state,
        seq=row.seq,
        head=row.head,
        created_us=row.created_us,
    )


def run_of(row: Row[Any]) -> Run:
    """A run; a refused one has no cost."""
    cost = None if row.mu_sq_pico is None else Amount(row.mu_sq_pico, row.delta_atto)
    return Run(
        row.id,
        row.dataset_id,
        row.principal_id,
        row.state,
        row.seq,
        cost,
        row.created_us,
        started_us=row.started_us,
        ended_us=row.ended_us,
        due_us=row.due_us,
    )


def run_row(tenant_id: UUID, run: Run) -> dict[str, Any]:
    """A run as it is written."""
    return {
        "tenant_id": tenant_id,
        "id": run.id,
        "dataset_id": run.dataset_id,
        "principal_id": run.principal_id,
        "state": run.state,
        "seq": run.seq,
        "mu_sq_pico": None if run.cost is None else run.cost.mu_sq_pico,
        "delta_atto": None if run.cost is None else run.cost.delta_atto,
        "created_us": run.created_us,
        "started_us": run.started_us,
        "ended_us": run.ended_us,
        "due_us": run.due_us,
    }


def entry_of(row: Row[Any]) -> Entry:
    """An entry, with the bytes that were hashed."""
    return Entry(row.dataset_id, row.seq, row.kind, row.at_us, row.run_id, row.body, row.hash)
