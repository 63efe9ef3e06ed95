"""Corrections: a settled run was declared wrong, and a steward states which mechanism it really was.

The true mechanism was executed at the run's place, and what came behind it may have been chosen by its outputs. So it
is charged as everything is that is recorded late, and overdraws where it does not fit. If no output decided which
mechanism ran, it takes the place of the declared one, whose charge counts as left, and what is charged is the
difference. Otherwise the old charge stays. Less than before is given back under the rule for giving back, and always by
two people. docs/explanation/residual.md has the proof.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from ledger.core.amounts import INT64_MAX, ZERO, Amount
from ledger.core.books import Books
from ledger.core.commands import Correct
from ledger.core.datasets import Account
from ledger.core.decision.filter import (
    Priced,
    by_dataset,
    charged_late,
    given_back,
    guaranteed,
    is_late_fit,
    noted,
    price_late,
    short_of,
    table_facts,
)
from ledger.core.decision.of_run import charged_postings, demand_state, run_of, run_state
from ledger.core.decision.posting import Drafts, Posting, Repeat, eased, frozen, write
from ledger.core.decision.two_people import Guarded, propose_first, seconded
from ledger.core.runs import Run
from ledger.errors import InvalidRequest, ProposalState, TooLarge

CORRECTIONS_MAX: Final = 100
"""The most corrections of one run: each is kept for good, and read with it."""


@dataclass(frozen=True, slots=True)
class _Charge:
    """What a correction charges. true: of the true mechanism, as a whole. late: more than before. returned: less than
    before; one of them is zero."""

    true: Priced
    late: Amount
    returned: Amount


def correct(books: Books, command: Correct, now_us: int) -> Drafts | Repeat:
    """Charge a settled run what the true mechanism costs. Raises RunState if it was corrected meanwhile, or if less
    than what its charge rests on is left, so that nothing can be given back."""
    run = run_of(books, command)
    demand_state(run, "settled")
    if run.corrections != command.known.corrections:
        raise run_state(run, "It was corrected meanwhile. Look at what it is charged now, and correct that.")
    if run.corrections >= CORRECTIONS_MAX:
        raise TooLarge(f"A run can be corrected {CORRECTIONS_MAX} times.", corrections_max=CORRECTIONS_MAX)
    before = charged_postings(books, command)
    charge = _charge(books, command, before)
    lowers = charge.returned != ZERO
    if lowers and not command.body.get("on_word_of"):
        raise InvalidRequest(
            f"on_word_of: run {run.id} was charged more than this mechanism costs, and the rest is given back only on"
            " somebody's word. State whose, and how they know",
            field="on_word_of",
        )
    if lowers and (names := short_of(books, by_dataset(before), command.known.r)):
        raise run_state(
            run,
            f"Nothing can be given back now: what was approved behind it in {', '.join(names)} rests on its charge. It"
            " can once enough is left there.",
            kept_for=names,
        )
    if lowers and any(_is_full(account) for posting in before for account in guaranteed(posting.accounts)):
        raise run_state(run, "Nothing can be given back: more was spent than a balance can state.")
    number = command.known.corrections + 1
    stated = {"request": command.body, "number": number}
    _demand_same(books, command, number)
    guarded = _guarded(command, before, {**stated, **({"lowers": True} if lowers else {})}, is_always=lowers)
    if (proposed := propose_first(books, guarded, now_us)) is not None:
        return proposed
    after = [_after(posting, command, charge) for posting in before]
    project = {} if run.project is None else {"project": run.project}
    facts = {**stated, **project, **_facts(command, charge, after), **seconded(books, guarded, now_us)}
    return write(books, after, command.actor, "run-corrected", facts, _corrected(run))


def _demand_same(books: Books, command: Correct, number: int) -> None:
    """Raise ProposalState if what a second person approves was proposed before another correction."""
    proposal = books.proposals.get(command.consent.proposal_id) if command.consent.is_second else None
    if proposal is not None and proposal.body["request"].get("number") != number:
        raise ProposalState(
            "The run was corrected after this was proposed. Look at what it is charged now, and propose it again.",
            state=proposal.state,
        )


def _guarded(command: Correct, before: Sequence[Posting], facts: dict[str, Any], *, is_always: bool) -> Guarded:
    unchanged = [Posting(posting.dataset) for posting in before]
    return Guarded(
        "correction", True, facts, command.actor, command.consent, unchanged, command.run_id, is_always=is_always
    )


def _corrected(run: Run) -> Run:
    return replace(run, corrections=run.corrections + 1)


def _charge(books: Books, command: Correct, before: Sequence[Posting]) -> _Charge:
    known = command.known.charged
    old = known if command.replaces else ZERO
    true = price_late(books, by_dataset(before), command.cost, command.residual, command.places, old=old.mu_sq_pico)
    late = (true.cost - old).most(ZERO)
    returned = (old - true.cost).most(ZERO) if late == ZERO else ZERO
    return _Charge(true, late, returned)


def _is_full(account: Account) -> bool:
    """Return whether the balance states less than was spent, because that passed 64 bits."""
    return INT64_MAX in (account.spent.mu_sq_pico, account.spent.delta_atto)


def _after(posting: Posting, command: Correct, charge: _Charge) -> Posting:
    place, seq = command.places[posting.dataset.id], posting.dataset.seq + 1
    if charge.late == ZERO:
        accounts = [_lowered(account, command, charge, seq) for account in posting.accounts]
        return replace(posting, accounts=accounts)
    late = Priced(charge.late, charge.true.index, charge.true.table)
    is_frozen = not all(is_late_fit(account, late, place) for account in guaranteed(posting.accounts))
    accounts = [charged_late(account, late, place=place, seq=seq) for account in posting.accounts]
    after = replace(posting, accounts=accounts)
    return frozen(after) if is_frozen else after


def _lowered(account: Account, command: Correct, charge: _Charge, seq: int) -> Account:
    """Return the account with something given back, as if the run were the last. What the true mechanism leaves unspent
    must stay so from now on."""
    if account.key.principal_id is not None:
        return account
    r = command.known.r if charge.returned != ZERO else 0
    after = given_back(account, left=account.remaining.mu_sq_pico, r=r, seq=seq)
    after = eased(replace(after, spent=after.spent - charge.returned))
    return noted(after, seq, after.remaining.mu_sq_pico - charge.true.r) if charge.true.r else after


def _facts(command: Correct, charge: _Charge, after: Sequence[Posting]) -> dict[str, Any]:
    overdrawn = sorted(posting.dataset.definition.name for posting in after if "state" in posting.own)
    known = command.known.charged
    return {
        "replaces": command.replaces,
        "before": known.facts(),
        "cost": charge.true.cost.facts(),
        "charged": (known + charge.late - charge.returned).facts(),
        "late": charge.late.facts(),
        "returned": charge.returned.facts(),
        "fits": not overdrawn,
        "frozen": overdrawn,
        **command.costing,
        **table_facts(charge.true, None),
    }
