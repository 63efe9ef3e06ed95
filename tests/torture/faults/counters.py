"""Hold what clients were answered against what the journals have."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.torture.faults.records import Answer, Intent, Outcome, names_of
from tests.torture.faults.replay import Findings, Journal, Step

DECISIONS: Final = ("run-approved", "run-refused")
ENDS: Final = {"run-started": "start", "run-settled": "settle", "run-voided": "void"}
CHANGES: Final = ("budget-set", "dataset-changed", "partitions-added", "run-corrected")
Place = tuple[str, Step]
"""A dataset, and an entry of its journal."""


@dataclass(slots=True)
class Index:
    """The entries of all journals, by what they are about."""

    by_key: dict[str, list[Place]] = field(default_factory=lambda: defaultdict(list))
    by_run: dict[tuple[str, str], list[Place]] = field(default_factory=lambda: defaultdict(list))
    """By run and kind."""
    proposed: dict[str, list[Place]] = field(default_factory=lambda: defaultdict(list))
    done: dict[str, list[Place]] = field(default_factory=lambda: defaultdict(list))
    """By proposal."""
    by_reason: dict[str, list[Place]] = field(default_factory=lambda: defaultdict(list))
    """Changes that took one person."""

    @classmethod
    def of(cls, journals: Mapping[str, Journal]) -> Index:
        """All entries."""
        index = cls()
        for name, journal in journals.items():
            for step in journal.steps:
                index.add(name, step)
        return index

    def add(self, name: str, step: Step) -> None:
        """One more entry."""
        place = (name, step)
        if step.kind in DECISIONS:
            self.by_key[step.key].append(place)
        if step.run:
            self.by_run[step.run, step.kind].append(place)
        if step.kind == "change-proposed":
            self.proposed[step.proposal].append(place)
        elif step.proposal:
            self.done[step.proposal].append(place)
        elif step.kind in CHANGES:
            self.by_reason[step.reason].append(place)


@dataclass(frozen=True, slots=True)
class Count:
    """Counts over what clients wrote down and what the journals have."""

    intents: Mapping[str, Intent]
    answers: Iterable[Answer]
    journals: Mapping[str, Journal]
    findings: Findings

    def run(self) -> Findings:
        """Count everything; what is wrong within one journal was counted when it was read."""
        index = Index.of(self.journals)
        self._doubled(index)
        self._refused(index)
        self._phantoms(index)
        self._acknowledged(index)
        self._disordered()
        return self.findings

    def _doubled(self, index: Index) -> None:
        for key, places in index.by_key.items():
            if len({step.run for _, step in places}) > 1:
                self.findings.note("doubled", f"the key {key} has several runs")
        for (run, kind), places in index.by_run.items():
            is_once = kind in (*DECISIONS, *ENDS)
            if is_once and len({name for name, _ in places}) < len(places):
                self.findings.note("doubled", f"run {run} has {kind} twice in one journal")
        for proposal, places in index.done.items():
            if len({name for name, _ in places}) < len(places):
                self.findings.note("doubled", f"proposal {proposal} was done twice")
        for reason, places in index.by_reason.items():
            if len({name for name, _ in places}) < len(places):
                self.findings.note("doubled", f"the change {reason} was done twice")

    def _refused(self, index: Index) -> None:
        for (run, kind), places in index.by_run.items():
            if kind == "run-refused" and all(step.fits for _, step in places):
                self.findings.note("wrongly refused", f"run {run} fits in {[name for name, _ in places]}")

    def _phantoms(self, index: Index) -> None:
        """Entries that nobody asked for, and runs that are not in every dataset that was asked for."""
        self._of_keys(index)
        self._of_changes(index)

    def _of_keys(self, index: Index) -> None:
        asked = dict(pair for intent in self.intents.values() for pair in intent.asked())
        for key, places in index.by_key.items():
            if key not in asked:
                self.findings.note("phantom", f"nobody sent the key {key}")
            elif sorted(name for name, _ in places) != sorted(names_of(asked[key])):
                self.findings.note("lost", f"the run of the key {key} is not in each of {names_of(asked[key])}")
            elif places[0][1].request != asked[key]:
                self.findings.note("changed", f"the request of the key {key} is another than was sent")

    def _of_changes(self, index: Index) -> None:
        about = {(intent.kind, intent.about) for intent in self.intents.values()}
        for run, kind in index.by_run:
            if kind in ENDS and (ENDS[kind], run) not in about:
                self.findings.note("phantom", f"nobody asked for {kind} of run {run}")
        reasons = {str((intent.body or {}).get("reason")) for intent in self.intents.values()}
        for reason in index.by_reason:
            if reason not in reasons:
                self.findings.note("phantom", f"nobody asked for the change {reason}")
        for proposal, places in index.proposed.items():
            if places[0][1].reason not in reasons:
                self.findings.note("phantom", f"nobody proposed {proposal}")
        for proposal in index.done:
            if ("approve", proposal) not in about:
                self.findings.note("phantom", f"nobody approved {proposal}")

    def _acknowledged(self, index: Index) -> None:
        seen: dict[tuple[str, str], Outcome] = {}
        for answer in self.answers:
            for outcome in answer.outcomes:
                before = seen.setdefault((answer.intent, outcome.key), outcome)
                if before != outcome:
                    self.findings.note("changed", f"{outcome.key} was answered {before} and {outcome}")
                elif before is outcome:
                    self._one(index, self.intents[answer.intent], outcome)

    def _one(self, index: Index, intent: Intent, outcome: Outcome) -> None:
        """What one answer states, against the entries of it."""
        places = _places(index, outcome)
        if not places:
            self.findings.note("lost", f"{outcome.kind} of {outcome.about} was acknowledged to {intent.id}")
            return
        steps = dict(places)
        for name, seq in outcome.seqs.items():
            if name not in steps:
                self.findings.note("lost", f"{outcome.kind} of {outcome.about} is missing in {name}")
            elif steps[name].seq != seq:
                self.findings.note("changed", f"{outcome.kind} of {outcome.about} has another seq in {name} than {seq}")
        first = places[0][1]
        is_other = outcome.kind in DECISIONS and (first.kind, first.run) != (outcome.kind, outcome.about)
        if is_other or (outcome.cost and int(outcome.cost) != first.amount[0]):
            self.findings.note("changed", f"{outcome.key} was answered {outcome}, and its entry has {first}")

    def _disordered(self) -> None:
        spans: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
        for answer in self.answers:
            sent = self.intents[answer.intent].at
            for outcome in answer.outcomes:
                for name, seq in outcome.seqs.items():
                    spans[name].append((sent, answer.at, seq))
        for name, found in spans.items():
            for sent, seq, earlier in disordered(found):
                self.findings.note("disordered", f"{name}: {earlier} was received before {seq} was sent, at {sent}")


def disordered(spans: list[tuple[int, int, int]]) -> Iterable[tuple[int, int, int]]:
    """Each (sent, received, seq) that has a smaller seq than one that was received before it was sent."""
    received = iter(sorted((at, seq) for _, at, seq in spans))
    following = next(received, None)
    largest = 0
    for sent, _, seq in sorted(spans):
        while following is not None and following[0] < sent:
            largest = max(largest, following[1])
            following = next(received, None)
        if seq < largest:
            yield sent, seq, largest


def _places(index: Index, outcome: Outcome) -> list[Place]:
    """The entries that an answer is about."""
    match outcome.kind:
        case "run-approved" | "run-refused":
            return index.by_key.get(outcome.key, [])
        case "run-started" | "run-settled" | "run-voided":
            return index.by_run.get((outcome.about, outcome.kind), [])
        case "change-proposed":
            return index.proposed.get(outcome.about, [])
        case "approved":
            return index.done.get(outcome.about, [])
        case "changed":
            return index.by_reason.get(outcome.about, [])
        case _:
            raise ValueError(outcome.kind)


def acknowledged(answers: Iterable[Answer]) -> dict[str, int]:
    """How many decisions of runs were acknowledged, and how much else; each once."""
    keys: dict[str, set[Any]] = {"decisions": set(), "other": set()}
    for answer in answers:
        for outcome in answer.outcomes:
            keys["decisions" if outcome.kind in DECISIONS else "other"].add((answer.intent, outcome.key))
    return {name: len(found) for name, found in keys.items()}
