"""Lists: every item once, in the promised order, whatever is added on the way; and the filters of runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import text

from ledger.settings import Settings
from tests.kit.driver import Ledger, past_the_ledger

COUNT = 7
PAGES_MAX = 50
LIMITS = (1, 2, COUNT - 1, COUNT, COUNT + 1, 1000)


def walk(ledger: Ledger, path: str, *, limit: int | None = None, **filters: Any) -> Iterator[list[dict[str, Any]]]:
    """The pages of a list, from the first to the one whose `next` is null."""
    cursor: dict[str, Any] = {}
    for _ in range(PAGES_MAX):
        size = {} if limit is None else {"limit": limit}
        answer = ledger.get(path, **size, **filters, **cursor)
        assert answer.status_code == 200, answer.text
        shown = answer.json()
        assert set(shown) == {"items", "next"}
        yield shown["items"]
        if shown["next"] is None:
            return
        assert len(shown["items"]) == (limit or 100)
        cursor = {"cursor": shown["next"]}
    raise AssertionError(f"{path} has no end")


def every(ledger: Ledger, path: str, **more: Any) -> list[dict[str, Any]]:
    """All items of a list."""
    return [item for page in walk(ledger, path, **more) for item in page]


def newest_first(runs: list[dict[str, Any]]) -> bool:
    """Whether runs stand in the promised order; those of one instant in any."""
    moments = [run["created_at"] for run in runs]
    return moments == sorted(moments, reverse=True)


@pytest.fixture
def filled(ledger: Ledger) -> Ledger:
    """A ledger with seven datasets, runs, keys and (on `mnist`) a few more entries."""
    ledger.register()
    for number in range(COUNT - 1):
        ledger.register(name=f"set-{number * 7 % 10}")
    for _ in range(COUNT):
        ledger.ask()
    for _ in range(COUNT - 1):
        ledger.as_("auditor")
    return ledger


def test_every_list_from_end_to_end(filled: Ledger) -> None:
    """Goal: pages of any size add up to the same list. Method: walk each list by several limits."""
    orders: dict[str, Callable[[list[dict[str, Any]]], bool]] = {
        "/v1/datasets": lambda items: [item["name"] for item in items] == sorted(item["name"] for item in items),
        "/v1/datasets/mnist/entries": lambda items: [item["seq"] for item in items] == list(range(1, COUNT + 2)),
        "/v1/runs": newest_first,
        "/v1/keys": lambda items: len({item["id"] for item in items}) == len(items),
    }
    for path, in_order in orders.items():
        (whole,) = walk(filled, path)
        assert len(whole) == COUNT + (path.endswith("entries"))
        assert in_order(whole)
        for limit in (*LIMITS, None):
            pages = list(walk(filled, path, limit=limit))
            assert [item for page in pages for item in page] == whole
            assert len(pages) == -(-len(whole) // (limit or 100))


def test_lists_while_rows_arrive(filled: Ledger) -> None:
    """Goal: whoever walks a busy list gets what was there at the start exactly once.

    Method: add a row before the walk's second page and every one after it; new rows may be seen, once, or not.
    """
    numbers = iter(range(1000))

    def ask() -> None:
        assert filled.ask().status_code == 201

    def register() -> None:
        filled.register(name=f"set-{next(numbers) * 37 % 100:02}")

    def make_key() -> None:
        filled.as_("auditor")

    added: dict[str, tuple[Callable[[], None], Callable[[dict[str, Any]], Any]]] = {
        "/v1/datasets": (register, lambda item: item["name"]),
        "/v1/datasets/mnist/entries": (ask, lambda item: item["hash"]),
        "/v1/runs": (ask, lambda item: item["id"]),
        "/v1/keys": (make_key, lambda item: item["id"]),
    }
    for path, (add, identity) in added.items():
        before = [identity(item) for item in every(filled, path)]
        seen = []
        for count, page in enumerate(walk(filled, path, limit=2)):
            seen += [identity(item) for item in page]
            if count < 5:  # and the walk ends, although the list grows
                add()
        assert len(seen) == len(set(seen))
        assert [item for item in seen if item in set(before)] == before, path


def test_new_entries_are_found_from_the_last_cursor(filled: Ledger) -> None:
    """Goal: a reader can go on where it stopped. Method: keep the cursor of a page, add an entry, and ask once more."""
    shown = filled.get("/v1/datasets/mnist/entries", limit=COUNT).json()
    filled.ask()
    rest = filled.get("/v1/datasets/mnist/entries", cursor=shown["next"]).json()
    assert [item["seq"] for item in rest["items"]] == [COUNT + 1, COUNT + 2]
    assert rest["next"] is None


def test_runs_of_one_instant(filled: Ledger, database: Settings) -> None:
    """Goal: runs that were made in one instant are not lost between pages. Method: give all the same time, and walk."""
    engine = past_the_ledger(database)
    with engine.begin() as connection:
        connection.execute(text("UPDATE runs SET created_us = 1700000000000000"))
    engine.dispose()
    whole = every(filled, "/v1/runs")
    assert len({run["id"] for run in whole}) == COUNT
    for limit in LIMITS:
        assert every(filled, "/v1/runs", limit=limit) == whole


def test_an_empty_list(ledger: Ledger) -> None:
    """Goal: nothing is an empty list, and no error. Method: a new tenant's lists."""
    for path in ("/v1/datasets", "/v1/runs"):
        assert ledger.get(path).json() == {"items": [], "next": None}


def test_cursors_belong_to_their_list(filled: Ledger) -> None:
    """Goal: one list's cursor is not misread by another. Method: give each list each other's cursor."""
    lists = ("/v1/datasets", "/v1/datasets/mnist/entries", "/v1/runs", "/v1/keys")
    cursors = {path: filled.get(path, limit=1).json()["next"] for path in lists}
    for path in lists:
        for other, cursor in cursors.items():
            answer = filled.get(path, cursor=cursor)
            # A key's id reads as a dataset's name: after it come the datasets that come after it.
            if path == other or (path, other) == ("/v1/datasets", "/v1/keys"):
                assert answer.status_code == 200
            else:
                assert (answer.status_code, answer.json()["field"]) == (422, "cursor")


# --- filters of runs -------------------------------------------------------------------------------------------------


def test_runs_by_dataset_and_state(ledger: Ledger) -> None:
    """Goal: a filter lets through all that it names, and nothing else.

    Method: two datasets, runs in every state, all combinations, in one page and in pages of one.
    """
    made: dict[tuple[str, str], set[str]] = {}
    for name in ("mnist", "adult"):
        ledger.register(name=name)
        for state in ("held", "started", "settled", "voided", "refused", "settled"):
            noise = 0.5 if state == "refused" else 50
            asked = ledger.ask({"type": "gaussian", "noise_multiplier": noise}, datasets=[name]).json()
            run = asked["run"] if state == "refused" else asked["id"]
            if state in ("started", "settled"):
                ledger.post(f"/v1/runs/{run}/start")
            if state == "settled":
                ledger.post(f"/v1/runs/{run}/settle")
            if state == "voided":
                ledger.post(f"/v1/runs/{run}/void", {"reason": "not needed"})
            made.setdefault((name, state), set()).add(run)
    states: tuple[str | None, ...] = ("held", "started", "settled", "voided", "refused", None)
    names: tuple[str | None, ...] = ("mnist", "adult", None)
    for of, is_ in itertools.product(names, states):
        filters = {key: value for key, value in (("dataset", of), ("state", is_)) if value is not None}
        chosen = [runs for (name, state), runs in made.items() if of in (name, None) and is_ in (state, None)]
        wanted = set().union(*chosen)
        for limit in (1, 1000):
            runs = every(ledger, "/v1/runs", limit=limit, **filters)
            assert {run["id"] for run in runs} == wanted
            assert len(runs) == len(wanted)
            assert newest_first(runs)
            assert all(is_ in (run["state"], None) for run in runs)
    missing = ledger.get("/v1/runs", dataset="nothing")
    assert (missing.status_code, missing.json()["code"]) == (404, "not-found")


def test_overdue_runs(ledger: Ledger, database: Settings) -> None:
    """Goal: what was not started or settled in time is found, and goes on counting; what ended is not overdue.

    Method: move the due times of some runs into the past, in the database; list, start, settle and void them.
    """
    ledger.register()
    late_held, held, late_started, started, voided = (ledger.ask().json()["id"] for _ in range(5))
    for run in (late_started, started):
        ledger.post(f"/v1/runs/{run}/start")
    ledger.post(f"/v1/runs/{voided}/void", {"reason": "not needed"})
    refused = ledger.ask({"type": "gaussian", "noise_multiplier": 0.5}).json()["run"]
    assert every(ledger, "/v1/runs", overdue="true") == []
    before = ledger.balance()
    engine = past_the_ledger(database)
    with engine.begin() as connection:
        for run in (late_held, late_started):
            id_ = run if database.is_sqlite else run.replace("-", "")
            changed = connection.execute(
                text("UPDATE runs SET due_us = created_us - 1 WHERE CAST(id AS TEXT) IN (:plain, :dashed)"),
                {"plain": id_, "dashed": run},
            )
            assert changed.rowcount == 1
    engine.dispose()
    late, others = {late_held, late_started}, {held, started, voided, refused}
    for limit in (1, 1000):
        assert {run["id"] for run in every(ledger, "/v1/runs", overdue="true", limit=limit)} == late
        assert {run["id"] for run in every(ledger, "/v1/runs", overdue="false", limit=limit)} == others
    shown = {run["id"]: run["is_overdue"] for run in every(ledger, "/v1/runs")}
    assert shown == {**dict.fromkeys(late, True), **dict.fromkeys(others, False)}
    assert [run["id"] for run in every(ledger, "/v1/runs", overdue="true", state="held")] == [late_held]
    assert ledger.get(f"/v1/runs/{late_held}").json()["is_overdue"] is True
    assert ledger.balance() == before
    too_late = ledger.post(f"/v1/runs/{late_held}/start")
    assert (too_late.status_code, too_late.json()["code"], too_late.json()["state"]) == (409, "run-state", "held")
    assert ledger.post(f"/v1/runs/{late_held}/void", {"reason": "too late"}).status_code == 200
    assert ledger.post(f"/v1/runs/{late_started}/settle").status_code == 200
    assert every(ledger, "/v1/runs", overdue="true") == []
