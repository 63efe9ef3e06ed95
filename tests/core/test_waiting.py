"""Runs that ask for so much that they wait for a steward: what is decided, and what a journal must show of it."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final
from uuid import UUID

import pytest

from ledger.core.amounts import Amount
from ledger.core.books import Books
from ledger.core.commands import Ask, Batch, RefuseProposal, Second, SetFairUse, SetProject
from ledger.core.datasets import FairUse, Parent
from ledger.core.decision.two_people import DAY_US, PROPOSALS_OF_ONE_MAX
from ledger.core.journal import chain
from ledger.core.people import Consent
from ledger.errors import Forbidden, JournalBroken, ProposalState, TooLarge
from ledger.verifier.jws import PublicKeys
from ledger.verifier.verify import verify
from tests.kit import independent_verifier
from tests.kit.books import ALONE, NOW_US, actor, ask, only, opened, use, with_project
from tests.kit.exports import KEY, exported, jwks_of
from tests.kit.forgeries import CENT, SECOND, WHO, Entries, Story, put, put_in, sealed
from tests.kit.journals import STEWARD, TWO, registered
from tests.verifier.test_forgeries import mutate, verdict

ONE: Final = UUID(int=1)
ASKER, OTHER = actor("requester", 1), actor("steward", 5)
RUN: Final = UUID(int=900)
KEYS: Final = PublicKeys.of(jwks_of(KEY))


def waiting_books(*limits: Amount, percent: int = 20, among: tuple[int, ...] = (1,)) -> Books:
    """Books in which runs above a part of the limit wait, on these datasets."""
    books = opened(*limits)
    for number in among:
        id_ = UUID(int=number)
        fair_use = FairUse(None, None, None, percent)
        books.datasets[id_] = replace(books.datasets[id_], fair_use=fair_use)
    return books


def run(cost: int, *numbers: int, delta: int = 0, **more: Any) -> Ask:
    """A run that asks for this much mu²."""
    return ask(*(numbers or (1,)), cost=Amount(cost, delta), run=RUN, who=ASKER, **more)


def approved(command: Ask, who: Any = OTHER) -> Ask:
    """The same run, approved by a steward."""
    return replace(command, second=Second(who, "agreed"))


@pytest.mark.parametrize(("cost", "delta", "waits"), [(20, 0, False), (21, 0, True), (0, 20, False), (0, 21, True)])
def test_a_run_waits_above_the_very_part_of_a_limit(cost: int, delta: int, waits: bool) -> None:
    """Goal: "above X %" is exact, in either quantity; what waits holds nothing. Method: 20 % of 100, and one more."""
    books = waiting_books(Amount(100, 100))
    after, draft = only(books, run(cost, delta=delta))
    assert draft.kind == ("change-proposed" if waits else "run-approved")
    assert (after.accounts == books.accounts) == waits
    assert (after.runs == {}) == waits
    if waits:
        assert draft.facts["proposal"] == draft.facts["about_run"] == str(RUN)
        assert draft.facts["proposes"]["waits_for"] == ["data-1"]


def test_a_share_counts_and_a_principals_limit_does_not() -> None:
    """Goal: the part is of every limit that carries a guarantee. Method: a project with a small share; what one
    principal may hold, which is smaller still."""
    books = waiting_books(Amount(1000, 1000))
    with_project(books, 1, Amount(100, 100))
    assert only(books, run(50))[1].kind == "run-approved"
    assert only(books, run(50, project="p"))[1].kind == "change-proposed"
    fair_use = FairUse({"mu": 1}, Amount(60, 60), None, 20)
    books.datasets[ONE] = replace(books.datasets[ONE], fair_use=fair_use)
    assert only(books, run(50))[1].kind == "run-approved"


def test_what_does_not_fit_is_refused_at_once() -> None:
    """Goal: nobody waits for what cannot be approved now."""
    _, draft = only(waiting_books(Amount(100, 100)), run(101))
    assert draft.kind == "run-refused"


def test_it_is_decided_afresh_when_it_is_approved() -> None:
    """Goal: nothing is promised to a run that waits. Method: two that fit alone and not together; the second one is
    refused, by the numbers of then, though a steward approved it; and each is decided once."""
    books, _ = only(waiting_books(Amount(100, 100)), run(60))
    second = replace(run(60), run_id=UUID(int=901))
    books, _ = only(books, second)
    books, draft = only(books, approved(run(60)))
    assert (draft.kind, draft.actor["principal"]) == ("run-approved", str(ASKER.principal_id))
    stated = draft.facts["proposal"]
    assert (stated["by"], stated["approved_by"]) == (ASKER.facts(), OTHER.facts())
    assert stated["reason"] == "agreed"
    books, refused = only(books, approved(second))
    assert (refused.kind, refused.facts["binding"]) == ("run-refused", ["mu"])
    assert {proposal.state for proposal in books.proposals.values()} == {"approved"}
    _, again = only(books, approved(run(60)))
    assert isinstance(again, ProposalState)


def test_who_asked_does_not_approve_it_and_a_day_is_the_end() -> None:
    """Goal: two people, in time, and not once it was refused. Method: the asker with another role; a day later; a
    steward's refusal; nothing changes."""
    books, _ = only(waiting_books(Amount(100, 100)), run(60))
    _, own = only(books, approved(run(60), replace(ASKER, role="admin")))
    assert isinstance(own, Forbidden)
    _, late = only(books, approved(run(60)), now_us=NOW_US + DAY_US)
    assert isinstance(late, ProposalState)
    refused, draft = only(books, RefuseProposal(OTHER, RUN, (ONE,), "too much"))
    assert (draft.kind, draft.facts["what"], draft.facts["reason"]) == ("proposal-refused", "run", "too much")
    after, gone = only(refused, approved(run(60)))
    assert isinstance(gone, ProposalState)
    assert (after.accounts, after.runs) == (books.accounts, {})


def test_a_run_of_a_batch_cannot_wait() -> None:
    """Goal: a batch is decided now. Method: one run of two that would wait; all or none, and each on its own."""
    books = waiting_books(Amount(100, 100))
    small, large = (replace(run(cost), run_id=UUID(int=cost)) for cost in (10, 60))
    for is_atomic in (True, False):
        after, batched = only(books, Batch(ASKER, (small, large), is_atomic))
        first, second = batched.outcomes
        assert isinstance(second, Forbidden)
        assert second.facts["waits_for"] == ["data-1"]
        assert isinstance(first, tuple) != is_atomic
        assert after.proposals == {}


def test_a_run_of_several_datasets_waits_in_each() -> None:
    """Goal: every journal that a run touches shows that it waits, and for whom. Method: two datasets, of which one lets
    it pass."""
    books = waiting_books(Amount(100, 100), Amount(100, 100), among=(2,))
    books, drafts = only(books, run(60, 1, 2))
    assert [(draft.dataset, draft.facts["proposes"]["waits_for"]) for draft in drafts] == [
        ("data-1", ["data-2"]),
        ("data-2", ["data-2"]),
    ]
    _, drafts = only(books, approved(run(60, 1, 2)))
    assert [draft.kind for draft in drafts] == ["run-approved"] * 2


def test_nobody_fills_the_list_of_proposals() -> None:
    """Goal: what waits is bounded. Method: as many as one principal may have open, and one more."""
    books = waiting_books(Amount(100, 100))
    for number in range(PROPOSALS_OF_ONE_MAX):
        books, _ = only(books, replace(run(60), run_id=UUID(int=number + 1)))
    _, error = only(books, run(60))
    assert isinstance(error, TooLarge)


@pytest.mark.parametrize(("percent", "is_more"), [(None, True), (21, True), (20, False), (0, False)])
def test_to_let_more_pass_alone_takes_two(percent: int | None, is_more: bool) -> None:
    """Goal: the policy is not loosened by one person where two must agree."""
    books = replace(waiting_books(Amount(100, 100)), takes_two=True)
    change = SetFairUse(STEWARD, ONE, FairUse(None, None, None, percent), "so", Consent(UUID(int=5)))
    assert (only(books, change)[1].kind == "change-proposed") == is_more


# --- journals --------------------------------------------------------------------------------------------------------


def story() -> Story:
    """Runs that wait on clicks (`data-2`) and on what is derived from it (`data-1`): approved, refused and late."""
    made = Story(
        registered(2, Amount(10 * CENT.mu_sq_pico, 0), partitions=["a", "b"]),
        registered(1, None, derived_from=(Parent(TWO, "data-2"),)),
    )
    made.do(SetProject(STEWARD, TWO, "p", {"mu": 1}, Amount(8 * CENT.mu_sq_pico, 0), "a share", ALONE))
    made.do(SetFairUse(STEWARD, TWO, FairUse(None, None, 100, 30), "large runs need two", ALONE))
    made.run(1, use(2, ["a"]), count=3)
    for number, uses, project in ((2, (use(2, ["a"]),), "p"), (3, (use(1, ["b"]), use(2, ["b"], via=1)), None)):
        waiting = made.run(number, *uses, count=4, **({"project": project} if project else {}))
        made.do(replace(waiting, second=Second(SECOND, "agreed" if project else None)))
    refused = made.run(4, use(2, ["b"]), count=5)
    made.do(RefuseProposal(SECOND, refused.run_id, (TWO,), "too much"))
    first, last = (made.run(number, use(2, ["b"]), count=4) for number in (5, 6))
    made.do(replace(first, second=Second(STEWARD, None)))
    made.do(replace(last, second=Second(STEWARD, None)))  # does not fit any more
    made.do(SetFairUse(STEWARD, TWO, FairUse(None, None, 100), "for all", ALONE))
    return made


def entries_of(dataset_id: UUID = TWO) -> list[dict[str, Any]]:
    """The story's entries, to be changed."""
    return [chain.parse(body) for body, _ in story().journals[dataset_id]]


def test_both_verifiers_accept_what_waited() -> None:
    """Goal: the journals hold, for the verifier and for the one that shares no code. Method: every kind of end."""
    made = story()
    kinds = [(entry["kind"], "proposal" in entry) for entry in entries_of()]
    for kind in ("run-approved", "run-refused"):
        assert (kind, True) in kinds
    assert ("proposal-refused", True) in kinds
    for dataset_id, entries in made.journals.items():
        for requests in (made.requests, {}):
            lines = exported(dataset_id, entries, requests=requests)
            assert verify(lines, keys=KEYS).journal.seq == independent_verifier.verify(lines)[0] == len(entries)


def at(kind: str, number: int = 0) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """The entry of a kind, the first or a later one."""
    return lambda entries: [entry for entry in entries if entry["kind"] == kind][number]


SECONDED: Final = at("run-approved", 1)
WAITS: Final = at("change-proposed")
POLICY: Final = at("fair-use-set")
FORGED: Final[dict[str, tuple[Callable[[Entries], dict[str, Any]], Callable[[Entries], object]]]] = {
    "approved without a steward": (SECONDED, lambda entries: SECONDED(entries).pop("proposal")),
    "approved by who asked": (
        SECONDED,
        put_in(SECONDED, "proposal", "approved_by", value={**WHO.facts(), "role": "admin"}),
    ),
    "approved by no steward": (
        SECONDED,
        put_in(SECONDED, "proposal", "approved_by", value=actor("requester", 9).facts()),
    ),
    "asked for by another": (SECONDED, put_in(SECONDED, "proposal", "by", "name", value="somebody")),
    "asked for at another time": (SECONDED, put_in(SECONDED, "proposal", "at", value="2027-01-01T00:00:00.000000Z")),
    "another run than proposed": (SECONDED, put(SECONDED, run=str(UUID(int=77)))),
    "another request than proposed": (SECONDED, put_in(SECONDED, "request", "purpose", value="another")),
    "another key than proposed": (SECONDED, put(SECONDED, idempotency_key="another")),
    "a proposal under another id": (WAITS, put(WAITS, proposal=str(UUID(int=78)))),
    "waits for nothing": (WAITS, put_in(WAITS, "proposes", "waits_for", value=[])),
    "waits, and need not": (WAITS, put_in(WAITS, "proposes", "cost", "mu_sq_pico", value="1")),
    "waits by an auditor": (WAITS, put(WAITS, actor=actor("auditor", 9).facts())),
    "a part that there is not": (POLICY, put_in(POLICY, "fair_use", "waits_above_percent", value=100)),
    "a part that is no number": (POLICY, put_in(POLICY, "fair_use", "waits_above_percent", value="30")),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_wait_is_found(name: str) -> None:
    """Goal: with a signer's key nobody lets pass alone what must wait. Method: one change, every hash after it made
    anew; both verifiers name the entry."""
    place, change = FORGED[name]
    entries = entries_of()
    changed = copy.deepcopy(entries)
    seq = entries.index(place(entries)) + 1
    change(changed)
    lines = exported(TWO, sealed(changed), requests=story().requests)
    with pytest.raises(JournalBroken) as caught:
        verify(lines, keys=KEYS)
    assert caught.value.seq == seq
    with pytest.raises(ValueError, match=f"^{seq}: "):
        independent_verifier.verify(lines)


def test_both_verifiers_agree_on_what_waits(tries: Callable[[int, int], int]) -> None:
    """Goal: the rules in docs/reference/export.md are what the verifier does. Method: seeded changes in the journals
    above; both verifiers name the same entry, or none."""
    rng = random.Random(21)
    made = story()
    journals = [(dataset_id, [chain.parse(body) for body, _ in mine]) for dataset_id, mine in made.journals.items()]
    verdicts = []
    for _ in range(tries(80, 5_000)):
        dataset_id, entries = rng.choice(journals)
        changed = copy.deepcopy(entries)
        mutate(rng, changed)
        requests = rng.choice((made.requests, {}))
        lines = exported(dataset_id, sealed(changed), name=entries[0]["dataset"], requests=requests)
        ours, theirs = verdict(partial(verify, keys=KEYS), lines), verdict(independent_verifier.verify, lines)
        assert ours == theirs, "\n".join(lines)
        verdicts.append(ours is None)
    assert 0 < sum(verdicts) < len(verdicts)
