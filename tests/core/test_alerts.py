"""What is worth telling of, as a function of entries and numbers alone: no database, no network, no clock."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest

from ledger.canonical import canonical
from ledger.core.alerting import Alert, Alerting
from ledger.core.alerts import (
    NAMED_MAX,
    event,
    head,
    id_of,
    lapsing,
    level,
    mismatch,
    overdue,
    raised,
    refused_datasets,
    short,
    trial,
)
from ledger.core.amounts import Amount
from ledger.core.books import Books
from ledger.core.datasets import (
    Account,
    AccountKey,
    Dataset,
    Definition,
    Parent,
)
from ledger.core.entries import NO_HASH, Draft
from ledger.core.forecast import (
    DAY_US,
    HISTORY_US,
    HORIZON_US,
    Spend,
    forecast,
)
from ledger.core.people import Proposal, Tenant

MNIST = UUID(int=1)
ACTOR = {"key": "k", "principal": "p", "name": "n", "role": "requester"}
TENANT = Tenant(UUID(int=9), "acme", second_steward=False, seq=0, head=NO_HASH)
NOW_US = 1_800_000_000_000_000
LIMIT = Amount(1000, 1000)


def account(used: int, *, limit: Amount = LIMIT, delta: int = 0, key: AccountKey | None = None) -> Account:
    """An account of which so much mu² is used, half of it spent."""
    spent = used // 2
    return Account(key or AccountKey(MNIST), limit, Amount(spent, delta), Amount(used - spent, 0))


def books(*accounts: Account, alerting: Alerting | None = None, state: Any = "active") -> Books:
    """Books of one dataset with these accounts."""
    definition = Definition(MNIST, "mnist", "record", "add_or_remove_one", "clt", None)
    dataset = Dataset(definition, "", "", {}, LIMIT, state, 4, NO_HASH)
    return Books(
        datasets={MNIST: dataset},
        accounts={each.key: each for each in accounts},
        alerting=alerting or Alerting(),
    )


def entry(seq: int, kind: str, *after: Account, run: int | None = None, **facts: Any) -> Draft:
    """An entry that says these balances, as `decide` writes them."""
    said: dict[str, Any] = dict(facts)
    for each in after:
        if each.key == AccountKey(MNIST):
            said["balance"] = each.facts()
        else:
            names = {} if each.key.partition is None else {"partitions": [each.key.partition]}
            rest = replace(each, key=each.key._replace(partition=None))
            said.setdefault("accounts", []).append({**names, **rest.key.facts(), **rest.facts()})
    return Draft(MNIST, "mnist", seq, kind, ACTOR, said, None if run is None else UUID(int=run))


def told(before: Books, *drafts: Draft, refused: int = 0) -> list[Alert]:
    """What these entries raise."""
    return raised(before, drafts, dict.fromkeys(refused_datasets(before.alerting, drafts), refused))


def percents(alerts: Sequence[Alert]) -> list[int]:
    """The thresholds among them."""
    return [alert.facts["percent"] for alert in alerts if alert.kind == "threshold"]


# --- thresholds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("percent", [50, 80, 90, 95, 100])
@pytest.mark.parametrize("limit", [100, 1000, 997, 10**18, 3])
def test_a_threshold_is_passed_at_the_very_integer(percent: int, limit: int) -> None:
    """Goal: no rounding. Method: the least integer that is so many percent of a limit, by exact fractions, and the one
    below it; for limits that a hundred does and does not divide."""
    least = -(-percent * limit // 100)
    assert Fraction(least, limit) >= Fraction(percent, 100) > Fraction(least - 1, limit)
    most = Amount(limit, 0)
    before = books(account(0, limit=most))
    assert percent in percents(told(before, entry(5, "run-approved", account(least, limit=most))))
    assert percent not in percents(told(before, entry(5, "run-approved", account(least - 1, limit=most))))


def test_either_quantity_passes_a_threshold() -> None:
    """Goal: delta counts as mu² does, and a limit of zero does not count. Method: one of them near its limit."""
    before = books(account(0))
    alert = told(before, entry(5, "run-approved", account(100, delta=800)))[-1]
    assert (alert.facts["percent"], alert.facts["quantities"]) == (80, ["delta"])
    alert = told(before, entry(5, "run-approved", account(810, delta=805)))[-1]
    assert (alert.facts["percent"], alert.facts["quantities"]) == (80, ["mu", "delta"])
    none = Amount(1000, 0)
    assert told(books(account(0, limit=none)), entry(5, "run-approved", account(10, limit=none))) == []
    assert level(Amount(5, 5), Amount(0, 0)) == 0


def test_each_threshold_once_on_the_way_up() -> None:
    """Goal: each is told of when it is passed, and not again while it stays passed, however entries are grouped.

    Method: a random walk of approvals and voids, as one group and as groups of every size; a set of ids is what a
    tenant is told, since an id is inserted once. It is that of every threshold that the walk ever reached.
    """
    generator = random.Random(5)
    walk = [account(0)]
    for _ in range(60):
        used = walk[-1].spent.mu_sq_pico + walk[-1].held.mu_sq_pico
        walk.append(account(max(0, min(1000, used + generator.randint(-40, 80)))))
    steps = [
        entry(
            5 + place,
            "run-approved" if sum_of(new) > sum_of(old) else "run-voided",
            new,
        )
        for place, (old, new) in enumerate(pairwise(walk))
    ]
    highest = max(map(sum_of, walk))
    reached = {percent for percent in Alerting().thresholds if 10 * percent <= highest}
    assert len(reached) > 2
    for size in (1, 2, 7, 60):
        ids: set[UUID] = set()
        seen: set[int] = set()
        for start in range(0, len(steps), size):
            group = steps[start : start + size]
            found = told(books(walk[start]), *group)
            ids |= {id_of(TENANT.id, alert) for alert in found}
            seen |= set(percents(found))
        assert seen == reached
        assert len(ids) == len(reached)


def sum_of(one: Account) -> int:
    """What of mu² is used."""
    return (one.spent + one.held).mu_sq_pico


def test_a_jump_tells_of_every_threshold_it_passes() -> None:
    """Goal: who waits for 80 % hears of it also where one run goes from nothing to the end. Method: do that."""
    assert percents(told(books(account(0)), entry(5, "run-approved", account(1000)))) == [50, 80, 90, 95, 100]


def test_a_raised_budget_arms_its_thresholds_anew() -> None:
    """Goal: a new limit is told of anew; raising it tells of nothing. Method: up to 80 %, a raise, up to 80 % again."""
    raised_limit = Amount(2000, 2000)
    first = told(books(account(700)), entry(5, "run-approved", account(800)))
    at_the_raise = told(books(account(800)), entry(6, "budget-set", account(800, limit=raised_limit)))
    second = told(books(account(800, limit=raised_limit)), entry(7, "run-approved", account(1600, limit=raised_limit)))
    assert percents(first) == [80]
    assert at_the_raise == []
    assert percents(second) == [50, 80]
    assert id_of(TENANT.id, first[0]) != id_of(TENANT.id, second[1])


def test_a_lowered_budget_can_pass_a_threshold() -> None:
    """Goal: it is the part that counts, whichever of the two moved. Method: the same use under half the limit."""
    alerts = told(books(account(450)), entry(5, "budget-set", account(450, limit=Amount(500, 500))))
    assert percents(alerts) == [50, 80, 90]
    assert alerts[0].run_id is None


def test_accounts_of_partitions_and_projects_count_for_themselves() -> None:
    """Goal: each account is told of by name, and those of principals are not. Method: an entry with one of each."""
    keys = [
        AccountKey(MNIST, "2026-10"),
        AccountKey(MNIST, "2026-10", "ranking"),
        AccountKey(MNIST, "2026-10", None, UUID(int=3)),
    ]
    before = books(*(account(0, key=key) for key in keys))
    alerts = told(before, entry(5, "run-approved", *(account(500, key=key) for key in keys), run=8))
    assert [alert.facts["account"] for alert in alerts] == [
        {"partition": "2026-10"},
        {"partition": "2026-10", "project": "ranking"},
    ]
    assert len({id_of(TENANT.id, alert) for alert in alerts}) == 2
    assert {alert.run_id for alert in alerts} == {UUID(int=8)}


def test_an_account_charged_for_the_first_time_begins_with_nothing() -> None:
    """Goal: a project's first run can pass a threshold. Method: an account that the books do not have yet."""
    key = AccountKey(MNIST, None, "ranking")
    assert percents(told(books(), entry(5, "run-approved", account(900, key=key)))) == [50, 80, 90]


@pytest.mark.parametrize(("count", "alerts"), [(NAMED_MAX, NAMED_MAX), (NAMED_MAX + 1, 1), (4096, 1)])
def test_many_partitions_at_once_are_one_alert(count: int, alerts: int) -> None:
    """Goal: a run on four thousand partitions is no four thousand alerts. Method: at the bound and above it."""
    keys = [AccountKey(MNIST, f"p{number:04}") for number in range(count)]
    before = books(*(account(0, key=key) for key in keys), alerting=Alerting(thresholds=(50,)))
    found = told(before, entry(5, "run-approved", *(account(500, key=key) for key in keys)))
    assert len(found) == alerts
    if alerts == 1:
        assert found[0].facts["partitions_count"] == count
        assert found[0].facts["partitions"] == [key.partition for key in keys[:NAMED_MAX]]


def test_the_tenant_chooses_the_thresholds() -> None:
    """Goal: only those that were asked for. Method: others, and none."""
    step = entry(5, "run-approved", account(1000))
    assert percents(told(books(account(0), alerting=Alerting(thresholds=(33, 99))), step)) == [33, 99]
    assert told(books(account(0), alerting=Alerting(thresholds=())), step) == []


# --- refusals, overruns, frozen --------------------------------------------------------------------------------------


def refusals_model(kinds: Sequence[str], most: int) -> list[int]:
    """The places at which a reader of the whole journal would tell: the last `most` decisions are refusals, and the one
    before them is none."""
    decisions = [place for place, kind in enumerate(kinds) if kind in ("run-approved", "run-refused")]
    found = []
    for number, place in enumerate(decisions):
        last = [kinds[each] for each in decisions[max(0, number - most + 1) : number + 1]]
        before = kinds[decisions[number - most]] if number >= most else "run-approved"
        if last == ["run-refused"] * most and before == "run-approved":
            found.append(place)
    return found


def test_refusals_in_a_row(tries: Callable[[int, int], int]) -> None:
    """Goal: n refusals with no approval between are told of once, at the n-th, and again only after an approval.

    Method: random journals against a model that reads all of them, cut into groups at random; what a group is told of
    before it is counted up to n, as the database counts it.
    """
    generator = random.Random(3)
    kinds = ["run-approved", "run-refused", "run-refused", "run-refused", "run-started", "dataset-changed"]
    for _ in range(tries(300, 20_000)):
        most = generator.randint(1, 4)
        journal = generator.choices(kinds, k=generator.randint(0, 25))
        alerting = Alerting(thresholds=(), refusals_in_a_row=most)
        found: list[int] = []
        start = 0
        while start < len(journal):
            end = start + generator.randint(1, 6)
            group = [entry(place, journal[place]) for place in range(start, min(end, len(journal)))]
            decided = [kind for kind in reversed(journal[:start]) if kind in ("run-approved", "run-refused")][:most]
            before = next((count for count, kind in enumerate(decided) if kind != "run-refused"), len(decided))
            found += [alert.seq or 0 for alert in told(books(alerting=alerting), *group, refused=before)]
            start = end
        assert found == refusals_model(journal, most), journal


def test_refusals_can_be_turned_off() -> None:
    """Goal: None is never, and the database is not asked. Method: many refusals."""
    off = books(alerting=Alerting(refusals_in_a_row=None))
    refused = [entry(seq, "run-refused") for seq in range(9)]
    assert told(off, *refused) == []
    assert refused_datasets(off.alerting, refused) == []
    assert refused_datasets(Alerting(), refused) == [MNIST]


def test_overruns_and_what_they_froze() -> None:
    """Goal: an overrun is told of, and a dataset that it froze; one that was frozen stays frozen in silence.

    Method: a settling that overran and froze, twice; and a steward's word.
    """
    overrun = {"steps": 3, "cost": Amount(1, 0).facts(), "fits": False, "frozen": ["mnist"], "method": "m"}
    settled = [entry(seq, "run-settled", account(1000), run=seq, overrun=overrun, state="frozen") for seq in (5, 6)]
    alerts = [alert for alert in told(books(account(1000)), *settled) if alert.kind != "threshold"]
    assert [(alert.kind, alert.seq) for alert in alerts] == [("overrun", 5), ("frozen", 5), ("overrun", 6)]
    assert alerts[0].facts["overrun"] == {"steps": 3, "cost": Amount(1, 0).facts(), "fits": False}
    changed = entry(7, "dataset-changed", state="frozen", reason="under review")
    assert [(alert.kind, alert.facts["reason"]) for alert in told(books(), changed)] == [("frozen", "under review")]
    assert told(books(state="frozen"), changed) == []
    thawed = entry(6, "dataset-changed", state="active", reason="seen")
    assert [alert.seq for alert in told(books(state="frozen"), thawed, changed)] == [7]


# --- events ----------------------------------------------------------------------------------------------------------


def every_alert() -> Iterator[Alert]:
    """One of each kind."""
    dataset = Parent(MNIST, "mnist")
    overrun = {"steps": 1, "cost": Amount(1, 0).facts(), "fits": True}
    drafts = [entry(5, "run-settled", account(500), run=7, overrun=overrun, state="frozen")]
    yield from told(books(account(0)), *drafts, entry(6, "run-refused"), refused=2)
    yield overdue(dataset, run_id=UUID(int=7), state="held", due_us=NOW_US, seq=3)
    yield mismatch(dataset, seq=4, reason="r")
    yield mismatch(None, seq=4, reason="r")
    yield head(dataset, seq=4, facts={"hash": NO_HASH.hex()})
    yield head(None, seq=4, facts={"hash": NO_HASH.hex()})
    yield trial(uuid.uuid4(), by=ACTOR)
    proposes: dict[str, Any] = {
        "proposal": str(UUID(int=8)),
        "what": "void",
        "approve_by": "2027-01-16T08:00:00.000000Z",
    }
    about = {**proposes, "about_run": str(UUID(int=7)), "proposes": {"request": {}}}
    # A proposal about a run is in the journal of each of its datasets, and is one alert.
    yield from told(books(account(0)), entry(5, "change-proposed", **about), entry(6, "change-proposed", **about))
    body: dict[str, Any] = {"request": {}, "by": ACTOR}
    ids = UUID(int=8), MNIST, UUID(int=7), UUID(int=9)
    yield lapsing(dataset, Proposal(ids[0], "void", *ids[1:], body, "open", NOW_US - DAY_US, NOW_US))
    spends = [Spend(NOW_US - DAY_US, Amount(400, 0))] * 3
    found = forecast(spends, Amount(100, 1), since_us=NOW_US - 10 * DAY_US, now_us=NOW_US)
    alert = short(Alerting(), dataset, AccountKey(MNIST), LIMIT, found, now_us=NOW_US)
    assert alert is not None
    yield alert


def test_every_kind_has_a_canonical_event() -> None:
    """Goal: each can be signed, is told from all others by its id, and is the same again. Method: one of each kind."""
    events = [event(alert, TENANT, at_us=NOW_US) for alert in every_alert()]
    assert {said["kind"] for said in events} == {
        *("threshold", "refusals", "overrun", "frozen"),
        *("overdue", "mismatch", "forecast", "head", "test", "proposal", "lapsing"),
    }
    assert len({canonical(said) for said in events}) == len({said["id"] for said in events}) == len(events)
    for said in events:
        assert said["tenant"] == {"id": str(TENANT.id), "name": "acme"}
        assert (said["v"], said["type"], said["at"]) == (1, "alert", "2027-01-15T08:00:00.000000Z")
    other = replace(TENANT, id=UUID(int=10))
    alert = next(every_alert())
    assert event(alert, other, at_us=0)["id"] != event(alert, TENANT, at_us=0)["id"]


# --- the forecast ----------------------------------------------------------------------------------------------------


def forecast_by_steps(spends: Sequence[Spend], remaining: Amount, *, since_us: int, now_us: int) -> int | None:
    """A forecast by somebody who knows fractions alone: the rate in each quantity, and the moment at which it has taken
    what is left, rounded down to a microsecond."""
    window = [each for each in spends if since_us <= each.at_us <= now_us]
    if len(window) < 3 and not (window and now_us - since_us >= 7 * DAY_US):
        return None
    moments: list[int] = []
    for quantity in ("mu_sq_pico", "delta_atto"):
        total = sum((Fraction(getattr(each.amount, quantity)) for each in window), Fraction(0))
        rate = total / max(Fraction(now_us - since_us), Fraction(DAY_US))
        if rate > 0:
            left = max(Fraction(getattr(remaining, quantity)), Fraction(0)) / rate
            moments.append(left.numerator // left.denominator)
    soonest = min(moments, default=None)
    return None if soonest is None or soonest >= HORIZON_US else now_us + soonest


def test_forecasts_are_those_of_the_stated_estimator(tries: Callable[[int, int], int]) -> None:
    """Goal: the arithmetic is exact. Method: random histories, also at the bounds of what is enough, with small and
    huge amounts and with none, against a model of fractions."""
    generator = random.Random(11)
    said = 0
    for _ in range(tries(2000, 200_000)):
        since_us = NOW_US - generator.choice([0, DAY_US, HISTORY_US - 1, HISTORY_US, 28 * DAY_US])
        size = generator.choice([0, 1, 1000, 10**18])
        spends = [
            Spend(
                generator.randint(since_us - DAY_US, NOW_US + 1),
                Amount(generator.randint(0, size), generator.randint(0, size)),
            )
            for _ in range(generator.randint(0, 6))
        ]
        remaining = Amount(generator.randint(-5, 10**18), generator.randint(-5, 10**6))
        found = forecast(spends, remaining, since_us=since_us, now_us=NOW_US)
        assert found.lasts_until_us == forecast_by_steps(spends, remaining, since_us=since_us, now_us=NOW_US)
        said += found.lasts_until_us is not None
    assert said > 100


def test_a_forecast_by_hand() -> None:
    """Goal: the number that a person would come to. Method: 280 in 28 days is 10 a day; 70 left is 7 days. Delta is
    used up after 5 days and a half."""
    spends = [Spend(NOW_US - day * DAY_US, Amount(70, 2)) for day in (1, 8, 15, 22)]
    since_us = NOW_US - 28 * DAY_US
    found = forecast(spends, Amount(70, 10**6), since_us=since_us, now_us=NOW_US)
    assert (found.lasts_until_us, found.quantity) == (NOW_US + 7 * DAY_US, "mu")
    assert (found.runs, found.spent, found.days_left(NOW_US)) == (4, Amount(280, 8), 7)
    found = forecast([Spend(NOW_US, Amount(0, 56))] * 3, Amount(70, 11), since_us=since_us, now_us=NOW_US)
    assert (found.lasts_until_us, found.quantity) == (NOW_US + 28 * DAY_US * 11 // 168, "delta")


def test_too_little_says_nothing() -> None:
    """Goal: two runs in six days are no habit; three are, and so is one in a week. Method: each of these; and a busy
    first hour counts as a day."""
    one = Spend(NOW_US - 1, Amount(10, 0))
    left = Amount(100, 0)
    assert forecast([one] * 2, left, since_us=NOW_US - HISTORY_US + 1, now_us=NOW_US).is_enough is False
    assert forecast([one] * 2, left, since_us=NOW_US - HISTORY_US + 1, now_us=NOW_US).lasts_until_us is None
    assert forecast([one], left, since_us=NOW_US - HISTORY_US, now_us=NOW_US).is_enough is True
    assert forecast([], left, since_us=NOW_US - 28 * DAY_US, now_us=NOW_US).is_enough is False
    busy = forecast([one] * 3, left, since_us=NOW_US - 1, now_us=NOW_US)
    assert busy.lasts_until_us == NOW_US + DAY_US * 100 // 30


def test_a_short_budget_is_told_of_once_a_week() -> None:
    """Goal: below so many days, and not at them; not once it is used up; again next week. Method: at these bounds."""
    dataset, key = Parent(MNIST, "mnist"), AccountKey(MNIST)

    def told_at(now_us: int, remaining: int, days: int | None = 10) -> Alert | None:
        spends = [Spend(now_us, Amount(10, 0))] * 3
        found = forecast(spends, Amount(remaining, 0), since_us=now_us - 30 * DAY_US, now_us=now_us)
        return short(Alerting(forecast_days=days), dataset, key, LIMIT, found, now_us=now_us)

    assert told_at(NOW_US, 10) is None
    first = told_at(NOW_US, 9)
    assert first is not None
    assert (first.facts["days_left"], first.facts["is_estimate"]) == (9, True)
    assert told_at(NOW_US, 0) is None
    assert told_at(NOW_US, 9, days=None) is None
    later = [told_at(NOW_US + day * DAY_US, 9) for day in range(14)]
    ids = [id_of(TENANT.id, alert) for alert in later if alert is not None]
    assert len(ids) == 14
    assert 2 <= len(set(ids)) <= 3
