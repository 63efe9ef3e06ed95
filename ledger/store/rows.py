"""From rows of the tables to the nouns of `ledger.core`, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row

from ledger.core.alerting import DEFAULT_ALERTING, Alerting, KeptAlert
from ledger.core.amounts import Amount
from ledger.core.datasets import (
    NO_FAIR_USE,
    Account,
    AccountKey,
    Dataset,
    Definition,
    FairUse,
    Least,
    Parent,
    Project,
)
from ledger.core.entries import Entry
from ledger.core.journal import chain
from ledger.core.people import Key, Proposal, Tenant
from ledger.core.residual import NO_TRAIL, Trail
from ledger.core.runs import Run
from ledger.store.columns import NOBODY


def amount_of(row: Row[Any], part: str) -> Amount:
    """Return an amount from its two columns."""
    return Amount(getattr(row, f"{part}_mu_sq_pico"), getattr(row, f"{part}_delta_atto"))


def _amount_if_any(row: Row[Any], part: str) -> Amount | None:
    return None if getattr(row, f"{part}_mu_sq_pico") is None else amount_of(row, part)


def amount_row(part: str, amount: Amount | None) -> dict[str, int | None]:
    """Return the two columns of an amount; NULLs for None."""
    return {
        f"{part}_mu_sq_pico": None if amount is None else amount.mu_sq_pico,
        f"{part}_delta_atto": None if amount is None else amount.delta_atto,
    }


def account_of(row: Row[Any]) -> Account:
    """Return an account, with its four amounts."""
    principal = None if row.principal_id == NOBODY else row.principal_id
    return Account(
        AccountKey(row.dataset_id, row.partition or None, row.project or None, principal),
        limit=amount_of(row, "limit"),
        spent=amount_of(row, "spent"),
        held=amount_of(row, "held"),
        overdrawn=amount_of(row, "overdrawn"),
        trail=Trail.from_text(row.trail) if row.trail else NO_TRAIL,
    )


def key_row(key: AccountKey) -> dict[str, Any]:
    """Return the columns that identify an account."""
    return {
        "dataset_id": key.dataset_id,
        "partition": key.partition or "",
        "project": key.project or "",
        "principal_id": key.principal_id or NOBODY,
    }


def amounts_row(account: Account) -> dict[str, Any]:
    """Return the columns of an account that change."""
    return {
        **amount_row("limit", account.limit),
        **amount_row("spent", account.spent),
        **amount_row("held", account.held),
        **amount_row("overdrawn", account.overdrawn),
        "trail": account.trail.text(),
    }


def definition_of(row: Row[Any], lineage: Sequence[Row[Any, Any, Any, Any]]) -> Definition:
    """Return what never changes of a dataset; `lineage` are its ancestors, as (ancestor_id, position, name)."""
    parents = sorted((line for line in lineage if line.position is not None), key=lambda line: int(line.position))
    return Definition(
        row.id,
        row.name,
        row.privacy_unit,
        row.adjacency,
        row.bound,
        row.size,
        is_partitioned=bool(row.is_partitioned),
        ceiling=_amount_if_any(row, "ceiling"),
        derived_from=tuple(Parent(line.ancestor_id, line.name) for line in parents),
        ancestors=tuple(sorted(line.ancestor_id for line in lineage)),
    )


def dataset_of(row: Row[Any], lineage: Sequence[Row[Any, Any, Any, Any]]) -> Dataset:
    """Return a dataset; `lineage` as for `definition_of`."""
    return Dataset(
        definition_of(row, lineage),
        title=row.title,
        description=row.description,
        budget=None if row.budget is None else chain.parse(row.budget),
        limit=_amount_if_any(row, "limit"),
        state=row.state,
        seq=row.seq,
        head=row.head,
        fair_use=_fair_use(row.fair_use),
        created_us=row.created_us,
        costing=row.costing,
        least=None if row.least_seq is None else Least(row.least_seq, _amount_if_any(row, "least")),
    )


def _fair_use(text: str | None) -> FairUse:
    if text is None:
        return NO_FAIR_USE
    facts = chain.parse(text)
    held = None if facts["limit"] is None else Amount.from_facts(facts["limit"])
    return FairUse(facts["held"], held, facts["runs_per_hour"], facts.get("waits_above_percent"))


def project_of(row: Row[Any]) -> Project:
    """Return a project's share."""
    return Project(row.dataset_id, row.name, chain.parse(row.budget), amount_of(row, "limit"))


def proposal_of(row: Row[Any]) -> Proposal:
    """Return a change that waits for a second person, or did."""
    return Proposal(
        row.id,
        row.kind,
        row.dataset_id,
        row.run_id,
        row.principal_id,
        chain.parse(row.body),
        row.state,
        row.created_us,
        row.expires_us,
    )


def run_of(row: Row[Any]) -> Run:
    """Return a run; a refused one has no cost."""
    return Run(
        row.id,
        row.principal_id,
        row.state,
        None if row.mu_sq_pico is None else Amount(row.mu_sq_pico, row.delta_atto),
        row.created_us,
        project=row.project,
        started_us=row.started_us,
        ended_us=row.ended_us,
        due_us=row.due_us,
        reported_us=row.reported_us,
        r=row.r_pico,
    )


def run_row(run: Run) -> dict[str, Any]:
    """Return the row of a run that was just decided."""
    return {
        "id": run.id,
        "principal_id": run.principal_id,
        "project": run.project,
        "state": run.state,
        "mu_sq_pico": None if run.cost is None else run.cost.mu_sq_pico,
        "delta_atto": None if run.cost is None else run.cost.delta_atto,
        "created_us": run.created_us,
        "ended_us": run.ended_us,
        "due_us": run.due_us,
        "r_pico": run.r,
    }


def entry_of(row: Row[Any]) -> Entry:
    """Return an entry, with the bytes that were hashed."""
    return Entry(row.dataset_id, row.seq, row.kind, row.at_us, row.run_id, row.body, row.hash)


def tenant_of(row: Row[Any]) -> Tenant:
    """Return a tenant."""
    return Tenant(row.tenant_id, row.name, bool(row.second_steward), row.seq, row.head, alerting_of(row.alerting))


def alerting_of(text: str | None) -> Alerting:
    """Return a tenant's alert settings; the defaults if it set none."""
    if text is None:
        return DEFAULT_ALERTING
    facts = chain.parse(text)
    return Alerting(
        tuple(facts["thresholds"]),
        facts["refusals_in_a_row"],
        facts["forecast_days"],
        webhook=facts["webhook"],
        heads=facts["heads"],
    )


def alert_of(row: Row[Any]) -> KeptAlert:
    """Return an alert, with the event as it is signed."""
    return KeptAlert(
        row.id,
        row.kind,
        row.at_us,
        row.body,
        row.state,
        row.attempts,
        row.next_us,
        row.delivered_us,
        row.failure,
    )


def key_of(row: Row[Any]) -> Key:
    """Return a key from its row."""
    return Key(
        row.id,
        row.principal_id,
        row.name,
        row.role,
        None if row.datasets is None else tuple(json.loads(row.datasets)),
        row.created_us,
        row.expires_us,
        row.revoked_us,
        None if row.projects is None else tuple(json.loads(row.projects)),
        row.last_used_us,
    )
