"""What a tenant's policy takes two people for: propose, approve, refuse, expire; and what the journals prove of it."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, text

from ledger.access.keys import tenant_of
from ledger.core.decision.two_people import DAY_US, PROPOSALS_MAX, PROPOSALS_OF_ONE_MAX
from ledger.core.entries import NO_HASH
from ledger.core.journal import chain, replay
from ledger.core.journal.policy import GUARDED_AT_FIRST, Loosening, Policy, demand_policy
from ledger.core.people import GUARDED as KINDS
from ledger.errors import JournalBroken
from ledger.operate.check import check_journals
from ledger.settings import Settings
from ledger.store import Store, engine_for
from tests.kit.driver import Ledger, Served, first_keys
from tests.kit.scene import NOBODY, REASON, ok

HELD = 4 * 10**10
"""What a release of noise multiplier 5 reserves, in units of 1e-12 of mu²."""
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Board:
    """A tenant that asks for two people, with two stewards and the others."""

    admin: Ledger
    one: Ledger
    two: Ledger
    requester: Ledger
    auditor: Ledger
    settings: Settings

    def raised(self, mu: float, *, by: Ledger | None = None) -> Any:
        body = {"budget": {"mu": mu}, **REASON}
        return (by or self.one).put("/v1/datasets/mnist/budget", body)

    def journal(self, dataset: str = "mnist") -> list[Json]:
        """A dataset's entries, each with the digits that were hashed."""
        page = chain.parse(self.admin.get(f"/v1/datasets/{dataset}/entries", limit=1000).text)
        return [item["entry"] for item in page["items"]]

    def kinds(self, dataset: str = "mnist") -> list[str]:
        return [str(entry["kind"]) for entry in self.journal(dataset)]

    def limit(self) -> int:
        return self.admin.balance()["limit"][0]

    @contextmanager
    def owner(self) -> Iterator[Connection]:
        """The database as its owner opens it for this tenant, past the ledger."""
        with (
            closing(Store(engine_for(self.settings.owner_url))) as store,
            store.writing(tenant_of(self.admin.key)) as writing,
        ):
            yield writing.connection

    def a_day_later(self, proposal: str) -> None:
        """Lets a proposal's day be over."""
        with self.owner() as owner:
            moved = owner.execute(
                text(
                    "UPDATE proposals SET created_us = created_us - :day, expires_us = expires_us - :day WHERE id = :id"
                ),
                {"day": DAY_US, "id": proposal},
            )
            assert moved.rowcount == 1

    def holds(self, *, but: str | None = None) -> None:
        """Every journal adds up to its rows; but: a proposal whose times were moved behind the ledger's back."""
        faults = [result["error"] for result in check_journals(self.settings) if result["error"] is not None]
        told = [] if but is None else [f"entry 2: leaves another created_at of proposal {but} than its row has"]
        assert faults == told


@pytest.fixture
def board(ledger: Ledger, database: Settings) -> Board:
    """On every database, a dataset with a budget of mu 1."""
    ledger.register()
    ok(ledger.put("/v1/policy", {"second_steward": True, **REASON}))
    one, two, requester, auditor = map(ledger.as_, ("steward", "steward", "requester", "auditor"))
    return Board(ledger, one, two, requester, auditor, database)


def proposal_of(answer: Any) -> str:
    """The id of what was only proposed."""
    assert answer.status_code == 202, answer.text
    assert answer.json()["proposal"]["state"] == "open"
    return str(answer.json()["proposal"]["id"])


def approve(by: Ledger, proposal: str) -> Any:
    """Says yes."""
    return by.post(f"/v1/proposals/{proposal}/approve")


def code(answer: Any) -> tuple[int, str]:
    """Status and code of a refusal."""
    return answer.status_code, str(answer.json()["code"])


def state(by: Ledger, proposal: str) -> str:
    """What a proposal has come to."""
    return str(ok(by.get(f"/v1/proposals/{proposal}"))["state"])


def started(by: Ledger, *datasets: str) -> str:
    """A run that touches data already."""
    run = str(ok(by.ask(datasets=list(datasets or ("mnist",)), key=uuid.uuid4().hex))["id"])
    ok(by.post(f"/v1/runs/{run}/start"))
    return run


def overdrawn(board: Board) -> None:
    """Draws the dataset down by an overrun, which freezes it."""
    ok(board.admin.put("/v1/datasets/mnist/budget", {"budget": {"mu": 0.2}, **REASON}))
    answer = board.requester.post(f"/v1/runs/{started(board.requester)}/settle", {"steps": 2})
    assert code(answer) == (409, "overrun")
    assert ok(board.admin.get("/v1/datasets/mnist"))["state"] == "frozen"


# --- what takes two, and what does not -------------------------------------------------------------------------------


def test_what_is_proposed_is_answered_as_it_is_shown(board: Board) -> None:
    """Goal: whoever proposes gets what the second person will see.

    Method: the answer to each of the three guarded acts, made of its entry, against the proposal by its id, made of its
    row.
    """

    def check_shown(answer: Any, *, what: str, run: str | None = None) -> str:
        proposal = proposal_of(answer)
        shown = ok(board.two.get(f"/v1/proposals/{proposal}"))
        assert shown == answer.json()["proposal"]
        assert (shown["what"], shown["run"]) == (what, run)
        return proposal

    check_shown(board.raised(2), what="budget")
    run = started(board.requester)
    ok(approve(board.two, check_shown(board.one.post(f"/v1/runs/{run}/void", REASON), what="void", run=run)))
    overdrawn(board)
    check_shown(board.one.patch("/v1/datasets/mnist", {"state": "active", **REASON}), what="thaw")


def test_without_the_policy_one_is_enough(board: Board) -> None:
    """Goal: the policy is a tenant's choice. Method: off, each guarded act by one steward; nothing is proposed."""
    ok(board.admin.put("/v1/policy", {"second_steward": False, **REASON}))
    assert ok(board.admin.get("/v1/policy")) == {"second_steward": False}
    assert board.raised(2).status_code == 200
    ok(board.one.post(f"/v1/runs/{started(board.requester)}/void", REASON))
    overdrawn(board)
    assert ok(board.one.patch("/v1/datasets/mnist", {"state": "active", **REASON}))["state"] == "active"
    assert ok(board.admin.get("/v1/proposals"))["items"] == []
    assert not {"change-proposed", "proposal-refused"} & set(board.kinds())
    board.holds()


@pytest.mark.parametrize(
    ("budget", "is_raise"),
    [
        ({"mu": 1.1, "delta": 1e-3}, True),
        ({"mu": 1, "delta": 2e-3}, True),
        ({"mu": 2, "delta": 5e-4}, True),
        ({"mu": 0.5, "delta": 2e-3}, True),
        ({"mu": 1, "delta": 1e-3}, False),
        ({"mu": 0.9, "delta": 5e-4}, False),
    ],
    ids=["mu", "delta", "mu up, delta down", "mu down, delta up", "the same", "lower"],
)
def test_raising_a_budget_takes_two(board: Board, budget: Json, is_raise: bool) -> None:
    """Goal: more in either quantity is more. Method: budgets beside one of mu 1 and delta 1e-3; nothing is changed
    until a second steward says yes, and then all of it."""
    board.admin.register(name="both", bound="certified", budget={"mu": 1, "delta": 1e-3})
    before = ok(board.admin.get("/v1/datasets/both"))
    answer = board.one.put("/v1/datasets/both/budget", {"budget": budget, **REASON})
    if not is_raise:
        assert ok(answer)["budget"] == budget
        assert board.kinds("both") == ["dataset-registered", "budget-set"]
        return
    proposal = proposal_of(answer)
    after = ok(board.admin.get("/v1/datasets/both"))
    assert after == {**before, "seq": 2}
    shown = ok(approve(board.two, proposal))
    assert (shown["name"], shown["budget"], shown["seq"]) == ("both", budget, 3)
    assert ok(board.admin.get("/v1/datasets/both")) == shown
    assert board.kinds("both") == ["dataset-registered", "change-proposed", "budget-set"]
    assert state(board.auditor, proposal) == "approved"
    board.holds()


def test_thawing_takes_two_where_it_is_overdrawn(board: Board) -> None:
    """Goal: what an overrun froze, two people thaw; what somebody froze, one. Method: both; words change freely."""
    for change in ("frozen", "active"):
        assert ok(board.one.patch("/v1/datasets/mnist", {"state": change, **REASON}))["state"] == change
    overdrawn(board)
    assert ok(board.one.patch("/v1/datasets/mnist", {"title": "t"}))["title"] == "t"
    proposal = proposal_of(board.one.patch("/v1/datasets/mnist", {"state": "active", "title": "thawed", **REASON}))
    shown = ok(board.admin.get("/v1/datasets/mnist"))
    assert (shown["state"], shown["title"]) == ("frozen", "t")
    shown = ok(approve(board.two, proposal))
    assert (shown["state"], shown["title"]) == ("active", "thawed")
    assert board.kinds()[-2:] == ["change-proposed", "dataset-changed"]
    board.holds()


def fair(**limits: Any) -> Json:
    """A body that limits what one principal may have."""
    return {**limits, **REASON}


GUARDED: list[tuple[str, str, Json, bool]] = [
    ("POST", "partitions", {"names": ["c"], "disjoint": True}, True),
    ("PUT", "projects/new", {"budget": {"mu": 0.1}}, True),
    ("PUT", "projects/old", {"budget": {"mu": 0.6}}, True),
    ("PUT", "projects/old", {"budget": {"mu": 0.5}}, False),
    ("PUT", "projects/old", {"budget": {"mu": 0.4}}, False),
    ("PUT", "fair-use", fair(held={"mu": 0.6}, runs_per_hour=9), True),
    ("PUT", "fair-use", fair(held={"mu": 0.4}, runs_per_hour=11), True),
    ("PUT", "fair-use", fair(held={"mu": 0.4}), True),
    ("PUT", "fair-use", fair(runs_per_hour=9), True),
    ("PUT", "fair-use", fair(held={"mu": 0.5}, runs_per_hour=10), False),
    ("PUT", "fair-use", fair(held={"mu": 0.4}, runs_per_hour=9), False),
]
"""What a steward does to a dataset with partitions, a project with mu 0.5, and for one principal mu 0.5 and ten runs an
hour; and whether somebody may spend or ask for more by it."""


@pytest.mark.parametrize(("method", "path", "body", "is_more"), GUARDED)
def test_what_lets_somebody_spend_more_takes_two(
    board: Board, method: str, path: str, body: Json, is_more: bool
) -> None:
    """Goal: fresh partitions, shares and what one may have are guarded as budgets are, and tightening is not. Method:
    each act, more in either part or less; nothing is changed until a second steward says yes, and then all of it."""
    ok(board.admin.put("/v1/policy", {"second_steward": False, **REASON}))
    board.admin.register(name="parts", partitions=["a", "b"])
    ok(board.one.put("/v1/datasets/parts/projects/old", {"budget": {"mu": 0.5}}))
    ok(board.one.put("/v1/datasets/parts/fair-use", fair(held={"mu": 0.5}, runs_per_hour=10)))
    ok(board.admin.put("/v1/policy", {"second_steward": True, **REASON}))

    def shown() -> Json:
        found = ok(board.admin.get("/v1/datasets/parts"))
        return {name: value for name, value in found.items() if name not in ("seq", "balance")}

    before = shown()
    answer = board.one.request(method, f"/v1/datasets/parts/{path}", json=body)
    if is_more:
        proposal = proposal_of(answer)
        what = {"partitions": "partitions", "fair-use": "fair-use"}.get(path, "project")
        assert answer.json()["proposal"]["what"] == what
        assert shown() == before
        assert code(approve(board.one, proposal)) == (403, "forbidden")
        ok(approve(board.two, proposal))
    else:
        assert answer.status_code in (200, 201), answer.text
    assert (shown() != before) == (body not in ({"budget": {"mu": 0.5}}, fair(held={"mu": 0.5}, runs_per_hour=10)))
    last = board.journal("parts")[-1]
    assert last["kind"] in ("partitions-added", "project-set", "fair-use-set")
    assert ("proposal" in last) == is_more
    board.holds()


def test_a_first_limit_on_what_one_may_have_takes_one(board: Board) -> None:
    """Goal: where there was no limit, any is a tighter one."""
    ok(board.one.put("/v1/datasets/mnist/fair-use", fair(held={"mu": 9})))
    ok(board.one.put("/v1/datasets/mnist/fair-use", fair(held={"mu": 9}, runs_per_hour=5)))
    proposal_of(board.one.put("/v1/datasets/mnist/fair-use", fair(runs_per_hour=5)))
    board.holds()


def test_an_older_policy_holds_what_it_guarded() -> None:
    """Goal: a journal of before, whose policy does not say what it guards, still holds: what it did not guard may have
    taken one person, and takes two by now."""
    loosenings = [Loosening(2, "2026-11-02", "project", is_proposal=each, version=3) for each in (True, False)]
    older = Policy("2026-11-01", GUARDED_AT_FIRST, is_older=True)
    demand_policy([older], loosenings)
    for what, is_proposal in (("budget", False), ("void", False), ("thaw", False)):
        with pytest.raises(JournalBroken, match="needs two"):
            demand_policy([older], [Loosening(2, "2026-11-02", what, is_proposal=is_proposal, version=3)])
    newer = Policy("2026-11-01", KINDS)
    demand_policy([newer], loosenings[:1])
    with pytest.raises(JournalBroken, match="needs two"):
        demand_policy([newer], loosenings[1:])
    # At the very moment of a policy, either is right; before any, one person is enough.
    demand_policy(
        [older], [Loosening(2, "2026-11-01", "budget", is_proposal=each, version=3) for each in (True, False)]
    )
    demand_policy([older], [Loosening(2, "2026-10-31", "budget", is_proposal=False, version=3)])
    # Before version 3 a decision may have read the policy of a minute before.
    late = Loosening(2, "2026-11-01T00:00:30.000000Z", "budget", is_proposal=False, version=2)
    policy = older._replace(at="2026-11-01T00:00:00.000000Z")
    demand_policy([policy], [late])
    for wrong in (late._replace(version=3), late._replace(at="2026-11-01T00:01:00.000001Z")):
        with pytest.raises(JournalBroken, match="needs two"):
            demand_policy([policy], [wrong])


def test_voiding_a_started_run_takes_two(board: Board) -> None:
    """Goal: that nobody saw an output is two people's word, in the journal of every dataset that the run touched.
    Method: a run on two datasets, started; one that is only held is voided by one."""
    board.admin.register(name="adult")
    held = ok(board.requester.ask(key="held"))["id"]
    assert ok(board.one.post(f"/v1/runs/{held}/void", REASON))["state"] == "voided"
    run = started(board.requester, "adult", "mnist")
    assert code(board.requester.post(f"/v1/runs/{run}/void", REASON)) == (403, "forbidden")
    proposal = proposal_of(board.one.post(f"/v1/runs/{run}/void", REASON))
    shown = ok(board.auditor.get(f"/v1/proposals/{proposal}"))
    assert (shown["what"], shown["run"], shown["dataset"]) == ("void", run, "adult")
    assert ok(board.admin.get(f"/v1/runs/{run}"))["state"] == "started"
    assert [board.admin.balance(name)["held"][0] for name in ("mnist", "adult")] == [HELD, HELD]
    answer = ok(approve(board.two, proposal))
    assert (answer["id"], answer["state"]) == (run, "voided")
    assert [board.admin.balance(name)["held"][0] for name in ("mnist", "adult")] == [0, 0]
    for name in ("mnist", "adult"):
        *_, proposed, voided = board.journal(name)
        assert (proposed["kind"], voided["kind"]) == ("change-proposed", "run-voided")
        assert (proposed["proposal"], proposed["about_run"]) == (proposal, run)
        assert voided["proposal"] == {"id": proposal, "by": proposed["actor"], "at": proposed["at"]}
    # Said again it is as any other repetition: what was done is answered, and nothing is proposed.
    assert ok(board.one.post(f"/v1/runs/{run}/void", REASON))["state"] == "voided"
    board.holds()


# --- who the second person is ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["approve", "refuse"])
def test_the_second_person_is_another_steward(board: Board, answer: str) -> None:
    """Goal: one person is one person, and only a steward or an admin counts. Method: the proposer by the same key and
    by a rotated one, a requester, an auditor, the operator, another tenant's admin; then a second steward."""
    proposal = proposal_of(board.raised(2))
    path = f"/v1/proposals/{proposal}/{answer}"
    first = next(
        key for key in ok(board.admin.get("/v1/keys"))["items"] if key["id"] == board.journal()[-1]["actor"]["key"]
    )
    rotated = board.admin.with_key(ok(board.admin.post(f"/v1/keys/{first['id']}/rotate"))["secret"])
    operator = board.admin.with_key(board.admin.operator_key)
    stranger = board.admin.with_key(ok(operator.post("/v1/tenants", {"name": "globex"}))["key"]["secret"])
    before = board.admin.get("/v1/datasets/mnist").text
    for by in (board.one, rotated, board.requester, board.auditor, operator):
        assert code(by.post(path, REASON)) == (403, "forbidden")
    assert code(stranger.post(path, REASON)) == (404, "not-found")
    assert code(board.two.post(f"/v1/proposals/{NOBODY}/{answer}", REASON)) == (404, "not-found")
    assert board.admin.get("/v1/datasets/mnist").text == before
    assert state(board.auditor, proposal) == "open"
    ok(board.two.post(path, REASON))
    assert state(board.auditor, proposal) == ("approved" if answer == "approve" else "refused")
    assert board.limit() == (4 if answer == "approve" else 1) * 10**12
    board.holds()


def test_limits_of_a_key_hold_for_proposals(board: Board) -> None:
    """Goal: a steward limited to datasets answers what is about those alone. Method: one of each; none is listed."""
    board.admin.register(name="adult")
    limited = board.admin.as_("steward", datasets=["adult"])
    hidden = proposal_of(board.raised(2))
    body = {"budget": {"mu": 2}, **REASON}
    seen = proposal_of(board.one.put("/v1/datasets/adult/budget", body))
    for answer in (limited.get(f"/v1/proposals/{hidden}"), approve(limited, hidden)):
        assert code(answer) == (404, "not-found")
        assert answer.text == limited.get(f"/v1/proposals/{NOBODY}").text
    assert code(limited.get("/v1/proposals")) == (403, "forbidden")
    assert ok(approve(limited, seen))["budget"] == {"mu": 2}


def test_refusal(board: Board) -> None:
    """Goal: a no is on record, and final. Method: refuse a raise and a void; then try to answer them again."""
    run = started(board.requester)
    proposals: list[Callable[[], Any]] = [
        lambda: board.raised(2),
        lambda: board.one.post(f"/v1/runs/{run}/void", REASON),
    ]
    for propose in proposals:
        proposal = proposal_of(propose())
        shown = ok(board.two.post(f"/v1/proposals/{proposal}/refuse", {"reason": "the board has not agreed"}))
        assert shown["state"] == "refused"
        *_, proposed, refused = board.journal()
        assert (refused["kind"], refused["proposal"], refused["what"]) == (
            "proposal-refused",
            proposal,
            proposed["what"],
        )
        assert refused["reason"] == "the board has not agreed"
        for answer in (approve(board.two, proposal), board.two.post(f"/v1/proposals/{proposal}/refuse", REASON)):
            assert code(answer) == (409, "proposal-state")
            assert answer.json()["state"] == "refused"
    assert board.limit() == 10**12
    assert ok(board.admin.get(f"/v1/runs/{run}"))["state"] == "started"
    board.holds()


def test_a_proposal_expires_after_a_day(board: Board) -> None:
    """Goal: a yes comes within a day, or not at all. Method: set a proposal's time back; neither yes nor no is taken,
    it is listed as expired, and the same can be proposed anew."""
    proposal, other = proposal_of(board.raised(2)), proposal_of(board.raised(3))
    board.a_day_later(proposal)
    assert state(board.auditor, proposal) == "expired"
    for answer in (approve(board.two, proposal), board.two.post(f"/v1/proposals/{proposal}/refuse", REASON)):
        assert code(answer) == (409, "proposal-state")
        assert answer.json()["state"] == "expired"
    listed = {
        wanted: [each["id"] for each in ok(board.auditor.get("/v1/proposals", state=wanted))["items"]]
        for wanted in ("open", "expired", "approved", "refused")
    }
    assert listed == {"open": [other], "expired": [proposal], "approved": [], "refused": []}
    ok(approve(board.two, proposal_of(board.raised(2))))
    assert board.limit() == 4 * 10**12
    board.holds(but=proposal)


# --- when things have changed meanwhile ------------------------------------------------------------------------------


def test_a_budget_that_no_longer_holds_what_is_spent(board: Board) -> None:
    """Goal: an approval does not break the limit. Method: two raises; the higher one is approved and used; the lower
    one is then below what is held, is refused by its numbers, stays open, and can be approved once there is room."""
    lower, higher = proposal_of(board.raised(1.2)), proposal_of(board.raised(3))
    ok(approve(board.two, higher))
    run = ok(board.requester.ask({"type": "gaussian", "noise_multiplier": 0.5}, key="large"))["id"]
    answer = approve(board.two, lower)
    assert code(answer) == (409, "budget-below-spent")
    assert (state(board.auditor, lower), board.limit()) == ("open", 9 * 10**12)
    assert board.kinds().count("budget-set") == 1
    ok(board.requester.post(f"/v1/runs/{run}/void", REASON))
    ok(approve(board.two, lower))
    assert (state(board.auditor, lower), board.limit()) == ("approved", 144 * 10**10)
    board.holds()


@pytest.mark.parametrize("ended", ["settled", "voided"])
def test_a_run_that_ended_meanwhile(board: Board, ended: str) -> None:
    """Goal: an approval does not undo what is final. Method: propose to void a run; it is settled, or voided while
    one person was enough; the approval is refused, changes nothing, and leaves the proposal to be refused or to
    expire."""
    run = started(board.requester)
    proposal = proposal_of(board.one.post(f"/v1/runs/{run}/void", REASON))
    if ended == "settled":
        ok(board.requester.post(f"/v1/runs/{run}/settle"))
    else:
        # Without the policy one person voids it, with the proposal still open.
        ok(board.admin.put("/v1/policy", {"second_steward": False, **REASON}))
        ok(board.one.post(f"/v1/runs/{run}/void", REASON))
        ok(board.admin.put("/v1/policy", {"second_steward": True, **REASON}))
    before = board.admin.get("/v1/datasets/mnist").text
    answer = approve(board.two, proposal)
    assert code(answer) == (409, "run-state")
    assert answer.json()["state"] == ended
    assert board.admin.get("/v1/datasets/mnist").text == before
    assert state(board.auditor, proposal) == "open"
    assert ok(board.two.post(f"/v1/proposals/{proposal}/refuse", REASON))["state"] == "refused"
    board.holds()


def test_a_dataset_retired_meanwhile(board: Board) -> None:
    """Goal: retired is for ever, for two people too. Method: propose to thaw, retire, approve."""
    overdrawn(board)
    proposal = proposal_of(board.one.patch("/v1/datasets/mnist", {"state": "active", **REASON}))
    ok(board.one.patch("/v1/datasets/mnist", {"state": "retired", **REASON}))
    assert code(approve(board.two, proposal)) == (409, "dataset-frozen")
    assert (state(board.auditor, proposal), ok(board.admin.get("/v1/datasets/mnist"))["state"]) == ("open", "retired")
    board.holds()


def test_a_proposer_whose_key_is_gone(board: Board) -> None:
    """Goal: what was proposed stands, as what was decided does. Method: revoke the proposer's key, then approve."""
    proposal = proposal_of(board.raised(2))
    ok(board.admin.delete(f"/v1/keys/{board.journal()[-1]['actor']['key']}"))
    ok(approve(board.two, proposal))
    assert board.limit() == 4 * 10**12
    board.holds()


def test_open_proposals_are_bounded(board: Board) -> None:
    """Goal: nobody fills a dataset's books with proposals, and no one person keeps others from proposing. Method: as
    many as one may have, and one more; as many as there may be, and one more; one that expired, and one that was
    answered, make room for another."""
    made: list[str] = []
    for by in [*(board.admin.as_("steward") for _ in range(PROPOSALS_MAX // PROPOSALS_OF_ONE_MAX - 1)), board.one]:
        made = [*(proposal_of(board.raised(2, by=by)) for _ in range(PROPOSALS_OF_ONE_MAX)), *made]
        full = board.raised(2, by=by)
        most = PROPOSALS_MAX if by is board.one else PROPOSALS_OF_ONE_MAX
        assert (*code(full), full.json()["proposals_max"]) == (413, "too-large", most)
    assert len(made) == PROPOSALS_MAX
    assert code(board.raised(2, by=board.two)) == (413, "too-large")
    board.a_day_later(made[0])
    proposal_of(board.raised(2))
    assert code(board.raised(2)) == (413, "too-large")
    ok(board.two.post(f"/v1/proposals/{made[1]}/refuse", REASON))
    proposal_of(board.raised(2))
    assert code(board.raised(2)) == (413, "too-large")
    seen, cursor = [], None
    while page := ok(board.auditor.get("/v1/proposals", limit=40, **({} if cursor is None else {"cursor": cursor}))):
        seen += [each["id"] for each in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) == PROPOSALS_MAX + 2
    assert set(made) <= set(seen)


def test_a_run_has_one_open_proposal_to_void_it(board: Board) -> None:
    """Goal: who asks again because an answer was lost proposes nothing a second time, and so does a colleague who did
    not know of it. Method: the same void by both; a day later, and once it was refused, it can be proposed anew."""
    run = started(board.requester)
    path = f"/v1/runs/{run}/void"
    first = board.one.post(path, REASON)
    proposal = proposal_of(first)
    for by in (board.one, board.two):
        again = by.post(path, REASON)
        assert (again.status_code, again.json()) == (202, first.json())
    assert board.kinds().count("change-proposed") == 1
    ok(board.two.post(f"/v1/proposals/{proposal}/refuse", REASON))
    second = proposal_of(board.one.post(path, REASON))
    board.holds()
    board.a_day_later(second)
    third = proposal_of(board.two.post(path, REASON))
    assert len({proposal, second, third}) == 3
    ok(approve(board.one, third))


def test_two_approvals_at_once(database: Settings, start_server: Callable[[Settings], Served]) -> None:
    """Goal: a proposal is carried out once. Method: stewards at two server processes say yes and no to the same ones,
    all at once; of each one answer wins, and the journals add up."""
    admin_key = first_keys(database).admin_key
    with start_server(database).client() as here, start_server(database).client() as there:
        admin = Ledger(here, admin_key)
        admin.register()
        ok(admin.put("/v1/policy", {"second_steward": True, **REASON}))
        one = admin.as_("steward")
        others = [Ledger(client, admin.as_("steward").key) for client in (here, there) for _ in range(3)]
        board = Board(admin, one, others[0], one, one, database)
        wins = []
        with ThreadPoolExecutor(len(others)) as threads:
            for turn in range(5):
                proposal = proposal_of(board.raised(2 + turn / 4))
                verbs = ["approve", "approve", "refuse"] * 2
                tried = [
                    threads.submit(by.post, f"/v1/proposals/{proposal}/{verb}", REASON if verb == "refuse" else None)
                    for by, verb in zip(others, verbs, strict=True)
                ]
                answers = [each.result() for each in tried]
                assert sorted(answer.status_code for answer in answers) == [200, *[409] * 5], [a.text for a in answers]
                wins.append(state(admin, proposal))
        kinds = board.kinds()
        assert kinds.count("change-proposed") == 5
        assert kinds.count("budget-set") == wins.count("approved")
        assert kinds.count("proposal-refused") == wins.count("refused")
        assert len(wins) == wins.count("approved") + wins.count("refused")
        board.holds()


# --- what the journals prove -----------------------------------------------------------------------------------------


def resealed(entries: list[Json]) -> list[tuple[str, bytes]]:
    """A journal as a forger would leave it: numbered and chained anew, every hash right."""
    prev, sealed = NO_HASH, []
    for seq, entry in enumerate(entries, start=1):
        body = chain.canonical({**entry, "seq": seq, "prev": prev.hex()})
        prev = chain.digest(body)
        sealed.append((body, prev))
    return sealed


def forgeries(good: list[Json]) -> Iterator[tuple[str, list[Json], str]]:
    """What somebody could want the record to say instead, and what a reader says to it. The last three entries are the
    proposal of a raise, its approval, and the proposal of another one."""
    done, proposal = len(good) - 2, len(good) - 3

    def changed(place: int, **changes: Any) -> list[Json]:
        entries = copy.deepcopy(good)
        entries[place] |= changes
        return entries

    entry, said = good[done], good[done]["proposal"]
    proposer = good[proposal]["actor"]
    tenfold = {"mu_sq_pico": str(10**14), "delta_atto": "0"}
    yield "approved by the proposer", changed(done, actor=proposer), "the same person"
    yield "never proposed", [*good[:proposal], *good[done:]], "never made"
    yield "of another proposal", changed(done, proposal={**said, "id": NOBODY}), "never made"
    yield "of somebody else's", changed(done, proposal={**said, "by": entry["actor"]}), "another person"
    yield "approved twice", [*good[: done + 1], entry], "answered before"
    yield "proposed twice", [*good[:done], good[proposal], *good[done:]], "a second time"
    yield "approved too late", changed(done, at=good[proposal]["approve_by"]), "had expired"
    later = {"approve_by": good[-1]["approve_by"]}
    yield "proposed for longer", changed(proposal, **later), "other than one day"
    more = changed(done, limit=tenfold, balance={**entry["balance"], "limit": tenfold})
    yield "more than was proposed", more, "other than the one proposed"
    yield "for another reason", changed(done, reason="another"), "other than the one proposed"
    yield "something else altogether", changed(proposal, what="thaw"), "other than the one"
    refusal = {"kind": "proposal-refused", "proposal": good[-1]["proposal"], "what": "budget", "reason": "no"}
    bare = {name: good[-1][name] for name in ("v", "tenant", "dataset", "dataset_id", "at", "balance")}
    yield "refused by the proposer", [*good, {**bare, **refusal, "actor": good[-1]["actor"]}], "the same person"


def test_forged_journals_are_found(board: Board) -> None:
    """Goal: who could write the journal anew, with every hash right, still cannot make two people of one. Method: each
    of the forgeries above; the journal as it is, sealed by the same code, holds."""
    ok(approve(board.two, proposal_of(board.raised(2))))
    proposal_of(board.raised(3))
    good = board.journal()
    where: dict[str, Any] = {"tenant_id": UUID(good[0]["tenant"]), "dataset_id": UUID(good[0]["dataset_id"])}
    assert replay.replay(resealed(good), **where).seq == len(good)
    tried = []
    for name, entries, told in forgeries(good):
        with pytest.raises(JournalBroken, match=told):
            replay.replay(resealed(entries), **where)
        tried.append(name)
    assert len(tried) == len(set(tried)) == 12


def test_a_forged_void_is_found(board: Board) -> None:
    """Goal: the two people's word is about one run. Method: an approved void of a run, told of another one."""
    first, second = started(board.requester), started(board.requester)
    ok(approve(board.two, proposal_of(board.one.post(f"/v1/runs/{first}/void", REASON))))
    good = board.journal()
    where: dict[str, Any] = {"tenant_id": UUID(good[0]["tenant"]), "dataset_id": UUID(good[0]["dataset_id"])}
    assert replay.replay(resealed(good), **where).runs[UUID(first)][0] == "voided"
    with pytest.raises(JournalBroken, match="other than the one"):
        replay.replay(resealed([*good[:-1], {**good[-1], "run": second}]), **where)


def test_rows_that_say_otherwise_are_found(board: Board) -> None:
    """Goal: who has the database cannot switch the policy off unseen. Method: change its row; `check` says whose."""
    with board.owner() as owner:
        owner.execute(text("UPDATE tenants SET second_steward = 0"))
    (found,) = [result for result in check_journals(board.settings) if result["error"] is not None]
    assert (found["dataset"], found["tenant"]) == (None, "acme")
    assert "policy" in found["error"]


def test_what_one_person_did_under_the_policy_is_found(board: Board) -> None:
    """Goal: who has the database cannot switch the policy off for a moment. Method: the row says no, one steward
    raises, the row says yes again; and a proposal that no policy asked for. `check` names the entry; before the policy
    of record was set, and after it was lifted, one person is enough."""
    ok(board.admin.put("/v1/policy", {"second_steward": False, **REASON}))
    ok(board.raised(2))
    ok(board.admin.put("/v1/policy", {"second_steward": True, **REASON}))
    ok(approve(board.two, proposal_of(board.raised(3))))
    board.holds()
    for name, is_on, answered in (("alone", 0, 200), ("two", 1, 202)):
        board.admin.register(name=name)
        ok(board.admin.put("/v1/policy", {"second_steward": not is_on, **REASON}))
        with board.owner() as owner:
            owner.execute(text("UPDATE tenants SET second_steward = :is_on"), {"is_on": is_on})
        assert board.one.put(f"/v1/datasets/{name}/budget", {"budget": {"mu": 2}, **REASON}).status_code == answered
        with board.owner() as owner:
            owner.execute(text("UPDATE tenants SET second_steward = 1 - second_steward"))
    faults = {result["dataset"]: result["error"] for result in check_journals(board.settings) if result["error"]}
    assert faults == {
        "alone": "entry 2: was made by one person and needs two, by the policy of its time",
        "two": "entry 2: proposes a change that needs one person only, by the policy of its time",
    }
