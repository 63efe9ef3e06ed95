"""Changes by two people in a journal: proposed by one, and answered by another."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from ledger.canonical import canonical, digest
from ledger.core.journal.chain import Demand
from ledger.core.journal.policy import Loosening
from ledger.core.journal.requested import after
from ledger.core.journal.rights import is_steward
from ledger.errors import JournalBroken

APPROVE_WITHIN: Final = timedelta(days=1)
_KINDS: Final = {
    "budget": "budget-set",
    "thaw": "dataset-changed",
    "void": "run-voided",
    "partitions": "partitions-added",
    "project": "project-set",
    "fair-use": "fair-use-set",
    "correction": "run-settled",  # or `run-corrected`, of a run that is settled
}
"""For each kind of proposal about a dataset or an approved run: the kind of the entry that makes the change."""
_OF_RUN: Final = ("request", "idempotency_key", "project", "bound", "adjacency")
"""What the decision about a run that waited repeats; what it costs is worked out afresh."""


class Proposals:
    """The proposals of a journal, None once answered; and the entries that the tenant's policy decides about."""

    def __init__(self) -> None:
        self._proposed: dict[str, dict[str, Any] | None] = {}
        self.loosenings: list[Loosening] = []

    def propose(self, entry: dict[str, Any], demand: Demand) -> None:
        """Note a proposal, which may be made once, for a day."""
        demand(entry["proposal"] not in self._proposed, "makes the same proposal a second time")
        demand(
            entry["approve_by"] == after(entry["at"], APPROVE_WITHIN), "gives the approval a time other than one day"
        )
        self._proposed[entry["proposal"]] = entry
        # A run waits for a steward by its dataset's fair use, and giving back always takes two, whatever the policy.
        if entry["what"] != "run" and "lowers" not in entry["proposes"]:
            self._note(entry, entry["what"], is_proposal=True)

    def note_done(self, entry: dict[str, Any], what: str, *, takes_two: bool, demand: Demand) -> None:
        """Note a change: its actor was the second person, or acted alone, which only the tenant's policy can forbid."""
        if (stated := entry.get("proposal")) is None:
            if takes_two:
                self._note(entry, what, is_proposal=False)
            return
        proposed = self.answer(entry, stated["id"], demand)
        demand(stated["by"] == proposed["actor"], "names another person as its proposer")
        demand(stated["at"] == proposed["at"], "names another time of its proposal")
        demand(is_steward(entry["actor"]), "was approved by a person who is not a steward")
        demand(_does(proposed, entry), "makes a change other than the one proposed")

    def note_run(self, entry: dict[str, Any], stated: Mapping[str, Any], demand: Demand) -> None:
        """Note the decision about a run that waited: it is the one proposed, and a steward other than the person who
        asked for it approved it."""
        by = stated["approved_by"]
        proposed = self.answer({**entry, "actor": by, "what": "run"}, stated["id"], demand)
        demand(proposed["about_run"] == entry["run"], "decides a run other than the one proposed")
        demand(stated["by"] == proposed["actor"] == entry["actor"], "names another person as its proposer")
        demand(stated["at"] == proposed["at"], "names another time of its proposal")
        demand(is_steward(by), "was approved by a person who is not a steward")
        is_same = all(_says(entry, name, proposed["proposes"].get(name)) for name in _OF_RUN)
        demand(is_same, "decides a run other than the one proposed")

    def _note(self, entry: dict[str, Any], what: str, *, is_proposal: bool) -> None:
        self.loosenings.append(Loosening(entry["seq"], entry["at"], what, is_proposal, entry["v"]))

    def answer(self, entry: dict[str, Any], proposal: str, demand: Demand) -> dict[str, Any]:
        """Return the entry that proposed what this one answers: another person's proposal of exactly this, answered
        once and in time. Raises JournalBroken."""
        proposed = self._proposed.get(proposal)
        if proposed is None:
            raise JournalBroken("answers a proposal that was never made, or was answered before", seq=entry["seq"])
        is_same = proposed["actor"]["principal"] == entry["actor"]["principal"]
        demand(not is_same, "is proposed and answered by the same person")
        # Times are written so that text order is time order.
        demand(entry["at"] < proposed["approve_by"], "answers a proposal that had expired")
        demand(entry.get("what", proposed["what"]) == proposed["what"], "answers a proposal about another change")
        self._proposed[proposal] = None
        return proposed


def _does(proposed: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    """Return whether an entry makes the proposed change. The limit before it may have changed meanwhile."""
    proposes = proposed["proposes"]
    facts = {name: value for name, value in proposes.items() if name not in ("limit_before", "lowers")}
    same_run = entry.get("run") == proposed.get("about_run")
    is_it = entry["kind"] == ("run-corrected" if "number" in proposes else _KINDS.get(proposed["what"]))
    return is_it and same_run and all(_says(entry, name, value) for name, value in facts.items())


def _says(entry: Mapping[str, Any], name: str, value: Any) -> bool:
    if name == "request" and "request_sha256" in entry:
        return bool(entry["request_sha256"] == digest(canonical(value)).hex())
    return bool(entry.get(name) == value)
