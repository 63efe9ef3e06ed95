"""What a training job imports: every call, the life of a run around training code, retries, errors, and what it needs.

The client speaks to the real application over a real database: in this process through a bridge or httpx's ASGI
transport, and once through a real server process. Faults are put in between, in a transport around the real one.
"""

from __future__ import annotations

import asyncio
import doctest
import functools
import io
import json
import logging
import pickle
import random
import subprocess
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, assert_type

import httpx
import numpy as np
import pytest

from ledger import errors
from ledger.accounting import mechanisms as server_mechanisms
from ledger.api.problems import STATUS, of_error
from ledger.client import (
    DPSGD,
    GDP,
    ApproximateDP,
    AsyncLedger,
    BatchRefused,
    BudgetExceeded,
    Composed,
    Gaussian,
    Laplace,
    LedgerError,
    MatrixFactorization,
    Overrun,
    PartitionsClosed,
    ProposalState,
    PureDP,
    RateLimited,
    Run,
    UnitMismatch,
    Unreachable,
    ZCdp,
    verify_receipt,
)
from ledger.client import Ledger as Client
from ledger.client.flows import PAUSES_SECONDS_MAX
from ledger.client.mechanisms import planned_steps
from ledger.client.methods import Methods
from ledger.client.wire import encode
from ledger.settings import Settings
from tests.kit.driver import MNIST, Ledger, Served, first_keys

URL = "http://testserver"
COST = 40_000_000_000
"""mu² of one release with noise multiplier 5, in units of 1e-12."""
RELEASE = Gaussian(noise_multiplier=5)
KEY = "pbl_a-secret-that-nobody-may-see"


# --- the ways to the application, and what can happen on them --------------------------------------------------------


class Bridge(httpx.BaseTransport):
    """Leads a synchronous client to the application in this process."""

    def __init__(self, ledger: Ledger) -> None:
        self._client = ledger.client

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = self._client.request(
            request.method,
            request.url.raw_path.decode(),
            headers=[(name.decode(), value.decode()) for name, value in request.headers.raw],
            content=request.read(),
            follow_redirects=False,
        )
        return httpx.Response(answer.status_code, headers=list(answer.headers.items()), content=answer.content)


@dataclass
class Faults:
    """What happens to each request in turn, and what was seen of it.

    pass    nothing
    refuse  the connection is refused: the request never arrives
    lose    the server does what was asked, and its answer is lost
    busy    503 with Retry-After: 7, and nothing done
    limit   429, and nothing done
    gateway the server does what was asked, and a gateway in between says 504
    """

    script: list[str] = field(default_factory=list)
    seen: list[httpx.Request] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)

    def before(self, request: httpx.Request) -> httpx.Response | str:
        self.seen.append(request)
        fault = self.script.pop(0) if self.script else "pass"
        if fault == "refuse":
            raise httpx.ConnectError("[Errno 111] Connection refused", request=request)
        if fault == "busy":
            return problem("overloaded", 503, headers={"Retry-After": "7"})
        return problem("rate-limited", 429) if fault == "limit" else fault

    def after(self, request: httpx.Request, response: httpx.Response, fault: str) -> httpx.Response:
        if fault == "lose":
            raise httpx.ReadTimeout("timed out", request=request)
        return httpx.Response(504, text="<h1>Gateway Timeout</h1>") if fault == "gateway" else response

    def around(self, real: httpx.BaseTransport) -> httpx.BaseTransport:
        faults = self

        class Faulty(httpx.BaseTransport):
            def handle_request(self, request: httpx.Request) -> httpx.Response:
                fault = faults.before(request)
                if isinstance(fault, httpx.Response):
                    return fault
                return faults.after(request, real.handle_request(request), fault)

        return Faulty()

    def around_async(self, real: httpx.AsyncBaseTransport) -> httpx.AsyncBaseTransport:
        faults = self

        class Faulty(httpx.AsyncBaseTransport):
            async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
                fault = faults.before(request)
                if isinstance(fault, httpx.Response):
                    return fault
                return faults.after(request, await real.handle_async_request(request), fault)

        return Faulty()

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


def problem(code: str, status: int, *, headers: dict[str, str] | None = None, **facts: Any) -> httpx.Response:
    """A problem as the server words it."""
    body = {"type": f"urn:problem:{code}", "title": "No", "status": status, "code": code, "detail": "It said no."}
    return httpx.Response(status, json={**body, **facts}, headers=headers)


def connect(ledger: Ledger, faults: Faults | None = None, **options: Any) -> Client:
    """A synchronous client of the application, through what may go wrong."""
    faults = faults or Faults()
    return Client(URL, ledger.key, transport=faults.around(Bridge(ledger)), sleep=faults.slept.append, **options)


def connect_async(ledger: Ledger, faults: Faults | None = None) -> AsyncLedger:
    """The same, asynchronous."""
    faults = faults or Faults()
    transport = faults.around_async(httpx.ASGITransport(app=ledger.client.app))
    return AsyncLedger(URL, ledger.key, transport=transport, sleep=faults.sleep)


def answering(handler: Callable[[httpx.Request], httpx.Response], **options: Any) -> Client:
    """A client of a server that is not there: `handler` says what it answers."""
    return Client(URL, KEY, transport=httpx.MockTransport(handler), sleep=lambda _: None, **options)


@pytest.fixture
def client(ledger: Ledger) -> Iterator[Client]:
    """A client with the admin's key; the dataset `mnist` is registered."""
    ledger.register()
    with connect(ledger) as opened:
        yield opened


def kinds(ledger: Ledger) -> list[str]:
    """The kinds of entries in the journal, oldest first."""
    items = ledger.get("/v1/datasets/mnist/entries", limit=1000).json()["items"]
    return [item["entry"]["kind"] for item in items]


# --- every call ------------------------------------------------------------------------------------------------------


def test_every_call_does_what_its_example_says(ledger: Ledger, client: Client) -> None:
    """Goal: each method works against the real application, and its documentation is true. Method: the docstrings'
    examples, in the order of the classes by noun, as one session; a method without an example is a failure."""
    known: dict[str, Any] = {"ledger": client, "operator": connect(ledger.with_key(ledger.operator_key))}
    known.update(Gaussian=Gaussian, PureDP=PureDP, url=URL, key=ledger.key, file=io.BytesIO())
    known["verify_receipt"] = verify_receipt
    known["second"] = connect(ledger.as_("steward"))
    known["Ledger"] = functools.partial(Client, transport=Bridge(ledger))
    runner = doctest.DocTestRunner(verbose=False)
    nouns = Methods.__bases__
    methods = {
        name: value for noun in nouns for name, value in vars(noun).items() if callable(value) and name[0] != "_"
    }
    assert len(methods) == 49
    for name, documented in {**methods, "Ledger": Client}.items():
        example = doctest.DocTestParser().get_doctest(documented.__doc__ or "", known, name, None, None)
        assert example.examples, f"{name} has no example"
        example.globs = known
        said: list[str] = []
        runner.run(example, out=said.append, clear_globs=False)
        assert not said, "".join(said)


def test_a_training_job_has_its_receipt_before_it_begins(client: Client) -> None:
    """Goal: inside `ledger.run(…)` the receipt of the start is at hand, the same that the ledger gives to who asks for
    it, and good for this job; a process that goes on under the key has it again; a voided run has none."""
    keys = client.jwks()
    with client.run(datasets=["mnist"], mechanism=RELEASE, idempotency_key="job") as run:
        assert run.receipt is not None
        assert client.receipt(run.id)["receipt"] == run.receipt
        found = verify_receipt(run.receipt, jwks=keys, datasets="mnist", run=run.id, mechanism=RELEASE)
        assert found.state == "started"
        assert client.start(run.id)["receipt"] == run.receipt
    voided = client.ask(datasets=["mnist"], mechanism=RELEASE)["id"]
    client.void(voided, reason="not needed")
    with pytest.raises(errors.RunState):
        client.receipt(voided)


def test_answers_are_typed_for_both_clients(client: Client, ledger: Ledger) -> None:
    """Goal: mypy knows what each client returns. Method: `assert_type`, which mypy checks in this file; the values are
    looked at too."""
    assert assert_type(client.dataset("mnist"), dict[str, Any])["name"] == "mnist"
    assert next(assert_type(client.datasets(), Iterator[dict[str, Any]]))["name"] == "mnist"

    async def look() -> None:
        async with connect_async(ledger) as opened:
            shown = assert_type(opened.dataset("mnist"), Coroutine[Any, Any, dict[str, Any]])
            assert (await shown)["name"] == "mnist"
            found = assert_type(opened.datasets(), AsyncIterator[dict[str, Any]])
            assert [item["name"] async for item in found] == ["mnist"]
            made = await opened.make_key(name="k", role="auditor")
            assert assert_type(await opened.revoke_key(made["id"]), None) is None
            async with opened.run(datasets=["mnist"], mechanism=RELEASE) as run:
                assert_type(run, Run)

    asyncio.run(look())


def test_lists_go_through_all_pages(ledger: Ledger, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: iterating gives every item once, whatever the size of a page. Method: pages of two, five runs."""
    monkeypatch.setattr("ledger.client.calls.PAGE_LIMIT", 2)
    asked = [client.ask(datasets=["mnist"], mechanism=RELEASE)["id"] for _ in range(5)]
    client.void(asked[0], reason="not needed")
    assert [run["id"] for run in client.runs()] == asked[::-1]
    assert [run["id"] for run in client.runs(state="voided", dataset="mnist", overdue=False)] == [asked[0]]
    assert [item["seq"] for item in client.entries("mnist")] == list(range(1, 8))

    async def look() -> list[str]:
        async with connect_async(ledger) as opened:
            return [run["id"] async for run in opened.runs()]

    assert asyncio.run(look()) == asked[::-1]


def test_all_that_a_run_can_say_arrives(client: Client) -> None:
    """Goal: every argument of `ask` and every form of its values reaches the ledger as the contract has it."""
    asked = client.ask(
        datasets=[{"name": "mnist"}],
        mechanism={"type": "laplace", "noise_multiplier": 20, "count": 2},
        delta=1e-9,
        segments=1,
        purpose="a count",
        labels={"team": "a"},
        code={"repository": "r", "commit": "c"},
        valid_for=timedelta(hours=36),
        idempotency_key="one",
    )
    shown = client.run_info(asked["id"])
    assert shown["request"] == {
        "datasets": [{"name": "mnist"}],
        "mechanism": {"type": "laplace", "noise_multiplier": 20, "count": 2},
        "delta": 1e-9,
        "segments": 1,
        "purpose": "a count",
        "labels": {"team": "a"},
        "code": {"repository": "r", "commit": "c"},
        "valid_for": "PT129600S",
    }
    start_by, created = (datetime.fromisoformat(shown[name]) for name in ("start_by", "created_at"))
    assert timedelta(hours=35) < start_by - created < timedelta(hours=37)
    assert client.make_key(name="k", role="auditor", expires_at=datetime(2200, 1, 1, tzinfo=UTC))["expires_at"]


def test_names_stay_in_their_place(client: Client) -> None:
    """Goal: a name is one part of a path, whatever is in it."""
    for name in ["a/b", "../keys", "mnist?limit=1", "mnist#", "%2e%2e", "ü", "a b"]:
        with pytest.raises(errors.NotFound):
            client.dataset(name)


EXPORT = [b'{"format":"privacy-ledger-export"}\n', b'{"seq":1}\n' * 20_000, b'{"head":{"seq":20000}}\n']


class Broken(httpx.SyncByteStream, httpx.AsyncByteStream):
    """Some of a body, and then nothing more."""

    def __iter__(self) -> Iterator[bytes]:
        yield EXPORT[0]
        raise httpx.RemoteProtocolError("peer closed connection without sending complete message body")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self:
            yield chunk


def exporting(request: httpx.Request) -> httpx.Response:
    """A server that exports `mnist` and the tenant's own journal, breaks off in `torn`, and knows no more."""
    match request.url.path:
        case "/v1/datasets/mnist/export" | "/v1/export":
            return httpx.Response(200, stream=Whole())
        case "/v1/datasets/torn/export":
            return httpx.Response(200, stream=Broken())
        case _:
            return problem("not-found", 404)


class Whole(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body in several pieces."""

    def __iter__(self) -> Iterator[bytes]:
        yield from EXPORT

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in EXPORT:
            yield chunk


def test_an_export_is_streamed_to_a_file(tmp_path: Path) -> None:
    """Goal: the bytes of the answer stand in the file, and one that broke off is an error, with sync and async."""
    with answering(exporting) as opened, (tmp_path / "journal.jsonl").open("wb") as file:
        assert opened.export("mnist", file) == file.tell() == sum(map(len, EXPORT))
        assert opened.export_tenant(io.BytesIO()) == file.tell()
        with pytest.raises(errors.NotFound):
            opened.export("nothing", file)
        with pytest.raises(Unreachable, match=f"after {len(EXPORT[0])} bytes"):
            opened.export("torn", file)
    assert (tmp_path / "journal.jsonl").read_bytes() == b"".join(EXPORT) + EXPORT[0]

    async def export(name: str | None, file: io.BytesIO) -> int:
        async with AsyncLedger(URL, KEY, transport=httpx.MockTransport(exporting)) as opened:
            return await (opened.export_tenant(file) if name is None else opened.export(name, file))

    for name in ("mnist", None):
        written = io.BytesIO()
        assert asyncio.run(export(name, written)) == sum(map(len, EXPORT))
        assert written.getvalue() == b"".join(EXPORT)
    with pytest.raises(Unreachable, match="broke off"):
        asyncio.run(export("torn", io.BytesIO()))


# --- what takes two people -------------------------------------------------------------------------------------------


def test_what_takes_two_people(ledger: Ledger, client: Client) -> None:
    """Goal: under the policy each guarded call answers with its proposal and changes nothing; a second steward's client
    does it, or says no, and what can be answered no more is its exception. Method: all three calls, both answers."""
    client.set_policy(second_steward=True, reason="two pairs of eyes")
    with connect(ledger.as_("steward")) as second, connect(ledger.as_("requester")) as job:
        raised = client.set_budget("mnist", budget={"mu": 2}, reason="more")["proposal"]
        assert client.dataset("mnist")["balance"]["limit"]["mu"] == 1
        with pytest.raises(errors.Forbidden, match="second person"):
            client.approve(raised["id"])
        with pytest.raises(errors.Forbidden, match="second person"):
            client.refuse(raised["id"], reason="no")
        assert second.approve(raised["id"])["balance"]["limit"]["mu"] == 2
        with pytest.raises(ProposalState) as caught:
            second.approve(raised["id"])
        assert (caught.value.code, caught.value.facts["state"]) == ("proposal-state", "approved")

        run = job.ask(datasets=["mnist"], mechanism=RELEASE)["id"]
        job.start(run)
        void = client.void(run, reason="nobody looked")["proposal"]
        assert (void["what"], void["run"], client.run_info(run)["state"]) == ("void", run, "started")
        assert second.refuse(void["id"], reason="it was looked at")["state"] == "refused"
        again = client.void(run, reason="nobody looked")["proposal"]
        assert second.approve(again["id"])["state"] == "voided"

        run = job.ask(datasets=["mnist"], mechanism=RELEASE)["id"]
        job.start(run)
        with pytest.raises(Overrun):
            job.settle(run, steps=1000)
        thaw = client.change("mnist", state="active", reason="looked at")["proposal"]
        assert [found["id"] for found in second.proposals(state="open")] == [thaw["id"]]
        assert client.dataset("mnist")["state"] == "frozen"
        assert second.approve(thaw["id"])["state"] == "active"
        with pytest.raises(errors.NotFound):
            second.proposal("00000000-0000-4000-8000-000000000000")


def test_a_rotated_key_goes_on(ledger: Ledger, client: Client) -> None:
    """Goal: a job whose key is rotated ends its run with the new one, within the limits of the old. Method: start with
    one, rotate it without overlap, settle with the other; the old one is refused, and the clients say who they are."""
    client.set_project("mnist", "ranking", budget={"mu": 0.5})
    made = client.make_key(name="job", role="requester", datasets=["mnist"], projects=["ranking"])
    with connect(ledger.with_key(made["secret"])) as old:
        run = old.ask(datasets=["mnist"], mechanism=RELEASE, project="ranking")["id"]
        old.start(run)
        rotated = client.rotate_key(made["id"], overlap=timedelta())
        with connect(ledger.with_key(rotated["secret"])) as new:
            assert new.settle(run)["state"] == "settled"
            shown = new.me()
            assert (shown["name"], shown["role"], shown["projects"]) == ("job", "requester", ["ranking"])
            assert (shown["principal"], shown["tenant"]["name"]) == (made["principal"], ledger.tenant)
    with connect(ledger.with_key(made["secret"])) as late, pytest.raises(errors.Unauthenticated):
        late.start(run)


# --- what a run declares ---------------------------------------------------------------------------------------------

DECLARED: list[tuple[Any, dict[str, Any]]] = [
    (
        DPSGD(noise_multiplier=1.1, sample_rate=256 / 60_000, steps=14_062),
        {
            "type": "dpsgd",
            "noise_multiplier": 1.1,
            "sample_rate": 256 / 60_000,
            "steps": 14_062,
            "sampling": "poisson",
        },
    ),
    (
        DPSGD(noise_multiplier=1.1, dataset_size=60_000, batch_size=256, epochs=60, sampling="shuffle"),
        {
            "type": "dpsgd",
            "noise_multiplier": 1.1,
            "dataset_size": 60_000,
            "batch_size": 256,
            "epochs": 60,
            "sampling": "shuffle",
        },
    ),
    (Gaussian(noise_multiplier=5), {"type": "gaussian", "noise_multiplier": 5, "count": 1}),
    (Laplace(noise_multiplier=5, count=2), {"type": "laplace", "noise_multiplier": 5, "count": 2}),
    (PureDP(epsilon=0.5), {"type": "pure_dp", "epsilon": 0.5, "count": 1}),
    (ApproximateDP(epsilon=0.5, delta=1e-9), {"type": "approximate_dp", "epsilon": 0.5, "delta": 1e-9, "count": 1}),
    (ZCdp(rho=0.05), {"type": "zcdp", "rho": 0.05}),
    (GDP(mu=0.5, evidence="Theorem 3"), {"type": "gdp", "mu": 0.5, "delta": 0, "evidence": "Theorem 3"}),
    (
        MatrixFactorization(noise_multiplier=8, strategy="tree", steps=2_048, participations=4, separation=512),
        {
            "type": "matrix_factorization",
            "noise_multiplier": 8,
            "strategy": "tree",
            "steps": 2_048,
            "participations": 4,
            "separation": 512,
        },
    ),
    (
        MatrixFactorization(noise_multiplier=8, strategy="sqrt", steps=1_000, bandwidth=100),
        {
            "type": "matrix_factorization",
            "noise_multiplier": 8,
            "strategy": "sqrt",
            "steps": 1_000,
            "bandwidth": 100,
        },
    ),
    (
        MatrixFactorization(noise_multiplier=8, sensitivity=2.5, evidence="Table 3"),
        {"type": "matrix_factorization", "noise_multiplier": 8, "sensitivity": 2.5, "evidence": "Table 3"},
    ),
    (
        Composed(parts=[Gaussian(noise_multiplier=5), {"type": "pure_dp", "epsilon": 0.1}]),
        {
            "type": "composed",
            "parts": [
                {"type": "gaussian", "noise_multiplier": 5, "count": 1},
                {"type": "pure_dp", "epsilon": 0.1},
            ],
        },
    ),
]


def test_mechanisms_are_the_contract_s(client: Client) -> None:
    """Goal: every mechanism is written as the contract has it, can be read by the ledger, and given as a dict costs
    the same."""
    for mechanism, wanted in DECLARED:
        assert mechanism.to_json() == wanted
        shown = client.evaluate(mechanism=mechanism, bound="clt", report_deltas=[1e-5])
        assert shown == client.evaluate(mechanism=wanted, bound="clt", report_deltas=[Decimal("0.00001")])


def test_planned_steps_are_the_server_s() -> None:
    """Goal: the client's idea of "all that was planned" is the server's. Method: 2,000 random declarations, and those
    that no server accepts, which have none."""
    chance = random.Random(7)
    for _ in range(2_000):
        size = chance.randint(1, 10**6)
        epochs: Any = chance.choice(
            [chance.randint(1, 100), chance.uniform(0.01, 50), Decimal(chance.randint(1, 999)) / 7]
        )
        by_epochs = {"dataset_size": size, "batch_size": chance.randint(1, max(1, size // 100)), "epochs": epochs}
        form = chance.choice([by_epochs, {"sample_rate": 0.01, "steps": chance.randint(1, 10**9)}])
        exact = {name: Decimal(repr(value)) if isinstance(value, float) else value for name, value in form.items()}
        sampling: Any = chance.choice(["poisson", "shuffle"])
        mechanism = DPSGD(noise_multiplier=1, sampling=sampling, **form)
        parsed = server_mechanisms.parse({**mechanism.to_json(), **exact, "noise_multiplier": 1})
        planned = server_mechanisms.planned_steps(parsed)
        assert planned_steps(mechanism) == planned
        segments = chance.randint(1, 9)
        if planned is not None and planned[0] >= segments:
            assert planned_steps(mechanism, segments) == server_mechanisms.planned_steps(parsed, segments)
    for mechanism, _ in DECLARED[2:]:
        exact = {n: Decimal(repr(v)) if isinstance(v, float) else v for n, v in mechanism.to_json().items()}
        if mechanism.type != "composed":
            assert planned_steps(mechanism) == server_mechanisms.planned_steps(server_mechanisms.parse(exact))
    odd: Any
    for odd in [{}, {"type": "dpsgd"}, {"type": "gaussian", "count": "x"}, {"type": "gaussian", "count": float("nan")}]:
        assert planned_steps(odd) is None
    assert planned_steps({"type": "dpsgd", "dataset_size": 1, "batch_size": 0, "epochs": 1}) is None
    assert planned_steps({"type": "gaussian"}, "x") is None  # type: ignore[arg-type]
    assert planned_steps(RELEASE, -3) == (1, 1), "whatever is wrong with segments, the ledger says it"


def test_numbers_are_sent_as_the_decimals_that_were_meant(ledger: Ledger, client: Client) -> None:
    """Goal: a float is its shortest decimal, a Decimal all its digits, to the last of them in the journal."""
    digits = "20.000000000000000000000000000000000000001"
    client.ask(datasets=["mnist"], mechanism=Gaussian(noise_multiplier=Decimal(digits)))
    assert f'"noise_multiplier":{digits}' in ledger.get("/v1/datasets/mnist/entries").text
    assert encode(
        [
            0.1,
            1e-9,
            Decimal("1E-8"),
            5,
            True,
            None,
            np.float64(0.1),
            np.int64(3),
            (1, "ü"),
            timedelta(seconds=1.5),
            {"a": RELEASE},
        ]
    ) == (
        '[0.1,1e-09,1E-8,5,true,null,0.1,3,[1,"\\u00fc"],"PT1.500000S",{"a":{"type":"gaussian","noise_multiplier":5,"count":1}}]'
    )


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), Decimal("NaN"), Fraction(1, 3), np.float32(1.1), object()]
)
def test_what_is_no_number_is_refused_by_name(value: Any) -> None:
    """Goal: what has no exact decimal never leaves the client, and the error names its place as the server would."""
    with answering(lambda _: problem("internal", 500)) as opened:
        with pytest.raises(errors.InvalidMechanism) as caught:
            opened.ask(datasets=["mnist"], mechanism=Gaussian(noise_multiplier=value))
        assert caught.value.field == "mechanism.noise_multiplier"
        with pytest.raises(errors.InvalidRequest) as also:
            opened.settle("a", evidence={"loss": [1, value]})
        assert also.value.field == "evidence.loss.1"
        with pytest.raises(errors.InvalidRequest, match="name of a member"):
            opened.settle("a", evidence={1: 2})  # type: ignore[dict-item]


# --- the life of a run -----------------------------------------------------------------------------------------------


def test_a_run_is_settled_as_planned(ledger: Ledger, client: Client) -> None:
    """Goal: entering asks and starts, leaving settles with the evidence; the run knows its cost and what is left."""
    with client.run(datasets=["mnist"], mechanism=Gaussian(noise_multiplier=5, count=3), purpose="counts") as run:
        assert client.run_info(run.id)["state"] == "started"
        assert (run.cost["mu_sq_pico"], run.planned_steps, run.is_resumed) == (str(3 * COST), 3, False)
        assert run.remaining == {"mnist": ledger.get("/v1/datasets/mnist").json()["balance"]["remaining"]}
        assert ledger.balance()["remaining"] == (10**12 - 3 * COST, 0)
        for _ in range(3):
            run.step()
        run.evidence["counts"] = [17, 4, 22]
        assert (run.steps, run.settled) == (3, None)
    shown = client.run_info(run.id)
    assert (shown["state"], shown["settled"]["steps"]) == ("settled", 3)
    assert shown["settled"]["evidence"] == {"counts": [17, 4, 22]}
    assert run.settled is not None
    assert run.settled["charged"]["mu_sq_pico"] == str(3 * COST)
    assert kinds(ledger) == ["dataset-registered", "run-approved", "run-started", "run-settled"]


SGD = DPSGD(noise_multiplier=5, dataset_size=100, batch_size=8, epochs=1)
"""12.5 steps."""
PROVED = GDP(mu=0.2, evidence="Theorem 3")
CLICKS = {**MNIST, "name": "clicks", "privacy_unit": "user-month"}


@pytest.mark.parametrize(
    ("mechanism", "counted", "is_failure", "said"),
    [
        (RELEASE, 0, False, {}),
        (RELEASE, 1, False, {"steps": 1}),
        (RELEASE, 0, True, {"stop": "data_dependent"}),
        (RELEASE, 1, True, {"steps": 1}),
        (RELEASE, 2, False, {"steps": 2}),
        (RELEASE, 2, True, {"steps": 2}),
        (SGD, 0, False, {}),
        (SGD, 0, True, {"stop": "data_dependent"}),
        (SGD, 12, False, {"steps": 12}),
        (SGD, 13, False, {"steps": 13}),
        (SGD, 5, False, {"steps": 5}),
        (SGD, 5, True, {"steps": 6}),
        (SGD, 13, True, {"steps": 13}),
        (SGD, 14, True, {"steps": 14}),
        (PROVED, 0, False, {}),
        (PROVED, 7, False, {}),
        (PROVED, 7, True, {"stop": "data_dependent"}),
    ],
    ids=str,
)
def test_what_is_said_when_settling(mechanism: Any, counted: int, is_failure: bool, said: dict[str, Any]) -> None:
    """Goal: never less than was executed: all of it where nothing was counted; after an exception the step that was
    under way counts too."""
    sent = settled_with(mechanism, counted=counted, is_failure=is_failure)
    assert sent == said


@pytest.mark.parametrize(
    ("is_resumed", "steps_done", "counted", "said"),
    [
        (True, None, 5, {}),
        (True, None, 14, {"steps": 14}),
        (True, 8, 5, {"steps": 13}),
        (True, 8, 2, {"steps": 10}),
        (True, 8, 0, {}),
        (True, 20, 0, {"steps": 20}),
        (True, 0, 5, {"steps": 5}),
        (False, 8, 5, {"steps": 13}),
    ],
)
def test_what_a_restarted_job_says(
    is_resumed: bool, steps_done: int | None, counted: int, said: dict[str, Any]
) -> None:
    """Goal: the steps of earlier processes count as told; where they are unknown, the run settles in full."""
    assert settled_with(SGD, counted=counted, is_resumed=is_resumed, steps_done=steps_done) == said


def settled_with(
    mechanism: Any, *, counted: int, is_failure: bool = False, is_resumed: bool = False, steps_done: int | None = None
) -> dict[str, Any]:
    """What a run says when it is left."""
    started = {"id": "a", "cost": {}, "datasets": []}
    run = Run(started, planned=planned_steps(mechanism), steps_done=steps_done, is_resumed=is_resumed)
    for _ in range(counted):
        run.step()
    return run.settlement(is_failure=is_failure)


def test_leaving_early_by_break(ledger: Ledger, client: Client) -> None:
    """Goal: a loop that ends early settles for the steps executed, and DP-SGD is charged in full all the same."""
    with client.run(datasets=["mnist"], mechanism=SGD) as run:
        for _ in range(12):
            run.step()
            if run.steps == 5:
                break
    shown = client.run_info(run.id)
    assert (shown["state"], shown["settled"]["steps"]) == ("settled", 5)
    assert shown["settled"]["charged"] == shown["cost"]
    assert ledger.balance()["held"] == (0, 0)


def raise_after(run: Run, steps: int, error: BaseException, *, then: Callable[[], None] = lambda: None) -> None:
    """Training code that fails after so many steps."""
    run.step(steps)
    then()
    raise error


def test_leaving_early_by_an_exception(client: Client) -> None:
    """Goal: whatever ends the training code ends the run, and passes unchanged."""
    for error in (ValueError("not a number"), KeyboardInterrupt(), SystemExit(1)):
        with pytest.raises(type(error)) as caught, client.run(datasets=["mnist"], mechanism=SGD) as run:
            raise_after(run, 5, error)
        assert caught.value is error
        assert not hasattr(error, "__notes__")
        shown = client.run_info(run.id)
        assert (shown["state"], shown["settled"]["steps"]) == ("settled", 6)
        assert shown["settled"]["charged"] == shown["cost"]


def test_a_release_that_may_have_happened_is_charged(ledger: Ledger, client: Client) -> None:
    """Goal: an exception before the first step() settles in full: nobody knows whether noise was drawn."""
    with pytest.raises(OSError, match="disk"), client.run(datasets=["mnist"], mechanism=RELEASE):
        raise OSError("the disk is full")
    assert ledger.balance()["spent"] == (COST, 0)


def test_a_refused_run_touches_nothing(ledger: Ledger, client: Client) -> None:
    """Goal: BudgetExceeded comes before the block is entered, with its facts at hand and in one line of prose."""
    entered = False
    with (
        pytest.raises(BudgetExceeded) as caught,
        client.run(datasets=["mnist"], mechanism=Gaussian(noise_multiplier=0.5, count=1)),
    ):
        entered = True
    refused = caught.value
    assert not entered
    assert isinstance(refused, errors.BudgetExceeded)
    assert refused.datasets == [{"name": "mnist", "quantity": "mu", "requested": 2.0, "remaining": 1.0, "limit": 1.0}]
    assert refused.fits == {"noise_multiplier": 1.0}
    assert client.run_info(refused.run)["state"] == "refused"
    assert str(refused) == (
        "The run does not fit in what is left of mnist: it asks for mu 2, 1 of 1 is left. "
        "What would fit: noise_multiplier 1.0."
    )
    assert kinds(ledger) == ["dataset-registered", "run-refused"]


def test_more_steps_than_planned_are_charged_besides(
    ledger: Ledger, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Goal: an overrun is never hidden and never free: where it fits, the answer and a warning say so; where it does
    not, Overrun is raised once that is recorded, or is a note on the training code's own exception."""
    with client.run(datasets=["mnist"], mechanism=RELEASE) as run:
        run.step(3)
    assert run.settled is not None
    assert (run.settled["overrun"]["steps"], run.settled["charged"]["mu_sq_pico"]) == (2, str(3 * COST))
    assert [record.levelname for record in caplog.records if run.id in record.message] == ["WARNING"]

    with pytest.raises(Overrun) as caught, client.run(datasets=["mnist"], mechanism=RELEASE) as run:
        run.step(100)
    overrun = caught.value
    assert (overrun.run, overrun.frozen, overrun.charged["mu_sq_pico"]) == (run.id, ["mnist"], str(100 * COST))
    (drawn,) = overrun.datasets
    assert (drawn["name"], drawn["quantity"], drawn["limit"], drawn["held"]) == ("mnist", "mu", 1, 0)
    assert str(overrun) == (
        "99 steps more than planned were executed, and charged mu 1.99 as a run of their own. "
        "That did not fit: frozen until a steward has looked: mnist."
    )
    assert any("100 steps" in note and "settled" in note for note in overrun.__notes__)
    assert run.settled is not None
    assert (run.settled["state"], client.run_info(run.id)["state"]) == ("settled", "settled")
    assert ledger.balance()["spent"] == (103 * COST, 0)
    assert (str(copied(overrun)), copied(overrun).frozen) == (str(overrun), ["mnist"])
    with pytest.raises(Overrun) as again:
        client.settle(run.id, steps=100)
    assert again.value.facts == overrun.facts

    ledger.patch("/v1/datasets/mnist", {"state": "active", "reason": "a look was had"})
    ledger.put("/v1/datasets/mnist/budget", {"budget": {"mu": 2.1}, "reason": "for what was done"})
    with pytest.raises(ValueError, match="mine") as mine, client.run(datasets=["mnist"], mechanism=RELEASE) as run:
        raise_after(run, 100, ValueError("mine"))
    assert any(run.id in note and "100 steps" in note for note in mine.value.__notes__)


def test_leaving_between_segments_is_cheaper(ledger: Ledger, client: Client) -> None:
    """Goal: what segments are for: a run that stops because of what it saw pays for those it began. Method: shuffled
    epochs by the rule of full batches, whose cost is exact: 4 epochs in 2 segments, left in the second, the first and
    at the end of the last."""
    mechanism = DPSGD(noise_multiplier=20, sampling="shuffle", dataset_size=100, batch_size=10, epochs=Decimal("3.5"))
    spent = 0
    for steps, segments in ((7, 1), (20, 1), (21, 2), (35, 2), (40, 2)):
        with client.run(datasets=["mnist"], mechanism=mechanism, segments=2) as run:
            assert run.planned_steps == 40, "to the end of the last segment"
            run.step(steps)
        assert run.settled is not None
        spent += segments * 2 * 2_500_000_000
        # Epochs are complete releases of their own, so that even less than a segment is sound here.
        assert int(run.settled["charged"]["mu_sq_pico"]) <= segments * 2 * 2_500_000_000
    assert ledger.balance()["spent"][0] <= spent
    sgd = DPSGD(noise_multiplier=10, sample_rate=0.1, steps=90)
    with client.run(datasets=["mnist"], mechanism=sgd, segments=3) as run:
        run.step(31)
    assert run.settled is not None
    one = int(client.run_info(run.id)["segments"]["cost"]["mu_sq_pico"])
    assert 2 * one - 2 <= int(run.settled["charged"]["mu_sq_pico"]) <= 2 * one
    with client.run(datasets=["mnist"], mechanism=sgd, segments=1) as run:
        run.step(31)
    assert run.settled is not None
    assert run.settled["charged"] == run.cost


def test_a_run_over_partitions_and_what_is_derived(ledger: Ledger, client: Client) -> None:
    """Goal: partitions, projects and origins through the client: what is named is charged, nothing else is, and a
    derived dataset has nothing left to show."""
    client.register(**{**CLICKS, "partitions": ["2026-10"]})
    assert client.add_partitions("clicks", ["2026-11"], disjoint=True)["items"][0]["name"] == "2026-11"
    client.register(name="no-bots", derived_from=[{"name": "clicks", "unit_preserving": True}])
    client.set_project("clicks", "ranking", budget={"mu": 0.3})
    use = {"name": "no-bots", "partitions": ["2026-11"]}
    with client.run(datasets=[use], mechanism=RELEASE, project="ranking") as run:
        run.step()
    assert list(run.remaining) == ["no-bots", "clicks"]
    assert run.remaining["no-bots"] is None
    assert run.remaining["clicks"] is not None
    assert run.remaining["clicks"]["mu_sq_pico"] == str(9 * 10**10 - COST)
    spent = {part["name"]: part["balance"]["spent"]["mu_sq_pico"] for part in client.partitions("clicks")}
    assert spent == {"2026-10": "0", "2026-11": str(COST)}
    planned = client.plan(datasets=["clicks"], mechanism=Gaussian(noise_multiplier=5, count=2), project="ranking")
    assert (planned["fits"], planned["binding"][0]["partition"]) == (False, "2026-11")
    assert client.plan(datasets=["clicks"], mechanism=SGD, segments=3)["segments"]["count"] == 3
    with pytest.raises(BudgetExceeded) as caught:
        client.ask(datasets=[use], mechanism=Gaussian(noise_multiplier=4), project="ranking")
    assert [(item["partition"], item["project"]) for item in caught.value.datasets] == [("2026-11", "ranking")]
    assert "clicks (partition 2026-11, project ranking)" in str(caught.value)
    assert [run["project"] for run in client.runs(project="ranking")] == ["ranking"] * 2


def test_what_cannot_go_together_is_its_exception(ledger: Ledger, client: Client) -> None:
    """Goal: each new refusal of the server is the class that says it."""
    with pytest.raises(PartitionsClosed):
        client.add_partitions("mnist", ["a"], disjoint=True)
    client.register(**{**MNIST, "name": "people", "privacy_unit": "user"})
    with pytest.raises(UnitMismatch) as caught:
        client.ask(datasets=["mnist", "people"], mechanism=RELEASE)
    assert caught.value.facts["what"] == "privacy_unit"
    faults = Faults()
    with connect(ledger, faults) as busy:
        busy.set_fair_use("mnist", runs_per_hour=1, reason="so that others get a turn")
        busy.ask(datasets=["mnist"], mechanism=RELEASE)
        with pytest.raises(RateLimited) as limited:
            busy.ask(datasets=["mnist"], mechanism=RELEASE)
    assert 3500 < limited.value.retry_after_seconds <= 3601
    assert (limited.value.facts, faults.slept) == ({"dataset": "mnist", "runs_per_hour": 1}, [])


# --- batches ---------------------------------------------------------------------------------------------------------


def test_a_batch_is_asked_for_once_whatever_is_lost(ledger: Ledger) -> None:
    """Goal: a run without a key gets one that all attempts share; one with a key is the same through either call."""
    ledger.register()
    faults = Faults(["lose", "busy", "gateway"])
    runs: list[dict[str, Any]] = [
        {"datasets": ["mnist"], "mechanism": RELEASE, "valid_for": timedelta(hours=1), "purpose": None},
        {"datasets": ["mnist"], "mechanism": RELEASE, "idempotency_key": "mine"},
        {"datasets": ["mnist"], "mechanism": Gaussian(noise_multiplier=0.1)},
        {"datasets": ["mnist"], "mechanism": {"type": "gaussian", "noise_multiplier": -1}},
    ]
    with connect(ledger, faults) as client:
        results = client.ask_batch(runs)["results"]
        assert [result["status"] for result in results] == [201, 201, 409, 422]
        assert len({request.content for request in faults.seen}) == 1
        same = client.ask(datasets=["mnist"], mechanism=RELEASE, idempotency_key="mine")
        assert same["id"] == results[1]["run"]["id"]
        assert "idempotency_key" not in runs[0], "what was given is left as it was"
        faults.script = ["lose"] * 20
        with pytest.raises(Unreachable, match="the same keys") as caught:
            client.ask_batch(runs)
        assert len(set(caught.value.facts["idempotency_keys"])) == 4
        assert "mine" in caught.value.facts["idempotency_keys"]


def test_all_or_none_of_a_batch(ledger: Ledger, client: Client) -> None:
    """Goal: an atomic batch that does not fit raises BatchRefused with what came of each, and leaves nothing."""
    runs = [
        {"datasets": ["mnist"], "mechanism": RELEASE, "idempotency_key": "one"},
        {"datasets": ["mnist"], "mechanism": Gaussian(noise_multiplier=0.1), "idempotency_key": "two"},
    ]
    with pytest.raises(BatchRefused) as caught:
        client.ask_batch(runs, atomic=True)
    codes = [result["problem"]["code"] for result in caught.value.results]
    assert codes == ["batch-refused", "budget-exceeded"]
    assert kinds(ledger) == ["dataset-registered"]
    assert copied(caught.value).results == caught.value.results
    assert [result["status"] for result in client.ask_batch(runs[:1], atomic=True)["results"]] == [201]
    for key in ("", "not visible\n", 5):
        with pytest.raises(errors.IdempotencyKeyMissing) as missing:
            client.ask_batch([{"datasets": ["mnist"], "mechanism": RELEASE, "idempotency_key": key}])
        assert missing.value.field == "runs.0.idempotency_key"
    with pytest.raises(errors.InvalidMechanism) as invalid:
        client.ask_batch([{"datasets": ["mnist"], "mechanism": Gaussian(noise_multiplier=float("nan"))}])
    assert invalid.value.field == "runs.0.mechanism.noise_multiplier"


def test_a_failing_settle_masks_nothing(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    """Goal: when the ledger is gone at the end, the training code's own exception passes, with a note and a warning;
    without one, the ledger's does, and the run can be settled later."""
    ledger.register()
    faults = Faults()
    with connect(ledger, faults, retries=2) as client:
        with pytest.raises(ValueError, match="mine") as mine, client.run(datasets=["mnist"], mechanism=RELEASE) as run:
            raise_after(run, 1, ValueError("mine"), then=lambda: faults.script.extend(["refuse"] * 3))
        assert any(run.id in note for note in mine.value.__notes__)
        assert [record.levelname for record in caplog.records if run.id in record.message] == ["WARNING"]

        with pytest.raises(Unreachable) as caught, client.run(datasets=["mnist"], mechanism=RELEASE) as run:
            faults.script = ["refuse"] * 3
        assert any(run.id in note and "stays held" in note for note in caught.value.__notes__)
        assert ledger.balance()["held"] == (2 * COST, 0)
        assert client.settle(run.id)["state"] == "settled"


def test_an_approval_that_cannot_be_started(ledger: Ledger, client: Client) -> None:
    """Goal: where the dataset is frozen between asking and starting, the error says which run is held."""

    class Freezing(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            if request.url.path.endswith("/start"):
                ledger.patch("/v1/datasets/mnist", {"state": "frozen", "reason": "a look"})
            return Bridge(ledger).handle_request(request)

    with (
        Client(URL, ledger.key, transport=Freezing()) as freezing,
        pytest.raises(errors.DatasetFrozen) as caught,
        freezing.run(datasets=["mnist"], mechanism=RELEASE),
    ):
        pytest.fail("the run was never started")
    held = next(client.runs())
    assert held["state"] == "held"
    assert held["id"] in caught.value.__notes__[0]


def test_a_restarted_job_finds_its_run_again(ledger: Ledger, client: Client) -> None:
    """Goal: one key, one run, one charge, whichever process ends it. Method: the first client is dropped in the middle
    of its run; a second one goes on under the same key; a third comes too late."""
    arguments: dict[str, Any] = {"datasets": ["mnist"], "mechanism": SGD, "idempotency_key": "nightly-17"}
    with connect(ledger) as first:
        killed = first.run(**arguments).__enter__()
        killed.step(8)
    assert client.run_info(killed.id)["state"] == "started"

    with connect(ledger) as second, second.run(**arguments, steps_done=8) as run:
        assert (run.id, run.is_resumed, run.steps) == (killed.id, True, 8)
        run.step(5)
    assert client.run_info(run.id)["settled"]["steps"] == 13
    assert kinds(ledger) == ["dataset-registered", "run-approved", "run-started", "run-settled"]

    with connect(ledger) as third, pytest.raises(errors.RunState, match=f"{run.id}, is settled already"):
        third.run(**arguments).__enter__()
    with pytest.raises(errors.IdempotencyKeyReused):
        client.run(**arguments, purpose="another").__enter__()


def test_a_voided_run_and_a_refused_one_stay_what_they_are(client: Client) -> None:
    """Goal: a key does not come back to life."""
    asked = client.ask(datasets=["mnist"], mechanism=RELEASE, idempotency_key="voided")
    client.void(asked["id"], reason="not needed")
    with pytest.raises(errors.RunState, match="is voided already"):
        client.run(datasets=["mnist"], mechanism=RELEASE, idempotency_key="voided").__enter__()
    for _ in range(2):
        with pytest.raises(BudgetExceeded):
            client.run(
                datasets=["mnist"], mechanism=Gaussian(noise_multiplier=0.1), idempotency_key="refused"
            ).__enter__()
    with pytest.raises(ValueError, match="steps_done"):
        client.run(datasets=["mnist"], mechanism=RELEASE, steps_done=-1)
    with pytest.raises(errors.IdempotencyKeyMissing):
        client.ask(datasets=["mnist"], mechanism=RELEASE, idempotency_key="not visible\n")


def test_steps_are_counted_from_any_thread() -> None:
    """Goal: no step is lost. Method: eight threads of 10,000 steps each, switching as often as they can."""
    run = Run({"id": "a", "cost": {}, "datasets": []}, planned=None, steps_done=None, is_resumed=False)

    def work() -> None:
        for _ in range(10_000):
            run.step()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert run.steps == 80_000
    with pytest.raises(ValueError, match="at least one"):
        run.step(0)


def test_the_asynchronous_client_does_the_same(ledger: Ledger) -> None:
    """Goal: run() on an event loop: as planned, by exception, refused, restarted, cancelled, through lost answers."""
    ledger.register()

    async def work() -> None:
        faults = Faults(["lose", "busy", "pass", "refuse", "pass", "pass", "lose"])
        async with connect_async(ledger, faults) as client:
            async with client.run(datasets=["mnist"], mechanism=SGD) as run:
                run.step(12)
            assert run.settled is not None
            assert len({request.headers["Idempotency-Key"] for request in faults.seen[:3]}) == 1
            assert max(faults.slept) >= 7
            with pytest.raises(ValueError, match="mine"):
                async with client.run(datasets=["mnist"], mechanism=RELEASE):
                    raise ValueError("mine")
            with pytest.raises(BudgetExceeded):
                async with client.run(datasets=["mnist"], mechanism=Gaussian(noise_multiplier=0.1)):
                    pytest.fail("the run was refused")
            killed = await client.run(datasets=["mnist"], mechanism=RELEASE, idempotency_key="k").__aenter__()
            async with client.run(datasets=["mnist"], mechanism=RELEASE, idempotency_key="k") as run:
                assert (run.id, run.is_resumed) == (killed.id, True)
            await cancelled(client)
            assert [item["state"] async for item in client.runs(state="settled")] == ["settled"] * 4

    async def cancelled(client: AsyncLedger) -> None:
        entered = asyncio.Event()

        async def train() -> None:
            async with client.run(datasets=["mnist"], mechanism=RELEASE):
                entered.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(train())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(work())
    assert ledger.balance()["held"] == (0, 0)


# --- retries ---------------------------------------------------------------------------------------------------------


def test_whatever_is_lost_one_run_is_charged(ledger: Ledger, tries: Callable[[int, int], int]) -> None:
    """Goal: exactly one run, started and settled once, for each `run()`, whatever happens to whichever request.
    Method: every fault alone at every request, then random ones, around the real application; the balance after."""
    ledger.register(budget={"mu": 100})
    chance = random.Random(11)
    faulty = ["refuse", "lose", "busy", "limit", "gateway"]
    scripts = [["pass"] * place + [fault] for fault in faulty for place in range(3)]
    scripts += [[chance.choice([*faulty, "pass"]) for _ in range(6)] for _ in range(tries(10, 500))]
    for count, script in enumerate(scripts, start=1):
        faults = Faults(list(script))
        with connect(ledger, faults) as client, client.run(datasets=["mnist"], mechanism=RELEASE) as run:
            assert not run.is_resumed
        keys = {request.headers["Idempotency-Key"] for request in faults.seen if request.url.path == "/v1/runs"}
        assert len(keys) == 1
        assert ledger.balance()["spent"] == (count * COST, 0), script
        assert ledger.balance()["held"] == (0, 0), script
    assert kinds(ledger).count("run-approved") == len(scripts)


def test_what_never_arrived_is_sent_again(ledger: Ledger) -> None:
    """Goal: a call that must not be made twice is repeated where the server surely did nothing."""
    for fault in ("refuse", "busy", "limit"):
        faults = Faults([fault, fault])
        with connect(ledger, faults) as client:
            assert client.register(**{**MNIST, "name": fault})["seq"] == 1
        assert len(faults.seen) == 3
        if fault == "busy":
            assert min(faults.slept) >= 7
        else:
            assert 0.25 <= faults.slept[0] <= 0.5 <= faults.slept[1] <= 1


def test_what_may_have_arrived_is_not(ledger: Ledger) -> None:
    """Goal: a call that must not be made twice is made once; the error says that it may have been carried out."""
    for fault in ("lose", "gateway"):
        faults = Faults([fault])
        with connect(ledger, faults) as client:
            with pytest.raises(Unreachable) as caught:
                client.register(**{**MNIST, "name": fault})
            assert fault == "gateway" or "look before you ask again" in str(caught.value)
            assert (len(faults.seen), faults.slept) == (1, [])
            assert client.dataset(fault)["seq"] == 1


def test_retries_are_bounded() -> None:
    """Goal: in number, in time, and by what the server asks for; the last error is the one that is raised."""

    def nowhere(faults: Faults, *, retries: int) -> Client:
        transport = faults.around(httpx.MockTransport(lambda _: problem("internal", 500)))
        return Client(URL, KEY, transport=transport, sleep=faults.slept.append, retries=retries)

    faults = Faults(["refuse"] * 100)
    with (
        nowhere(faults, retries=30) as client,
        pytest.raises(Unreachable, match="Connection refused") as caught,
    ):
        client.ask(datasets=["mnist"], mechanism=RELEASE, idempotency_key="mine")
    assert sum(faults.slept) <= PAUSES_SECONDS_MAX < sum(faults.slept) + 31
    assert caught.value.facts["idempotency_key"] == "mine"
    assert isinstance(caught.value.__cause__, httpx.ConnectError)

    for retries in (0, 3):
        faults = Faults(["busy"] * 100)
        with nowhere(faults, retries=retries) as client, pytest.raises(errors.Overloaded) as busy:
            client.dataset("mnist")
        assert (busy.value.retry_after_seconds, len(faults.seen)) == (7, retries + 1)

    slept: list[float] = []
    patient = httpx.MockTransport(lambda _: problem("rate-limited", 429, headers={"Retry-After": "3600"}))
    with Client(URL, KEY, transport=patient, sleep=slept.append) as client, pytest.raises(RateLimited) as limited:
        client.dataset("mnist")
    assert (limited.value.retry_after_seconds, slept) == (3600, [])


@pytest.mark.parametrize("said", ["soon", "-1", "٣", "Mon, 23 Nov 2026 10:00:00 GMT", "9" * 400])
def test_an_odd_retry_after_is_not_followed(said: str) -> None:
    """Goal: what is no number of seconds does no harm."""
    slept: list[float] = []
    busy = httpx.MockTransport(
        lambda _: problem("overloaded", 503, headers=httpx.Headers({"Retry-After": said.encode()}))  # type: ignore[arg-type]
    )
    with Client(URL, KEY, transport=busy, sleep=slept.append, retries=1) as client, pytest.raises(errors.Overloaded):
        client.dataset("mnist")
    assert len(slept) == 1
    assert slept[0] <= 0.5


# --- errors ----------------------------------------------------------------------------------------------------------


def over_the_wire(error: LedgerError) -> LedgerError:
    """An error of the server as the client raises it."""
    answer = of_error(error)
    with answering(
        lambda _: httpx.Response(answer.status_code, headers=answer.headers, content=bytes(answer.body)), retries=0
    ) as client:
        with pytest.raises(LedgerError) as caught:
            client.dataset("mnist")
        return caught.value


def copied(error: Any) -> Any:
    """An error as a process of a pool hands it on."""
    return pickle.loads(pickle.dumps(error))  # noqa: S301 (our own)


def test_every_code_is_its_exception() -> None:
    """Goal: what the server raises is what the client raises, with message and facts. Method: every class of the tree
    that has a status, through the server's own rendering."""
    tree = [LedgerError]
    for kind in tree:
        tree.extend(kind.__subclasses__())
    for code in STATUS:
        kinds = [kind for kind in tree if "code" in vars(kind) and kind.code == code and kind is not LedgerError]
        if code == "internal":
            kinds = [errors.Internal]
        if not kinds:
            continue
        about: dict[type[LedgerError], dict[str, Any]] = {errors.Overloaded: {}, errors.JournalBroken: {"seq": 7}}
        sent = kinds[0]("It is so.", **about.get(kinds[0], {"dataset": "mnist"}))
        got = over_the_wire(sent)
        assert isinstance(got, kinds[0]), code
        assert (got.code, str(got), got.facts) == (code, str(sent), sent.facts)
        assert str(copied(got)) == str(sent)
    field = over_the_wire(errors.InvalidRequest("size: no", field="size"))
    assert isinstance(field, errors.InvalidRequest)
    assert field.field == "size"


def test_a_newer_server_s_code_is_kept() -> None:
    """Goal: an unknown code is a LedgerError that still says which."""
    with (
        answering(lambda _: problem("unit-mismatched", 409, unit="user")) as client,
        pytest.raises(LedgerError) as caught,
    ):
        client.dataset("mnist")
    assert (type(caught.value), caught.value.code, caught.value.facts) == (
        LedgerError,
        "unit-mismatched",
        {"unit": "user"},
    )
    assert LedgerError.code == "internal"


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (
            {
                "datasets": [
                    {"name": "mnist", "quantity": "mu", "requested": 0.57404, "remaining": 0.43391, "limit": 0.7193}
                ],
                "fits": {"noise_multiplier": 1.34727, "epochs": 34.3074},
            },
            "The run does not fit in what is left of mnist: it asks for mu 0.574, 0.434 of 0.719 is left. "
            "What would fit: noise_multiplier 1.34727, or epochs 34.3074.",
        ),
        (
            {
                "datasets": [
                    {
                        "name": "clicks",
                        "partition": "2026-10",
                        "project": "ranking",
                        "quantity": "mu",
                        "requested": 0.2000001,
                        "remaining": 0.2,
                        "limit": 0.2,
                    },
                    {"name": "mnist", "quantity": "delta", "requested": 1e-6, "remaining": 0, "limit": 1e-6},
                ],
                "fits": {},
            },
            "The run does not fit in what is left of clicks (partition 2026-10, project ranking): it asks for "
            "mu 0.2000001, 0.2 of 0.2 is left; of mnist: it asks for delta 1e-06, 0 of 1e-06 is left. "
            "No change of one of its numbers would make it fit.",
        ),
        (
            {
                "datasets": [
                    {
                        "name": "clicks",
                        "partition": str(day),
                        "quantity": "mu",
                        "requested": 3,
                        "remaining": 1,
                        "limit": 2,
                    }
                    for day in range(365)
                ],
                "fits": {},
            },
            "The run does not fit in what is left of "
            + "; of ".join(f"clicks (partition {day}): it asks for mu 3, 1 of 2 is left" for day in range(5))
            + "; and of 360 more. No change of one of its numbers would make it fit.",
        ),
        ({"datasets": "?", "fits": {}}, "It said no."),
        ({}, "It said no."),
    ],
    ids=["one", "two", "many", "odd", "none"],
)
def test_a_refusal_says_what_a_person_needs(facts: dict[str, Any], said: str) -> None:
    """Goal: one line: what binds, by how much, and what would fit; numbers that differ look different."""
    with (
        answering(lambda _: problem("budget-exceeded", 409, run="r", **facts)) as client,
        pytest.raises(BudgetExceeded) as caught,
    ):
        client.ask(datasets=["mnist"], mechanism=RELEASE)
    assert str(caught.value) == said
    again = copied(caught.value)
    assert (str(again), again.facts, again.fits) == (said, caught.value.facts, facts.get("fits", {}))


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="<h1>It works!</h1>"),
        httpx.Response(200, json=["a"]),
        httpx.Response(301, headers={"Location": "https://elsewhere"}),
        httpx.Response(404, text="nothing here"),
        httpx.Response(500, json={"error": "?"}),
        httpx.Response(502, content=b"\xff"),
    ],
    ids=lambda answer: f"{answer.status_code}-{len(answer.content)}",
)
def test_what_is_no_ledger_is_said_to_be_none(answer: httpx.Response) -> None:
    """Goal: a wrong URL, a proxy or a portal is found out, and no redirect takes the key elsewhere."""
    with answering(lambda _: answer, retries=0) as client, pytest.raises(Unreachable, match="is not the ledger"):
        client.dataset("mnist")


# --- the key ---------------------------------------------------------------------------------------------------------


def test_url_and_key_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: LEDGER_URL and LEDGER_KEY, what is given before what is set, and an error at once where there is no key."""
    for missing in (None, "", "  \n"):
        with pytest.raises(errors.Unauthenticated, match="LEDGER_KEY"):
            Client(key=missing)
        with pytest.raises(errors.Unauthenticated, match="LEDGER_KEY"):
            AsyncLedger(key=missing)
    monkeypatch.setenv("LEDGER_KEY", f"{KEY}\n")
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, json={"items": [], "next": None})

    with Client(transport=httpx.MockTransport(answer)) as client:
        assert repr(client) == "<Ledger at http://127.0.0.1:8000>"
        assert list(client.datasets()) == []
    monkeypatch.setenv("LEDGER_URL", "http://user:password@ledger.example:1/base/?a=b")
    with Client(transport=httpx.MockTransport(answer)) as client:
        assert repr(client) == "<Ledger at http://ledger.example:1/base/>"
        assert list(client.datasets()) == []
    assert [request.headers["Authorization"] for request in sent] == [f"Bearer {KEY}"] * 2
    assert sent[1].url == "http://ledger.example:1/base/v1/datasets?limit=1000"
    assert repr(AsyncLedger("https://a.example")) == "<AsyncLedger at https://a.example>"
    for url in ("localhost:8000", "ftp://a", "http://", "http://[", "http://a:b:c", "http://a b"):
        with pytest.raises(errors.Misconfigured, match="URL"):
            Client(url, KEY)


def test_the_key_is_shown_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    """Goal: not in repr, not in an error, its notes, its causes or its traceback, not in a log of any library.
    Method: a real socket that refuses, answers that refuse, odd keys; everything at DEBUG."""
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []

    def fail(client: Client) -> None:
        with client, pytest.raises(LedgerError) as caught, client.run(datasets=["mnist"], mechanism=RELEASE):
            pytest.fail("there is no such run")
        shown.append("".join(traceback.format_exception(caught.value)))
        shown.append(repr((client, vars(client), caught.value, caught.value.facts, vars(caught.value))))

    fail(Client("http://127.0.0.1:9", KEY, retries=1, sleep=lambda _: None))
    for code, status in STATUS.items():
        fail(answering(lambda _, code=code, status=status: problem(code, status), retries=1))  # type: ignore[misc]
    for odd in ("pbl_a-secret\nX: y", "pbl_a-secret\x00", "pbl_a-secret-ü", "pbl_a-secret and more"):
        with pytest.raises(errors.Unauthenticated) as caught:
            Client(URL, odd)
        shown.append("".join(traceback.format_exception(caught.value)))
    shown += [record.getMessage() for record in caplog.records]
    assert any("Again in" in text for text in shown)
    assert not [text for text in shown if "a-secret" in text]


# --- a training job --------------------------------------------------------------------------------------------------


def test_training_under_the_ledger(database: Settings, start_server: Callable[[Settings], Served]) -> None:
    """Goal: what the client is for: DP-SGD that really trains, under a run, on a real server. Method: logistic
    regression in NumPy, Poisson sampling, clipped per-example gradients, noise on their sum, a fixed divisor."""
    key = first_keys(database).admin_key
    served = start_server(database)
    chance = np.random.default_rng(3)
    units, weights_true = 4_000, np.array([2.0, -1.0, 0.5, 0.0, 1.5])
    x = chance.normal(size=(units, 5))
    y = (chance.random(units) < 1 / (1 + np.exp(-3 * x @ weights_true))).astype(float)
    rate, steps, clip, noise_multiplier = 0.05, 80, 1.0, 1.0

    with Client(served.url, key) as ledger:
        ledger.register(**{**MNIST, "name": "synthetic", "size": units})
        mechanism = DPSGD(noise_multiplier=noise_multiplier, sample_rate=rate, steps=steps)
        weights = np.zeros(5)
        with ledger.run(datasets=["synthetic"], mechanism=mechanism, purpose="logistic regression") as run:
            while run.steps < steps:
                batch = chance.random(units) < rate
                residual = 1 / (1 + np.exp(-x[batch] @ weights)) - y[batch]
                gradients = residual[:, None] * x[batch]
                norms = np.linalg.norm(gradients, axis=1, keepdims=True)
                clipped = gradients / np.maximum(1, norms / clip)
                noisy = clipped.sum(axis=0) + chance.normal(scale=noise_multiplier * clip, size=5)
                weights -= 2.0 * noisy / (rate * units)
                run.step()
            run.evidence["weights"] = weights.round(6).tolist()

        accuracy = np.mean((x @ weights > 0) == (y > 0.5))
        assert accuracy > 0.85
        assert np.corrcoef(weights, weights_true)[0, 1] > 0.95
        shown = ledger.run_info(run.id)
        assert (shown["state"], shown["settled"]["steps"]) == ("settled", steps)
        assert shown["settled"]["evidence"]["weights"] == run.evidence["weights"]
        balance = ledger.dataset("synthetic")["balance"]
        assert balance["spent"] == shown["cost"]
        journal = io.BytesIO()
        assert ledger.export("synthetic", journal) == journal.tell()
        assert json.loads(journal.getvalue().splitlines()[-1])["head"]["seq"] == ledger.head("synthetic")["seq"]
        with (
            pytest.raises(BudgetExceeded),
            ledger.run(datasets=["synthetic"], mechanism=DPSGD(noise_multiplier=0.6, sample_rate=rate, steps=steps)),
        ):
            pytest.fail("there is nothing left for that")


# --- what it needs ---------------------------------------------------------------------------------------------------

ALONE = """
import sys

HIDDEN = {"sqlalchemy", "fastapi", "numpy", "scipy", "pydantic", "pydantic_settings", "typer", "starlette", "psycopg",
          "alembic", "uvicorn", "httpx2"}

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"{name} is hidden", name=name)

sys.meta_path.insert(0, Hide())
import httpx
before = {name.partition(".")[0] for name in sys.modules}
import ledger.client
after = {name.partition(".")[0] for name in sys.modules}
print(sorted(after - before - set(sys.stdlib_module_names)))
print(sorted(name for name in sys.modules if name.startswith("ledger") and not name.startswith("ledger.client")))
print(repr(ledger.client.Ledger(key="pbl_x")))
"""


def test_it_needs_httpx_and_nothing_else(tmp_path: Path) -> None:
    """Goal: a training job can import the client without the server. Method: a fresh process in which the server's
    libraries cannot be found; what came in beside httpx is this package alone, and of it `canonical` and `errors`."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", ALONE],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == [
        "['ledger']",
        "['ledger', 'ledger.canonical', 'ledger.errors']",
        "<Ledger at http://127.0.0.1:8000>",
    ]
