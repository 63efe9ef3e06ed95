"""Derived datasets over HTTP: whatever is run on a copy, a filter or a join is charged where the people are."""

from __future__ import annotations

import itertools
from typing import Any

from ledger.store import Store
from tests.kit.driver import MNIST, Ledger
from tests.kit.parts import (
    DERIVED_AS,
    ONCE,
    approved,
    demand_in_order,
    derive,
    error,
    gaussian,
    held,
    kinds,
    of_partitions,
    parted,
    started,
)


def test_a_copy_brings_no_fresh_budget(ledger: Ledger, store: Store) -> None:
    """Goal: runs on a derived dataset fill its root. Method: 25 releases over two copies and the root; a 26th is
    refused on each, and the answer names the root."""
    ledger.register()
    for name in ("left", "right"):
        shown = derive(ledger, name, "mnist").json()
        assert (shown["budget"], shown["balance"], shown["epsilon"], shown["roots"]) == (None, None, [], ["mnist"])
        assert shown["derived_from"] == [{"name": "mnist", "unit_preserving": True}]
        assert {member: shown[member] for member in DERIVED_AS} == DERIVED_AS
    for number in range(24):
        approved(ledger, ("left", "right", "mnist")[number % 3])
    run = approved(ledger, "left")
    assert [(item["name"], item["remaining"] is None) for item in run["datasets"]] == [("left", True), ("mnist", False)]
    for name in ("left", "right", "mnist"):
        refused = ledger.ask(datasets=[name])
        assert refused.status_code == 409
        assert [item["name"] for item in refused.json()["datasets"]] == ["mnist"]
    assert held(ledger, "mnist") == 10**12
    assert kinds(ledger, "left").count("run-approved") == 9
    demand_in_order(ledger, store)


def test_a_derived_dataset_can_be_tighter(ledger: Ledger, store: Store) -> None:
    """Goal: with a budget of its own both bind. Method: a copy with room for four, of a root with room for 25."""
    ledger.register()
    assert derive(ledger, "copy", "mnist", budget={"mu": 0.4}, ceiling={"mu": 0.5}).status_code == 201
    for _ in range(4):
        approved(ledger, "copy")
    assert [item["name"] for item in ledger.ask(datasets=["copy"]).json()["datasets"]] == ["copy"]
    run = approved(ledger, "mnist")
    assert [item["name"] for item in run["datasets"]] == ["mnist"]
    assert (held(ledger, "copy"), held(ledger, "mnist")) == (4 * ONCE, 5 * ONCE)
    assert ledger.put("/v1/datasets/copy/budget", {"budget": {"mu": 0.6}, "reason": "r"}).status_code == 422
    assert ledger.put("/v1/datasets/copy/budget", {"budget": {"mu": 0.5}, "reason": "r"}).status_code == 200
    demand_in_order(ledger, store)


def test_a_diamond_is_charged_once(ledger: Ledger, store: Store) -> None:
    """Goal: a join of two filters of one table is one use of its people. Method: the join charges the root once; both
    filters named in one run are refused, and the answer says what to name instead."""
    ledger.register()
    ledger.register(name="adult")
    for name, parents in (("left", ["mnist"]), ("right", ["mnist"]), ("joined", ["left", "right", "adult"])):
        assert derive(ledger, name, *parents).status_code == 201
    assert ledger.get("/v1/datasets/joined").json()["roots"] == ["adult", "mnist"]
    run = approved(ledger, "joined")
    assert [item["name"] for item in run["datasets"]] == ["joined", "adult", "left", "mnist", "right"]
    assert (held(ledger, "mnist"), held(ledger, "adult")) == (ONCE, ONCE)
    before = {name: kinds(ledger, name) for name in ("mnist", "adult", "left", "right", "joined")}
    for names, via, root in [
        (["left", "right"], ["left", "right"], "mnist"),
        (["left", "mnist"], ["left", "mnist"], "mnist"),
        (["adult", "joined"], ["adult", "joined"], "adult"),
    ]:
        answer = ledger.ask(datasets=names)
        assert error(answer) == (422, "invalid-request", "datasets")
        told = answer.json()
        assert (told["root"], told["via"], told["instead"]) == (root, via, [root])
    assert error(ledger.ask(datasets=["left", "left"])) == (422, "invalid-request", "datasets")
    assert {name: kinds(ledger, name) for name in before} == before
    assert [item["name"] for item in approved(ledger, "left", "adult")["datasets"]] == ["left", "adult", "mnist"]
    demand_in_order(ledger, store)


def test_a_deep_chain(ledger: Ledger, store: Store) -> None:
    """Goal: depth changes nothing: every link has an entry, the root is charged once, and a hundred ancestors are the
    most. Method: a chain of 100, a run at its end, from start to settlement; then one link more."""
    ledger.register()
    names = ["mnist", *(f"link-{number:03}" for number in range(1, 101))]
    for parent, name in itertools.pairwise(names):
        assert derive(ledger, name, parent).status_code == 201
    run = started(ledger, names[-1])
    assert ledger.post(f"/v1/runs/{run}/settle").status_code == 200
    assert ledger.balance()["spent"] == (ONCE, 0)
    for name in (names[1], names[50], names[-1]):
        assert kinds(ledger, name)[1:] == ["run-approved", "run-started", "run-settled"]
    listed = ledger.get("/v1/runs", dataset=names[50]).json()["items"]
    assert [item["id"] for item in listed] == [run]
    assert [item["name"] for item in listed[0]["datasets"]] == [names[-1], *sorted(names[:-1])]
    beyond = derive(ledger, "too-deep", names[-1])
    assert error(beyond) == (422, "invalid-request", "derived_from")
    demand_in_order(ledger, store)


def test_a_frozen_ancestor_blocks(ledger: Ledger) -> None:
    """Goal: what happens upstream holds downstream: a frozen or retired ancestor keeps runs from being approved and
    started, and not from being settled or voided. Method: freeze the root, then the middle, of a chain of three."""
    ledger.register()
    derive(ledger, "middle", "mnist")
    derive(ledger, "end", "middle")
    waits, runs = approved(ledger, "end")["id"], started(ledger, "end")
    for name in ("mnist", "middle"):
        ledger.patch(f"/v1/datasets/{name}", {"state": "frozen", "reason": "a look"})
        asked, begun = ledger.ask(datasets=["end"], key="k"), ledger.post(f"/v1/runs/{waits}/start")
        assert error(asked)[:2] == error(begun)[:2] == (409, "dataset-frozen")
        assert asked.json()["dataset"] == begun.json()["dataset"] == name
        ledger.patch(f"/v1/datasets/{name}", {"state": "active", "reason": "looked"})
    assert ledger.ask(datasets=["end"], key="k").status_code == 201
    ledger.patch("/v1/datasets/middle", {"state": "retired", "reason": "r"})
    assert ledger.post(f"/v1/runs/{runs}/settle").status_code == 200
    assert ledger.post(f"/v1/runs/{waits}/void", {"reason": "r"}).status_code == 200
    assert error(ledger.ask(datasets=["end"]))[:2] == (409, "dataset-frozen")
    assert ledger.ask(datasets=["mnist"]).status_code == 201


def test_partitions_of_a_root_are_named_on_what_is_derived(ledger: Ledger, store: Store) -> None:
    """Goal: a run on a copy may name its root's partitions, and each partitioned root has to have them; unnamed is all.
    Method: a join of two partitioned roots and a whole one."""
    parted(ledger, "oct", "nov")
    ledger.register(name="views", partitions=["nov", "dec"])
    ledger.register()
    derive(ledger, "joined", "clicks", "views", "mnist")
    approved(ledger, {"name": "joined", "partitions": ["nov"]})
    assert of_partitions(ledger) == {"nov": ONCE, "oct": 0}
    assert of_partitions(ledger, "views") == {"dec": 0, "nov": ONCE}
    missing = ledger.ask(datasets=[{"name": "joined", "partitions": ["oct"]}])
    assert (error(missing)[:2], missing.json()["dataset"]) == ((404, "not-found"), "views")
    approved(ledger, "joined")
    assert of_partitions(ledger) == {"nov": 2 * ONCE, "oct": ONCE}
    assert held(ledger, "mnist") == 2 * ONCE
    refused = derive(ledger, "parts-of-its-own", "mnist", partitions=["a"])
    assert error(refused) == (422, "invalid-request", "partitions")
    closed = ledger.post("/v1/datasets/joined/partitions", {"names": ["x"], "disjoint": True})
    assert error(closed)[:2] == (409, "partitions-closed")
    demand_in_order(ledger, store)


def test_a_project_of_the_root_covers_what_is_derived(ledger: Ledger, store: Store) -> None:
    """Goal: a project is charged wherever it has a share, and every named dataset needs one, there or upstream."""
    ledger.register()
    ledger.register(name="adult")
    derive(ledger, "copy", "mnist")
    for name, mu in (("mnist", 0.4), ("copy", 0.2)):
        assert ledger.put(f"/v1/datasets/{name}/projects/p", {"budget": {"mu": mu}}).status_code == 200
    approved(ledger, "copy", project="p")
    refused = ledger.ask(datasets=["copy"], project="p").json()["datasets"]
    assert [(item["name"], item["project"]) for item in refused] == [("copy", "p")]
    for _ in range(3):
        approved(ledger, "mnist", project="p")
    assert {(i["name"], i["project"]) for i in ledger.ask(datasets=["copy"], project="p").json()["datasets"]} == {
        ("copy", "p"),
        ("mnist", "p"),
    }
    unknown = ledger.ask(datasets=["copy", "adult"], project="p")
    assert (error(unknown)[:2], unknown.json()["dataset"]) == ((404, "not-found"), "adult")
    demand_in_order(ledger, store)


def test_what_is_wrong_with_an_origin(ledger: Ledger) -> None:
    """Goal: each mistake in what a dataset is derived from has its answer. Method: one registration for each."""
    ledger.register()
    ledger.register(name="users", privacy_unit="user")
    origin = {"name": "mnist", "unit_preserving": True}
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"derived_from": [{"name": "new", "unit_preserving": True}]}, "derived_from"),
        ({"derived_from": [{"name": "nothing", "unit_preserving": True}]}, "derived_from"),
        ({"derived_from": [origin, origin]}, "derived_from"),
        ({"derived_from": [{"name": "mnist", "unit_preserving": False}]}, "derived_from.0.unit_preserving"),
        ({"derived_from": [{"name": "mnist"}]}, "derived_from.0.unit_preserving"),
        ({"derived_from": ["mnist"]}, "derived_from.0"),
        ({"derived_from": [origin], "ceiling": {"mu": 1}}, "ceiling"),
        ({}, "privacy_unit"),
        ({**DERIVED_AS}, "budget"),
    ]
    for body, field in wrong:
        assert error(ledger.post("/v1/datasets", {"name": "new", **body})) == (422, "invalid-request", field), body
    other = {"privacy_unit": "user", "adjacency": "replace_one", "bound": "certified"}
    for what, value in other.items():
        answer = derive(ledger, "new", "mnist", **{what: value})
        assert (error(answer)[:2], answer.json()["what"]) == ((409, "unit-mismatch"), what)
    assert error(derive(ledger, "new", "mnist", "users"))[:2] == (409, "unit-mismatch")
    assert derive(ledger, "new", "mnist", **DERIVED_AS).status_code == 201
    assert error(ledger.patch("/v1/datasets/new", {"derived_from": []}))[0] == 422
    no_budget = ledger.put("/v1/datasets/new/budget", {"budget": {"mu": 1}, "reason": "r"})
    assert error(no_budget) == (422, "invalid-request", "budget")


def test_datasets_that_do_not_go_together(ledger: Ledger) -> None:
    """Goal: one run has one unit, one adjacency and one bound. Method: a dataset that differs in each."""
    ledger.register()
    differ = {"privacy_unit": "user", "adjacency": "replace_one", "bound": "certified"}
    for what, value in differ.items():
        ledger.register(**{**MNIST, "name": what.replace("_", "-"), "budget": {"mu": 1, "delta": 1e-6}, what: value})
        answer = ledger.ask(datasets=["mnist", what.replace("_", "-")])
        assert (error(answer)[:2], answer.json()["what"]) == ((409, "unit-mismatch"), what)
    assert kinds(ledger, "mnist") == ["dataset-registered"]


def test_a_limited_key_sees_its_datasets_alone(ledger: Ledger, store: Store) -> None:
    """Goal: a key for a derived dataset asks there and sees its own runs, and can do nothing with the root. Method: a
    requester and a steward limited to a copy, beside another's runs."""
    ledger.register()
    derive(ledger, "copy", "mnist")
    mine = ledger.as_("requester", datasets=["copy"])
    run = approved(mine, "copy")
    approved(ledger, "copy")
    assert error(mine.ask(datasets=["mnist"])) == error(mine.ask(datasets=["nothing"]))
    assert mine.get("/v1/datasets/mnist").status_code == 404
    assert [item["name"] for item in mine.get("/v1/datasets").json()["items"]] == ["copy"]
    assert [item["id"] for item in mine.get("/v1/runs").json()["items"]] == [run["id"]]
    assert mine.get("/v1/runs", dataset="mnist").status_code == 404
    assert [item["id"] for item in mine.get("/v1/runs", dataset="copy").json()["items"]] == [run["id"]]
    assert mine.post(f"/v1/runs/{run['id']}/start").status_code == 200
    assert mine.post("/v1/plan", {"datasets": ["copy"], "mechanism": gaussian()}).json()["fits"]
    assert mine.post("/v1/plan", {"datasets": ["mnist"], "mechanism": gaussian()}).status_code == 404
    steward = ledger.as_("steward", datasets=["copy"])
    body = {"names": ["a"], "disjoint": True}
    assert steward.post("/v1/datasets/mnist/partitions", body).status_code == 404
    assert steward.put("/v1/datasets/mnist/projects/p", {"budget": {"mu": 1}}).status_code == 404
    assert steward.put("/v1/datasets/mnist/fair-use", {"reason": "r"}).status_code == 404
    assert steward.put("/v1/datasets/copy/projects/p", {"budget": {"mu": 1}}).status_code == 200
    assert derive(ledger, "second", "mnist", "copy").status_code == 201
    demand_in_order(ledger, store)


def test_a_plan_shows_nothing_of_what_a_key_does_not_see(ledger: Ledger) -> None:
    """Goal: what is left of a root is told in answers about runs on record, and not by a plan. Method: a plan that fits
    and one that does not, where the root alone binds, by every role limited to the copy; the whole key sees all."""
    ledger.register()
    derive(ledger, "copy", "mnist", budget={"mu": 100})
    for multiplier in (20, 0.5):
        body = {"datasets": ["copy"], "mechanism": {"type": "gaussian", "noise_multiplier": multiplier}}
        whole = ledger.post("/v1/plan", body).json()
        copy, root = whole["datasets"]
        assert (root["name"], root["remaining"]["mu"] > 0) == ("mnist", True)
        for role in ("requester", "steward", "auditor"):
            limited = ledger.as_(role, datasets=["copy"]).post("/v1/plan", body).json()
            hidden = {"name": "mnist", "state": "active", "limit": None, "remaining": None, "after": None}
            assert limited["datasets"] == [copy, hidden]
            unseen = dict.fromkeys(("remaining", "limit", "percent_requested", "percent_remaining"))
            assert limited["binding"] == [{**item, **unseen} for item in whole["binding"]]
            assert [item["name"] for item in limited["binding"]] == ([] if multiplier == 20 else ["mnist"])
            same = ("fits", "cost", "would_fit")
            assert [limited[name] for name in same] == [whole[name] for name in same]


def test_batches_of_a_size_that_is_not_public(ledger: Ledger) -> None:
    """Goal: under replace_one and zero_out no run on a derived dataset has batches that rest on its number of units,
    which is then not public; under add_or_remove_one, on the root itself and with other batches it has. Method: each,
    alone, as a part, and as a plan."""
    trained = {"type": "dpsgd", "noise_multiplier": 40, "sample_rate": 0.5, "steps": 2, "sampling": "shuffle"}
    parts = {"type": "composed", "parts": [gaussian(50), trained]}
    for adjacency, why in (
        ("replace_one", "can change how many units it has"),
        ("zero_out", "a unit whose data was replaced by nothing"),
        ("add_or_remove_one", None),
    ):
        ledger.register(name=adjacency, adjacency=adjacency)
        derive(ledger, copy := f"bots-{adjacency}", adjacency)
        for declared, field in ((trained, "mechanism.sampling"), (parts, "mechanism.parts.1.sampling")):
            asked = ledger.ask(declared, datasets=[copy])
            assert ledger.ask(declared, datasets=[adjacency]).status_code == 201
            if why is None:
                assert asked.status_code == 201
                continue
            assert error(asked) == (422, "invalid-mechanism", field)
            for helpful in (f"{copy} is derived", why, "poisson", "or name the original dataset"):
                assert helpful in asked.json()["detail"]
            planned = ledger.post("/v1/plan", {"datasets": [copy], "mechanism": declared})
            assert error(planned) == (422, "invalid-mechanism", field)
    fixed, poisson = ({**trained, "sampling": sampling} for sampling in ("fixed_size", "poisson"))
    assert error(ledger.ask(fixed, datasets=["bots-replace_one"])) == (422, "invalid-mechanism", "mechanism.sampling")
    for declared, name in ((fixed, "replace_one"), (poisson, "bots-replace_one")):
        assert ledger.ask(declared, datasets=[name]).status_code == 201
