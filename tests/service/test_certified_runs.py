"""Runs and evaluations whose cost is a certificate, over HTTP."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select

from ledger.access import keys
from ledger.accounting import certify, costs, deadline, mechanisms
from ledger.accounting.terms import Terms
from ledger.core.amounts import Amount
from ledger.core.journal import chain
from ledger.errors import TooLarge
from ledger.service.certificates import Certificates, Compute, read, written
from ledger.service.costing import Costing
from ledger.service.runs import Runs
from ledger.service.turns import Urgency
from ledger.store import Store, tables
from ledger.verifier import verify
from tests.kit.accountant import ANY_TERMS, DPSGD, GAUSSIAN, WAIT_SECONDS_MAX, Accountant, dpsgd, held
from tests.kit.databases import until
from tests.kit.driver import Ledger, Terminal

BETA, GAMMA = UUID(int=0xB), UUID(int=0xC)
VERIFIER = Path(__file__).parents[1] / "kit" / "independent_verifier.py"
CERTIFIED: dict[str, Any] = {"bound": "certified", "budget": {"mu": 3, "delta": 1e-6}, "costing": "standalone"}
OF_SHARE = 10_000_000_051
"""What 1e-8 is charged, in units of 1e-18: -log(1 - 1e-8) is 1e-8 + 5e-17 + …"""


@contextmanager
def counted_on(ledger: Ledger, accountant: Compute, **limits: Any) -> Iterator[None]:
    """While the application's certificates come from a stand-in for the accountant."""
    state = ledger.client.app.state
    real = state.services
    made = Certificates(real.store, compute=accountant, **{"seconds_max": WAIT_SECONDS_MAX, **limits})
    costing = Costing(real.store, made, real.aside)
    runs = Runs(real.store, real.writer, real.catalogue, costing, real.signer, real.aside)
    state.services = dataclasses.replace(real, certificates=made, costing=costing, runs=runs)
    try:
        yield
    finally:
        made.close()
        state.services = real


def occupy(ledger: Ledger, accountant: Accountant, tenant_id: UUID) -> None:
    """Lets another tenant have a thread, as long as the accountant is held."""
    work = partial(accountant, dpsgd(), ANY_TERMS)
    turns = ledger.client.app.state.services.certificates._turns
    turns.submit(tenant_id, work, urgency=Urgency.DECISION, limit_seconds=WAIT_SECONDS_MAX)


def newest(ledger: Ledger) -> dict[str, Any]:
    """The newest entry of the journal."""
    entry: dict[str, Any] = ledger.get("/v1/datasets/mnist/entries", limit=1000).json()["items"][-1]["entry"]
    return entry


def test_a_run_says_which_delta_its_certificate_used(ledger: Ledger, tmp_path: Path) -> None:
    """Goal: whoever repeats the computation has all that it depends on, and the journal holds as before.

    Method: runs that name their delta and runs that do not; the answer, GET and the entry; then the export through both
    verifiers.
    """
    ledger.register(**CERTIFIED)
    accountant = Accountant()
    with counted_on(ledger, accountant):
        for said, used in ((None, 1e-8), (2.5e-9, 2.5e-9)):
            more: dict[str, Any] = {} if said is None else {"delta": said}
            answer = ledger.ask(DPSGD, **more)
            assert answer.status_code == 201, answer.text
            shown = answer.json()
            assert shown["delta"] == used
            assert ledger.get(f"/v1/runs/{shown['id']}").json()["delta"] == used
            entry = newest(ledger)
            assert (entry["delta"], entry["bound"], entry["method"]) == (used, "certified", "a stand-in")
            assert ledger.post(f"/v1/runs/{shown['id']}/start").status_code == 200
            assert ledger.post(f"/v1/runs/{shown['id']}/settle").status_code == 200
    assert ledger.balance()["spent"][1] == OF_SHARE + 2_500_000_004
    assert len(accountant.calls) == 2
    exported = ledger.get("/v1/datasets/mnist/export").text
    assert '"delta":0.00000001,' in exported
    assert verify.verify(exported.split("\n")[:-1]).journal.seq == 7
    file = tmp_path / "export.jsonl"
    file.write_text(exported, encoding="utf-8", newline="")
    subprocess.run([sys.executable, str(VERIFIER), str(file)], check=True)


def test_the_delta_of_a_run_follows_the_limit(ledger: Ledger) -> None:
    """Goal: a run that names none takes a hundredth of the limit as it is, and nothing where that is 0; the answer to a
    repeated key stays. Method: change the budget in between."""
    ledger.register(**CERTIFIED)
    with counted_on(ledger, Accountant()):
        first = ledger.ask(DPSGD, key="first").json()
        for delta, share in ((1e-5, 1e-7), (0.005, 5e-5)):
            changed = ledger.put("/v1/datasets/mnist/budget", {"budget": {"mu": 3, "delta": delta}, "reason": "r"})
            assert changed.status_code == 200, changed.text
            assert ledger.ask(DPSGD).json()["delta"] == share
        again = ledger.ask(DPSGD, key="first")
        assert again.headers["idempotent-replayed"] == "true"
        assert (again.json(), first["delta"]) == (first, 1e-8)
        ledger.register(name="without", **{**CERTIFIED, "budget": {"mu": 3, "delta": 0}})
        none = ledger.ask(DPSGD, datasets=["without"]).json()
        assert (none["delta"], none["cost"]["delta_atto"]) == (0, "0")


def test_a_delta_that_no_certificate_uses_is_kept_and_not_charged(ledger: Ledger) -> None:
    """Goal: where a cost needs no certificate, `delta` changes nothing. Method: a release and a clt run that say it."""
    ledger.register(**CERTIFIED)
    ledger.register(name="estimated")
    bodies: list[dict[str, Any]] = [{}, {"mechanism": DPSGD, "datasets": ["estimated"]}]
    for body in bodies:
        answer = ledger.ask(delta=1e-7, **body).json()
        assert "delta" not in answer
        assert answer["cost"]["delta_atto"] == "0"
        shown = ledger.get(f"/v1/runs/{answer['id']}").json()
        assert "delta" not in shown
        assert shown["request"]["delta"] == 1e-7
    assert "delta" not in newest(ledger)


def test_a_run_whose_delta_does_not_fit(ledger: Ledger) -> None:
    """Goal: the delta budget binds as mu does, and the refusal says which delta. Method: ask for more than there is."""
    ledger.register(**CERTIFIED)
    with counted_on(ledger, Accountant()):
        refused = ledger.ask(DPSGD, delta=1e-5, key="k")
        again = ledger.ask(DPSGD, delta=1e-5, key="k")
    assert (refused.status_code, refused.json()["code"], refused.json()["delta"]) == (409, "budget-exceeded", 1e-5)
    assert [binding["quantity"] for binding in refused.json()["datasets"]] == ["delta"]
    assert again.json() == refused.json()
    assert ledger.get(f"/v1/runs/{refused.json()['run']}").json()["delta"] == 1e-5


def test_a_certificate_that_is_too_large(ledger: Ledger) -> None:
    """Goal: what is beyond the accountant, or too slow, is 413 by its field, and a full queue 503; no key is bound.

    Method: an accountant that refuses, one that is held, and a queue with no place; then one that answers.
    """
    ledger.register(**CERTIFIED)
    accountant = Accountant()
    calls: list[Callable[[int], Any]] = [
        lambda steps: ledger.ask({**DPSGD, "steps": steps}, key="k"),
        lambda steps: ledger.post("/v1/evaluate", {"mechanism": {**DPSGD, "steps": steps}}),
    ]
    accountant.error = TooLarge("mechanism.steps: too many", field="mechanism.steps", most=10)
    with counted_on(ledger, accountant):
        for call in calls:
            answer = call(1)
            assert (answer.status_code, answer.json()["code"]) == (413, "too-large")
            assert (answer.json()["field"], answer.json()["most"]) == ("mechanism.steps", 10)
            assert answer.headers["content-type"] == "application/problem+json"
    accountant.error = None
    for is_full, status, code in ((False, 413, "too-large"), (True, 503, "overloaded")):
        with counted_on(ledger, accountant, at_once=2, seconds_max=1.0), held(accountant):
            for tenant in (BETA, GAMMA)[: 2 * is_full]:
                occupy(ledger, accountant, tenant)
            for call in calls:
                answer = call(2 + is_full)
                assert (answer.status_code, answer.json()["code"]) == (status, code)
    with counted_on(ledger, accountant):
        assert calls[0](4).status_code == 201


def test_who_leaves_takes_their_work_along(ledger: Ledger) -> None:
    """Goal: an evaluation whose caller has gone away is computed no further, and leaves its thread to others.

    Method: hold it, close the connection, and see what waits; the log has no answer, and what comes next is answered.
    """
    begun = threading.Event()

    def endless(_mechanism: Any, _terms: Any) -> Any:
        while True:
            begun.set()
            deadline.check()

    async def leave(app: Any) -> list[Any]:
        text = json.dumps({"mechanism": DPSGD}).encode()
        headers = {"authorization": f"Bearer {ledger.key}", "content-type": "application/json"}
        scope: dict[str, Any] = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http"}
        scope |= {"method": "POST", "path": "/v1/evaluate", "raw_path": b"/v1/evaluate", "query_string": b""}
        scope |= {"headers": [(name.encode(), value.encode()) for name, value in headers.items()]}
        scope |= {"client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "state": {}, "root_path": ""}
        sent: list[Any] = []
        messages = [{"type": "http.request", "body": text, "more_body": False}]

        async def receive() -> Any:
            if messages:
                return messages.pop(0)
            await asyncio.to_thread(begun.wait, WAIT_SECONDS_MAX)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        await app(scope, receive, send)
        return sent

    with counted_on(ledger, endless, at_once=1):
        first, *_ = ledger.client.portal.call(leave, ledger.client.app)
        assert first["status"] == 499
        certificates = ledger.client.app.state.services.certificates
        assert ledger.client.portal.call(partial(certificates.beside, BETA, lambda: 7, key={"is": "free"})) == 7
        until(lambda: certificates.waiting == 0)


# --- with the accountant itself --------------------------------------------------------------------------------------

MNIST_RUN: dict[str, Any] = {
    "type": "dpsgd",
    "noise_multiplier": 1.1,
    "sampling": "poisson",
    "dataset_size": 60_000,
    "batch_size": 256,
    "epochs": 60,
}


def recomputed(entry: dict[str, Any]) -> Amount:
    """The cost of a run, from its entry alone."""
    facts = {name: entry[name] for name in ("bound", "adjacency", "delta")}
    return costs.cost(mechanisms.parse(entry["request"]["mechanism"]), Terms(**facts)).amount


def test_a_cost_can_be_computed_anew_from_its_entry(ledger: Ledger, store: Store) -> None:
    """Goal: nobody has to trust the cache. Method: approve a run, put a lower cost into every row and a new process in
    the server's place, approve it again; the second entry is not what its own declaration costs."""
    ledger.register(**CERTIFIED)
    assert ledger.ask(MNIST_RUN).status_code == 201
    real = ledger.client.app.state.services
    real.certificates.close()
    tenant_id = keys.tenant_of(ledger.key)
    with store.writing(tenant_id) as writing:
        ((digest, body),) = writing.connection.execute(
            select(tables.certificates.c.digest, tables.certificates.c.body)
        ).all()
        lower = written(dataclasses.replace(read(body), mu=0.1, mu_sq=Fraction(1, 100)))
        writing.certificates.keep(digest, lower, now_us=writing.now_us(), rows_max=10)
    with counted_on(ledger, costs.cost):
        assert ledger.ask(MNIST_RUN).json()["cost"]["mu"] == 0.1
    with store.reading(tenant_id) as reading:
        found = reading.datasets.by_name("mnist")
        assert found is not None
        entries = [chain.parse(entry.body) for entry in reading.journals.page(found.id, after=1, limit=9)]
    assert [recomputed(entry) == Amount.from_facts(entry["cost"]) for entry in entries] == [True, False]


def test_evaluate_shows_what_another_delta_would_cost(ledger: Ledger) -> None:
    """Goal: a user sees how mu falls as delta grows, before choosing. Method: MNIST's run; then each point of its
    frontier, asked for by itself; and what has no certificate has no frontier."""
    answer = ledger.post("/v1/evaluate", {"mechanism": MNIST_RUN}).json()
    assert (answer["bound"], answer["is_estimate"], answer["adjacency"]) == ("certified", False, "add_or_remove_one")
    assert answer["method"] == "pld-poisson"
    assert answer["cost"]["delta_atto"] == str(OF_SHARE)
    points = answer["frontier"]
    assert [point["delta"] for point in points] == [float(f"1e-{power}") for power in range(4, 16)]
    assert [point["mu"] for point in points] == sorted(point["mu"] for point in points)
    for point in points[::4]:
        alone = ledger.post("/v1/evaluate", {"mechanism": MNIST_RUN, "delta": point["delta"]}).json()
        assert alone["cost"]["mu"] == pytest.approx(point["mu"], rel=0.01)
    for body in ({"mechanism": MNIST_RUN, "bound": "clt"}, {"mechanism": GAUSSIAN}):
        assert "frontier" not in ledger.post("/v1/evaluate", body).json()


def test_an_evaluation_composes_once(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: an evaluation takes one composition, as the request for the same run does, whatever it shows: a cost, a
    frontier, epsilon at several deltas. Method: count them, and the pairs in each, of equal parts, of different ones,
    and of a schedule, evaluated first or requested first."""
    composed: list[int] = []
    curve = certify.curve

    def counted(steps: Any, **rest: Any) -> Any:
        composed.append(len(steps))
        return curve(steps, **rest)

    monkeypatch.setattr(certify, "curve", counted)
    ledger.register(**CERTIFIED)
    part = {"type": "dpsgd", "noise_multiplier": 20, "sampling": "poisson", "sample_rate": 0.01, "steps": 25}
    several = [{**part, "noise_multiplier": 20 + number} for number in range(3)]
    phases = [{"noise_multiplier": 20 + number / 10, "sample_rate": 0.01, "steps": 5} for number in range(20)]
    for mechanism, pairs in (
        ({"type": "composed", "parts": [part] * 40}, 1),
        ({"type": "composed", "parts": several}, 3),
        ({"type": "dpsgd_schedule", "sampling": "poisson", "phases": phases}, 20),
    ):
        composed.clear()
        answer = ledger.post("/v1/evaluate", {"mechanism": mechanism, "report_deltas": [1e-5, 1e-6, 1e-7]}).json()
        assert len(answer["frontier"]) == 12
        assert composed == [pairs]
        assert ledger.ask(mechanism).status_code == 201
        assert composed == [pairs], "one curve serves the request too"


def test_what_would_fit_is_worked_out_beside(ledger: Ledger) -> None:
    """Goal: a refusal names what fits by its certificate, and the answer can be had later where it has to wait.

    Method: refuse a run while other computations have all the threads; ask again, and for what was named.
    """
    ledger.register(**{**CERTIFIED, "budget": {"mu": 0.5, "delta": 1e-6}})
    assert ledger.post("/v1/evaluate", {"mechanism": MNIST_RUN}).status_code == 200
    accountant = Accountant()
    with counted_on(ledger, costs.cost, at_once=1, seconds_max=1.0), held(accountant):
        occupy(ledger, accountant, BETA)
        waiting = ledger.ask(MNIST_RUN, key="k")
        assert (waiting.status_code, waiting.json()["code"]) == (503, "overloaded")
    refused = ledger.ask(MNIST_RUN, key="k")
    assert (refused.status_code, refused.headers["idempotent-replayed"]) == (409, "true")
    fits = refused.json()["fits"]
    assert set(fits) == {"noise_multiplier", "epochs"}
    for name, value in fits.items():
        cost = ledger.post("/v1/evaluate", {"mechanism": {**MNIST_RUN, name: value}}).json()["cost"]
        assert 0.499 < cost["mu"] <= 0.5
    assert ledger.ask({**MNIST_RUN, "noise_multiplier": fits["noise_multiplier"]}).status_code == 201


def test_the_terminal_shows_the_frontier(terminal: Terminal) -> None:
    """Goal: the same on the command line, as a table and as JSON. Method: MNIST's run, with a delta of its own."""
    line = "evaluate --noise-multiplier 1.1 --dataset-size 60000 --batch-size 256 --epochs 60 --delta 1e-9"
    said = terminal(line)
    assert said.status == 0
    assert len(re.findall(r"^ +(?:0\.0001|1e-\d\d) +0\.\d+$", said.out, re.MULTILINE)) == 12
    answer = terminal(f"{line} --json").json
    assert answer["cost"]["delta"] == pytest.approx(1e-9)
    assert len(answer["frontier"]) == 12
