"""From journal entries to answers.

Every answer about a run is made from its entries, so that the same request under the same idempotency key always gets
the same answer, and an auditor reads what the user read. A run has one entry in the journal of each dataset that it
touches; they differ only in the part about that dataset.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from operator import itemgetter
from typing import Any, Final, Literal, NotRequired, cast

from typing_extensions import TypedDict

from ledger.accounting.display import AmountShown, show_amount
from ledger.accounting.mechanisms import AnyMechanism
from ledger.core.amounts import Amount, timestamp
from ledger.core.datasets import Account, Bound
from ledger.core.entries import Record
from ledger.core.journal import chain
from ledger.core.residual import Residual
from ledger.core.runs import Run
from ledger.errors import BudgetExceeded
from ledger.limits_in_words import account_name, why_refused
from ledger.service import as_one as as_one_run
from ledger.service import delta_left, portions
from ledger.service.bindings import bindings
from ledger.service.portions import Room
from ledger.service.shapes.common import EpsilonShown
from ledger.service.shapes.runs import (
    AsOne,
    CorrectionShown,
    ExpectedBatch,
    OverrunShown,
    ProgressShown,
    RunApproved,
    RunEvent,
    RunMoved,
    RunOnDataset,
    RunShown,
    SecondedShown,
    SegmentsShown,
    SharesShown,
)

_EVENTS: Final[tuple[Literal["started", "reported", "settled", "voided"], ...]] = (
    *("started", "reported", "settled", "voided"),
)
OF_CORRECTION: Final = ("before", "cost", "charged", "late", "returned")
"""The amounts of a correction."""
_OF_AMENDMENT: Final = ("mechanism", "reason", "decided_by_output", "on_word_of", "advisory", "evidence")
_DECISIONS: Final = {"run-approved": "approved", "run-refused": "refused", "run-entered": "entered"}
_OF_REFUSAL: Final = ("run", "delta", "project", "expected_batch")
_REQUESTED: Final[tuple[Literal["steps", "stop", "evidence", "reason"], ...]] = ("steps", "stop", "evidence", "reason")
_RECORDED: Final[tuple[Literal["steps", "stop", "settle_by", "token_sha256"], ...]] = (
    *("steps", "stop", "settle_by", "token_sha256"),
)
_AT_END: Final[tuple[Literal["charged", "returned", "kept"], ...]] = ("charged", "returned", "kept")


class _Costed(TypedDict):
    """How a cost was computed. `delta`, the run's share, is there if a certificate used it."""

    bound: Bound
    method: str
    assumptions: list[str]
    accountant: str
    delta: NotRequired[float]
    segments: NotRequired[SegmentsShown]
    alone: NotRequired[AmountShown]
    shares: NotRequired[SharesShown]
    expected_batch: NotRequired[ExpectedBatch]
    warnings: NotRequired[list[str]]


class _OfProject(TypedDict):
    project: NotRequired[str]


class _OfAccount(TypedDict):
    account: NotRequired[str]


class _Seconded(TypedDict):
    proposal: NotRequired[SecondedShown]


class _Events(TypedDict):
    corrections: NotRequired[list[CorrectionShown]]
    started: NotRequired[RunEvent]
    reported: NotRequired[RunEvent]
    settled: NotRequired[RunEvent]
    voided: NotRequired[RunEvent]
    progress: NotRequired[ProgressShown]


# --- accounts --------------------------------------------------------------------------------------------------------


def least_remaining(accounts: Iterable[Account]) -> Amount | None:
    """Return the least that remains in any of these accounts; None if there are none."""
    amounts = [account.remaining for account in accounts]
    return reduce(Amount.least, amounts) if amounts else None


def in_order(entries: Iterable[Record]) -> list[Record]:
    """Return a run's entries of one kind: first for the datasets that it names, in that order, then for their
    ancestors."""
    entries = list(entries)
    if len(entries) < 2:
        return entries
    rank = named(entries)
    return sorted(entries, key=lambda entry: (rank.get(entry["dataset"], len(rank)), entry["dataset"]))


def named(entries: Iterable[Record]) -> dict[str, int]:
    """Return the datasets that a run's request names, in order, read from the entry that has the request."""
    requests = [entry["request"] for entry in entries if entry["kind"] in _DECISIONS and "request" in entry]
    uses = requests[0].get("datasets", ()) if requests else ()
    return {use if isinstance(use, str) else use["name"]: number for number, use in enumerate(uses)}


def in_order_of(entries: Iterable[Record], state: str, decisions: Sequence[Record]) -> list[Record]:
    """Return the entries that moved a run to a state, in the order in which its decision names the datasets."""
    return as_decided([entry for entry in entries if entry["kind"] == f"run-{state}"], decisions)


def as_decided(entries: Sequence[Record], decisions: Sequence[Record]) -> list[Record]:
    """Return entries of a run in the order in which its decision names the datasets."""
    order = {entry["dataset"]: rank for rank, entry in enumerate(decisions)}
    return sorted(entries, key=lambda entry: order[entry["dataset"]])


def on_datasets(entries: Sequence[Record], rooms: Sequence[list[Room]], cost: Amount | None) -> list[RunOnDataset]:
    """Return the datasets that entries of a run are about, with what is left. rooms: of each. cost: of the run, to show
    which part of each budget it is."""
    datasets = []
    for entry, of_entry in zip(entries, rooms, strict=True):
        remaining = portions.least(of_entry)
        datasets.append(
            RunOnDataset(
                name=entry["dataset"],
                seq=entry["seq"],
                remaining=None if remaining is None else show_amount(remaining),
                **portions.percents(cost, of_entry),
                **_least_account(entry, of_entry),
            )
        )
    return datasets


def _least_account(entry: Record, rooms: Sequence[Room]) -> _OfAccount:
    """Return which account of a dataset has least mu left, if that is not the dataset's own. rooms: of its accounts, in
    the order of the entry."""
    groups = entry.get("accounts", ())
    if not groups:
        return _OfAccount()
    left = [room.left.mu_sq_pico for room in rooms]
    first = len(rooms) - len(groups)
    least = left.index(min(left))
    if least < first:
        return _OfAccount()
    group = groups[least - first]
    partition = {"partition": group["partitions"][0]} if "partitions" in group else {}
    return _OfAccount(account=account_name({**group, **partition}, entry["dataset"]))


# --- decisions -------------------------------------------------------------------------------------------------------


def _costed(decision: Record, table: Residual | None) -> _Costed:
    costed = _Costed(
        bound=decision["bound"],
        method=decision["method"],
        assumptions=decision["assumptions"],
        accountant=decision["accountant"],
    )
    if "delta" in decision:
        costed["delta"] = decision["delta"]
    if "segments" in decision:
        costed["segments"] = show_segments(decision["segments"], Amount.from_facts(decision["cost"]))
    if table is not None:
        cost = Amount.from_facts(decision["cost"])
        costed["alone"] = show_amount(Amount(table.costs[0], cost.delta_atto))
        costed["shares"] = shares_of(cost, table)
    if "expected_batch" in decision:
        costed["expected_batch"] = decision["expected_batch"]
    if "warnings" in decision:
        costed["warnings"] = decision["warnings"]
    return costed


def shares_of(cost: Amount, table: Residual) -> SharesShown:
    """Return which part of the least limit a run costs, and would by itself."""
    return SharesShown(cost=cost.mu_sq_pico / table.base, alone=table.costs[0] / table.base)


def segments_of(decision: Record) -> SegmentsShown | None:
    """Return the segments of a decided run, if it has any."""
    if "segments" not in decision:
        return None
    return show_segments(decision["segments"], Amount.from_facts(decision["cost"]))


def needed_of(decision: Record) -> Amount:
    """Return how much must be left for a run in accounts that carry a guarantee."""
    cost = Amount.from_facts(decision["cost"])
    if "residual" not in decision:
        return cost
    return Amount(Residual.from_facts(decision["residual"]).least_needed, cost.delta_atto)


def alone(decision: Record) -> Amount:
    """Return what a run costs by itself."""
    cost = Amount.from_facts(decision["cost"])
    if "residual" not in decision:
        return cost
    return Amount(Residual.from_facts(decision["residual"]).costs[0], cost.delta_atto)


def show_segments(segments: Record, whole: Amount) -> SegmentsShown:
    """Return the segments of a run, with the part of its cost that each is, and the cost of the run without
    segments."""
    count = segments["count"]
    return SegmentsShown(
        count=count,
        steps=segments["steps"],
        cost=show_amount(Amount(-(-whole.mu_sq_pico // count), -(-whole.delta_atto // count))),
        unsegmented=show_amount(Amount.from_facts(segments["unsegmented"])),
    )


def approved(decisions: Sequence[Record], *, receipt: str, epsilon: list[EpsilonShown]) -> RunApproved:
    """Return the answer to a run that was approved. epsilon: of the run by itself."""
    first = decisions[0]
    cost, rooms = Amount.from_facts(first["cost"]), [portions.rooms_in(entry) for entry in decisions]
    table, datasets = table_of(first), on_datasets(decisions, rooms, cost)
    answer = RunApproved(
        id=first["run"],
        state="held",
        decision="approved",
        percent=portions.largest(on.get("percent") for on in datasets),
        percent_of_delta=portions.largest(on.get("percent_of_delta") for on in datasets),
        epsilon=epsilon,
        cost=show_amount(cost),
        datasets=datasets,
        runs_left=portions.runs_left(cost, table, [room for of_entry in rooms for room in of_entry]),
        start_by=first["start_by"],
        **_of_project(first),
        **_costed(first, table),
        receipt=receipt,
    )
    about_delta = delta_left.of_decisions(decisions)
    if about_delta:
        answer["warnings"] = [*answer.get("warnings", ()), *about_delta]
    return answer


def table_of(decision: Record) -> Residual | None:
    """Return the costs beside what is left by which a run was decided."""
    return Residual.from_facts(decision["residual"]) if "residual" in decision else None


def _of_project(decision: Record) -> _OfProject:
    return _OfProject(project=decision["project"]) if "project" in decision else _OfProject()


def as_one(
    longer: AnyMechanism, runs: int, cost: Amount, *, rooms: Sequence[portions.Room], charged: Amount | None = None
) -> AsOne:
    """Return how equal runs are shown as one. rooms: of the accounts that they charge."""
    name = as_one_run.length_of(longer)
    value = longer.model_dump()[name or "steps"]
    shown = AsOne(
        runs=runs,
        solve_for=name or "steps",
        value=value if isinstance(value, int) else float(value),
        percent=portions.taken(cost, rooms)["percent"],
        cost=show_amount(cost),
    )
    if charged is not None:
        shown["percent_charged"] = portions.taken(charged, rooms)["percent"]
        shown["charged"] = show_amount(charged)
    return shown


def refused(
    decisions: Sequence[Record],
    *,
    fits: Mapping[str, Any] | None,
    as_one: AsOne | None = None,
    epsilon: list[EpsilonShown] | None = None,
) -> BudgetExceeded:
    """Return the answer to a run that was refused: every account that binds. No `fits` if it was not computed. as_one:
    what it and the equal runs before it would cost as one run. epsilon: of the run by itself."""
    first = decisions[0]
    cost, needed = Amount.from_facts(first["cost"]), needed_of(first)
    binding = [
        item
        for entry in decisions
        for item in bindings(entry["dataset"], chain.accounts_of(entry).values(), cost, needed)
    ]
    facts: dict[str, Any] = {name: first[name] for name in _OF_REFUSAL if name in first}
    if warnings := [*first.get("warnings", ()), *delta_left.of_decisions(decisions)]:
        facts["warnings"] = warnings
    # A principal's account, which limits what it holds at once, leaves room for others.
    if any("principal" not in item for item in binding):
        facts["runs_left"] = 0
    if fits is not None:
        facts["fits"] = fits
    if epsilon is not None:
        facts["epsilon"] = epsilon
    if as_one is not None:
        pico, atto = as_one["cost"]["mu_sq_pico"], as_one["cost"]["delta_atto"]
        if epsilon and pico is not None and atto is not None:  # its cost is that of the one run by itself
            one = Amount(int(pico), int(atto))
            as_one = {**as_one, "epsilon": portions.epsilons_of([one], [item["delta"] for item in epsilon])[one]}
        facts["as_one"] = as_one
    return BudgetExceeded(why_refused(binding), **facts, datasets=binding, seq=first["seq"])


def remaining_of(decisions: Sequence[Record]) -> Amount:
    """Return the least that remained in any account that a run was to charge."""
    remaining = least_remaining(account for entry in decisions for account in chain.accounts_of(entry).values())
    if remaining is None:
        raise ArithmeticError("a run that charges no account")
    return remaining


# --- what became of a run --------------------------------------------------------------------------------------------


def add_end(answer: RunMoved | RunEvent, entry: Record) -> None:
    """Add the final charge."""
    for name in _AT_END:
        if name in entry:
            answer[name] = show_amount(Amount.from_facts(entry[name]))
    if "kept_for" in entry:
        answer["kept_for"] = entry["kept_for"]
    if "overrun" in entry:
        overrun = entry["overrun"]
        answer["overrun"] = OverrunShown(
            steps=overrun["steps"],
            repeated=overrun.get("repeated", 0),
            cost=show_amount(Amount.from_facts(overrun["cost"])),
            fits=overrun["fits"],
            method=overrun["method"],
        )
    if "restarts" in entry:
        answer["restarts"] = entry["restarts"]
    if "models" in entry:
        answer["models"] = entry["models"]
    if entry["kind"] == "run-settled" and "assumptions" in entry:
        answer["assumptions"] = entry["assumptions"]


def decisions_of(entries: Iterable[Record]) -> list[Record]:
    """Return the entries that approved or refused a run, in the order in which answers name its datasets."""
    return in_order(entry for entry in entries if entry["kind"] in _DECISIONS)


def decision_in(entries: Iterable[Record]) -> Record:
    """Return the entry that approved or refused a run, of its entries on one dataset."""
    return next(entry for entry in entries if entry["kind"] in _DECISIONS)


def describe(
    run: Run,
    entries: Sequence[Record],
    places: Iterable[tuple[str, int]],
    *,
    epsilon: list[EpsilonShown],
    limits: Iterable[Amount],
    now_us: int,
    progress: ProgressShown | None = None,
) -> RunShown:
    """Return a run as GET shows it: the request, the decision, and what happened to it.

    entries: those of the dataset that it names first. places: each dataset, with the number of the entry that decided
    it there. epsilon: of the run by itself. limits: those of its datasets now. progress: what its job reported last.
    """
    decision = decision_in(entries)
    return RunShown(
        id=str(run.id),
        state=run.state,
        decision=cast("Literal['approved', 'refused', 'entered']", _DECISIONS[decision["kind"]]),
        is_overdue=run.due_us is not None and run.due_us < now_us,
        **portions.of_run(decision, entries, limits),
        epsilon=epsilon,
        cost=show_amount(Amount.from_facts(decision["cost"])),
        datasets=[{"name": name, "seq": seq} for name, seq in places],
        request=decision["request"],
        project=run.project,
        idempotency_key=decision["idempotency_key"],
        asked_by=decision["actor"],
        adjacency=decision["adjacency"],
        **_costed(decision, table_of(decision)),
        created_at=timestamp(run.created_us),
        start_by=decision.get("start_by"),
        **(_Seconded(proposal=decision["proposal"]) if "proposal" in decision else _Seconded()),
        **_events(entries, progress),
    )


def _events(entries: Iterable[Record], progress: ProgressShown | None) -> _Events:
    by_kind = {entry["kind"]: entry for entry in entries}
    events = _Events() if progress is None else _Events(progress=progress)
    for state in _EVENTS:
        if f"run-{state}" in by_kind:
            events[state] = _event(by_kind[f"run-{state}"])
    if made := [entry for entry in entries if entry["kind"] == "run-corrected"]:
        events["corrections"] = [_correction(entry) for entry in sorted(made, key=itemgetter("number"))]
    return events


def _correction(entry: Record) -> CorrectionShown:
    request = entry["request"]
    amounts = {part: show_amount(Amount.from_facts(entry[part])) for part in OF_CORRECTION}
    recorded = {name: entry[name] for name in ("number", "at", "seq", "method", "fits", "frozen")}
    stated = {name: request[name] for name in _OF_AMENDMENT if request.get(name) is not None}
    shown: dict[str, Any] = {**recorded, **stated, **amounts, "by": entry["actor"], "hash": chain.hash_of(entry)}
    if "proposal" in entry:
        shown["proposal"] = entry["proposal"]
    return cast("CorrectionShown", shown)


def _event(entry: Record) -> RunEvent:
    event = RunEvent(at=entry["at"], by=entry["actor"], seq=entry["seq"], hash=chain.hash_of(entry))
    if "proposal" in entry:
        event["proposal"] = entry["proposal"]
    if "report" in entry:
        event["report"], event["reason"] = entry["report"], entry["reason"]
    request = entry.get("request", {})
    for name in _REQUESTED:
        if name in request:
            event[name] = request[name]
    for recorded in _RECORDED:
        if entry.get(recorded) is not None:
            event[recorded] = entry[recorded]
    add_end(event, entry)
    return event
