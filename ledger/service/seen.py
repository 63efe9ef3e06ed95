"""Runs as they are shown, with what decides who sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from ledger.core.datasets import Dataset
from ledger.core.entries import Entry, Record
from ledger.core.runs import Run
from ledger.service import answers, run_details
from ledger.service.portions import deltas_of, epsilons_of
from ledger.service.shapes.common import EpsilonShown
from ledger.service.shapes.runs import RunShown
from ledger.signer.receipts import ParsedEntry
from ledger.store import Reading


@dataclass(frozen=True, slots=True)
class Seen:
    """A run as it is shown, and what decides who sees it."""

    run: Run
    entries: Sequence[Record]
    shown: RunShown


def sealed_of(reading: Reading, runs: Sequence[Run]) -> list[tuple[Run, list[Entry]]]:
    """Return the first of these runs with their entries, as many as fit in a page; one at least."""
    sealed = reading.journals.first_entries([run.id for run in runs]) if runs else {}
    return [(run, sealed[run.id]) for run in runs[: len(sealed)]]


def parsed_of(run: Run, sealed: Sequence[Entry]) -> tuple[Run, list[Record]]:
    """Return a run with its entries."""
    return run, [ParsedEntry.parse(entry) for entry in sealed]


def described(
    reading: Reading,
    entered: Sequence[tuple[Run, list[Record]]],
    places: Mapping[UUID, Sequence[tuple[str, int]]] | None = None,
) -> list[Seen]:
    """Return runs as they are shown. places: each dataset that a run touches, with the number of its decision."""
    now_us = reading.now_us()
    places = reading.runs.places([run.id for run, _ in entered]) if places is None else places
    progress = run_details.progress_of(reading, [run for run, _ in entered if run.state == "started"])
    names = sorted({name for run, _ in entered for name, _ in places[run.id]})
    datasets = {found.definition.name: found for found in reading.datasets.by_names(names)} if names else {}
    of = {run.id: [datasets[name] for name, _ in places[run.id] if name in datasets] for run, _ in entered}
    epsilons = _epsilons(entered, of)
    return [
        Seen(
            run,
            entries,
            answers.describe(
                run,
                entries,
                places[run.id],
                epsilon=epsilons[run.id],
                limits=[dataset.limit for dataset in of[run.id] if dataset.limit is not None],
                now_us=now_us,
                progress=progress.get(run.id),
            ),
        )
        for run, entries in entered
    ]


def _epsilons(
    entered: Sequence[tuple[Run, list[Record]]], of: Mapping[UUID, Sequence[Dataset]]
) -> dict[UUID, list[EpsilonShown]]:
    """Return the epsilon of each run by itself, at the deltas of the budgets that it charges."""
    deltas = {run.id: deltas_of(dataset.budget for dataset in of[run.id]) for run, _ in entered}
    alone = {run.id: answers.alone(answers.decision_in(entries)) for run, entries in entered}
    at = {one: [id_ for id_ in alone if deltas[id_] == one] for one in set(deltas.values())}
    known = {one: epsilons_of({alone[id_] for id_ in ids}, one) for one, ids in at.items()}
    return {id_: known[deltas[id_]][amount] for id_, amount in alone.items()}


def all_entered(reading: Reading, run_ids: Sequence[UUID]) -> list[tuple[Run, list[Record]]]:
    """Return those of these runs that there are with their entries, however large they are."""
    found: list[tuple[Run, list[Record]]] = []
    runs = list(reading.runs.by_id(run_ids).values()) if run_ids else []
    while runs:
        sealed = sealed_of(reading, runs)
        found += [parsed_of(*one) for one in sealed]
        runs = runs[len(sealed) :]
    return found
