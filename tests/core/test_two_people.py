"""The decision about changes that need two people."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from ledger.core.amounts import Amount
from ledger.core.books import Books
from ledger.core.commands import AddPartitions, Ask, RefuseProposal, SetBudget, SetFairUse, SetProject
from ledger.core.datasets import NO_FAIR_USE
from ledger.core.decision.posting import Repeat
from ledger.core.decision.two_people import DAY_US
from ledger.core.people import Actor, Consent
from ledger.errors import Forbidden, NameTaken, ProposalState, RunState
from tests.kit.books import NOW_US, actor, add_dataset, ask, key, only, opened, set_fair_use, started, void

ONE, TWO = UUID(int=1), UUID(int=2)
FIRST, SECOND = actor("steward", 2), actor("steward", 3)
PROPOSED = UUID(int=77)
RUN = ask(1, cost=Amount(10, 0), run=UUID(int=500))
Change = Callable[[Books, Actor, Consent], Any]

CHANGES: dict[str, Change] = {
    "budget": lambda _, who, consent: SetBudget(who, ONE, {"mu": 2}, Amount(200, 200), "more", consent),
    "partitions": lambda _, who, consent: AddPartitions(who, TWO, ("b",), consent),
    "project": lambda _, who, consent: SetProject(who, ONE, "p", {"mu": 1}, Amount(50, 50), "a share", consent),
    "fair-use": lambda _, who, consent: SetFairUse(who, ONE, NO_FAIR_USE, "for all", consent),
    "void": lambda books, who, consent: replace(void(who, books, RUN), consent=consent),
}


def books_with_a_run() -> tuple[Books, Ask]:
    """A tenant whose changes take two people; a run that has started."""
    books = opened(Amount(100, 100))
    add_dataset(books, 2, Amount(100, 100), partitions=["a"])
    set_fair_use(books, 1, held=Amount(100, 100), runs_per_hour=5)
    return replace(started(books, RUN), takes_two=True), RUN


def proposed(kind: str) -> tuple[Books, Books]:
    """The books before and after one steward proposed a change."""
    before, _ = books_with_a_run()
    after, draft = only(before, CHANGES[kind](before, FIRST, Consent(PROPOSED)))
    assert (draft.kind, draft.facts["what"]) == ("change-proposed", kind)
    return before, after


@pytest.mark.parametrize("kind", CHANGES)
def test_whoever_proposed_does_not_approve_alone(kind: str) -> None:
    """Goal: a change that needs two people is not made by one, in whatever role they come back. Method: the proposer
    approves, also as an admin and with another key; nothing changes; then a second person does."""
    before, books = proposed(kind)
    assert books.accounts == before.accounts
    again = Consent(PROPOSED, is_second=True)
    for who in (FIRST, replace(FIRST, role="admin"), replace(FIRST, key_id=UUID(int=900), name="the same")):
        after, error = only(books, CHANGES[kind](books, who, again))
        assert isinstance(error, Forbidden)
        assert "second person" in error.detail
        assert (after.accounts, after.datasets, after.proposals, after.runs) == (
            books.accounts,
            books.datasets,
            books.proposals,
            books.runs,
        )
    after, draft = only(books, CHANGES[kind](books, SECOND, again))
    assert draft.facts["proposal"]["by"]["principal"] == str(FIRST.principal_id)
    assert after.proposals[PROPOSED].state == "approved"
    assert draft.kind != "change-proposed"


@pytest.mark.parametrize("kind", CHANGES)
def test_an_approval_is_for_an_open_proposal(kind: str) -> None:
    """Goal: a proposal is approved once, in time, and not once it was refused. Method: twice; a day later; refused; one
    that nobody made."""
    _, books = proposed(kind)
    again = Consent(PROPOSED, is_second=True)
    made, _ = only(books, CHANGES[kind](books, SECOND, again))
    refused, _ = only(books, RefuseProposal(SECOND, PROPOSED, (ONE if kind != "partitions" else TWO,), "no"))
    for state, now_us, consent in (
        (made, NOW_US, again),
        (refused, NOW_US, again),
        (books, NOW_US + DAY_US, again),
        (books, NOW_US, Consent(UUID(int=78), is_second=True)),
    ):
        after, outcome = only(state, CHANGES[kind](state, SECOND, consent), now_us=now_us)
        # A run that was voided, and partitions that were added, are found to be there before the proposal is.
        is_done = state is made and kind in ("void", "partitions")
        assert isinstance(outcome, NameTaken | RunState if is_done else ProposalState)
        assert after.accounts == state.accounts


def test_the_proposer_does_not_refuse_it_either() -> None:
    """Goal: who proposed cannot refuse in another's place."""
    _, books = proposed("budget")
    _, error = only(books, RefuseProposal(FIRST, PROPOSED, (ONE,), "no"))
    assert isinstance(error, Forbidden)


def test_an_approval_does_only_what_was_proposed() -> None:
    """Goal: a proposal of one kind approves no change of another. Method: a budget, approved as a share."""
    _, books = proposed("budget")
    with pytest.raises(ArithmeticError, match="about another change"):
        only(books, CHANGES["project"](books, SECOND, Consent(PROPOSED, is_second=True)))


def test_a_run_has_one_open_proposal_of_a_kind() -> None:
    """Goal: asking again returns it, also to somebody else."""
    _, books = proposed("void")
    for who in (FIRST, SECOND):
        _, outcome = only(books, CHANGES["void"](books, who, Consent(UUID(int=78))))
        assert isinstance(outcome, Repeat)
        assert outcome.proposal is not None
        assert outcome.proposal.id == PROPOSED


@pytest.mark.parametrize("kind", CHANGES)
def test_without_the_policy_one_person_is_enough(kind: str) -> None:
    """Goal: the policy alone decides."""
    books, _ = books_with_a_run()
    books = replace(books, takes_two=False)
    after, draft = only(books, CHANGES[kind](books, FIRST, Consent(PROPOSED)))
    assert draft.kind != "change-proposed"
    assert not after.proposals
    assert "proposal" not in draft.facts
    assert key(1) in after.accounts
