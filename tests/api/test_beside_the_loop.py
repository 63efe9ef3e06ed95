"""Nothing that grows with a request runs on the event loop: counted by the thread that it runs in, never by time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from ledger.accounting import zcdp
from ledger.alerting.courier import Hosts
from ledger.api import batches, body, calls, routing
from ledger.api.problems import Json
from ledger.core.journal import chain
from ledger.service import asking, costing
from ledger.service.aside import ON_LOOP_BYTES_MAX
from tests.kit.driver import RELEASE, Ledger
from tests.kit.scene import REASON

NAMES = [f"{number:032}" for number in range(600)]
LONG: dict[str, Any] = {"labels": {f"label-{number}": "x" * 255 for number in range(64)}, "purpose": "y" * 4000}
"""Members that make a request longer than is read on the loop."""
ZCDP = {"type": "composed", "parts": [{"type": "zcdp", "rho": rho} for rho in (0.01, 0.02, 0.03)]}


class Threads:
    """What ran, on how many bytes, and whether on the event loop."""

    def __init__(self, loop: int) -> None:
        self._loop = loop
        self.ran: list[tuple[str, int, bool]] = []

    def watch(self, name: str, real: Callable[..., Any], size: Callable[..., int]) -> Callable[..., Any]:
        """What does the same, and is written down."""

        def call(*args: Any, **rest: Any) -> Any:
            result = real(*args, **rest)
            self.ran.append((name, size(args, result), threading.get_ident() == self._loop))
            return result

        return call

    def take(self, name: str) -> list[tuple[int, bool]]:
        """How much of this ran since the last time, and where."""
        taken = [(size, on_loop) for what, size, on_loop in self.ran if what == name]
        self.ran = [one for one in self.ran if one[0] != name]
        return taken


@pytest.fixture
def threads(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Threads:
    """Watches all that reads, validates, digests, costs, signs and writes."""
    made = Threads(ledger.client.portal.call(threading.get_ident))

    def of_argument(args: Any, _result: Any) -> int:
        return len(args[0])

    def of_item(args: Any, _result: Any) -> int:
        return len(str(args[0].body))

    monkeypatch.setattr(body, "parse", made.watch("parse", body.parse, of_argument))
    read_body = made.watch("read", routing.read_body, of_argument)
    monkeypatch.setattr(routing, "read_body", read_body)
    monkeypatch.setattr(calls, "read_body", read_body)
    monkeypatch.setattr(asking, "_text_of", made.watch("digest", asking._text_of, of_item))
    monkeypatch.setattr(
        "ledger.api.batches.canonical", made.watch("text", chain.canonical, lambda _args, result: len(result))
    )
    monkeypatch.setattr(batches, "_validated", made.watch("item", batches._validated, lambda _args, _result: 1))
    monkeypatch.setattr(zcdp, "mu_zcdp", made.watch("zcdp", zcdp.mu_zcdp, lambda _args, _result: 1))
    monkeypatch.setattr(Json, "render", made.watch("render", Json.render, lambda _args, result: len(result)))
    return made


def test_long_bodies_are_read_aside(ledger: Ledger, threads: Threads) -> None:
    """Goal: a body up to 16 KB is read at once, a longer one in a thread, by the same rules.

    Method: the same request, short and long; who read it, digested it, and answered.
    """
    ledger.register(budget={"mu": 3}, partitions=NAMES)
    short, long = ({**RELEASE, "datasets": [{"name": "mnist", "partitions": names}]} for names in (NAMES[:1], NAMES))
    threads.take("parse")
    assert ledger.post("/v1/runs", short, idempotency_key="short").status_code == 201
    assert [on_loop for _, on_loop in threads.take("parse")] == [True]
    for name in ("read", "digest"):
        threads.take(name)
    assert ledger.post("/v1/runs", long, idempotency_key="long").status_code == 201
    for name in ("parse", "read", "digest"):
        ((size, on_loop),) = threads.take(name)
        assert size > ON_LOOP_BYTES_MAX
        assert not on_loop
    assert ledger.post("/v1/runs", long, idempotency_key="long").headers["idempotent-replayed"] == "true"


def test_long_bodies_are_refused_alike(ledger: Ledger) -> None:
    """Goal: whether it was read aside shows in no answer. Method: the same mistakes, short and long, by who may and by
    who may not."""
    ledger.register()
    auditor = ledger.as_("auditor")
    mistakes: tuple[dict[str, Any], ...] = ({"segments": 0}, {"mechanism": {"type": "gaussian"}}, {"more": 1})
    for wrong in (*mistakes, {"datasets": []}):
        short, long = (
            ledger.post("/v1/runs", {**RELEASE, **wrong, **rest}, idempotency_key="k").json() for rest in ({}, LONG)
        )
        assert short["code"] in ("invalid-request", "invalid-mechanism")
        assert short == long
        assert auditor.post("/v1/runs", {**RELEASE, **wrong, **LONG}, idempotency_key="k").status_code == 403
    settled = f"/v1/runs/{ledger.ask().json()['id']}/settle"  # whose body may be left out
    for rest in ({}, {"evidence": LONG}):
        assert ledger.post(settled, {"steps": "none", **rest}).json()["field"] == "steps"
    twice = b'{"datasets":["mnist"],"purpose":"' + b"y" * 20_000 + b'","purpose":""}'
    answer = ledger.request("POST", "/v1/runs", content=twice, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-json")


def test_closed_forms_of_many_parts_are_worked_out_aside(ledger: Ledger, threads: Threads) -> None:
    """Goal: a cost of more than one closed form is worked out in a thread, and once. Method: evaluate, plan, ask and
    ask in a batch for the same; in which thread, and how often."""
    ledger.register(budget={"mu": 3})
    run = {**RELEASE, "mechanism": ZCDP}
    for _ in range(2):
        assert ledger.post("/v1/evaluate", {"mechanism": ZCDP}).status_code == 200
    assert ledger.post("/v1/plan", {"datasets": ["mnist"], "mechanism": ZCDP}).status_code == 200
    assert ledger.post("/v1/runs", run, idempotency_key="k").status_code == 201
    batch = [{**run, "idempotency_key": str(number)} for number in range(3)]
    assert ledger.post("/v1/runs/batch", {"runs": batch}).status_code == 200
    worked = threads.take("zcdp")
    # A dataset is `clt` here and an evaluation `certified`, so that the cost is asked for under two terms.
    assert len(worked) <= 2 * len(ZCDP["parts"])
    assert not any(on_loop for _, on_loop in worked)


def test_batches_are_worked_on_aside(ledger: Ledger, threads: Threads) -> None:
    """Goal: a batch is read, validated, digested and answered in threads, refusals too, and equal runs are validated
    once. Method: one that is atomic and does not fit, and one that is not, each run in it twice; all that ran."""
    ledger.register(budget={"mu": 1})
    for prefix, is_atomic, status in (("a", True, 409), ("b", False, 200)):
        runs = [
            {**RELEASE, "purpose": f"trial {number // 2}", "idempotency_key": f"{prefix}{number}"}
            for number in range(100)
        ]
        threads.ran.clear()
        answer = ledger.post("/v1/runs/batch", {"runs": runs, "atomic": is_atomic})
        assert answer.status_code == status
        ran = {name: threads.take(name) for name in ("item", "text", "render")}
        assert [len(ran[name]) for name in ran] == [50, 100, 1]
        assert not any(on_loop for each in ran.values() for _, on_loop in each)
        assert ran["render"][0][0] > ON_LOOP_BYTES_MAX


def test_the_work_of_a_batch_is_bounded(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: runs whose costs together are too much work are refused with the field, the prediction and the limit.

    Method: a small limit; different mechanisms pass it, and equal ones count once.
    """
    monkeypatch.setattr(costing, "WEIGHT_MAX", 250)
    ledger.register(budget={"mu": 3})
    different = [
        {**RELEASE, "mechanism": {"type": "zcdp", "rho": 0.01 * (number + 1)}, "idempotency_key": f"d{number}"}
        for number in range(3)
    ]
    refused = ledger.post("/v1/runs/batch", {"runs": different})
    assert (refused.status_code, refused.json()["code"]) == (413, "too-large")
    facts = {name: refused.json()[name] for name in ("field", "predicted", "limit")}
    assert facts == {"field": "runs", "predicted": 300, "limit": 250}
    equal = [{**different[0], "idempotency_key": f"e{number}"} for number in range(3)]
    assert ledger.post("/v1/runs/batch", {"runs": equal}).status_code == 200


def test_webhooks_are_looked_at_aside(ledger: Ledger, threads: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: the loop imports nothing for the first webhook that a tenant sets. Method: a URL that is objected to, and
    where it is read."""
    looked = threads.watch("webhook", Hosts.objection, lambda args, _result: len(args[1]))
    monkeypatch.setattr(Hosts, "objection", looked)
    url = "https://elsewhere.example"
    refused = ledger.put("/v1/alerting", {"webhook": url, **REASON})
    assert (refused.status_code, refused.json()["field"]) == (422, "webhook")
    assert threads.take("webhook") == [(len(url), False)]
