"""What every decision about an approved run reads and demands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ledger.core.amounts import Amount
from ledger.core.books import Books
from ledger.core.commands import OnRun
from ledger.core.datasets import Dataset
from ledger.core.decision.posting import Posting
from ledger.core.people import Actor
from ledger.core.runs import Run, RunStateName
from ledger.errors import DatasetFrozen, Forbidden, NotFound, RunState


def charged_postings(books: Books, command: OnRun) -> list[Posting]:
    """Return the accounts of a run in each of its datasets, as they are now."""
    return [
        Posting(books.datasets[dataset_id], [books.accounts[key] for key in keys])
        for dataset_id, keys in command.charges.items()
    ]


def run_of(books: Books, command: OnRun) -> Run:
    """Return the run. Raises NotFound."""
    run = books.runs.get(command.run_id)
    if run is None:
        raise NotFound("No run has this id, or your key may not see it.")
    return run


def cost_of(run: Run) -> Amount:
    """Return what an approved run was charged at its approval."""
    if run.cost is None:
        raise ArithmeticError(f"run {run.id} is {run.state} and has no cost")
    return run.cost


def demand_state(run: Run, needed: str) -> None:
    """Raise RunState unless the run is in this state."""
    if run.state != needed:
        raise run_state(run, f"Only a {needed} run allows this.")


_NEXT: Final[Mapping[RunStateName, tuple[str, ...]]] = {
    "held": ("start", "void"),
    "started": ("settle", "void"),
    "settled": ("correction",),
    "voided": (),
    "refused": (),
}
"""The calls that a run in this state allows."""
_DOES: Final[Mapping[str, str]] = {
    "start": "starts it",
    "settle": "charges it for what it executed",
    "void": "gives its cost back",
    "confirm": "charges what was reported",
    "correct": "charges what was really executed",
    "correction": "charges a steward's correction of what was declared",
}


def run_state(run: Run, why: str, **facts: Any) -> RunState:
    """Return the error for a run whose state does not allow something, with the calls that it allows."""
    calls = ("confirm", "correct") if run.is_reported else _NEXT[run.state]
    named = [f"POST /v1/runs/{run.id}/{call} {_DOES[call]}" for call in calls]
    if not {"start", "settle", "confirm"} & set(calls):
        named.insert(0, "To use the data again, ask for a new run: POST /v1/runs")
    return RunState(
        f"Run {run.id} is {run.state}. {why} {'; '.join(named)}.",
        run=str(run.id),
        state=run.state,
        next=list(calls),
        **facts,
    )


def demand_owner(actor: Actor, run: Run) -> None:
    """Raise Forbidden unless the run is the actor's own, or an admin acts."""
    if actor.role != "admin" and actor.principal_id != run.principal_id:
        raise Forbidden("Only the principal that asked for the run, or an admin, may do this.")


def demand_active(dataset: Dataset) -> None:
    """Raise DatasetFrozen unless runs are approved and started on the dataset."""
    if dataset.state != "active":
        raise DatasetFrozen(
            (
                f"The dataset {dataset.definition.name} is {dataset.state}. Runs are approved and started only on an"
                " active dataset."
            ),
            dataset=dataset.definition.name,
            state=dataset.state,
        )
