"""How a run ends: settled with what was executed, or voided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from ledger.core.amounts import ZERO, Amount
from ledger.core.books import Books
from ledger.core.commands import OnRun, Settle, Void
from ledger.core.datasets import Account
from ledger.core.decision.filter import (
    ByDataset,
    Priced,
    charged_late,
    given_back,
    guaranteed,
    is_late_fit,
    price_late,
    short_of,
)
from ledger.core.decision.of_run import charged_postings, cost_of, demand_owner, demand_state, run_of, run_state
from ledger.core.decision.posting import Drafts, Posting, Repeat, eased, frozen, write
from ledger.core.decision.two_people import Guarded, propose_first, seconded
from ledger.core.runs import Excess, Run
from ledger.errors import Forbidden


def settle(books: Books, command: Settle, now_us: int) -> Drafts | Repeat:
    """Settle a run: charge what was executed, give back the rest, and freeze what an overrun does not fit in."""
    run, ruling = run_of(books, command), command.ruling
    if ruling is None:
        demand_owner(command.actor, run)
    if run.state == "settled" and not (ruling is not None and ruling.consent.is_second):
        return Repeat(run.id, "run-settled", command.body)
    demand_state(run, "started")
    if ruling is None and run.is_reported:
        return Repeat(run.id, "run-reported", command.body)
    if ruling is not None and not run.is_reported:
        raise run_state(run, "It has no reported number that waits for a steward.")
    ending = _end(books, command, run)
    if ruling is None and (beyond_limits := _beyond_limits(ending, charged_postings(books, command))):
        return _report(books, command, ending, beyond_limits, now_us)
    guarded = _correction(books, command)
    if guarded is not None and (proposed := propose_first(books, guarded, now_us)) is not None:
        return proposed
    facts: dict[str, Any] = {
        "request": command.body,
        "steps": command.steps,
        "stop": command.stop,
        "charged": ending.whole.facts(),
        "returned": ending.returned.facts(),
        **ending.kept_facts,
        **command.costing,
    }
    postings = ending.postings
    if ending.late is not None and command.excess is not None:
        facts["overrun"] = _overrun_facts(command.excess, ending.late, postings)
    if ruling is not None:
        facts |= {"report": ruling.says, "reason": ruling.reason}
    if guarded is not None:
        facts |= seconded(books, guarded, now_us)
    _forget_report(books, command)
    run = replace(run, state="settled", ended_us=now_us, due_us=None)
    return write(books, postings, command.actor, "run-settled", facts, run)


@dataclass(frozen=True, slots=True)
class _Ending:
    """The accounts after a run, and what it is charged.

    planned: of what was approved; returned: the rest, or `kept`, if these datasets have too little left to give it
    back. late: of an overrun. postings: frozen where that does not fit.
    """

    planned: Amount
    returned: Amount
    kept: Amount
    kept_for: Sequence[str]
    postings: list[Posting]
    late: Priced | None = None

    @property
    def whole(self) -> Amount:
        """Return all that is charged."""
        return self.planned + self.kept + (ZERO if self.late is None else self.late.cost)

    @property
    def kept_facts(self) -> dict[str, Any]:
        """Return what was not given back, and where too little is left, in the form of an entry."""
        return {"kept": self.kept.facts(), "kept_for": list(self.kept_for)} if self.kept_for else {}


def _end(books: Books, command: Settle, run: Run) -> _Ending:
    cost, before = cost_of(run), charged_postings(books, command)
    if command.charged.exceeds(cost):
        raise ArithmeticError(f"run {run.id} was approved for {cost} and is charged {command.charged}")
    returned = cost - command.charged
    is_free = command.stop != "data_dependent" or returned == ZERO
    kept_for = [] if is_free else short_of(books, _by_dataset(before), run.r)
    kept = returned if kept_for else ZERO
    r = 0 if is_free or kept_for else run.r
    after = [replace(posting, accounts=_released(posting, cost, command.charged + kept, r=r)) for posting in before]
    ending = _Ending(command.charged, returned - kept, kept, kept_for, after)
    seqs = {place.dataset_id: place.seq for place in run.places} | dict(command.places)
    return ending if command.excess is None else _with_late(books, ending, command.excess, seqs)


def _released(posting: Posting, cost: Amount, charged: Amount, *, r: int) -> list[Account]:
    """Return the accounts after a run that was held at this cost is charged this much there. r: its own, if it gave
    something back as if it were the last run."""
    seq = posting.dataset.seq + 1
    return [
        eased(given_back(_settled(account, cost, charged), left=account.remaining.mu_sq_pico, r=r, seq=seq))
        for account in posting.accounts
    ]


def _settled(account: Account, cost: Amount, charged: Amount) -> Account:
    """Return the account after a run of this cost was charged this much. A principal's limits only what is held."""
    account = replace(account, held=account.held - cost)
    if account.key.principal_id is not None:
        return account
    return replace(account, spent=(account.spent + charged).saturated)


def _with_late(books: Books, ending: _Ending, excess: Excess, seqs: Mapping[UUID, int]) -> _Ending:
    """Return the ending with an overrun charged, which was executed before it is recorded. seqs: the run's places."""
    late = price_late(books, _by_dataset(ending.postings), excess.cost, excess.residual, seqs)
    postings = [_overrun(posting, late, seqs[posting.dataset.id]) for posting in ending.postings]
    return replace(ending, postings=postings, late=late)


def _overrun(posting: Posting, late: Priced, place: int) -> Posting:
    seq = posting.dataset.seq + 1
    accounts = [charged_late(account, late, place=place, seq=seq) for account in posting.accounts]
    is_frozen = not all(is_late_fit(account, late, place) for account in guaranteed(posting.accounts))
    charged = replace(posting, accounts=accounts)
    return frozen(charged) if is_frozen else charged


def _by_dataset(postings: Sequence[Posting]) -> ByDataset:
    return {posting.dataset.id: posting.accounts for posting in postings}


def _beyond_limits(ending: _Ending, before: Sequence[Posting]) -> list[str]:
    """Return the datasets that have an account whose whole limit an overrun exceeds, so that no budget there could
    cover it."""
    late = ending.late
    if late is None:
        return []
    return sorted(
        posting.dataset.definition.name
        for posting in before
        if any(late.cost.exceeds(account.limit) for account in guaranteed(posting.accounts))
    )


def _report(books: Books, command: Settle, ending: _Ending, beyond_limits: list[str], now_us: int) -> Drafts:
    """Record a number that may be a mistake and would end a dataset for good. Nothing is charged or given back: every
    dataset of the run is frozen until a steward has confirmed or corrected the number."""
    postings = [frozen(posting) for posting in charged_postings(books, command)]
    facts: dict[str, Any] = {"request": command.body, "steps": command.steps, "stop": command.stop}
    if ending.late is not None and command.excess is not None:
        overrun = _overrun_facts(command.excess, ending.late, postings)
        facts["overrun"] = {**overrun, "beyond_limits": beyond_limits}
    for dataset_id in command.dataset_ids:
        books.reported[dataset_id] = books.reported.get(dataset_id, frozenset()) | {command.run_id}
    run = replace(run_of(books, command), reported_us=now_us)
    return write(books, postings, command.actor, "run-reported", facts, run)


def _correction(books: Books, command: Settle) -> Guarded | None:
    """Replace a reported number with another one, which needs two people."""
    if command.ruling is None or command.ruling.says != "corrected":
        return None
    facts = {"request": command.body, "report": "corrected", "reason": command.ruling.reason}
    unchanged = [Posting(posting.dataset) for posting in charged_postings(books, command)]
    return Guarded("correction", True, facts, command.actor, command.ruling.consent, unchanged, run_id=command.run_id)


def _forget_report(books: Books, command: OnRun) -> None:
    for dataset_id in command.dataset_ids:
        if dataset_id in books.reported:
            books.reported[dataset_id] -= {command.run_id}


def _overrun_facts(excess: Excess, late: Priced, postings: Sequence[Posting]) -> dict[str, Any]:
    overdrawn = sorted(posting.dataset.definition.name for posting in postings if "state" in posting.own)
    level = {} if late.index is None else {"level": late.index}
    return {
        "steps": excess.steps,
        "repeated": excess.repeated,
        "cost": late.cost.facts(),
        "fits": not overdrawn,
        "frozen": overdrawn,
        **({} if late.table is None else {"residual": {**late.table.facts(), **level}}),
        **excess.costing,
    }


def void(books: Books, command: Void, now_us: int) -> Drafts | Repeat:
    """Void a run of which nobody saw any output, and give back its cost."""
    run = run_of(books, command)
    if run.state == "voided" and not command.consent.is_second:
        return Repeat(run.id, "run-voided", command.body)
    if run.state == "started":
        if command.actor.role not in ("steward", "admin"):
            raise Forbidden("The run has started. Only a steward can void it, by stating that nobody saw its output.")
    else:
        demand_state(run, "held")
        if command.actor.role != "steward":
            demand_owner(command.actor, run)
    cost, before = cost_of(run), charged_postings(books, command)
    unchanged = [Posting(posting.dataset) for posting in before]
    is_started = run.state == "started"
    proposed_facts = {"request": command.body}
    guarded = Guarded("void", is_started, proposed_facts, command.actor, command.consent, unchanged, run_id=run.id)
    if (proposed := propose_first(books, guarded, now_us)) is not None:
        return proposed
    kept_for = [] if command.is_independent else short_of(books, _by_dataset(before), run.r)
    kept = cost if kept_for else ZERO
    r = 0 if command.is_independent or kept_for else run.r
    ending = _Ending(ZERO, cost - kept, kept, kept_for, [])
    postings = [replace(posting, accounts=_released(posting, cost, kept, r=r)) for posting in before]
    run = replace(run, state="voided", ended_us=now_us, due_us=None)
    facts = {
        "request": command.body,
        "returned": ending.returned.facts(),
        **({"independent": True} if command.is_independent else {}),
        **ending.kept_facts,
        **seconded(books, guarded, now_us),
    }
    _forget_report(books, command)
    return write(books, postings, command.actor, "run-voided", facts, run)
