"""Put back what a restore lost: the entries that an export has and the database has not, exactly as they were.

Each export is verified as an auditor does, with the ledger's own keys. Its entries must go on from those in the
database. The rows that decisions use are then what the whole journal implies, and the same comparison as in `check`
must hold before anything is committed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from ledger.core.amounts import Amount, microseconds
from ledger.core.books import Books, ReadSet
from ledger.core.commands import Claim, Register
from ledger.core.datasets import NO_FAIR_USE, Dataset, Definition, FairUse, Parent, Project
from ledger.core.entries import Entry
from ledger.core.journal import chain, replay
from ledger.core.journal.replay import Replayed
from ledger.core.people import Actor, Proposal
from ledger.core.runs import Place, Run
from ledger.errors import InvalidRequest
from ledger.operate import deploy
from ledger.operate.check import PAGE, demand_holds
from ledger.operate.mirror import Mirror
from ledger.settings import Settings
from ledger.store import Writing
from ledger.verifier.export import Line
from ledger.verifier.jws import PublicKeys
from ledger.verifier.verify import Verified, lines_of, verify
from ledger.verifier.witness import Witnesses

_NAMED_MAX: Final = 20
"""The most datasets that an error names."""


@dataclass(frozen=True, slots=True)
class PutBack:
    """What became of one journal: the first and last number of the entries that were added; none if first > last."""

    dataset: str
    first: int
    last: int


@dataclass(slots=True)
class _Journal:
    """An export's entries, what they come to, and how many of them the database has."""

    dataset_id: UUID
    name: str
    lines: Sequence[Line]
    replayed: Replayed
    mirror: Mirror
    stored: int = 0

    @property
    def missing(self) -> Sequence[Line]:
        return self.lines[self.stored :]


def put_back(settings: Settings, exports: Mapping[str, Sequence[str]], *, keys: PublicKeys) -> list[PutBack]:
    """Add the entries that the database lacks, of one tenant's datasets, in one transaction.

    exports: the lines of each, by what to call it in errors. Raises InvalidRequest if they are of several tenants or do
    not go on from what is stored, and JournalBroken if one does not verify, or if the outcome does not.
    """
    journals: dict[UUID, _Journal] = {}
    tenants: set[UUID] = set()
    for source, lines in exports.items():
        verified = verify(lines, keys=keys)
        if not isinstance(verified, Verified):
            raise InvalidRequest(
                f"{source}: is an export of a tenant's own journal, which has no keys to put back; leave it out",
                field=source,
            )
        tenant_id, journal = _read(lines, verified)
        tenants.add(tenant_id)
        journals[journal.dataset_id] = journal
    if len(tenants) != 1:
        raise InvalidRequest("exports: give the exports of one tenant, at least one", field="exports")
    with deploy.writing_in(settings, tenants.pop()) as writing:
        return _write(writing, journals)


def _read(lines: Sequence[str], verified: Verified) -> tuple[UUID, _Journal]:
    """Return a verified export, replayed with what its rows must be."""
    (tenant_id, dataset_id), read = lines_of(lines)
    mirror = Mirror()
    entries = mirror.over(_entry(dataset_id, line) for line in read)
    replayed = replay.replay(entries, tenant_id=tenant_id, dataset_id=dataset_id, name=verified.dataset)
    return tenant_id, _Journal(dataset_id, verified.dataset, read, replayed, mirror)


def _entry(dataset_id: UUID, line: Line) -> Entry:
    facts = chain.parse(line.body)
    run_id = UUID(facts["run"]) if "run" in facts else None
    at_us = _us(facts["at"])
    return Entry(dataset_id, line.seq, facts["kind"], at_us, run_id, line.body, line.hash, line.request, facts)


def _write(writing: Writing, journals: Mapping[UUID, _Journal]) -> list[PutBack]:
    for journal in journals.values():
        _demand_goes_on(writing, journal)
    _demand_all_given(writing, journals)
    _demand_all_given(writing, journals)
    gone = [_registered(writing, journal) for journal in journals.values() if journal.stored == 0]
    if len(writing.datasets.claim_names(gone)) != len(gone):
        taken = ", ".join(command.definition.name for command in gone)
        raise InvalidRequest(f"exports: another dataset has one of these names now: {taken}", field="exports")
    new = {id_: [_entry(id_, line) for line in journal.missing] for id_, journal in journals.items()}
    run_ids = {entry.run_id for entries in new.values() for entry in entries if entry.run_id is not None}
    sets = {id_: ReadSet(partitions=None, is_every_project=True) for id_ in journals}
    before = writing.books.lock(sets, sorted(run_ids))
    for journal in journals.values():
        before.accounts.update((account.key, account) for account in _accounts(writing, journal.dataset_id))
        for proposal_id in journal.mirror.proposal_ids:
            if (proposal := writing.proposals.by_id(proposal_id)) is not None:
                before.proposals[proposal_id] = proposal
    after = before.copy()
    for journal in journals.values():
        _apply(after, journal)
    _apply_runs(after, before, journals, new)
    writing.journals.append([entry for entries in new.values() for entry in entries])
    heads = {id_: journal.replayed.head for id_, journal in journals.items()}
    decided = after.copy()  # a new run is written as it was decided, and then moved
    for run_id in after.runs.keys() - before.runs.keys():
        run = after.runs[run_id]
        decided.runs[run_id] = replace(run, started_us=None, ended_us=None, reported_us=None, corrections=0)
    writing.books.save(before, decided, heads)
    writing.books.save(decided, after, heads)
    writing.claims.claim(_claims(new))
    for journal in journals.values():
        stored = writing.datasets.by_name(journal.name)
        if stored is None:
            raise InvalidRequest(f"exports: {journal.name} could not be put back", field="exports")
        demand_holds(writing, stored, Witnesses())
    return [PutBack(journal.name, journal.stored + 1, len(journal.lines)) for journal in journals.values()]


def _demand_goes_on(writing: Writing, journal: _Journal) -> None:
    """Find out how many of the entries are stored. Raises InvalidRequest if the database has others."""
    end = writing.datasets.end(journal.dataset_id)
    if end is None:
        return
    journal.stored = end[0]
    if end[0] > len(journal.lines) or (end[0] and journal.lines[end[0] - 1].hash != end[1]):
        raise InvalidRequest(
            f"exports: the journal of {journal.name} has other entries by now than this export, at entry"
            f" {min(end[0], len(journal.lines))} at the latest. Write off what it lost: privacy-ledger dataset budget",
            field="exports",
        )


def _demand_all_given(writing: Writing, journals: Mapping[UUID, _Journal]) -> None:
    """Check that no other journal lacks entries of the runs that are put back: a run is put back in all of its datasets
    or in none, else the others could not be put back any more. Raises InvalidRequest, which names them."""
    counts, named = _runs_in(journals)
    given = {journal.name for journal in journals.values()}
    stored = writing.journals.run_entries(sorted(counts))
    parents: dict[str, frozenset[str]] = {}
    for journal in journals.values():
        first = chain.parse(journal.lines[0].body)
        parents[journal.name] = frozenset(parent["name"] for parent in first.get("derived_from", ()))
    wanted = frozenset[str]().union(*named.values(), *parents.values())
    definitions = writing.datasets.definitions(names=sorted(wanted), with_ancestors=True)
    parents |= {each.name: frozenset(parent.name for parent in each.derived_from) for each in definitions}
    ids = {each.name: each.id for each in definitions}
    lacking: dict[str, UUID] = {}
    for run_id, names in named.items():
        for name in _with_ancestors(names, parents) - given:
            there = sum(entry.dataset_id == ids.get(name) for entry in stored.get(run_id, ()))
            if there < counts[run_id]:
                lacking.setdefault(name, run_id)
    if lacking:
        name, run_id = min(lacking.items())
        raise InvalidRequest(
            f"exports: run {run_id} is in the journal of {name} too, which lost its entries. A run is put back in all"
            f" of its datasets at once. Add the exports of {', '.join(sorted(lacking)[:_NAMED_MAX])} to this call",
            field="exports",
            lacking=sorted(lacking)[:_NAMED_MAX],
        )


def _runs_in(journals: Mapping[UUID, _Journal]) -> tuple[dict[UUID, int], dict[UUID, set[str]]]:
    """Return, for each run in the missing entries, how many entries a journal has of it, and the datasets they name."""
    counts: dict[UUID, int] = {}
    named: dict[UUID, set[str]] = {}
    for journal in journals.values():
        missing = {run_id for line in journal.missing if (run_id := _run_id_of(chain.parse(line.body))) is not None}
        own: Counter[UUID] = Counter()
        for line in journal.lines:
            facts = chain.parse(line.body)
            run_id = _run_id_of(facts)
            if run_id in missing and run_id is not None:
                own[run_id] += 1
                named.setdefault(run_id, set()).update(_named_by(facts, line.request))
        counts.update({run_id: max(count, counts.get(run_id, 0)) for run_id, count in own.items()})
    return counts, named


def _run_id_of(facts: Mapping[str, Any]) -> UUID | None:
    return UUID(facts["run"]) if "run" in facts else None


def _named_by(facts: Mapping[str, Any], request: str | None) -> Iterable[str]:
    """Yield the datasets that an entry of a run names beside its own. request: the one that another entry has."""
    yield from facts.get("via", ())
    if "request_in" in facts:
        yield facts["request_in"]["dataset"]
    asked = facts.get("request") or (chain.parse(request) if request is not None else {})
    for use in asked.get("datasets", ()):
        yield use if isinstance(use, str) else use["name"]


def _with_ancestors(names: Iterable[str], parents: Mapping[str, Iterable[str]]) -> set[str]:
    found: set[str] = set()
    left = list(names)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left.extend(parents.get(name, ()))
    return found


def _registered(writing: Writing, journal: _Journal) -> Register:
    """Return the command that registers a dataset of which nothing is left, from its first entry."""
    facts = chain.parse(journal.lines[0].body)
    parents = tuple(Parent(UUID(parent["id"]), parent["name"]) for parent in facts.get("derived_from", ()))
    known = writing.datasets.definitions(ids=[parent.id for parent in parents])
    ancestors = {id_ for parent in known for id_ in (parent.id, *parent.ancestors)}
    definition = Definition(
        id=journal.dataset_id,
        name=journal.name,
        privacy_unit=facts["privacy_unit"],
        adjacency=facts["adjacency"],
        bound=facts["bound"],
        size=facts["size"],
        is_partitioned=facts.get("is_partitioned", False),
        ceiling=Amount.from_facts(facts["ceiling_limit"]) if "ceiling_limit" in facts else None,
        derived_from=parents,
        ancestors=tuple(sorted(ancestors)),
    )
    limit = None if facts["limit"] is None else Amount.from_facts(facts["limit"])
    actor = Actor.from_facts(facts["actor"], tenant_id=writing.tenant_id)
    return Register(actor, definition, facts["title"], facts["description"], facts["budget"], limit)


def _accounts(writing: Writing, dataset_id: UUID) -> Iterable[Any]:
    after = None
    while page := writing.accounts.page(dataset_id, after=after, limit=PAGE):
        yield from page
        after = page[-1].key


def _apply(after: Books, journal: _Journal) -> None:
    """Make the rows of a dataset what its journal implies."""
    replayed, stated = journal.replayed, journal.mirror.dataset_facts
    fair_use = stated["fair_use"]
    dataset: Dataset = replace(
        after.datasets[journal.dataset_id],
        title=stated["title"],
        description=stated["description"],
        budget=stated["budget"],
        limit=replayed.limit,
        state=replayed.state,  # type: ignore[arg-type]
        seq=replayed.seq,
        fair_use=NO_FAIR_USE if fair_use == NO_FAIR_USE.facts() else _fair_use(fair_use),
        created_us=_us(stated["created_at"]),
        costing=stated["costing"],
    )
    after.datasets[journal.dataset_id] = dataset
    after.accounts.update(replayed.accounts)
    for name, (budget, limit) in journal.mirror.project_facts.items():
        project = Project(journal.dataset_id, name, budget, Amount.from_facts(limit))
        after.projects[journal.dataset_id, name] = project
    for proposal_id, facts in journal.mirror.proposal_facts.items():
        known = after.proposals.get(proposal_id)
        after.proposals[proposal_id] = (
            _proposal(proposal_id, facts, journal.dataset_id) if known is None else replace(known, state=facts["state"])
        )


def _fair_use(facts: Mapping[str, Any]) -> FairUse:
    held = None if facts["limit"] is None else Amount.from_facts(facts["limit"])
    return FairUse(facts["held"], held, facts["runs_per_hour"], facts.get("waits_above_percent"))


def _proposal(proposal_id: UUID, facts: Mapping[str, Any], dataset_id: UUID) -> Proposal:
    return Proposal(
        id=proposal_id,
        kind=facts["kind"],
        dataset_id=dataset_id,
        run_id=None if facts["run"] is None else UUID(facts["run"]),
        principal_id=UUID(facts["principal"]),
        body=facts["body"],
        state=facts["state"],
        created_us=_us(facts["created_at"]),
        expires_us=_us(facts["approve_by"]),
    )


def _apply_runs(
    after: Books, before: Books, journals: Mapping[UUID, _Journal], new: Mapping[UUID, Sequence[Entry]]
) -> None:
    """Make the rows of the runs in the new entries what the journals imply."""
    places: dict[UUID, list[tuple[bool, str, Place]]] = {}
    for id_, entries in new.items():
        for entry in entries:
            if entry.run_id is not None and entry.kind in ("run-approved", "run-refused", "run-entered"):
                facts = entry.record or {}
                place = "request" not in facts, journals[id_].name, Place(id_, entry.seq)
                places.setdefault(entry.run_id, []).append(place)
    for id_, entries in new.items():
        for run_id in dict.fromkeys(entry.run_id for entry in entries if entry.kind.startswith("run-")):
            if run_id is None:
                continue
            if run_id in places and run_id in before.runs:
                raise InvalidRequest(
                    f"exports: run {run_id} was put back with another journal before; give the exports of all datasets"
                    " that lost entries in one call",
                    field="exports",
                )
            in_order = [place for _, _, place in sorted(places.get(run_id, ()))]
            after.runs[run_id] = _run(run_id, journals[id_], in_order, before.runs.get(run_id))


def _run(run_id: UUID, journal: _Journal, places: Sequence[Place], before: Run | None) -> Run:
    state, cost = journal.replayed.runs[run_id]
    stated = journal.mirror.run_facts(run_id)
    times = (stated.created, stated.started, stated.due, stated.ended, stated.reported)
    created_us, started_us, due_us, ended_us, reported_us = [None if at is None else _us(at) for at in times]
    return Run(
        id=run_id,
        principal_id=UUID(stated.principal),
        state=state,  # type: ignore[arg-type]
        cost=None if state == "refused" else cost,
        created_us=created_us or 0,
        project=stated.project,
        started_us=started_us,
        ended_us=ended_us,
        due_us=due_us,
        places=tuple(places) if before is None else before.places,
        reported_us=reported_us,
        r=stated.r,
        corrections=stated.corrections,
    )


def _us(at: str) -> int:
    return microseconds(datetime.fromisoformat(at))


def _claims(new: Mapping[UUID, Sequence[Entry]]) -> dict[UUID, tuple[Actor, Claim]]:
    """Return the idempotency keys of the runs in these entries, so that a repeated request gets its own answer."""
    claims: dict[UUID, tuple[Actor, Claim]] = {}
    for entries in new.values():
        for entry in entries:
            facts = entry.record or {}
            asked = facts["proposes"] if facts["kind"] == "change-proposed" and facts["what"] == "run" else facts
            run_id = entry.run_id or (UUID(facts["about_run"]) if asked is not facts else None)
            if run_id is not None and "idempotency_key" in asked and "request" in asked:
                actor = Actor.from_facts(facts["actor"], tenant_id=UUID(facts["tenant"]))
                claims[run_id] = actor, Claim(asked["idempotency_key"], chain.digest(chain.canonical(asked["request"])))
    return claims
