"""The filters of runs: what they find, and that a page looks at a bounded number of runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ledger.client import dates
from ledger.errors import InvalidRequest
from ledger.service import run_search as service
from ledger.service.run_filters import labels_of
from ledger.store import runs as store
from tests.kit.clients import connect
from tests.kit.driver import Ledger
from tests.kit.scene import REASON, ok

PAGES_MAX = 100
Shown = dict[str, Any]


def pages(ledger: Ledger, query: dict[str, Any]) -> list[list[Shown]]:
    """All pages of a list of runs."""
    found: list[list[Shown]] = []
    cursor: dict[str, str] = {}
    for _ in range(PAGES_MAX):
        page = ok(ledger.get("/v1/runs", **query, **cursor))
        found.append(page["items"])
        if page["next"] is None:
            return found
        cursor = {"cursor": page["next"]}
    raise AssertionError("a list has no end")


@pytest.fixture
def people(ledger: Ledger) -> dict[str, Ledger]:
    """Two people with runs of several kinds, on two datasets, in several states."""
    for name in ("mnist", "clicks"):
        ledger.register(name=name, budget={"mu": 2})
    ok(ledger.put("/v1/datasets/mnist/projects/ranking", {"budget": {"mu": 2}}))
    made = {}
    for name in ("ann", "bob"):
        key = ok(ledger.post("/v1/keys", {"name": name, "role": "requester"}))
        made[name] = ledger.with_key(key["secret"])
    kinds = ({"type": "gaussian", "noise_multiplier": 50}, {"type": "laplace", "noise_multiplier": 100})
    for number, (name, dataset, kind) in enumerate(itertools.product(made, ("mnist", "clicks"), kinds)):
        project = {"project": "ranking"} if dataset == "mnist" and number % 2 else {}
        body: dict[str, Any] = {
            "purpose": f"Sweep {number} of März",
            "labels": {"sweep": str(number % 3), "team": name},
        }
        run = ok(made[name].ask(kind, datasets=[dataset], **project, **body))["id"]
        if number % 3 == 0:
            ok(ledger.post(f"/v1/runs/{run}/void", REASON))
        elif number % 3 == 1:
            ok(made[name].post(f"/v1/runs/{run}/start"))
    made["ann"].ask({"type": "gaussian", "noise_multiplier": 0.001})
    return made


def _filters(runs: list[Shown]) -> list[tuple[dict[str, Any], Callable[[Shown], bool]]]:
    """Filters, each with what it means."""
    moment = sorted(run["created_at"] for run in runs)[4]
    ann = next(run["asked_by"]["principal"] for run in runs if run["asked_by"]["name"] == "ann")

    def request(run: Shown) -> Shown:
        asked: Shown = {"labels": {}, "purpose": "", **run["request"]}
        return asked

    return [
        ({"state": "voided"}, lambda run: run["state"] == "voided"),
        ({"state": "refused", "dataset": "mnist"}, lambda run: run["state"] == "refused"),
        ({"project": "ranking"}, lambda run: run["project"] == "ranking"),
        ({"project": "ranking", "dataset": "mnist"}, lambda run: run["project"] == "ranking"),
        ({"label": "sweep=1"}, lambda run: request(run)["labels"].get("sweep") == "1"),
        ({"label": ["sweep=1", "team=bob"]}, lambda run: request(run)["labels"] == {"sweep": "1", "team": "bob"}),
        ({"label": "team"}, lambda run: "team" in request(run)["labels"]),
        ({"label": "team="}, lambda _: False),
        ({"purpose": "of mÄrz"}, lambda run: "März" in request(run)["purpose"]),
        ({"purpose": "sweep 4"}, lambda run: "Sweep 4" in request(run)["purpose"]),
        ({"person": "bob"}, lambda run: run["asked_by"]["name"] == "bob"),
        ({"person": ann}, lambda run: run["asked_by"]["name"] == "ann"),
        ({"person": ann, "dataset": "mnist"}, lambda run: run["asked_by"]["name"] == "ann" and _on(run, "mnist")),
        ({"person": "nobody"}, lambda _: False),
        ({"mechanism": "laplace"}, lambda run: request(run)["mechanism"]["type"] == "laplace"),
        ({"since": moment}, lambda run: run["created_at"] >= moment),
        ({"until": moment}, lambda run: run["created_at"] < moment),
        ({"since": moment, "until": moment}, lambda _: False),
        ({"until": "2020-01-01"}, lambda _: False),
        ({"since": "2020-01-01", "mechanism": "gaussian", "state": "held"}, _is_held_gaussian),
        ({"overdue": True}, lambda _: False),
    ]


def _on(run: Shown, dataset: str) -> bool:
    return dataset in run["request"]["datasets"]


def _is_held_gaussian(run: Shown) -> bool:
    return (run["state"], run["request"]["mechanism"]["type"]) == ("held", "gaussian")


@pytest.mark.parametrize("window", [2, 3, 1000])
def test_filters_find_what_they_mean(
    ledger: Ledger, people: dict[str, Ledger], monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    """Goal: the pages of a filtered list add up to exactly the runs that satisfy the filter, in order, however few
    runs one page may look at. Method: each filter against what it means in Python, by several windows and limits."""
    assert people
    (everything,) = pages(ledger, {})
    assert len(everything) == 9
    monkeypatch.setattr(store, "SCANNED_MAX", window)
    monkeypatch.setattr(service, "TEXTS_MAX", window)
    monkeypatch.setattr(service, "TEXTS_AT_ONCE", max(1, window // 2))
    for query, means in _filters(everything):
        expected = [run["id"] for run in everything if means(run)]
        for limit in (1, 2, 100):
            found = pages(ledger, {**query, "limit": limit})
            assert [run["id"] for page in found for run in page] == expected, (query, limit)
            assert max(map(len, found)) <= limit


def test_a_page_ends_although_it_finds_nothing(
    ledger: Ledger, people: dict[str, Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: a filter that nothing satisfies reads no more rows and no more requests in a page than it may. Method:
    small windows; the number of pages is what nine runs need."""
    assert people
    monkeypatch.setattr(store, "SCANNED_MAX", 3)
    assert len(pages(ledger, {"state": "settled"})) in (3, 4)
    monkeypatch.setattr(store, "SCANNED_MAX", 1000)
    monkeypatch.setattr(service, "TEXTS_MAX", 2)
    monkeypatch.setattr(service, "TEXTS_AT_ONCE", 1)
    assert len(pages(ledger, {"purpose": "nothing has this"})) == 5


def test_a_limited_key_filters_its_own(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: filters find nothing that a limited key does not see, and a page's end tells it nothing either. Method: a
    key limited to one dataset beside many runs of others that satisfy the same filters."""
    for name in ("seen", "hidden"):
        ledger.register(name=name)
    limited = ledger.as_("requester", datasets=["seen"])
    own = ok(limited.ask(datasets=["seen"], purpose="shared", labels={"a": "b"}))["id"]
    for dataset in ("seen", "hidden", "hidden"):
        ok(ledger.ask(datasets=[dataset], purpose="shared", labels={"a": "b"}))
    (other,) = {run["asked_by"]["principal"] for run in pages(ledger, {"dataset": "hidden"})[0]}
    monkeypatch.setattr(store, "SCANNED_MAX", 1)
    for query in ({"purpose": "shared"}, {"label": "a=b"}, {"mechanism": "gaussian"}, {"state": "held"}, {}):
        found = [run["id"] for page in pages(limited, query) for run in page]
        assert found == [own], query
    assert pages(limited, {"person": other}) == [[]]
    assert limited.get("/v1/runs", dataset="hidden").status_code == 404


def test_wrong_filters(ledger: Ledger) -> None:
    """Goal: a filter in another form is answered with its field. Method: one of each."""
    for query, field in (
        ({"since": "yesterday"}, "since"),
        ({"until": "2026-02-30"}, "until"),
        ({"since": "2026-01-01T00:00:00"}, "since"),
        ({"mechanism": "DP SGD"}, "mechanism"),
        ({"label": ["a"] * 9}, "label"),
        ({"label": "=x"}, "label"),
        ({"purpose": ""}, "purpose"),
        ({"person": "x" * 256}, "person"),
    ):
        answer = ledger.get("/v1/runs", **query)
        code = "invalid-mechanism" if field == "mechanism" else "invalid-request"
        assert (answer.status_code, answer.json()["code"]) == (422, code), query
        assert answer.json()["field"].endswith(field), query
    assert labels_of(["a=b=c", "d"]) == (("a", "b=c"), ("d", None))


# --- times as people write them --------------------------------------------------------------------------------------

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("now", "2026-03-01T12:30:00+00:00"),
        ("today", "2026-03-01T00:00:00+00:00"),
        ("yesterday", "2026-02-28T00:00:00+00:00"),
        ("Yesterday", "2026-02-28T00:00:00+00:00"),
        ("12h", "2026-03-01T00:30:00+00:00"),
        ("30d", "2026-01-30T12:30:00+00:00"),
        ("2w", "2026-02-15T12:30:00+00:00"),
        ("2026-10-01", "2026-10-01T00:00:00+00:00"),
        ("2026-10-01T05:00:00Z", "2026-10-01T05:00:00+00:00"),
        ("2026-10-01t05:00:00+02:00", "2026-10-01T05:00:00+02:00"),
    ],
)
def test_times_as_they_are_written(text: str, means: str) -> None:
    """Goal: every form means what its documentation states."""
    assert dates.moment(text, field="since", now=lambda: NOW) == means


@pytest.mark.parametrize("text", ["", "tomorrow", "30", "d", "999999w", "2026-02-30", "2026-10-01T00:00", "30 d"])
def test_what_is_no_time(text: str) -> None:
    """Goal: anything else is refused, with the field and the forms."""
    with pytest.raises(InvalidRequest) as refused:
        dates.moment(text, field="since", now=lambda: NOW)
    assert refused.value.field == "since"
    with pytest.raises(InvalidRequest):
        dates.moment(NOW.replace(tzinfo=None), field="since")
    assert dates.moment(NOW, field="since") == NOW.isoformat()
    assert dates.moment(None, field="since") is None


def test_the_client_filters(ledger: Ledger, people: dict[str, Ledger]) -> None:
    """Goal: the client passes each filter on. Method: one of each, whose results are known."""
    assert people
    client = connect(ledger)
    assert len(list(client.runs(label=["team=ann"]))) == 4
    assert len(list(client.runs(label=["team", "sweep=0"]))) == 3
    assert len(list(client.runs(purpose="sweep", person="bob", since="1h"))) == 4
    assert len(list(client.runs(mechanism="laplace", until=datetime.now(UTC) + timedelta(days=1)))) == 4
    assert list(client.runs(until="yesterday")) == []
