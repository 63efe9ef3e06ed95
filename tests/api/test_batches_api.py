"""Batches over HTTP: many runs in one transaction, each for itself, all or none, or as many as fit."""

from __future__ import annotations

from typing import Any

from ledger.store import Store
from tests.kit.driver import RELEASE, Ledger
from tests.kit.parts import ONCE, demand_in_order, derive, error, gaussian, held, kinds

PATH = "/v1/runs/batch"


def items(*names: str, **changes: Any) -> list[dict[str, Any]]:
    """Runs under these keys."""
    return [{**RELEASE, **changes, "idempotency_key": name} for name in names]


def numbered(count: int, prefix: str = "item", **changes: Any) -> list[dict[str, Any]]:
    """So many runs, each under its own key."""
    return items(*(f"{prefix}-{number}" for number in range(count)), **changes)


def results(ledger: Ledger, runs: list[Any], **more: Any) -> list[dict[str, Any]]:
    """What came of each run of a batch."""
    answer = ledger.post(PATH, {"runs": runs, **more})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["results"]
    return found


def test_each_for_itself(ledger: Ledger, store: Store) -> None:
    """Goal: 25 of 30 fit, in the order in which they stand, though a larger one before them does not."""
    ledger.register()
    (large, *found) = results(ledger, [*items("large", mechanism=gaussian(0.5)), *numbered(30)])
    assert (large["status"], large["problem"]["fits"]) == (409, {"noise_multiplier": 1})
    assert [item["status"] for item in found] == [201] * 25 + [409] * 5
    left = [int(item["run"]["datasets"][0]["remaining"]["mu_sq_pico"]) for item in found[:25]]
    assert left == [ONCE * number for number in reversed(range(25))]
    assert {item["problem"]["code"] for item in found[25:]} == {"budget-exceeded"}
    assert kinds(ledger, "mnist") == ["dataset-registered", "run-refused"] + ["run-approved"] * 25 + ["run-refused"] * 5
    demand_in_order(ledger, store)


def test_an_item_is_the_same_run_as_alone(ledger: Ledger) -> None:
    """Goal: a principal's keys are one space, and an item without its key is the body: the same run asked for by either
    call is one run, with one answer. Method: an approval and a refusal, each asked for both ways, and one with another
    body."""
    ledger.register(budget={"mu": 0.3})
    big = {"mechanism": gaussian(2)}
    in_batch = results(ledger, [*items("a"), *items("b", **big)])
    alone = [ledger.ask(key="a"), ledger.ask(key="b", **big)]
    for item, answer in zip(in_batch, alone, strict=True):
        assert (item["status"], item.get("run") or item["problem"]) == (answer.status_code, answer.json())
        assert (item["replayed"], answer.headers["idempotent-replayed"]) == (False, "true")
    first = ledger.ask(key="c")
    again = results(ledger, [*items("c"), *items("a"), *items("b", **big), *items("a2")])
    assert [(item["status"], item["replayed"]) for item in again] == [
        (201, True),
        (201, True),
        (409, True),
        (409, False),
    ]
    assert again[0]["run"] == first.json()
    (other,) = results(ledger, items("a", purpose="another"))
    assert (other["status"], other["problem"]["code"]) == (422, "idempotency-key-reused")
    (theirs,) = results(ledger.as_("requester"), items("a"))
    assert (theirs["status"], theirs["replayed"]) == (409, False)  # a key of its own, and another run
    assert held(ledger, "mnist") == 2 * ONCE


def test_all_or_none(ledger: Ledger, store: Store) -> None:
    """Goal: an atomic batch of which one does not fit leaves nothing, binds no key, and says of each how it stood; the
    same keys serve afterwards. Method: 26 where 25 fit; then 25 of them, which is all; then once more."""
    ledger.register()
    before = ledger.get("/v1/datasets/mnist/entries").json()
    refused = ledger.post(PATH, {"runs": numbered(26), "atomic": True})
    assert error(refused)[:2] == (409, "batch-refused")
    found = refused.json()["results"]
    assert [item["problem"]["code"] for item in found] == ["batch-refused"] * 25 + ["budget-exceeded"]
    assert "run" not in found[-1]["problem"]
    assert found[-1]["problem"]["datasets"][0]["remaining"] == 0
    assert ledger.get("/v1/datasets/mnist/entries").json() == before
    assert ledger.get("/v1/runs").json()["items"] == []
    fits = results(ledger, numbered(25), atomic=True)
    assert [(item["status"], item["replayed"]) for item in fits] == [(201, False)] * 25
    again = results(ledger, numbered(25), atomic=True)
    assert [(item["status"], item["replayed"]) for item in again] == [(201, True)] * 25
    assert [item["run"] for item in again] == [item["run"] for item in fits]
    assert ledger.ask().status_code == 409
    demand_in_order(ledger, store)


def test_what_spoils_an_atomic_batch(ledger: Ledger) -> None:
    """Goal: a frozen dataset, an unknown one, a key of another body, and a repeated refusal each refuse the batch; a
    repeated approval does not. Method: one good item beside each."""
    ledger.register(budget={"mu": 0.5})
    ledger.register(name="frozen")
    ledger.patch("/v1/datasets/frozen", {"state": "frozen", "reason": "r"})
    ledger.ask(key="approved")
    big = {"mechanism": gaussian(1)}
    ledger.ask(key="refused", **big)
    spoilers: list[tuple[dict[str, Any], str]] = [
        (items("x", datasets=["frozen"])[0], "dataset-frozen"),
        (items("x", datasets=["nothing"])[0], "not-found"),
        (items("x", project="nobody")[0], "not-found"),
        (items("approved", purpose="another")[0], "idempotency-key-reused"),
        (items("refused", **big)[0], "budget-exceeded"),
        (items("x", **big)[0], "budget-exceeded"),
    ]
    for spoiler, code in spoilers:
        for runs, place in (([*items("good"), spoiler], 1), ([spoiler, *items("good")], 0)):
            answer = ledger.post(PATH, {"runs": runs, "atomic": True})
            assert error(answer)[:2] == (409, "batch-refused"), code
            found = answer.json()["results"]
            assert (found[place]["problem"]["code"], found[1 - place]["problem"]["code"]) == (code, "batch-refused")
    assert held(ledger, "mnist") == ONCE
    good = results(ledger, [*items("approved"), *items("good")], atomic=True)
    assert [(item["status"], item["replayed"]) for item in good] == [(201, True), (201, False)]


def test_thirty_seven_of_two_hundred(ledger: Ledger, store: Store) -> None:
    """Goal: of 200 trials of which 37 fit, all or none approves none and names the 37; as many as fit approves exactly
    these, and records nothing else; the same request approves no more, even after one was voided. Method: the calls in
    this order, with a large trial first that does not fit."""
    ledger.register(budget={"mu": 1.22})  # 37 times 0.04, and 0.0084
    runs = [*items("large", mechanism=gaussian(0.5)), *numbered(199)]
    refused = ledger.post(PATH, {"runs": runs, "atomic": True})
    assert error(refused)[:2] == (409, "batch-refused")
    assert refused.json()["fitting"] == 37
    assert kinds(ledger, "mnist") == ["dataset-registered"]
    answer = ledger.post(PATH, {"runs": runs, "as_many_as_fit": True}).json()
    assert answer["approved"] == 37
    assert [item["status"] for item in answer["results"]] == [409] + [201] * 37 + [409] * 162
    assert {item["problem"]["code"] for item in answer["results"] if "problem" in item} == {"budget-exceeded"}
    assert kinds(ledger, "mnist") == ["dataset-registered"] + ["run-approved"] * 37
    again = ledger.post(PATH, {"runs": runs, "as_many_as_fit": True}).json()
    assert [item["replayed"] for item in again["results"]] == [False] + [True] * 37 + [False] * 162
    void = ledger.post(f"/v1/runs/{again['results'][1]['run']['id']}/void", {"reason": "r"})
    assert void.status_code == 200
    last = ledger.post(PATH, {"runs": runs, "as_many_as_fit": True}).json()
    assert last["approved"] == 37
    assert {item["problem"]["code"] for item in last["results"][38:]} == {"batch-refused"}
    assert held(ledger, "mnist") == 36 * ONCE
    # What was left out binds no key, and can be asked for by itself.
    assert ledger.ask(key="item-198").status_code == 201
    demand_in_order(ledger, store)


def test_as_many_as_fit_needs_runs_that_can_be_decided(ledger: Ledger) -> None:
    """Goal: one run that cannot be decided leaves all undecided, and its own error names why; with `atomic` the call is
    malformed."""
    ledger.register()
    ledger.register(name="frozen")
    ledger.patch("/v1/datasets/frozen", {"state": "frozen", "reason": "r"})
    ledger.ask(key="used")
    wrong = [
        (items("x", datasets=["frozen"]), "dataset-frozen"),
        (items("x", datasets=["nothing"]), "not-found"),
        (items("used", purpose="another"), "idempotency-key-reused"),
    ]
    for (wrong_item,), code in wrong:
        answer = ledger.post(PATH, {"runs": [*items("good"), wrong_item], "as_many_as_fit": True}).json()
        assert [item["problem"]["code"] for item in answer["results"]] == ["batch-refused", code]
        assert answer["approved"] == 0
    (alone,) = results(ledger, items("x", mechanism=gaussian(0.5)), as_many_as_fit=True)
    assert (alone["status"], alone["problem"]["code"], "run" in alone["problem"]) == (409, "budget-exceeded", False)
    malformed = {"runs": [*items("good"), {"idempotency_key": "x"}], "as_many_as_fit": True}
    assert error(ledger.post(PATH, malformed)) == (422, "invalid-request", "runs.1.datasets")
    both = {"runs": items("good"), "as_many_as_fit": True, "atomic": True}
    assert error(ledger.post(PATH, both)) == (422, "invalid-request", "as_many_as_fit")
    assert held(ledger, "mnist") == ONCE


def test_items_that_are_no_runs(ledger: Ledger) -> None:
    """Goal: independently, what is malformed fails alone, naming its field; atomically, the whole call does; a key that
    stands twice, or a batch of nothing or too many, is refused in either case."""
    ledger.register()
    bad: list[tuple[Any, tuple[int, str, str]]] = [
        ({"idempotency_key": "k1"}, (422, "invalid-request", "runs.1.datasets")),
        ({**RELEASE, "idempotency_key": ""}, (400, "idempotency-key-missing", "runs.1.idempotency_key")),
        ({**RELEASE}, (400, "idempotency-key-missing", "runs.1.idempotency_key")),
        ({**RELEASE, "idempotency_key": 7}, (400, "idempotency-key-missing", "runs.1.idempotency_key")),
        ({**RELEASE, "idempotency_key": "k2", "x": 1}, (422, "invalid-request", "runs.1.x")),
        (
            {**RELEASE, "idempotency_key": "k3", "mechanism": gaussian(0)},
            (422, "invalid-mechanism", "runs.1.mechanism.noise_multiplier"),
        ),
    ]
    for number, (item, expected) in enumerate(bad):
        found = results(ledger, [*items(f"before-{number}"), item, *items(f"after-{number}")])
        assert [each["status"] for each in found] == [201, expected[0], 201]
        problem = found[1]["problem"]
        assert (problem["status"], problem["code"], problem["field"]) == expected
        whole = ledger.post(PATH, {"runs": [*items(f"more-{number}"), item], "atomic": True})
        assert error(whole) == expected
    for runs, field in [
        (items("same", "same"), "runs.1.idempotency_key"),
        ([], "runs"),
        (numbered(1001), "runs"),
        (["text"], "runs.0"),
        ({}, "runs"),
    ]:
        for is_atomic in (True, False):
            answer = ledger.post(PATH, {"runs": runs, "atomic": is_atomic})
            assert error(answer) == (422, "invalid-request", field)
    assert error(ledger.post(PATH, {"runs": items("k"), "atomic": "yes"})) == (422, "invalid-request", "atomic")
    assert held(ledger, "mnist") == 2 * len(bad) * ONCE
    assert error(ledger.as_("auditor").post(PATH, {"runs": items("k")}))[:2] == (403, "forbidden")


def test_a_thousand_runs_over_several_datasets(ledger: Ledger, store: Store) -> None:
    """Goal: the largest batch is decided whole and in order, on roots too. Method: a thousand small releases on two
    copies of one root with room for nine hundred; each journal's numbers, and the sum."""
    ledger.register(budget={"mu": 0.3})
    for name in ("left", "right"):
        derive(ledger, name, "mnist")
    small = gaussian(100)  # 1e-4 of mu², of 0.09
    runs = [
        {"datasets": [("left", "right")[number % 2]], "mechanism": small, "idempotency_key": f"k{number}"}
        for number in range(1000)
    ]
    found = results(ledger, runs)
    assert [item["status"] for item in found] == [201] * 900 + [409] * 100
    seqs = [item["run"]["datasets"][-1]["seq"] for item in found[:900]]
    assert seqs == list(range(2, 902))
    assert ledger.balance()["remaining"] == (0, 0)
    assert kinds(ledger, "left").count("run-approved") == 450
    demand_in_order(ledger, store)


def test_runs_of_a_batch_are_listed_and_moved_like_others(ledger: Ledger) -> None:
    """Goal: nothing is different about a run that was asked for in a batch. Method: pages of runs decided at one moment
    show each once; one is started, settled and shown."""
    ledger.register()
    ids = {item["run"]["id"] for item in results(ledger, numbered(20))}
    seen: list[str] = []
    more: dict[str, Any] = {}
    while more != {"cursor": None}:
        page = ledger.get("/v1/runs", dataset="mnist", limit=7, **more).json()
        seen += [item["id"] for item in page["items"]]
        more = {"cursor": page["next"]}
    assert (len(seen), set(seen)) == (20, ids)
    run = seen[3]
    assert ledger.post(f"/v1/runs/{run}/start").status_code == 200
    assert ledger.post(f"/v1/runs/{run}/settle").status_code == 200
    assert ledger.get(f"/v1/runs/{run}").json()["idempotency_key"].startswith("item-")
