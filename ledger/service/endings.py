"""What became of a run, in answers: it was started, settled, voided or reported, and what it then overdraws."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from ledger.accounting.display import PLAIN, show_amount
from ledger.core.amounts import ZERO, Amount
from ledger.core.datasets import Account
from ledger.core.entries import Record
from ledger.core.journal import chain
from ledger.errors import Overrun, RunState
from ledger.service import answers, portions
from ledger.service.bindings import of_share
from ledger.service.shapes.runs import Overdrawn, RunMoved

_REPORTED: Final = (
    "No budget of this dataset could cover the reported number. Nothing is charged yet, and the run stays"
    " held in full until a steward confirms or corrects the number."
)
_RAISED: Final = (
    "More was executed than was approved. It is charged, and fits in the limit as it is now. But the limit of {} was"
    " raised after the run was approved, and less was left then: the earlier limit does not bound what was released"
    " until then; the one now does. The dataset is frozen until a steward has seen this."
)


def moved(decision: Record, entries: Sequence[Record]) -> RunMoved:
    """Return the answer to start, settle and void. Raises Overrun if more was executed than fits."""
    answer, first = ended(decision, entries), entries[0]
    if "overrun" in first and not first["overrun"]["fits"]:
        raise _overran(answer, first, entries)
    return answer


def ended(decision: Record, entries: Sequence[Record]) -> RunMoved:
    """Return the same answer for a steward, to whom an overrun is no error."""
    first = entries[0]
    is_reported = first["kind"] == "run-reported"
    rooms = [portions.rooms_in(entry) for entry in entries]
    taken = portions.taken(portions.amount_after(decision, first), [room for of_entry in rooms for room in of_entry])
    answer = RunMoved(
        id=first["run"],
        state="started" if is_reported else first["kind"].removeprefix("run-"),
        percent=taken["percent"],
        percent_of_delta=taken["percent_of_delta"],
        cost=show_amount(Amount.from_facts(decision["cost"])),
        datasets=answers.on_datasets(entries, rooms, None),
        at=first["at"],
    )
    answers.add_end(answer, first)
    if "settle_by" in first:
        answer["settle_by"] = first["settle_by"]
    return answer


def _overran(answer: RunMoved, first: Record, entries: Sequence[Record]) -> Overrun:
    accounts = [overdrawn for entry in entries for overdrawn in overdrawn_in(entry)]
    is_reported = first["kind"] == "run-reported"
    raised = [] if is_reported else _only_before_a_raise(first["overrun"]["frozen"], accounts)
    detail = _REPORTED if is_reported else _RAISED.format(", ".join(raised)) if raised else None
    return Overrun(
        detail,
        run=first["run"],
        state=answer["state"],
        cost=answer["cost"],
        **({} if is_reported else {"charged": answer["charged"], "percent": answer["percent"]}),
        overrun=answer["overrun"],
        at=answer["at"],
        frozen=first["overrun"]["frozen"],
        **({"before_raise": raised} if raised else {}),
        datasets=accounts,
    )


def _only_before_a_raise(frozen: Sequence[str], accounts: Sequence[Overdrawn]) -> list[str]:
    """Return the frozen datasets that are not overdrawn. There the overrun fits in the limit as it is now, so it was
    too much for what was left when the limit was raised, after the run had been approved."""
    overdrawn = {account["name"] for account in accounts}
    return [name for name in frozen if name not in overdrawn]


def overdrawn_in(entry: Record) -> list[Overdrawn]:
    """Return the accounts that are overdrawn after an entry."""
    accounts = chain.accounts_of(entry).values()
    return [overdrawn for account in accounts for overdrawn in _overdrawn(entry["dataset"], account)]


def _overdrawn(dataset: str, account: Account) -> list[Overdrawn]:
    """Return the quantities in which an account is overdrawn. A principal's never is: it limits only what is held."""
    return [
        Overdrawn(
            name=dataset,
            **of_share(account.key),
            quantity=quantity,
            limit=PLAIN[quantity](account.limit),
            spent=PLAIN[quantity](account.spent),
            held=PLAIN[quantity](account.held),
            overdrawn=PLAIN[quantity](account.overdrawn),
        )
        for quantity in account.overdrawn.exceeds(ZERO)
    ]


def demand_own_start(started: Record, token_sha256: str | None) -> None:
    """Raise RunState unless the process with this token started the run. The digest is in the entry of the start, so
    that it is known after a restart, to every server of the database, and in a ledger that was put back from journals.
    """
    if started.get("token_sha256") == token_sha256:
        return
    run, at = started["run"], started["at"]
    raise RunState(
        (
            f"Run {run} was started by another process, at {at}: it sent another token, or none. It may train now, so"
            " this process must not. If that process has ended and you go on from its progress, state what it executed"
            " (in Python `steps_done` and `restarts`), and settle all of it. Otherwise ask for a run of your own, with"
            " a new idempotency key: POST /v1/runs"
        ),
        run=run,
        state="started",
        at=at,
        next=["settle", "void"],
    )


def repeated(entries: Iterable[Record], kind: str, body: Mapping[str, Any]) -> list[Record]:
    """Return the entries that a repeated command left the first time. Raises RunState if it was another command."""
    entries = list(entries)
    # A report keeps its answer, even after a steward has settled the run.
    for same in (kind, "run-reported") if kind == "run-settled" else (kind,):
        left = [entry for entry in entries if entry["kind"] == same]
        if left and next((entry["request"] for entry in left if "request" in entry), {}) == body:
            return left
    state, run = kind.removeprefix("run-"), entries[0]["run"]
    raise RunState(
        (
            f"Run {run} is {state} already, with another body. To repeat a call, send the same body, which GET"
            f" /v1/runs/{run} shows."
        ),
        run=run,
        state=state,
    )
