"""The rows of a dataset as its journal implies them, to compare with the real rows.

`journal.replay` adds up balances, limits and states of runs. This module has the rest: the definition of the dataset,
projects, fair use, proposals, and whose each run is. Each fact is kept with the number of the entry that set it last,
so that a wrong row can be located.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from sys import intern
from typing import Any, Final, NamedTuple
from uuid import UUID

from ledger.core.amounts import Amount, timestamp
from ledger.core.datasets import NO_FAIR_USE, Dataset, Project
from ledger.core.entries import Entry, Sealed, TenantEntry
from ledger.core.journal import chain
from ledger.core.people import Proposal
from ledger.core.residual import Residual
from ledger.core.runs import Run
from ledger.errors import JournalBroken

_DUE: Final = {"run-approved": "start_by", "run-started": "settle_by"}
_ENDS: Final = frozenset({"run-refused", "run-settled", "run-voided", "run-entered"})
_NO_FAIR_USE: Final = {"held": None, "limit": None, "runs_per_hour": None}


class Placed(NamedTuple):
    """The place where a run was decided, as a row has it."""

    run_id: UUID
    seq: int
    principal_id: UUID
    created_us: int


class MirroredRun(NamedTuple):
    """The facts of a run in a journal, with times as written there. r: what its approval left unspent. corrections: how
    many there were. decided, moved: the numbers of the entry that decided it, and of its newest one."""

    principal: str
    project: str | None
    created: str
    started: str | None
    due: str | None
    ended: str | None
    reported: str | None
    r: int
    corrections: int
    decided: int
    moved: int


class Mirror:
    """A dataset's rows, as its journal implies them."""

    def __init__(self) -> None:
        self._dataset: dict[str, tuple[Any, int]] = {}
        self._projects: dict[str, tuple[Any, int]] = {}
        self._runs: dict[UUID, MirroredRun] = {}
        self._unplaced: set[UUID] = set()
        self._newest = 0
        self._proposals: dict[UUID, tuple[dict[str, Any], int]] = {}

    def over(self, entries: Iterable[Entry]) -> Iterator[Sealed]:
        """Yield the same entries, for `replay`. Each is noted after `replay` has checked it. Raises JournalBroken if
        the other columns of a row differ from its entry."""
        for seq, entry in enumerate(entries, start=1):
            yield entry.sealed
            facts = chain.parse(entry.body)
            demand_columns(entry, facts, seq)
            run_id = None if entry.run_id is None else str(entry.run_id)
            _demand(facts.get("run") == run_id, "has another run in its row", seq)
            self._note(facts)

    @property
    def dataset_facts(self) -> dict[str, Any]:
        """Return what the dataset's row has beside balances."""
        return {name: value for name, (value, _) in self._dataset.items()}

    @property
    def project_facts(self) -> dict[str, Any]:
        """Return the budget and the limit of each project, by name."""
        return {name: value for name, (value, _) in self._projects.items()}

    @property
    def proposal_facts(self) -> dict[UUID, dict[str, Any]]:
        """Return what the row of each proposal has."""
        return {proposal_id: facts for proposal_id, (facts, _) in self._proposals.items()}

    def run_facts(self, run_id: UUID) -> MirroredRun:
        """Return what a run's row has beside its state and cost."""
        return self._runs[run_id]

    def _note(self, entry: Mapping[str, Any]) -> None:
        seq, kind = entry["seq"], entry["kind"]
        self._newest = seq
        match kind:
            case "dataset-registered":
                self._register(entry)
            case "dataset-changed":
                self._say(seq, {name: entry[name] for name in ("title", "description", "costing") if name in entry})
            case "budget-set":
                self._say(seq, {"budget": entry["budget"]})
            case "fair-use-set":
                self._say(seq, {"fair_use": dict(entry["fair_use"])})
            case "project-set":
                self._projects[entry["project"]] = ((entry["budget"], entry["limit"]), seq)
            case "change-proposed":
                self._propose(entry)
            case str() if kind.startswith("run-"):
                self._move(entry)
            case _:
                pass  # partitions and refused proposals need nothing more
        if (proposal := entry.get("proposal")) is not None and kind != "change-proposed":
            is_refused = kind == "proposal-refused"
            proposed, _ = self._proposals[UUID(proposal if is_refused else proposal["id"])]
            proposed["state"] = "refused" if is_refused else "approved"
            self._proposals[UUID(proposal if is_refused else proposal["id"])] = proposed, seq

    def _say(self, seq: int, facts: Mapping[str, Any]) -> None:
        self._dataset |= {name: (value, seq) for name, value in facts.items()}

    def _register(self, entry: Mapping[str, Any]) -> None:
        plain = ("privacy_unit", "adjacency", "bound", "size", "title", "description", "budget")
        facts = {name: entry.get(name) for name in plain}
        facts |= {"name": entry["dataset"], "created_at": entry["at"], "fair_use": _NO_FAIR_USE}
        facts |= {"costing": entry.get("costing", "standalone")}
        facts |= {"is_partitioned": entry.get("is_partitioned", False), "ceiling": entry.get("ceiling_limit")}
        facts["derived_from"] = [parent["id"] for parent in entry.get("derived_from", ())]
        self._say(entry["seq"], facts)

    def _move(self, entry: Mapping[str, Any]) -> None:
        run_id, kind, at, seq = UUID(entry["run"]), entry["kind"], entry["at"], entry["seq"]
        if kind in ("run-approved", "run-refused", "run-entered"):
            self._unplaced.add(run_id)
            # Keep one text for all runs of a principal.
            whose = intern(entry["actor"]["principal"]), entry.get("project")
            run = MirroredRun(*whose, at, None, None, None, None, _r_of(entry), 0, seq, seq)
        else:
            run = self._runs[run_id]
        self._runs[run_id] = run._replace(
            started=at if kind == "run-started" else run.started,
            due=entry[_DUE[kind]] if kind in _DUE else run.due if kind == "run-reported" else None,
            ended=at if kind in _ENDS else run.ended if kind == "run-corrected" else None,
            corrections=entry["number"] if kind == "run-corrected" else run.corrections,
            reported=at if kind == "run-reported" else run.reported,
            moved=seq,
        )

    def _propose(self, entry: Mapping[str, Any]) -> None:
        facts = {
            "kind": entry["what"],
            "principal": entry["actor"]["principal"],
            "created_at": entry["at"],
            "approve_by": entry["approve_by"],
            "run": entry.get("about_run"),
            "body": {"request": entry["proposes"], "by": entry["actor"]},
            "state": "open",
        }
        self._proposals[UUID(entry["proposal"])] = facts, entry["seq"]

    # --- the rows

    def demand_dataset(self, dataset: Dataset, ancestors: Iterable[UUID]) -> None:
        """Compare the dataset's row. ancestors: all that it is derived from, by the rows of its parents. Raises
        JournalBroken."""
        definition = dataset.definition
        row = {
            "name": definition.name,
            "privacy_unit": definition.privacy_unit,
            "adjacency": definition.adjacency,
            "bound": definition.bound,
            "size": definition.size,
            "title": dataset.title,
            "description": dataset.description,
            "costing": dataset.costing,
            "budget": dataset.budget,
            "created_at": timestamp(dataset.created_us),
            "fair_use": _NO_FAIR_USE if dataset.fair_use == NO_FAIR_USE else dataset.fair_use.facts(),
            "is_partitioned": definition.is_partitioned,
            "ceiling": None if definition.ceiling is None else definition.ceiling.facts(),
            "derived_from": [str(parent.id) for parent in definition.derived_from],
        }
        for name, (stated, seq) in self._dataset.items():
            _demand(row[name] == stated, f"leaves another {name} than the dataset's row has", seq)
        _demand(sorted(ancestors) == sorted(definition.ancestors), "is derived from others than its rows say", 1)

    def demand_projects(self, projects: Iterable[Project]) -> None:
        """Compare the rows of the projects' shares. Raises JournalBroken."""
        left = dict(self._projects)
        for project in projects:
            stated, seq = left.pop(project.name, (None, None))
            if stated is None or seq is None:
                raise JournalBroken(f"tells of no project {project.name}, and there is a row", seq=self._newest)
            same = stated[0] == project.budget and Amount.from_facts(stated[1]) == project.limit
            _demand(same, f"leaves another share of {project.name} than its row has", seq)
        for name, (_, seq) in left.items():
            raise JournalBroken(f"tells of the project {name}, and there is no row", seq=seq)

    def demand_run(self, run_id: UUID, run: Run | None, state: str, cost: Amount) -> None:
        """Compare a run's row. state, cost: from the replayed journal; a refused run's row has none. Raises
        JournalBroken."""
        stated = self._runs[run_id]
        if run is None or run.state != state or run.cost != (None if state == "refused" else cost):
            raise JournalBroken(f"leaves run {run_id} {state}, its row says otherwise", seq=stated.moved)
        times = (run.created_us, run.started_us, run.due_us, run.ended_us, run.reported_us)
        told = (None if us is None else timestamp(us) for us in times)
        row = (str(run.principal_id), run.project, *told, run.r, run.corrections)
        for name, value, theirs in zip(MirroredRun._fields, stated, row, strict=False):
            _demand(theirs == value, f"leaves another {name} of run {run_id} than its row has", stated.moved)

    def demand_place(self, placed: Placed) -> None:
        """Compare the row of a run's place. Raises JournalBroken."""
        run = self._runs.get(placed.run_id)
        if run is None:
            raise JournalBroken(f"tells of no run {placed.run_id}, and it has a place here", seq=self._newest)
        self._unplaced.discard(placed.run_id)
        row = (placed.seq, str(placed.principal_id), timestamp(placed.created_us))
        stated = (run.decided, run.principal, run.created)
        _demand(row == stated, f"decides run {placed.run_id}, whose place says otherwise", run.decided)

    def demand_all_placed(self) -> None:
        """Check, after all places were compared, that no run lacks one. Raises JournalBroken."""
        if self._unplaced:
            run_id = min(self._unplaced, key=lambda unplaced: self._runs[unplaced].decided)
            raise JournalBroken(f"decides run {run_id}, which has no place here", seq=self._runs[run_id].decided)

    @property
    def proposal_ids(self) -> frozenset[UUID]:
        """Return the proposals in the journal. A proposal to void a run is in several journals, and has one row."""
        return frozenset(self._proposals)

    def demand_proposal(self, proposal_id: UUID, proposal: Proposal | None) -> None:
        """Compare a proposal's row. Raises JournalBroken."""
        stated, seq = self._proposals.get(proposal_id, (None, self._newest))
        if stated is None or proposal is None:
            what = "no proposal" if stated is None else "the proposal"
            raise JournalBroken(f"tells of {what} {proposal_id}, and its rows do not agree", seq=seq)
        row = {
            "kind": proposal.kind,
            "principal": str(proposal.principal_id),
            "created_at": timestamp(proposal.created_us),
            "approve_by": timestamp(proposal.expires_us),
            "run": None if proposal.run_id is None else str(proposal.run_id),
            "body": proposal.body,
            "state": proposal.state,
        }
        for name, value in stated.items():
            _demand(row[name] == value, f"leaves another {name} of proposal {proposal_id} than its row has", seq)


def _r_of(decision: Mapping[str, Any]) -> int:
    """Return how much mu² an approval, or a past run, left unspent."""
    facts = decision.get("residual", {})
    if decision["kind"] == "run-refused" or "level" not in facts:
        return 0
    return Residual.from_facts(facts).level(facts["level"])


def demand_columns(entry: Entry | TenantEntry, facts: Mapping[str, Any], seq: int) -> None:
    """Check that the columns of a journal's row agree with the entry. Raises JournalBroken. place: which row it is."""
    _demand(entry.seq == seq, f"is numbered {entry.seq} in its row", seq)
    _demand(entry.kind == facts["kind"], f"is {entry.kind!r} in its row", seq)
    _demand(timestamp(entry.at_us) == facts["at"], "has another time in its row", seq)


def _demand(holds: bool, what: str, seq: int) -> None:
    if not holds:
        raise JournalBroken(what, seq=seq)
