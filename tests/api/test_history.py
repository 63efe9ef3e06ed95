"""What changed a dataset, its balance as it was, and what its budget was spent on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest

from ledger.service import past
from ledger.service import spending as service
from ledger.store import journals
from tests.kit.driver import WEAK, Ledger
from tests.kit.scene import REASON, ok

Shown = dict[str, Any]
BIG = {"mu": 100, "delta": 1e-3}


def history(ledger: Ledger, name: str = "mnist", **query: Any) -> list[Shown]:
    """All pages of what changed a dataset."""
    items: list[Shown] = []
    cursor: dict[str, str] = {}
    while True:
        page = ok(ledger.get(f"/v1/datasets/{name}/history", **query, **cursor))
        items += page["items"]
        if page["next"] is None:
            return items
        cursor = {"cursor": page["next"]}


# --- what changed it -------------------------------------------------------------------------------------------------


def test_what_changed_a_dataset(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: every change is there once, newest first, in words, with who, why and by which run; pages of any size, and
    of any number of entries that are looked at, add up to the same. Method: one of every change among runs."""
    ledger.register(ceiling={"mu": 1000})
    second = ledger.as_("steward")
    ok(ledger.put("/v1/datasets/mnist/budget", {"budget": {"mu": 2}, "reason": "agreed"}))
    for _ in range(4):
        ok(ledger.ask())
    ok(ledger.put("/v1/datasets/mnist/projects/ranking", {"budget": {"mu": 0.5}}))
    ok(ledger.put("/v1/datasets/mnist/fair-use", {"runs_per_hour": 100, "reason": "many"}))
    ok(ledger.patch("/v1/datasets/mnist", {"state": "frozen", "reason": "twice"}))
    ok(ledger.patch("/v1/datasets/mnist", {"state": "active", "title": "M", "reason": "once"}))
    ok(ledger.put("/v1/policy", {"second_steward": True, **REASON}))
    raised = {"budget": {"mu": 3}, "reason": "a paper"}
    first, other = (ok(ledger.put("/v1/datasets/mnist/budget", raised))["proposal"]["id"] for _ in range(2))
    ok(second.post(f"/v1/proposals/{first}/refuse", {"reason": "not now"}))
    ok(second.post(f"/v1/proposals/{other}/approve"))
    run = ok(ledger.ask())["id"]
    ok(ledger.post(f"/v1/runs/{run}/start"))
    assert ledger.post(f"/v1/runs/{run}/settle", {"steps": 223}).json()["code"] == "overrun"
    changes = history(ledger)
    assert [(change["what"].partition(":")[0], change["reason"]) for change in changes] == [
        ("frozen", None),
        ("budget set to mu 3", "a paper"),
        ("proposal refused", "not now"),
        ("proposed", "a paper"),
        ("proposed", "a paper"),
        ("thawed, title set to 'M'", "once"),
        ("frozen", "twice"),
        ("fair use set to 100 runs an hour", "many"),
        ("share of project ranking set to mu 0.5", None),
        ("budget set to mu 2", "agreed"),
        (changes[-1]["what"], None),
    ]
    assert changes[-1]["what"] == (
        "registered with mu 1, unit record, add_or_remove_one, bound clt, costing standalone, ceiling mu 1000"
    )
    assert changes[0]["run"] == run
    assert changes[0]["what"] == f"frozen: run {run} executed more than fits"
    assert changes[1]["what"] == "budget set to mu 3: mu 2 to 3, delta 0 to 0"
    assert (changes[1]["proposal"], changes[1]["by"]["role"]) == (other, "steward")
    assert changes[1]["proposed_by"]["role"] == "admin"
    assert [change["proposal"] for change in changes[2:5]] == [first, other, first]
    hashes = {item["seq"]: item["hash"] for item in ok(ledger.get("/v1/datasets/mnist/entries"))["items"]}
    assert all(change["hash"] == hashes[change["seq"]] for change in changes)
    for looked_at in (1, 3, 1000):
        monkeypatch.setattr(journals.JournalReader.changes, "__kwdefaults__", {"looked_at_max": looked_at})
        for limit in (1, 2, 100):
            assert history(ledger, limit=limit) == changes
    assert ledger.get("/v1/datasets/nothing/history").status_code == 404


def test_what_a_limited_key_sees_of_a_history(ledger: Ledger) -> None:
    """Goal: a limited key sees that its dataset was frozen, and nothing of the hidden run that froze it. Method: a run
    of two datasets, one of them hidden."""
    for name in ("seen", "hidden"):
        ledger.register(name=name)
    limited = ledger.as_("requester", datasets=["seen"])
    run = ok(ledger.ask(datasets=["seen", "hidden"]))["id"]
    ok(ledger.post(f"/v1/runs/{run}/start"))
    ledger.post(f"/v1/runs/{run}/settle", {"steps": 1000})
    (frozen, registered) = history(limited, "seen")
    assert (frozen["what"], frozen["run"], frozen["by"]) == ("frozen: a run executed more than fits", None, None)
    assert registered["by"]["role"] == "admin"
    refused = limited.ask(datasets=["seen"]).json()
    assert (refused["code"], refused["run"], refused["by"]) == ("dataset-frozen", None, None)
    assert run not in str(refused)
    assert limited.get("/v1/datasets/hidden/history").status_code == 404


def test_a_frozen_dataset_states_why(ledger: Ledger) -> None:
    """Goal: whoever is refused by a frozen dataset reads which, since when, why and whom to ask: for one run, in a
    batch, and at a start. Method: frozen by hand, frozen by an overrun, and retired."""
    ledger.register(budget={"mu": 2})
    held = ok(ledger.ask())["id"]
    steward = ledger.as_("steward")
    ok(steward.patch("/v1/datasets/mnist", {"state": "frozen", "reason": "records came twice"}))
    at = history(ledger)[0]["at"]
    one = {"datasets": ["mnist"], "mechanism": {"type": "gaussian", "noise_multiplier": 5}}
    batch = ledger.post("/v1/runs/batch", {"runs": [{**one, "idempotency_key": "a"}, {**one, "idempotency_key": "b"}]})
    refusals = [ledger.ask().json(), ledger.post(f"/v1/runs/{held}/start").json()]
    refusals += [result["problem"] for result in batch.json()["results"]]
    for refusal in refusals:
        assert (refusal["code"], refusal["since"], refusal["reason"]) == ("dataset-frozen", at, "records came twice")
        assert refusal["by"]["role"] == "steward"
        assert (
            f"The dataset mnist is frozen since {at[:19]}Z by a steward (steward): records came twice."
            in (refusal["detail"])
        )
        assert "privacy-ledger dataset thaw mnist" in refusal["detail"]
    ok(ledger.patch("/v1/datasets/mnist", {"state": "active", **REASON}))
    run = ok(ledger.ask())["id"]
    ok(ledger.post(f"/v1/runs/{run}/start"))
    ledger.post(f"/v1/runs/{run}/settle", {"steps": 10_000})
    refusal = ledger.ask().json()
    assert (refusal["run"], refusal["reason"]) == (run, None)
    assert f"frozen: run {run} " in refusal["detail"]
    ok(ledger.patch("/v1/datasets/mnist", {"state": "retired", "reason": "deleted"}))
    assert "deleted. A retired dataset stays retired." in ledger.ask().json()["detail"]


# --- its balance as it was -------------------------------------------------------------------------------------------


def _entries(ledger: Ledger, name: str) -> list[Shown]:
    return [item["entry"] for item in ok(ledger.get(f"/v1/datasets/{name}/entries", limit=1000))["items"]]


def test_the_balance_as_it_was(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: the balance at an entry or a time is the one that was shown then. Method: after each of many steps, keep
    what the dataset shows, with partitions and without; read all of them again at the end."""
    ledger.register(name="whole", budget=BIG)
    ledger.register(name="parts", budget=BIG, partitions=["a", "b"])
    kept: list[tuple[str, Shown, Shown]] = []

    def keep() -> None:
        for name in ("whole", "parts"):
            shown = ok(ledger.get(f"/v1/datasets/{name}"))
            kept.append((name, shown, _entries(ledger, name)[-1]))

    keep()
    for uses in (["whole"], [{"name": "parts", "partitions": ["a"]}], ["parts", "whole"]):
        run = ok(ledger.ask(datasets=uses))["id"]
        keep()
        ok(ledger.post(f"/v1/runs/{run}/start"))
        ok(ledger.post(f"/v1/runs/{run}/settle", {"steps": 1}))
        keep()
    ok(ledger.post("/v1/datasets/parts/partitions", {"names": ["c"], "disjoint": True}))
    for name in ("whole", "parts"):
        budget = {"epsilon": 30, "at_delta": 1e-3}
        ok(ledger.put(f"/v1/datasets/{name}/budget", {"budget": budget, **REASON, **WEAK}))
    keep()
    for name, shown, entry in kept:
        for query in ({"seq": entry["seq"]}, {"at": entry["at"]}):
            past_one = ok(ledger.get(f"/v1/datasets/{name}/balance", **query))
            assert past_one["seq"] == entry["seq"]
            for member in ("balance", "epsilon", "budget", "partition_count"):
                assert past_one[member] == shown[member], (name, query, member)
    assert ledger.get("/v1/datasets/whole/balance", at="2020-01-01").json()["field"] == "at"
    assert ledger.get("/v1/datasets/whole/balance", seq=10_000).json()["field"] == "seq"
    assert ledger.get("/v1/datasets/whole/balance").json()["field"] == "at"
    assert ledger.get("/v1/datasets/whole/balance", seq=1, at="2020-01-01").json()["field"] == "at"
    latest = ok(ledger.get("/v1/datasets/whole/balance", at="2100-01-01T00:00:00Z"))
    assert latest["balance"] == ok(ledger.get("/v1/datasets/whole"))["balance"]
    monkeypatch.setattr(past, "LOOKED_AT_MAX", 0)
    assert "privacy-ledger report parts --to" in ledger.get("/v1/datasets/parts/balance", seq=1).json()["detail"]


# --- what it was spent on --------------------------------------------------------------------------------------------


def _taken(run: Shown) -> Fraction:
    """What a run took of the budget, in mu² of 1e-12, by what the API shows of it."""
    if run["state"] in ("held", "started"):
        return Fraction(int(run["cost"]["mu_sq_pico"]))
    if run["state"] == "settled":
        return Fraction(int(run["settled"]["charged"]["mu_sq_pico"]))
    return Fraction(0)


def _summed(rows: list[Shown | None], part: str, digits: str) -> int:
    return sum(int(row[part][digits]) for row in rows if row is not None)


def _rows(shown: Shown) -> list[Shown | None]:
    return [*shown["groups"], shown["rest"], shown["earlier"]]


GROUPS: list[tuple[dict[str, str], Callable[[Shown], str | None]]] = [
    ({"by": "person"}, lambda run: run["asked_by"]["name"]),
    ({"by": "project"}, lambda run: run["project"]),
    ({"by": "month"}, lambda run: run["created_at"][:7]),
    ({"by": "label", "label": "sweep"}, lambda run: run["request"].get("labels", {}).get("sweep")),
]


@pytest.mark.parametrize("bound", ["clt", "certified"])
def test_spending_adds_up_exactly(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    """Goal: what each group took is what its runs took, and the rows add up to the balance exactly, however few entries
    are read and groups are listed. Method: runs in every state, an overrun among them, against sums of fractions."""
    ledger.register(bound=bound, budget={"mu": 100, "delta": 1e-3})
    ok(ledger.put("/v1/datasets/mnist/projects/ranking", {"budget": {"mu": 90, "delta": 9e-4}}))
    made = [ok(ledger.post("/v1/keys", {"name": name, "role": "admin"})) for name in ("ann", "bob")]
    people = [ledger, *(ledger.with_key(key["secret"]) for key in made)]
    other = ok(ledger.post("/v1/datasets", {**_like(bound), "name": "other"}))["name"]
    for number in range(12):
        noise, person = 2 + number / 7, people[number % 3]
        labels: Shown = {"labels": {"sweep": str(number % 2)}} if number % 4 else {}
        datasets = ["mnist"] if number % 5 else [other, "mnist"]
        project = {"project": "ranking"} if number % 3 == 1 and number % 5 else {}
        kind = {"type": "gaussian", "noise_multiplier": noise, "count": 3}
        run = ok(person.ask(kind, datasets=datasets, **labels, **project))["id"]
        if number % 4 == 0:
            ok(ledger.post(f"/v1/runs/{run}/void", REASON))
        elif number % 4 < 3:
            ok(person.post(f"/v1/runs/{run}/start"))
            if number % 4 == 2:
                ok(person.post(f"/v1/runs/{run}/settle", {"steps": 5 if number == 2 else 2}))
    runs = ok(ledger.get("/v1/runs", dataset="mnist"))["items"]
    limit = Fraction(int(ok(ledger.get("/v1/datasets/mnist"))["balance"]["limit"]["mu_sq_pico"]))
    for query, group in GROUPS:
        expected: dict[str | None, Fraction] = defaultdict(Fraction)
        for run in runs:
            if _taken(run):
                expected[group(run)] += _taken(run)
        shown = ok(ledger.get("/v1/datasets/mnist/spending", **query))
        found = {
            row["name"]: Fraction(sum(int(row[part]["mu_sq_pico"]) for part in ("spent", "held")))
            for row in shown["groups"]
        }
        assert found == expected, query
        assert (shown["rest"], shown["earlier"], shown["since_seq"]) == (None, None, 1)
        for row in shown["groups"]:
            assert row["percent"] == pytest.approx(float(100 * expected[row["name"]] / limit), rel=1e-12)
        _adds_up(ledger, shown)
        for entries, groups in ((1, 1), (7, 1), (20, 2), (5000, 1)):
            monkeypatch.setattr(service, "ENTRIES_MAX", entries)
            monkeypatch.setattr(service, "GROUPS_MAX", groups)
            _adds_up(ledger, ok(ledger.get("/v1/datasets/mnist/spending", **query)))
        monkeypatch.undo()


def _like(bound: str) -> Shown:
    budget = {"mu": 100, "delta": 1e-3}
    return {"privacy_unit": "record", "adjacency": "add_or_remove_one", "bound": bound, "budget": budget, **WEAK}


def _adds_up(ledger: Ledger, shown: Shown) -> None:
    """The rows add up to the balance, in both quantities, of what is spent and of what is held."""
    balance = ok(ledger.get("/v1/datasets/mnist"))["balance"]
    for part in ("spent", "held"):
        for digits in ("mu_sq_pico", "delta_atto"):
            assert _summed(_rows(shown), part, digits) == int(balance[part][digits])
            assert int(shown["total"][part][digits]) == int(balance[part][digits])
    assert all(int(row[part]["mu_sq_pico"]) >= 0 for row in _rows(shown) if row for part in ("spent", "held"))


def test_spending_since_a_time(ledger: Ledger) -> None:
    """Goal: what runs took that were approved before is one row, and the rows still are the total. Method: times before
    and after all of them."""
    ledger.register()
    ledger.ask()
    path = "/v1/datasets/mnist/spending"
    whole, past, future = (
        ok(ledger.get(path, by="person", **since)) for since in ({}, {"since": "2000-01-01"}, {"since": "2999-01-01"})
    )
    assert past == whole
    assert (future["groups"], future["earlier"]["percent"]) == ([], whole["groups"][0]["percent"])
    assert future["total"]["held"] == whole["total"]["held"]


def test_spending_of_a_partition(ledger: Ledger) -> None:
    """Goal: a partition's spending is its own; what cannot be divided is refused with the field. Method: partitions
    with different runs, one of them added later; a dataset without a budget; a limited key."""
    ledger.register(name="parts", budget=BIG, partitions=["a", "b"])
    ok(ledger.ask(datasets=[{"name": "parts", "partitions": ["a"]}]))
    ok(ledger.ask(datasets=["parts"]))
    ok(ledger.post("/v1/datasets/parts/partitions", {"names": ["c"], "disjoint": True}))
    ok(ledger.ask(datasets=[{"name": "parts", "partitions": ["c"]}]))
    for partition, runs in (("a", 2), ("b", 1), ("c", 1)):
        shown = ok(ledger.get("/v1/datasets/parts/spending", by="person", partition=partition))
        (group,) = shown["groups"]
        assert (group["runs"], int(group["held"]["mu_sq_pico"])) == (runs, runs * 40_000_000_000)
    ok(ledger.post("/v1/datasets", {"name": "copy", "derived_from": [{"name": "parts", "unit_preserving": True}]}))
    ledger.register()
    for name, query, field in (
        ("parts", {"by": "person"}, "partition"),
        ("parts", {"by": "person", "partition": "d"}, "partition"),
        ("mnist", {"by": "person", "partition": "a"}, "partition"),
        ("mnist", {"by": "label"}, "label"),
        ("mnist", {"by": "person", "label": "x"}, "label"),
        ("copy", {"by": "person"}, "dataset"),
        ("mnist", {"by": "colour"}, "by"),
    ):
        answer = ledger.get(f"/v1/datasets/{name}/spending", **query)
        assert (answer.status_code, answer.json()["field"].rpartition(".")[2]) == (422, field), answer.text
    limited = ledger.as_("auditor", datasets=["mnist"])
    assert limited.get("/v1/datasets/mnist/spending", by="person").status_code == 403
