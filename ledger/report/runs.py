"""The second pass: every run of the period with all its facts, and the lists beside the runs.

Runs are in the order of their decisions. The later entries of a run are further on in the journal, so a page of
decisions is completed with the entries of its runs before it is yielded. Nothing of a page is kept after that.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, takewhile
from typing import Any, Final
from uuid import UUID

from ledger.accounting import mechanisms
from ledger.accounting.display import AmountShown, show_amount
from ledger.core.amounts import Amount
from ledger.core.entries import Sealed
from ledger.core.journal import chain, requested
from ledger.encoding import Encoded, JsonObject, encode
from ledger.errors import LedgerError
from ledger.report.source import Question
from ledger.report.standing import Standing
from ledger.report.veil import Veil
from ledger.service.answers import least_remaining, segments_of

PAGE: Final = 100
SPOOL_BYTES_MAX: Final = 4 * 1024 * 1024
_ENDS: Final = ("run-settled", "run-voided")
_UNSAID: Final[dict[str, Any]] = {
    "mechanism": {"type": "not said"},
    "method": "not said",
    "accountant": "not said",
    "assumptions": [],
    "idempotency_key": "",
}
"""Values for members that an entry does not have. The ledger always writes them, but a journal verifies without."""


class Spool:
    """A list that is written during the pass and read after it. A long one is kept on disk."""

    def __init__(self) -> None:
        # `close` closes it: it is used beyond any block.
        self._file = tempfile.SpooledTemporaryFile(  # noqa: SIM115
            max_size=SPOOL_BYTES_MAX, mode="w+", encoding="utf-8", newline="\n"
        )

    def add(self, item: JsonObject) -> None:
        self._file.write(encode(item) + "\n")

    def items(self) -> Iterator[Encoded]:
        """Yield all items, in the order of writing."""
        self._file.seek(0)
        for line in self._file:
            yield Encoded(line.removesuffix("\n"))

    def close(self) -> None:
        self._file.close()


class Beside:
    """The lists beside the runs, which are filled while the runs are read."""

    def __init__(self) -> None:
        self.refusals, self.overruns, self.corrections, self.voids, self.changes = (Spool() for _ in range(5))

    def close(self) -> None:
        for spool in (self.refusals, self.overruns, self.corrections, self.voids, self.changes):
            spool.close()


def runs_of(standing: Standing, question: Question, beside: Beside) -> Iterator[dict[str, Any]]:
    """Yield the runs of a dataset that were decided within the period or were open when it began. For a question about
    a project, only its runs."""
    numbered = enumerate(standing.source.entries(), start=1)
    counted = (entry for _, entry in takewhile(lambda pair: pair[0] <= standing.last_seq, numbered))
    veil = Veil(question.restricted_to)
    while page := list(islice(counted, PAGE)):
        yield from _page(page, standing, question, beside, veil)


def _page(
    page: Sequence[Sealed], standing: Standing, question: Question, beside: Beside, veil: Veil
) -> Iterator[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    hashes: dict[int, str] = {}
    for sealed in page:
        entry = veil.over(requested.parsed(sealed))
        is_within = question.since is None or entry["at"] >= question.since
        if entry["kind"] in ("run-approved", "run-refused", "run-entered"):
            is_asked = question.project is None or entry.get("project") == question.project
            if is_asked and (is_within or UUID(entry["run"]) in standing.carried):
                entries.append(entry)
                hashes[entry["seq"]] = sealed.hash.hex()
        elif entry["kind"] == "run-corrected":
            if is_within and question.project in (None, entry.get("project")):
                beside.corrections.add(correction(entry))
        elif is_within and _is_change(entry) and _concerns(entry, question):
            beside.changes.add(change(entry))
    approved = [UUID(entry["run"]) for entry in entries if entry["kind"] != "run-refused"]
    later = standing.source.of_runs(approved) if approved else {}
    for entry in entries:
        after = _after(later.get(UUID(entry["run"]), ()), standing, veil)
        run = _RunEntries(standing, entry, hashes[entry["seq"]], after)
        run.note(beside, question)
        yield run.facts()


def _is_change(entry: JsonObject) -> bool:
    """Return whether an entry is listed among the changes. Of a run's entries, only a report that needs a steward."""
    return entry["kind"] == "run-reported" or not entry["kind"].startswith("run-")


def _concerns(entry: JsonObject, question: Question) -> bool:
    return question.project is None or entry["kind"] != "project-set" or entry["project"] == question.project


def _after(entries: Sequence[Sealed], standing: Standing, veil: Veil) -> dict[str, tuple[dict[str, Any], str]]:
    """Return the later entries of a run until the end of the period, by kind, each with its hash."""
    later = {}
    for sealed in entries:
        entry = veil.over(requested.parsed(sealed))
        if entry["seq"] <= standing.last_seq and entry["dataset_id"] == str(standing.source.dataset_id):
            later[entry["kind"]] = (entry, sealed.hash.hex())
    return later


class _RunEntries:
    """A run by its entries in one journal."""

    def __init__(
        self, standing: Standing, decision: dict[str, Any], hash_: str, later: Mapping[str, tuple[dict[str, Any], str]]
    ) -> None:
        self._standing, self._hash = standing, hash_
        self._decision = {**_UNSAID, **{name: standing.registered[name] for name in ("bound", "adjacency")}, **decision}
        self._mechanism = requested.request_of(decision).get("mechanism", _UNSAID["mechanism"])
        self._started, self._corrected = later.get("run-started"), later.get("run-corrected")
        self._ended = next((later[kind] for kind in _ENDS if kind in later), None)
        if decision["kind"] == "run-entered":
            self._ended = {**decision, "charged": decision["cost"]}, hash_
        self._planned = planned_steps(decision)

    @property
    def _state(self) -> str:
        if self._decision["kind"] == "run-refused":
            return "refused"
        if self._ended is not None:
            return str(self._ended[0]["kind"]).removeprefix("run-")
        return "started" if self._started is not None else "held"

    def facts(self) -> dict[str, Any]:
        """Return all facts of the run."""
        decision, request = self._decision, requested.request_of(self._decision)
        ended = self._ended[0] if self._ended is not None else {}
        return {
            "dataset": decision["dataset"],
            "run": decision["run"],
            "seq": decision["seq"],
            "hash": self._hash,
            "at": decision["at"],
            "state": self._state,
            "is_carried_in": UUID(decision["run"]) in self._standing.carried,
            "is_estimate": decision["bound"] == "clt",
            "asked_by": decision["actor"],
            "purpose": request.get("purpose"),
            "project": decision.get("project"),
            "labels": request.get("labels", {}),
            "code": request.get("code"),
            "size_differs": request.get("size_differs"),
            "idempotency_key": decision["idempotency_key"],
            "named_as": decision.get("via"),
            "partitions": _partitions(decision),
            "mechanism": self._mechanism,
            "mechanism_digest": chain.digest(chain.canonical(self._mechanism)).hex(),
            "bound": decision["bound"],
            "adjacency": decision["adjacency"],
            "method": decision["method"],
            "assumptions": decision["assumptions"],
            "accountant": decision["accountant"],
            "delta_share": decision.get("delta"),
            "segments": segments_of(decision),
            "planned_steps": self._planned,
            "executed_steps": ended.get("steps"),
            "stop": ended.get("stop"),
            "restarts": ended.get("restarts"),
            "models": ended.get("models"),
            "settled_assuming": ended.get("assumptions", []),
            "cost": show_amount(Amount.from_facts(decision["cost"])),
            "charged": _amount(ended, "charged"),
            "returned": _amount(ended, "returned"),
            "corrections": 0 if self._corrected is None else self._corrected[0]["number"],
            "charged_now": _amount(ended if self._corrected is None else self._corrected[0], "charged"),
            "overrun": _overrun(ended),
            "start_by": decision.get("start_by"),
            "started": _event(self._started),
            "ended": _event(self._ended),
            "left_after_decision": _left(decision),
            "left_at_end": _left(ended) if ended else None,
        }

    def note(self, beside: Beside, question: Question) -> None:
        """Add the run to the lists of refusals, overruns and voids to which it belongs, if that was in the period."""
        decision = self._decision
        if decision["kind"] == "run-refused":
            beside.refusals.add(refusal(decision))
        if self._ended is None or (question.since is not None and self._ended[0]["at"] < question.since):
            return
        ended = self._ended[0]
        about = {name: decision[name] for name in ("dataset", "run")} | {name: ended[name] for name in ("seq", "at")}
        about |= {"by": ended["actor"], "project": decision.get("project")}
        if "overrun" in ended:
            steps = {"planned_steps": self._planned, "executed_steps": ended.get("steps")}
            beside.overruns.add(
                {**about, **steps, **(_overrun(ended) or {}), "is_estimate": decision["bound"] == "clt"}
            )
        if ended["kind"] == "run-voided":
            proposal = ended.get("proposal")
            beside.voids.add(
                {
                    **about,
                    "reason": requested.request_of(ended).get("reason"),
                    "was": "held" if self._started is None else "started",
                    "proposed_by": None if proposal is None else proposal["by"],
                    "proposal": None if proposal is None else proposal["id"],
                    "returned": _amount(ended, "returned"),
                }
            )


def correction(entry: JsonObject) -> dict[str, Any]:
    """Return a correction of a settled run: what was charged and given back, by whom, why, and on whose word."""
    request, proposal = requested.request_of(entry), entry.get("proposal")
    return {
        **{name: entry[name] for name in ("dataset", "run", "seq", "at", "number", "fits", "frozen", "method")},
        "by": entry["actor"],
        "proposed_by": None if proposal is None else proposal["by"],
        "project": entry.get("project"),
        "mechanism": request.get("mechanism", _UNSAID["mechanism"]),
        "decided_by_output": not entry["replaces"],
        "reason": request.get("reason"),
        "on_word_of": request.get("on_word_of"),
        "advisory": request.get("advisory"),
        "evidence": request.get("evidence"),
        **{name: _amount(entry, name) for name in ("before", "cost", "charged", "late", "returned")},
    }


def _amount(entry: JsonObject, name: str) -> AmountShown | None:
    return show_amount(Amount.from_facts(entry[name])) if name in entry else None


def _overrun(entry: JsonObject) -> dict[str, Any] | None:
    overrun = entry.get("overrun")
    if overrun is None:
        return None
    return {
        "steps": overrun["steps"],
        "repeated": overrun.get("repeated", 0),
        "cost": show_amount(Amount.from_facts(overrun["cost"])),
        "fits": overrun["fits"],
        "frozen": overrun["frozen"],
        "method": overrun["method"],
    }


def _event(entry_and_hash: tuple[dict[str, Any], str] | None) -> dict[str, Any] | None:
    if entry_and_hash is None:
        return None
    entry, hash_ = entry_and_hash
    proposal = entry.get("proposal")
    return {
        "kind": entry["kind"].removeprefix("run-"),
        "seq": entry["seq"],
        "hash": hash_,
        "at": entry["at"],
        "by": entry["actor"],
        "settle_by": entry.get("settle_by"),
        "reason": entry.get("request", {}).get("reason"),
        "evidence": entry.get("request", {}).get("evidence"),
        "proposed_by": None if proposal is None else proposal["by"],
    }


def _left(entry: JsonObject) -> AmountShown | None:
    """Return the least that is left in the accounts of an entry, for each quantity separately."""
    left = least_remaining(chain.accounts_of(entry).values())
    return None if left is None else show_amount(left)


def _partitions(decision: JsonObject) -> list[str] | None:
    partitions = {key.partition for key in chain.accounts_of(decision) if key.partition is not None}
    return sorted(partitions) if partitions else None


def planned_steps(decision: JsonObject) -> int | None:
    """Return the largest number of steps or releases that counts as the plan; None if the mechanism has none."""
    segments = decision["segments"]["count"] if "segments" in decision else 1
    try:
        steps = mechanisms.planned_steps(mechanisms.recorded(requested.request_of(decision).get("mechanism")), segments)
    except LedgerError:  # recorded by a version that accepted more than this one
        return None
    return None if steps is None else steps[1]


def refusal(decision: JsonObject) -> dict[str, Any]:
    """Return a refusal: every account in which the run did not fit, with the requested and the remaining amount."""
    cost = Amount.from_facts(decision["cost"])
    return {
        "dataset": decision["dataset"],
        "run": decision["run"],
        "seq": decision["seq"],
        "at": decision["at"],
        "by": decision["actor"],
        "project": decision.get("project"),
        "asked": show_amount(cost),
        "binding": [
            {
                "account": account.key.facts(),
                "quantity": quantity,
                "left": show_amount(account.remaining),
                "limit": show_amount(account.limit),
            }
            for account in chain.accounts_of(decision).values()
            for quantity in cost.exceeds(account.remaining)
        ],
        "binding_elsewhere": list(decision.get("binding_elsewhere", ())),
        "is_estimate": decision["bound"] == "clt",
    }


# --- changes by stewards ---------------------------------------------------------------------------------------------

_CHANGED: Final = (
    "budget",
    "ceiling",
    "fair_use",
    "state",
    "title",
    "description",
    "project",
    "names",
    "disjoint",
    "what",
    "proposes",
    "approve_by",
    "about_run",
)
_LIMITS: Final = ("limit", "limit_before", "ceiling_limit")


def change(entry: JsonObject) -> dict[str, Any]:
    """Return a change by a steward: what, why, who proposed and who approved it; or what waits for a steward."""
    proposal = entry.get("proposal")
    done: Mapping[str, Any] | None = proposal if isinstance(proposal, Mapping) else None
    details: dict[str, Any] = {name: entry[name] for name in _CHANGED if entry.get(name) is not None}
    if entry["kind"] == "run-reported":
        details["about_run"] = entry["run"]
    details |= {name: show_amount(Amount.from_facts(entry[name])) for name in _LIMITS if entry.get(name) is not None}
    return {
        "dataset": entry["dataset"],
        "seq": entry["seq"],
        "at": entry["at"],
        "kind": entry["kind"],
        "by": entry["actor"],
        "proposed_by": None if done is None else done["by"],
        "proposal": proposal if done is None else done["id"],
        "reason": entry.get("reason"),
        "details": details,
    }
