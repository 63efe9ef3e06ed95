"""Partitions, projects and ceilings, over HTTP."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import event

from ledger.store import Store
from tests.kit.driver import MNIST, Ledger
from tests.kit.parts import (
    ONCE,
    approved,
    demand_in_order,
    error,
    gaussian,
    held,
    kinds,
    of_partitions,
    parted,
    started,
)


def test_disjoint_partitions_are_counted_each_for_itself(ledger: Ledger, store: Store) -> None:
    """Goal: parallel composition: each partition takes 25 releases, and the dataset shows the fullest one, each
    quantity for itself. Method: fill one, use another twice, and read what is shown."""
    shown = parted(ledger, "b", "a")
    assert ([item["name"] for item in shown["partitions"]], shown["partition_count"]) == (["a", "b"], 2)
    for _ in range(25):
        approved(ledger, {"name": "clicks", "partitions": ["a"]})
    refused = ledger.ask(datasets=[{"name": "clicks", "partitions": ["a"]}])
    assert refused.status_code == 409
    assert [(item["partition"], item["quantity"]) for item in refused.json()["datasets"]] == [("a", "mu")]
    both = ledger.ask(datasets=["clicks"])
    assert [item["partition"] for item in both.json()["datasets"]] == ["a"]
    for _ in range(2):
        approved(ledger, {"name": "clicks", "partitions": ["b"]})
    assert of_partitions(ledger) == {"a": 25 * ONCE, "b": 2 * ONCE}
    balance = ledger.balance("clicks")
    assert (balance["held"], balance["remaining"], balance["limit"]) == ((10**12, 0), (0, 0), (10**12, 0))
    demand_in_order(ledger, store)


def test_new_partitions(ledger: Ledger, store: Store) -> None:
    """Goal: a steward adds partitions while others run, each with the limit of the day; runs on all of them use those
    there are. Method: one run on all before, one after; then the budget of all is raised."""
    parted(ledger)
    assert error(ledger.ask(datasets=["clicks"])) == (422, "invalid-request", "datasets")
    assert ledger.balance("clicks")["remaining"] == (10**12, 0)
    path = "/v1/datasets/clicks/partitions"
    first = ledger.post(path, {"names": ["2026-10", "2026-11"], "disjoint": True})
    assert (first.status_code, [item["name"] for item in first.json()["items"]]) == (201, ["2026-10", "2026-11"])
    assert {item["balance"]["limit"]["mu_sq_pico"] for item in first.json()["items"]} == {str(10**12)}
    approved(ledger, "clicks")
    raised = {"budget": {"mu": 2}, "reason": "more"}
    assert ledger.put("/v1/datasets/clicks/budget", raised).status_code == 200
    ledger.post(path, {"names": ["2026-12"], "disjoint": True})
    assert of_partitions(ledger, part="limit") == dict.fromkeys(("2026-10", "2026-11", "2026-12"), 4 * 10**12)
    approved(ledger, "clicks")
    assert of_partitions(ledger) == {"2026-10": 2 * ONCE, "2026-11": 2 * ONCE, "2026-12": ONCE}
    ledger.patch("/v1/datasets/clicks", {"state": "frozen", "reason": "r"})
    assert ledger.post(path, {"names": ["2027-01"], "disjoint": True}).status_code == 201
    ledger.patch("/v1/datasets/clicks", {"state": "retired", "reason": "r"})
    assert error(ledger.post(path, {"names": ["2027-02"], "disjoint": True}))[:2] == (409, "dataset-frozen")
    demand_in_order(ledger, store)


def test_what_is_wrong_with_partitions(ledger: Ledger) -> None:
    """Goal: each mistake has its answer, and leaves no entry. Method: one request for each."""
    parted(ledger, "a", "b")
    ledger.register()
    before = kinds(ledger, "clicks"), kinds(ledger, "mnist")
    path = "/v1/datasets/clicks/partitions"
    many = [f"p{number}" for number in range(1001)]
    bad: list[tuple[Any, tuple[int, str, str | None]]] = [
        ({"names": ["c"], "disjoint": False}, (422, "invalid-request", "disjoint")),
        ({"names": ["c"]}, (422, "invalid-request", "disjoint")),
        ({"names": [], "disjoint": True}, (422, "invalid-request", "names")),
        ({"names": many, "disjoint": True}, (422, "invalid-request", "names")),
        ({"names": ["c", "c"], "disjoint": True}, (422, "invalid-request", "names")),
        ({"names": ["ä"], "disjoint": True}, (422, "invalid-request", "names.0")),
    ]
    for body, expected in bad:
        assert error(ledger.post(path, body)) == expected
    taken = ledger.post(path, {"names": ["c", "b"], "disjoint": True})
    assert (error(taken)[:2], taken.json()["partition"]) == ((409, "name-taken"), "b")
    closed = ledger.post("/v1/datasets/mnist/partitions", {"names": ["c"], "disjoint": True})
    assert error(closed)[:2] == (409, "partitions-closed")
    for name, use, expected in [
        ("unknown", {"name": "clicks", "partitions": ["a", "z"]}, (404, "not-found", None)),
        ("twice", {"name": "clicks", "partitions": ["a", "a"]}, (422, "invalid-request", "datasets.0.partitions")),
        ("none", {"name": "clicks", "partitions": []}, (422, "invalid-request", "datasets.0.partitions")),
        ("of a whole", {"name": "mnist", "partitions": ["a"]}, (422, "invalid-request", "datasets")),
    ]:
        assert error(ledger.ask(datasets=[use])) == expected, name
    assert ledger.ask(datasets=[{"name": "clicks", "partitions": ["z"]}]).json()["partition"] == "z"
    assert ledger.as_("requester").post(path, {"names": ["c"], "disjoint": True}).status_code == 403
    assert (kinds(ledger, "clicks"), kinds(ledger, "mnist")) == before


def test_partitions_by_page(ledger: Ledger) -> None:
    """Goal: they are listed by name, page by page, and the dataset shows the first thousand and their number."""
    parted(ledger)
    names = [f"p{number:04}" for number in range(1500)]
    for start in (0, 1000):
        made = ledger.post(
            "/v1/datasets/clicks/partitions", {"names": names[start : start + 1000][::-1], "disjoint": True}
        )
        assert made.status_code == 201
    seen: list[str] = []
    more: dict[str, Any] = {}
    while more != {"cursor": None}:
        page = ledger.get("/v1/datasets/clicks/partitions", limit=700, **more).json()
        seen += [item["name"] for item in page["items"]]
        more = {"cursor": page["next"]}
    assert seen == names
    shown = ledger.get("/v1/datasets/clicks").json()
    assert [item["name"] for item in shown["partitions"]] == names[:1000]
    listed = ledger.get("/v1/datasets").json()["items"][0]
    assert (shown["partition_count"], listed["partition_count"], listed["partitions"]) == (1500, 1500, [])


def test_a_thousand_partitions_in_one_run(ledger: Ledger, store: Store) -> None:
    """Goal: one decision, one transaction, one entry in each journal, and exact balances in all thousand. Method: count
    commits and entries; then a partition that is a release fuller makes the whole run bind there alone."""
    names = [f"p{number:04}" for number in range(1000)]
    parted(ledger, *names)
    ledger.register()
    commits: list[str] = []
    engine = ledger.client.app.state.services.store.engine
    event.listen(engine, "commit", lambda _connection: commits.append(threading.current_thread().name))
    run = approved(ledger, {"name": "clicks", "partitions": names[::-1]}, "mnist")
    assert sum(name.startswith("ledger-writer") for name in commits) == 1
    assert [item["name"] for item in run["datasets"]] == ["clicks", "mnist"]
    assert kinds(ledger, "clicks") == kinds(ledger, "mnist") == ["dataset-registered", "run-approved"]
    assert set(of_partitions(ledger).values()) == {ONCE}
    for _ in range(24):
        approved(ledger, {"name": "clicks", "partitions": ["p0500"]})
    refused = ledger.ask(datasets=["clicks"])
    assert [item["partition"] for item in refused.json()["datasets"]] == ["p0500"]
    others = [name for name in names if name != "p0500"]
    second = started(ledger, {"name": "clicks", "partitions": others})
    assert ledger.post(f"/v1/runs/{second}/settle").status_code == 200
    assert of_partitions(ledger, part="spent") == {name: ONCE * (name != "p0500") for name in names}
    demand_in_order(ledger, store)


# --- projects --------------------------------------------------------------------------------------------------------


def test_a_project_has_its_share(ledger: Ledger, store: Store) -> None:
    """Goal: a run in a project needs room in its share and in the dataset; the refusal names each that binds; what is
    charged is charged in both. Method: a share of ten releases, in a budget of 25."""
    ledger.register()
    path = "/v1/datasets/mnist/projects/ranking"
    made = ledger.put(path, {"budget": {"mu": 0.6324555320336759}})
    assert made.status_code == 200
    assert {"name", "dataset", "budget", "balance", "percent", "epsilon"} == set(made.json())
    assert int(made.json()["balance"]["limit"]["mu_sq_pico"]) == 10 * ONCE
    run = started(ledger, "mnist", mechanism=gaussian(count=10), project="ranking")
    assert ledger.get(f"/v1/runs/{run}").json()["project"] == "ranking"
    refused = ledger.ask(project="ranking").json()
    assert [(item["name"], item.get("project")) for item in refused["datasets"]] == [("mnist", "ranking")]
    assert refused["project"] == "ranking"
    assert ledger.post(f"/v1/runs/{run}/settle", {"steps": 4}).status_code == 200
    (share,) = ledger.get("/v1/datasets/mnist").json()["projects"]
    assert share["balance"]["spent"]["mu_sq_pico"] == str(4 * ONCE)
    assert ledger.balance()["spent"] == (4 * ONCE, 0)
    for _ in range(21):
        approved(ledger, "mnist")
    both = ledger.ask(gaussian(count=7), project="ranking").json()["datasets"]
    assert [item.get("project") for item in both] == [None, "ranking"]
    one = ledger.ask(gaussian(count=1), project="ranking").json()["datasets"]
    assert [item.get("project") for item in one] == [None]
    lower = ledger.put(path, {"budget": {"mu": 0.3}, "reason": "less"})
    assert error(lower)[:2] == (409, "budget-below-spent")
    assert ledger.put(path, {"budget": {"mu": 0.4}, "reason": "as much as was used"}).status_code == 200
    assert ledger.ask(project="ranking").status_code == 409
    assert ledger.ask(project="unknown").json()["project"] == "unknown"
    assert error(ledger.ask(project="unknown"))[:2] == (404, "not-found")
    assert ledger.as_("requester").put(path, {"budget": {"mu": 1}}).status_code == 403
    assert error(ledger.put("/v1/datasets/mnist/projects/UP", {"budget": {"mu": 1}}))[0] == 422
    demand_in_order(ledger, store)


def test_a_share_is_of_each_partition(ledger: Ledger, store: Store) -> None:
    """Goal: a project's spend is the most of any partition, as the dataset's is. Method: different use of two."""
    parted(ledger, "a", "b")
    ledger.put("/v1/datasets/clicks/projects/p", {"budget": {"mu": 0.4}})
    for partition in ("a", "a", "b", "a"):
        approved(ledger, {"name": "clicks", "partitions": [partition]}, project="p")
    (share,) = ledger.get("/v1/datasets/clicks").json()["projects"]
    assert share["balance"]["held"]["mu_sq_pico"] == str(3 * ONCE)
    assert share["balance"]["remaining"]["mu_sq_pico"] == str(ONCE)
    approved(ledger, "clicks", project="p")
    refused = ledger.ask(datasets=["clicks"], project="p").json()["datasets"]
    assert [(item["partition"], item["project"]) for item in refused] == [("a", "p")]
    approved(ledger, {"name": "clicks", "partitions": ["b"]}, project="p")
    demand_in_order(ledger, store)


def test_runs_are_listed_by_project(ledger: Ledger) -> None:
    """Goal: a team finds its runs, refused ones too. Method: three runs, of two projects and of none."""
    ledger.register()
    for name in ("one", "two"):
        ledger.put(f"/v1/datasets/mnist/projects/{name}", {"budget": {"mu": 0.2}})
    mine = [approved(ledger, "mnist", project="one")["id"], ledger.ask(project="one").json()["run"]]
    approved(ledger, "mnist", project="two")
    approved(ledger, "mnist")

    def listed(**filters: Any) -> list[str]:
        return [item["id"] for item in ledger.get("/v1/runs", **filters).json()["items"]]

    assert listed(project="one") == mine[::-1]
    assert listed(project="one", state="refused") == mine[1:]
    assert listed(project="one", dataset="mnist", limit=1) == mine[1:]
    assert listed(project="none") == []
    assert len(listed()) == 4


# --- ceilings --------------------------------------------------------------------------------------------------------


def test_no_budget_passes_the_ceiling(ledger: Ledger) -> None:
    """Goal: a ceiling, once registered, binds every later budget in either quantity, and is shown. Method: budgets at,
    above and below it, at registration and later."""
    ceiling = {"mu": 2, "delta": 1e-6}
    body = {**MNIST, "bound": "certified", "ceiling": ceiling}
    for budget in ({"mu": 2.1, "delta": 0}, {"mu": 1, "delta": 2e-6}):
        made = ledger.post("/v1/datasets", {**body, "budget": budget})
        assert error(made) == (422, "invalid-request", "budget")
    shown = ledger.register(**{**body, "budget": {"mu": 1, "delta": 1e-7}})
    assert shown["ceiling"]["mu_sq_pico"] == str(4 * 10**12)
    later: list[tuple[dict[str, Any], bool]] = [
        ({"mu": 2, "delta": 1e-6}, True),
        ({"mu": 2.0001, "delta": 1e-6}, False),
        ({"mu": 0.1, "delta": 1.1e-6}, False),
        ({"mu": 1, "delta": 0}, True),
    ]
    for budget, is_right in later:
        answer = ledger.put("/v1/datasets/mnist/budget", {"budget": budget, "reason": "r"})
        assert answer.status_code == (200 if is_right else 422), budget
        assert is_right or error(answer)[2] == "budget"
    assert error(ledger.patch("/v1/datasets/mnist", {"ceiling": {"mu": 9}}))[0] == 422
    assert kinds(ledger, "mnist") == ["dataset-registered", "budget-set", "budget-set"]


@pytest.mark.parametrize("ceiling", [{"mu": 0}, {"mu": 2000}, {"epsilon": 1}])
def test_a_ceiling_that_is_none(ledger: Ledger, ceiling: dict[str, Any]) -> None:
    """Goal: what is no budget is no ceiling, and the answer names it as the ceiling."""
    answer = ledger.post("/v1/datasets", {**MNIST, "ceiling": ceiling})
    assert answer.status_code == 422
    assert answer.json()["field"].startswith("ceiling")
    assert held(ledger, ledger.register()["name"]) == 0
