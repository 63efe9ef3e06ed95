"""Many threads that ask for runs on several datasets at once, in opposite orders.

Every run takes the locks of all the datasets that it reaches. Whatever the order in which they are named, nothing may
wait for ever, fail, or be counted other than exactly.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from ledger.operate.check import check_journals
from ledger.settings import Settings
from tests.kit.driver import Ledger, first_keys, past_the_ledger, serve
from tests.kit.trials import trials
from tests.model import evidence
from tests.model.compare import demand_within, parts_of, resolved, shown
from tests.model.draws import derived, gaussian
from tests.model.model import OWN, Model, Person
from tests.model.prices import Amount, Json

BOSS = Person("boss", "admin", "boss")
THREADS = 32
TURNS = trials(3, 5)
SECONDS_MAX = 120
BATCHES = trials(1, 2)
NOISE = trials(8, 10)
FIT = NOISE**2
"""How many runs fit on `left`, which every run reaches, on a budget of mu 1: some two thirds of those asked for."""

TERMS: Json = {"privacy_unit": "record", "adjacency": "add_or_remove_one", "bound": "clt"}
DATASETS: dict[str, Json] = {
    "left": {**TERMS, "budget": {"mu": 1}},
    "right": {**TERMS, "budget": {"mu": 2}},
    "parted": {**TERMS, "budget": {"mu": 2}, "partitions": ["a", "b", "c"]},
    "join": {"derived_from": derived("right", "left")},
    "deep": {"derived_from": derived("join"), "budget": {"mu": 1.5}},
    "part": {"derived_from": derived("left")},
}
USES: list[tuple[list[Any], str | None]] = [
    (["left", "right"], None),
    (["right", "left"], None),
    ([{"name": "parted", "partitions": ["b", "a"]}, "left"], "x"),
    (["left", {"name": "parted", "partitions": ["b", "c"]}], "x"),
    (["deep"], None),
    (["part", "parted"], None),
    (["parted", "part"], None),
    (["join", {"name": "parted", "partitions": ["c"]}], "x"),
    ([{"name": "parted", "partitions": ["a"]}, "deep"], None),
]
"""What is asked for in turn, with its project. All of it reaches `left`, and nothing else ever binds."""

CHANGES: list[tuple[str, str, Json]] = [
    ("PUT", "/v1/datasets/right/budget", {"budget": {"mu": 2}, "reason": "as before"}),
    ("PUT", "/v1/datasets/parted/budget", {"budget": {"mu": 2}, "reason": "as before"}),
    ("PUT", "/v1/datasets/parted/projects/x", {"budget": {"mu": 3}}),
    ("PUT", "/v1/datasets/left/fair-use", {"held": {"mu": 5}, "runs_per_hour": None, "reason": "plenty"}),
    ("PATCH", "/v1/datasets/join", {"title": "a join"}),
]
"""What a steward does meanwhile, which alters no balance."""

Send = Callable[..., Any]


class Crowd:
    """Many clients of one ledger, numbered, with the key of one tenant's admin."""

    def __init__(self, sends: Sequence[Send], operator_key: str) -> None:
        self._sends, self._operator_key, self._key = sends, operator_key, ""

    def __call__(self, number: int) -> Send:
        return partial(self._send, number)

    def _send(self, number: int, method: str, path: str, *, headers: dict[str, str] | None = None, **rest: Any) -> Any:
        send = self._sends[number % len(self._sends)]
        return send(method, path, headers={"Authorization": f"Bearer {self._key}", **(headers or {})}, **rest)

    def settle_down(self) -> Model:
        """Makes a tenant with all datasets and projects, and the model that has them too."""
        self._key = self._operator_key
        made = self(0)("POST", "/v1/tenants", json={"name": f"tenant of {time.monotonic_ns()}"})
        self._key = made.json()["key"]["secret"]
        model = Model([])
        for name, body in DATASETS.items():
            assert self(0)("POST", "/v1/datasets", json={"name": name, **body}).status_code == 201
            model.register(BOSS, {"name": name, **body})
        for name in ("left", "parted"):
            path = f"/v1/datasets/{name}/projects/x"
            assert self(0)("PUT", path, json={"budget": {"mu": 3}}).status_code == 200
            model.perform(BOSS, "project", name, {"project": "x", "budget": {"mu": 3}})
        return model


@contextmanager
def served(settings: Settings, folder: Path) -> Iterator[Crowd]:
    """Two server processes; every thread has a client of its own at one of them."""
    operator_key = first_keys(settings).operator_key
    with ExitStack() as stack:
        urls = [stack.enter_context(serve(settings, folder)).url for _ in range(2)]
        clients = [
            stack.enter_context(httpx.Client(base_url=url, timeout=SECONDS_MAX)) for url in urls * (THREADS // 2)
        ]
        yield Crowd([client.request for client in clients], operator_key)


@contextmanager
def in_process(settings: Settings, folder: Path) -> Iterator[Crowd]:
    """The application in this process; all threads share it."""
    with Ledger.open(settings) as ledger:
        yield Crowd([ledger.request], ledger.operator_key)


def run_body(number: int) -> Json:
    """The request of the run of this number."""
    uses, project = USES[number % len(USES)]
    return {"datasets": uses, "mechanism": gaussian(NOISE), **({} if project is None else {"project": project})}


def in_threads(work: Callable[[int], list[Any]]) -> list[Any]:
    """What all threads found, having begun at the same moment. Fails where they take too long."""
    barrier = threading.Barrier(THREADS)

    def one(number: int) -> list[Any]:
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        began = time.monotonic()
        found = list(pool.map(one, range(THREADS), timeout=SECONDS_MAX))
        assert time.monotonic() - began < SECONDS_MAX
    return [item for items in found for item in items]


def check_balances(client: Crowd, model: Model) -> None:
    """Every balance is exactly the model's."""
    for name in DATASETS:
        answer = client(0)("GET", f"/v1/datasets/{name}").json()
        expected = shown(model, model.datasets[name])
        mine = {part: expected[part] for part in ("balance", "partitions", "projects")}
        demand_within(resolved(mine), evidence.exact(json.dumps({**answer, **parts_of(answer)})), name)


def deadlocks(settings: Settings) -> int:
    """How many the server ended by force; a ledger that tries again would hide them."""
    if settings.is_sqlite:
        return 0
    engine = past_the_ledger(settings)
    with engine.begin() as connection:
        found = connection.execute(text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"))
        count = int(found.scalar_one())
    engine.dispose()
    return count


@pytest.mark.parametrize("site", [served, in_process], ids=["served", "in-process"])
def test_opposite_orders(database: Settings, tmp_path: Path, site: Any) -> None:
    """Goal: no deadlock, no 5xx, exactly as many approvals as fit, and exact sums in every account.

    Method: 32 threads ask for runs on several datasets, partitions and derived datasets in opposite orders, one by one
    and in batches, and end them while budgets change; the model is told what was approved, in any order.
    """
    with site(database, tmp_path) as client:
        model = client.settle_down()
        ids = ask_at_once(client, model)
        check_balances(client, model)
        assert model.datasets["left"].accounts[OWN].held == Amount(10**12)
        end_at_once(client, model, ids)
        check_balances(client, model)
        model = client.settle_down()
        ask_for_batches_at_once(client, model)
        check_balances(client, model)
        assert [found for found in check_journals(database) if found["error"] is not None] == []
    assert deadlocks(database) == 0


def ask_at_once(client: Crowd, model: Model) -> dict[int, str]:
    """Every thread asks for a few runs. The ids of those that were approved, by number."""

    def ask(thread: int) -> list[Any]:
        found = []
        for number in range(thread * TURNS, (thread + 1) * TURNS):
            key = {"Idempotency-Key": str(number)}
            found.append((number, client(thread)("POST", "/v1/runs", json=run_body(number), headers=key)))
        return found

    answers = in_threads(ask)
    assert Counter(answer.status_code for _, answer in answers) == {201: FIT, 409: THREADS * TURNS - FIT}
    for number, answer in sorted(answers, key=lambda pair: int(pair[1].status_code)):
        expected = model.ask(BOSS, str(number), run_body(number))
        assert expected.status == answer.status_code
        if answer.status_code == 409:
            assert {name for name, *_ in expected.over} == {"left"}
            assert {item["name"] for item in answer.json()["datasets"]} == {"left"}
    approved = {number: answer.json() for number, answer in answers if answer.status_code == 201}
    places = [(on["name"], on["seq"]) for run in approved.values() for on in run["datasets"]]
    assert len(set(places)) == len(places), "every run has places of its own in the journals"
    return {number: run["id"] for number, run in approved.items()}


def end_at_once(client: Crowd, model: Model, ids: dict[int, str]) -> None:
    """Half of the runs are settled and half voided, while stewards change whatever takes the same locks."""
    runs = {int(key): run for (_, key), run in model.keys.items() if run.state == "held"}
    mine = {thread: sorted(runs)[thread::THREADS] for thread in range(THREADS)}

    def end(thread: int) -> list[Any]:
        send, found = client(thread), []
        for number in mine[thread]:
            if number % 2:
                found.append(send("POST", f"/v1/runs/{ids[number]}/start"))
                found.append(send("POST", f"/v1/runs/{ids[number]}/settle", json={}))
            else:
                found.append(send("POST", f"/v1/runs/{ids[number]}/void", json={"reason": "unused"}))
            method, path, body = CHANGES[number % len(CHANGES)]
            found.append(send(method, path, json=body))
        return found

    assert {answer.status_code for answer in in_threads(end)} == {200}
    for number, run in runs.items():
        if number % 2:
            model.perform(BOSS, "start", run, {})
            model.perform(BOSS, "settle", run, {})
        else:
            model.perform(BOSS, "void", run, {"reason": "unused"})


def ask_for_batches_at_once(client: Crowd, model: Model) -> None:
    """Every thread sends batches of three runs, atomic or not, forwards or backwards. An atomic one is approved as a
    whole or not at all, and what is left in the end is less than one of them needs."""

    def ask(thread: int) -> list[Any]:
        found = []
        for turn in range(BATCHES):
            numbers = [(thread * BATCHES + turn) * 3 + part for part in range(3)][:: 1 if thread % 2 else -1]
            items = [{**run_body(number), "idempotency_key": str(number)} for number in numbers]
            body = {"runs": items, "atomic": thread % 4 < 2}
            found.append((numbers, client(thread)("POST", "/v1/runs/batch", json=body)))
        return found

    approved = 0
    for numbers, answer in in_threads(ask):
        statuses = [result["status"] for result in answer.json()["results"]]
        assert len(statuses) == len(numbers)
        if answer.status_code == 409:
            assert (answer.json()["code"], set(statuses)) == ("batch-refused", {409})
            continue
        assert answer.status_code == 200
        for number, status in zip(numbers, statuses, strict=True):
            if status == 201:
                approved += 1
                assert model.ask(BOSS, str(number), run_body(number)).status == 201
    assert FIT - 2 <= approved <= FIT
