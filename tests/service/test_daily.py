"""What was spent over time, and how full datasets are, from days that are counted in the background."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ledger.core.amounts import Amount, microseconds
from ledger.core.daily import left_ppm
from ledger.core.datasets import Balance
from ledger.operate.check import check_journals
from ledger.operate.recount import recount
from ledger.service import daily
from ledger.settings import Settings
from tests.kit.clocks import change_clock
from tests.kit.days import count_some
from tests.kit.driver import Ledger
from tests.kit.scene import REASON, ok

Json = dict[str, Any]
START = datetime(2026, 10, 30, 20, 0, tzinfo=UTC)
BIG = {"mu": 50, "delta": 1e-3}


class Weeks:
    """A ledger whose clock goes on by some hours with each call."""

    def __init__(self, ledger: Ledger, patched: pytest.MonkeyPatch) -> None:
        self.ledger, self.at = ledger, START
        change_clock(patched, lambda _now: microseconds(self.at))

    def pass_hours(self, hours: float) -> None:
        self.at += timedelta(hours=hours)


@pytest.fixture
def weeks(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Weeks:
    """Since the end of October."""
    return Weeks(ledger, monkeypatch)


def lived(weeks: Weeks, rng: random.Random, steps: int) -> None:
    """Three datasets, in which runs are approved, refused, settled and voided, and limits and parts change."""
    ledger = weeks.ledger
    ledger.register(name="whole", budget=BIG, ceiling={"mu": 100, "delta": 1e-2}, **WEAKLY)
    ledger.register(name="parts", budget=BIG, partitions=["a", "b"], **WEAKLY)
    ledger.register(name="small", budget={"mu": 0.3})
    ok(ledger.post("/v1/datasets", {"name": "copy", "derived_from": [{"name": "whole", "unit_preserving": True}]}))
    ok(ledger.put("/v1/datasets/parts/projects/ranking", {"budget": {"mu": 20, "delta": 1e-4}}))
    for number in range(steps):
        weeks.pass_hours(rng.choice([0.1, 3, 9, 30]))
        uses: list[Any] = [rng.choice(["whole", "copy", "small", {"name": "parts", "partitions": [rng.choice("ab")]}])]
        is_of_parts = isinstance(uses[0], dict)
        more: Json = {"project": "ranking"} if is_of_parts and rng.random() < 0.5 else {}
        answer = ledger.ask(datasets=uses, **more)
        if answer.status_code == 201 and rng.random() < 0.6:
            run = answer.json()["id"]
            if rng.random() < 0.3:
                ok(ledger.post(f"/v1/runs/{run}/void", REASON))
            else:
                ok(ledger.post(f"/v1/runs/{run}/start"))
                weeks.pass_hours(2)
                ok(ledger.post(f"/v1/runs/{run}/settle", {"steps": 1}))
        if number == steps // 2:
            ok(ledger.put("/v1/datasets/whole/budget", {"budget": {"mu": 60, "delta": 1e-3}, **REASON, **WEAKLY}))
            ok(ledger.post("/v1/datasets/parts/partitions", {"names": ["c"], "disjoint": True}))


WEAKLY: Json = {"accepts_weak_protection": True}


def by_hand(ledger: Ledger, name: str) -> tuple[dict[str, dict[str, Json]], dict[str, list[int]]]:
    """By day: what the export's entries state last of each account, and how many runs were approved and refused."""
    stated: dict[str, dict[str, Json]] = {}
    decisions: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for line in ledger.get(f"/v1/datasets/{name}/export").text.splitlines():
        entry = json.loads(line).get("entry")
        if entry is None:
            continue
        day = stated.setdefault(entry["at"][:10], {})
        if "balance" in entry:
            day[""] = entry["balance"]
        for group in entry.get("accounts", ()):
            if "principal" not in group:
                for partition in group.get("partitions", [""]):
                    day[f"{group.get('project', '')}/{partition}"] = group
        for index, kind in enumerate(("run-approved", "run-refused")):
            decisions[entry["at"][:10]][index] += entry["kind"] == kind
    return stated, decisions


def spent_of(balance: Json) -> tuple[str, str, str]:
    """Its amounts in mu²."""
    return balance["limit"]["mu_sq_pico"], balance["spent"]["mu_sq_pico"], balance["held"]["mu_sq_pico"]


def demand_points(ledger: Ledger, name: str, account: str, **query: Any) -> int:
    """Compare every point of a burndown with the export. Return how many points there were."""
    stated, decisions = by_hand(ledger, name)
    shown = ok(ledger.get(f"/v1/datasets/{name}/burndown", since="2026-10-01", **query))
    assert shown["behind"] == 0
    standing: Json | None = None
    known = {point["start"]: point for point in shown["points"]}
    first = min(day for day in stated if account in stated[day])
    last = shown["points"][-1]["start"]
    on = datetime.fromisoformat(first)
    while (day := on.date().isoformat()) <= last:
        standing = stated.get(day, {}).get(account, standing)
        point = known.pop(day)
        assert standing is not None
        assert spent_of(point["balance"]) == spent_of(standing), (name, account, day)
        if account == "":
            assert [point["approvals"], point["refusals"]] == decisions.get(day, [0, 0])
        on += timedelta(days=1)
    assert known == {}
    return len(shown["points"])


def test_days_are_what_the_journal_states(weeks: Weeks, database: Settings, tries: Callable[[int, int], int]) -> None:
    """Goal: every point of a burndown is what the newest entry of its day states, whether its entries are counted or
    not; and `check` finds the rows equal to a replay. Method: some weeks of random operations; days counted in passes
    of random lengths, compared with the export before the first pass, between passes, and after a recount."""
    rng = random.Random(24)
    ledger = weeks.ledger
    lived(weeks, rng, tries(25, 250))
    assert demand_points(ledger, "whole", "") > 5  # no entry is counted
    passes = 0
    while made := count_some(database, rng, passes=1, entries_max=25):
        passes += made
        demand_points(ledger, "whole", "")
        demand_points(ledger, "small", "")
        demand_points(ledger, "parts", "/a", partition="a")
        assert {found["error"] for found in check_journals(database)} == {None}
    assert passes > 5
    shares = {account for day in by_hand(ledger, "parts")[0].values() for account in day if "ranking" in account}
    for account in shares:
        demand_points(ledger, "parts", account, partition=account[-1], project="ranking")
    assert shares
    whole = ok(ledger.get("/v1/datasets/parts/burndown"))["points"]
    assert whole[-1]["balance"] == ok(ledger.get("/v1/datasets/parts"))["balance"]
    assert sorted(recount(database)) == ["copy", "parts", "small", "whole"]
    assert {found["error"] for found in check_journals(database)} == {None}
    assert ok(ledger.get("/v1/datasets/parts/burndown"))["points"] == whole
    by_month = ok(ledger.get("/v1/datasets/whole/burndown", by="month", since="2026-10-01"))["points"]
    by_day = ok(ledger.get("/v1/datasets/whole/burndown", since="2026-10-01"))["points"]
    by_week = ok(ledger.get("/v1/datasets/whole/burndown", by="week", since="2026-10-01"))["points"]
    for points in (by_month, by_week):
        for part in ("approvals", "refusals"):
            assert sum(point[part] for point in points) == sum(point[part] for point in by_day)
        assert points[-1]["balance"] == by_day[-1]["balance"]
    assert [point["start"] for point in by_month][:2] == ["2026-10-01", "2026-11-01"]
    assert by_week[0]["start"] == "2026-10-26"  # the Monday


def test_the_balance_of_partitions_reads_one_day(
    weeks: Weeks, database: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: the balance of all partitions as of any time reads entries of that day alone. Method: counted days; the
    balance at each entry, as it was shown without them; then entries of one day at most may be looked at."""
    rng = random.Random(25)
    ledger = weeks.ledger
    lived(weeks, rng, 15)
    seq = ok(ledger.get("/v1/datasets/parts"))["seq"]
    path = "/v1/datasets/parts/balance"
    before = [ok(ledger.get(path, seq=number)) for number in range(1, seq + 1)]
    while count_some(database, rng, passes=1, entries_max=100):
        pass
    busiest = max(sum(one["at"][:10] == other["at"][:10] for other in before) for one in before)
    assert busiest < seq
    monkeypatch.setattr("ledger.service.past.LOOKED_AT_MAX", busiest + 1)
    assert [ok(ledger.get(path, seq=number)) for number in range(1, seq + 1)] == before


def test_the_fullest_come_first(weeks: Weeks, database: Settings) -> None:
    """Goal: an overview lists every dataset that the key sees once, the fullest first, with what waits. Method: pages
    of two, against what each dataset shows; a limited key; another tenant; before and after days are counted."""
    ledger = weeks.ledger
    lived(weeks, random.Random(26), 12)
    run = ok(ledger.ask(datasets=["whole"]))["id"]
    weeks.pass_hours(24 * 9)
    ok(ledger.put("/v1/policy", {"second_steward": True, **REASON}))
    ok(ledger.put("/v1/datasets/whole/budget", {"budget": {"mu": 70, "delta": 1e-3}, **REASON, **WEAKLY}))
    assert ledger.ask({"type": "gaussian", "noise_multiplier": 0.01}, datasets=["small"]).status_code == 409
    before = overview(ledger)
    assert {item["name"] for item in before} == {"whole", "parts", "small", "copy"}
    while count_some(database, random.Random(1), passes=1, entries_max=100):
        pass
    items = overview(ledger)
    assert items[-1]["name"] == "copy"
    assert items[-1]["percent"] is None
    left = [item["percent"]["remaining"] for item in items[:-1]]
    assert left == sorted(left)
    for item in items:
        shown = ok(ledger.get(f"/v1/datasets/{item['name']}"))
        assert (item["percent"], item["state"], item["seq"]) == (shown["percent"], shown["state"], shown["seq"])
        assert item["behind"] == 0
        newest = ok(ledger.get(f"/v1/datasets/{item['name']}/burndown"))["points"][-7:]
        assert item["refusals"] == sum(point["refusals"] for point in newest)
        assert item["approvals"] == sum(point["approvals"] for point in newest)
    by_name = {item["name"]: item for item in items}
    uncounted = {item["name"]: item for item in before}
    for name, item in by_name.items():
        assert (item["refusals"], item["approvals"]) == (uncounted[name]["refusals"], uncounted[name]["approvals"])
    assert by_name["small"]["refusals"] == 1
    assert by_name["whole"]["overdue"] >= 1
    assert by_name["whole"]["proposals"] == 1
    whole = ok(ledger.get("/v1/overview"))
    late = {one["id"] for one in ok(ledger.get("/v1/runs", overdue="true"))["items"]}
    assert run in late
    assert whole["proposals"] == {"count": 1, "has_more": False}
    limited = ledger.as_("requester", datasets=["small"])
    seen = ok(limited.get("/v1/overview"))
    assert [item["name"] for item in seen["items"]] == ["small"]
    assert (seen["proposals"]["count"], seen["next"]) == (0, None)
    assert limited.get("/v1/datasets/whole/burndown").status_code == 404
    made = ledger.with_key(ledger.operator_key).post("/v1/tenants", {"name": "other"}).json()
    other = ledger.with_key(made["key"]["secret"])
    assert ok(other.get("/v1/overview"))["items"] == []
    assert other.get("/v1/datasets/whole/burndown").status_code == 404


def overview(ledger: Ledger) -> list[Json]:
    """All pages."""
    items: list[Json] = []
    more: dict[str, Any] = {}
    while True:
        page = ok(ledger.get("/v1/overview", limit=2, **more))
        items += page["items"]
        if page["next"] is None:
            assert len({item["name"] for item in items}) == len(items)
            return items
        more = {"cursor": page["next"]}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"partition": "a"}, "partition"),
        ({"project": "nobody"}, "project"),
        ({"since": "1970-01-01", "by": "day"}, None),
        ({"until": "1990-01-01"}, None),
        ({"by": "year"}, "by"),
    ],
)
def test_what_a_burndown_takes(ledger: Ledger, query: Json, field: str | None) -> None:
    """Goal: what names nothing is an error with its field; a time before the dataset is none. Method: one of each."""
    ledger.register()
    answer = ledger.get("/v1/datasets/mnist/burndown", **query)
    assert answer.status_code == (200 if field is None else 422), answer.text
    if field is None:
        assert len(answer.json()["points"]) == (0 if "until" in query else 1)
    else:
        assert f'"field":"{field}"' in answer.text.replace(" ", "")


def test_long_periods_are_refused(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: an answer has at most 400 points. Method: a dataset of two years ago, by day and by month."""
    ledger.register()
    years = timedelta(days=800)
    change_clock(monkeypatch, lambda now: now + int(years.total_seconds()) * 1_000_000)
    answer = ledger.get("/v1/datasets/mnist/burndown", since="2020-01-01")
    assert (answer.status_code, answer.json()["field"]) == (422, "since")
    assert len(ok(ledger.get("/v1/datasets/mnist/burndown", since="2020-01-01", by="month"))["points"]) in (27, 28)
    assert len(ok(ledger.get("/v1/datasets/mnist/burndown"))["points"]) == 90


def test_many_entries_that_are_not_counted(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: an answer that would have to read too many entries shows how many no point counts. Method: a bound of 1."""
    ledger.register()
    ok(ledger.ask())
    monkeypatch.setattr(daily, "TAIL_OF_WHOLE_MAX", 1)
    shown = ok(ledger.get("/v1/datasets/mnist/burndown"))
    assert (shown["behind"], shown["seq"], shown["points"]) == (2, 2, [])


def test_how_much_is_left() -> None:
    """Goal: what is left is rounded down, in the quantity of which less is left. Method: by hand."""

    def left(limit: Amount, taken: Amount) -> int:
        return left_ppm(Balance(limit, taken, Amount(0, 0), limit - taken))

    assert left(Amount(3, 0), Amount(1, 0)) == 666_666
    assert left(Amount(3, 10), Amount(0, 9)) == 100_000
    assert left(Amount(3, 0), Amount(3, 0)) == 0
    assert left(Amount(3, 0), Amount(4, 0)) == -333_334
    assert left(Amount(1, 0), Amount(100, 0)) == -1_000_000
    assert left(Amount(0, 0), Amount(0, 0)) == 1_000_001
