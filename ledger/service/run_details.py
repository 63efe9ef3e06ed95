"""One run with everything that is known of it: why it was refused, and what stewards proposed about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from uuid import UUID

from ledger.accounting.budgets import report_deltas
from ledger.accounting.display import Point, show_epsilons
from ledger.core.amounts import ZERO, Amount, Quantity, timestamp
from ledger.core.books import ReadSet
from ledger.core.datasets import Account
from ledger.core.entries import Record
from ledger.core.journal import chain
from ledger.core.people import Actor, Proposal
from ledger.core.runs import Run
from ledger.service import answers, portions
from ledger.service.bindings import binding_of, bound_by
from ledger.service.shapes.runs import (
    EpsilonsOfRefusal,
    ProgressShown,
    RefusedBy,
    RunInFull,
    RunProposalShown,
    RunShown,
)
from ledger.service.two_people import Answered, answered, state_of
from ledger.signer.receipts import ParsedEntry
from ledger.store import Reading
from ledger.store.runs import Decided

REFUSED_BY_MAX: Final = 100
"""How many accounts that bound are listed: a run may charge thousands of partitions."""
_HIDDEN: Final = (
    *("remaining", "limit", "share_requested", "share_remaining", "percent_requested", "percent_remaining"),
)
"""What is left out of an account that the key does not see."""


def in_full(
    reading: Reading, runs: Sequence[tuple[Run, RunShown]], places: Mapping[UUID, Sequence[Decided]]
) -> dict[UUID, RunInFull]:
    """Return these runs with all that is known of them. places: where each was decided. The number of statements does
    not depend on how many they are."""
    # Only a run that was started can wait for a second steward.
    started = [run.id for run, _ in runs if run.started_us is not None]
    dataset_ids = {place.dataset_id for run_id in started for place in places[run_id]}
    proposals = reading.proposals.about_runs(dataset_ids, started) if started else []
    answers_by_id = answered(reading, proposals)
    decisions = {
        run_id: answers.decisions_of(map(ParsedEntry.parse, entries))
        for run_id, entries in reading.journals.run_entries([run.id for run, _ in runs]).items()
    }
    refused = _refused(reading, {run.id: decisions[run.id] for run, _ in runs if run.state == "refused"})
    runs_left = _runs_left(reading, decisions)
    # What a job that died reported stays with its run when a steward settles or voids it.
    progress = progress_of(reading, [run for run, _ in runs if run.started_us is not None])
    now_us = reading.now_us()
    for run, shown in runs:
        if run.id in progress:
            shown["progress"] = progress[run.id]
    return {
        run.id: {
            **shown,
            "datasets": [
                {"name": place.dataset, "seq": place.seq, "hash": place.hash.hex()} for place in places[run.id]
            ],
            **portions.taken(
                Amount.from_facts(decisions[run.id][0]["cost"]),
                [room for entry in decisions[run.id] for room in portions.rooms_in(entry)],
            ),
            "runs_left": runs_left[run.id],
            "refused_by": refused[run.id][0] if run.id in refused else None,
            "refused_by_count": refused[run.id][1] if run.id in refused else None,
            "proposals": [
                proposal_of_run(proposal, answers_by_id.get(str(proposal.id)), now_us)
                for proposal in proposals
                if proposal.run_id == run.id
            ],
        }
        for run, shown in runs
    }


def progress_of(reading: Reading, runs: Sequence[Run]) -> dict[UUID, ProgressShown]:
    """Return what the jobs of these runs reported last, of those that did."""
    reports = reading.progress.of_runs([run.id for run in runs])
    return {
        run_id: ProgressShown(steps=one.steps, at=timestamp(one.at_us), reporter=one.reporter)
        for run_id, one in reports.items()
    }


def for_actor(actor: Actor, shown: RunInFull) -> RunInFull:
    """Return a run without the amounts of datasets that the actor does not see."""
    if all(actor.sees(place["name"]) for place in shown["datasets"]):
        return shown
    refused_by = [item if actor.sees(item["name"]) else _hidden(item) for item in shown["refused_by"] or ()]
    return {**shown, "runs_left": None, "refused_by": None if shown["refused_by"] is None else refused_by}


def _hidden(item: RefusedBy) -> RefusedBy:
    return {
        **item,
        **dict.fromkeys(_HIDDEN),  # type: ignore[typeddict-item]
        "epsilon": [],
    }


def proposal_of_run(proposal: Proposal, answer: Answered | None, now_us: int) -> RunProposalShown:
    """Return a proposal about a run as answers show it. answer: a steward's, if there was one."""
    return RunProposalShown(
        id=str(proposal.id),
        what=proposal.kind,
        by=proposal.body["by"],
        at=timestamp(proposal.created_us),
        state=state_of(proposal, now_us=now_us),
        approve_by=timestamp(proposal.expires_us),
        answered_by=None if answer is None else answer.by,
        answered_at=None if answer is None else answer.at,
        answered_reason=None if answer is None else answer.reason,
    )


def _runs_left(reading: Reading, found: Mapping[UUID, Sequence[Record]]) -> dict[UUID, int | None]:
    """Return for how many more runs like each there is room now. found: the entries that decided each. None if a limit
    that its costs beside what is left depend on was changed."""
    read_sets: dict[UUID, ReadSet] = {}
    keys = {
        run_id: [key for entry in entries for key in chain.accounts_of(entry) if key.principal_id is None]
        for run_id, entries in found.items()
    }
    for key in (key for of_run in keys.values() for key in of_run):
        read_set = read_sets.setdefault(key.dataset_id, ReadSet())
        if key.partition is not None and read_set.partitions is not None:
            read_set.partitions.add(key.partition)
        if key.project is not None:
            read_set.projects.add(key.project)
    books = reading.books.read(read_sets) if read_sets else None
    left: dict[UUID, int | None] = {}
    for run_id, entries in found.items():
        cost, table = Amount.from_facts(entries[0]["cost"]), answers.table_of(entries[0])
        accounts = [] if books is None else [books.accounts[key] for key in keys[run_id] if key in books.accounts]
        base = min((account.limit.mu_sq_pico for account in accounts), default=0)
        is_known = len(accounts) == len(keys[run_id]) and (table is None or table.base == base)
        is_active = books is not None and all(books.datasets[key.dataset_id].state == "active" for key in keys[run_id])
        room = portions.runs_left(cost, table, portions.rooms_of(accounts)) if is_known else None
        left[run_id] = room if is_active or room is None else 0
    return left


# --- why a run was refused -------------------------------------------------------------------------------------------


def _refused(reading: Reading, found: Mapping[UUID, Sequence[Record]]) -> dict[UUID, tuple[list[RefusedBy], int]]:
    """Return the accounts in which refused runs did not fit, the first of them with their numbers, and their count.
    found: the entries that refused each."""
    if not found:
        return {}
    names = sorted({entry["dataset"] for decisions in found.values() for entry in decisions})
    deltas = {
        dataset.definition.name: report_deltas(dict(dataset.budget or {}))
        for dataset in reading.datasets.by_names(names)
    }
    return {run_id: _refused_by(decisions, deltas) for run_id, decisions in found.items()}


def _refused_by(decisions: Sequence[Record], deltas: Mapping[str, Sequence[float]]) -> tuple[list[RefusedBy], int]:
    """Return what refused one run. The amounts are those of its entries, so they are as they were when it was
    decided."""
    cost, needed = Amount.from_facts(decisions[0]["cost"]), answers.needed_of(decisions[0])
    bound = [
        (entry["dataset"], *binding)
        for entry in decisions
        for binding in bound_by(chain.accounts_of(entry).values(), cost, needed)
    ]
    listed = bound[:REFUSED_BY_MAX]
    epsilons = show_epsilons(
        point for name, account, asked, _ in listed for point in _points(account, asked, deltas[name])
    )
    return [_by(*item, deltas[item[0]], epsilons) for item in listed], len(bound)


def _points(account: Account, asked: Amount, deltas: Sequence[float]) -> Iterable[Point]:
    """Return the amounts whose epsilons are shown."""
    for amount in (asked, account.remaining.most(ZERO), account.limit):
        for at_delta in deltas:
            yield amount, at_delta


def _by(
    name: str,
    account: Account,
    asked: Amount,
    quantity: Quantity,
    deltas: Sequence[float],
    epsilons: Mapping[Point, float | None],
) -> RefusedBy:
    left = account.remaining.most(ZERO)
    binding = binding_of(name, account, asked, quantity)
    return RefusedBy(
        **binding,
        share_requested=_share(asked, account.limit, quantity),
        share_remaining=_share(left, account.limit, quantity),
        epsilon=[
            EpsilonsOfRefusal(
                delta=at_delta,
                requested=epsilons[asked, at_delta],
                remaining=epsilons[left, at_delta],
                limit=epsilons[account.limit, at_delta],
            )
            for at_delta in deltas
        ],
    )


def _share(part: Amount, whole: Amount, quantity: Quantity) -> float | None:
    """Return which part of a limit an amount is, in the unit that adds up; None of a limit that is zero."""
    digits = "mu_sq_pico" if quantity == "mu" else "delta_atto"
    limit = getattr(whole, digits)
    return getattr(part, digits) / limit if limit else None
