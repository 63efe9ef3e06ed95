"""Certificates are computed outside of the process that decides, in few processes, and for nobody who has gone.

Counted, not timed. What a process is told to do here is of the standard library where a test needs it to end badly.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import UUID

import pytest

from ledger.accounting import certificate, costs, deadline, mechanisms, settling, zcdp
from ledger.accounting.mechanisms import AnyMechanism
from ledger.accounting.terms import Terms
from ledger.core.amounts import Amount
from ledger.errors import Internal, InvalidRequest
from ledger.service import apart as apart_module
from ledger.service import computing, inverting
from ledger.service.apart import Apart
from ledger.service.certificates import Certificates, is_heavy
from ledger.service.inverting import Question
from ledger.settings import Settings
from ledger.store import Store
from tests.conftest import Templates
from tests.kit.accountant import ANY_TERMS, DPSGD, WAIT_SECONDS_MAX, dpsgd
from tests.kit.databases import until
from tests.kit.driver import RELEASE, Ledger
from tests.kit.hostile import REPETITIONS

ACME, BETA = UUID(int=0xA), UUID(int=0xB)
TERMS = Terms(bound="certified", adjacency="replace_one", delta=Decimal("1e-8"))
MANY: dict[str, Any] = {"type": "composed", "parts": [{"type": "zcdp", "rho": n / 100} for n in range(1, 9)]}
LARGE = {"noise_multiplier": Decimal("0.5"), "sample_rate": Decimal("1e-6"), "steps": 1_000_000}
"""A certificate that takes a second."""


@pytest.fixture
def apart() -> Iterator[Apart]:
    """Processes that end."""
    made = Apart(kept_max=2)
    yield made
    made.close()


def pids(apart: Apart) -> list[int]:
    """The processes that there are."""
    return [one._process.pid for one in (*apart._idle, *apart._busy)]


def is_there(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# --- what is computed ------------------------------------------------------------------------------------------------


def questions(mechanism: AnyMechanism) -> list[Callable[[], Any]]:
    """Whatever is handed to a process."""
    little = Amount(10**9, 10**9)
    question = Question(mechanism, TERMS, little, "runs", is_fit=False, is_dear=True)
    return [
        partial(costs.cost, mechanism, TERMS),
        partial(costs.cost, mechanism, Terms(bound="certified", adjacency="replace_one", delta=Fraction(1, 10**9))),
        partial(costs.frontier, mechanism, bound="certified", adjacency="replace_one"),
        partial(inverting.invert, question, monotonic),
        partial(inverting.fits, mechanism, TERMS, little, is_dear=True),
    ]


def test_a_process_computes_the_same(apart: Apart) -> None:
    """Goal: where a cost is computed makes no difference. Method: costs, frontiers, inversions and a charge, of a
    certificate and of closed forms, there and here; and an error of the ledger."""
    works = [work for mechanism in (dpsgd(), mechanisms.parse(MANY)) for work in questions(mechanism)]
    approved = costs.cost(dpsgd(), TERMS)
    works.append(
        partial(
            settling.charge,
            dpsgd(),
            TERMS,
            approved=approved.amount,
            method=approved.method,
            steps=1100,
            stop="data_independent",
        )
    )
    for work in works:
        assert apart.run(ACME, work) == work()
    assert apart.processes == 1
    wrong = partial(costs.cost, dpsgd(steps=3), replace(TERMS, segments=7))
    errors = []
    for compute in (wrong, partial(apart.run, ACME, wrong)):
        with pytest.raises(InvalidRequest) as raised:
            compute()
        errors.append((raised.value.detail, raised.value.facts, raised.value.field))
    assert errors[0] == errors[1]


def test_a_tenant_gets_the_process_that_has_its_curves(apart: Apart) -> None:
    """Goal: what a process composed for a tenant serves that tenant again. Method: two processes, each used for one of
    two tenants; then each tenant in turn, in both orders."""
    for computer in [apart._taken(tenant) for tenant in (ACME, BETA)]:
        computer.answer(ACME, os.getpid)
        apart._give_back(computer)
    first = {ACME: apart.run(ACME, os.getpid)}
    first[BETA] = next(pid for pid in pids(apart) if pid != first[ACME])
    apart._idle[0].tenant_id, apart._idle[1].tenant_id = (
        (ACME, BETA) if apart._idle[0]._process.pid == first[ACME] else (BETA, ACME)
    )
    for tenant in (BETA, ACME, ACME, BETA):
        assert apart.run(tenant, os.getpid) == first[tenant]


# --- what a process is -----------------------------------------------------------------------------------------------


def test_what_a_process_is_given(apart: Apart, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a process that computes gives way to others, ends before the server if memory runs out, and has none of
    the server's secrets. Method: what the system says of it, and its environment."""
    monkeypatch.setenv("LEDGER_SIGNING_KEY", "secret")
    pid = apart.run(ACME, os.getpid)
    assert pids(apart) == [pid] != [os.getpid()]
    assert os.getpriority(os.PRIO_PROCESS, pid) >= computing.NICENESS
    assert apart.run(ACME, partial(os.getenv, "LEDGER_SIGNING_KEY")) is None
    assert apart.run(ACME, partial(os.getenv, "OPENBLAS_NUM_THREADS")) == "1"
    assert os.getsid(pid) == os.getsid(0)
    assert os.getpgid(pid) == pid
    if sys.platform == "linux":
        assert Path(f"/proc/{pid}/oom_score_adj").read_bytes().strip() == computing.OOM_SCORE


def test_processes_are_started_on_demand_and_few_are_kept(apart: Apart, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: there is none before it is needed, one for each thread at most, and those that nobody needs any more end.

    Method: three threads that hold three at once, after which two are kept; then the time after which they are retired.
    """
    assert apart.processes == 0
    at_once = threading.Barrier(3)

    def use() -> int:
        computer = apart._taken(ACME)
        at_once.wait(WAIT_SECONDS_MAX)
        computer.answer(ACME, os.getpid)
        apart._give_back(computer)
        return computer._process.pid

    with ThreadPoolExecutor(3) as threads:
        used = {thread.result() for thread in [threads.submit(use) for _ in range(3)]}
    assert len(used) == 3
    assert apart.processes == 2
    assert len([pid for pid in used if is_there(pid)]) == 2
    monkeypatch.setattr(apart_module, "KEPT_SECONDS", 0.0)
    apart._retire()
    assert apart.processes == 0
    assert not [pid for pid in used if is_there(pid)]


# --- for nobody ------------------------------------------------------------------------------------------------------


def test_a_computation_that_is_stopped_leaves_its_process(apart: Apart, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: work that nobody waits for any more ends, and the process serves the next. Method: a large certificate that
    is stopped at once; which process answers afterwards."""
    monkeypatch.setattr(apart_module, "STOP_SECONDS_MAX", WAIT_SECONDS_MAX)
    pid = apart.run(ACME, os.getpid)
    stop = threading.Event()
    stop.set()
    with pytest.raises(deadline.Stopped), deadline.until(monotonic() + WAIT_SECONDS_MAX, stop):
        apart.run(ACME, partial(costs.cost, dpsgd(**LARGE), TERMS))
    assert apart.run(ACME, os.getpid) == pid


def test_a_process_that_does_not_stop_is_killed(apart: Apart) -> None:
    """Goal: nothing runs on after its deadline. Method: work that waits for ever, and has no time."""
    pid = apart.run(ACME, os.getpid)
    with pytest.raises(deadline.Expired), deadline.until(monotonic(), threading.Event()):
        apart.run(ACME, signal.pause)
    assert apart.processes == 0
    assert not is_there(pid)


def test_a_process_ends_with_who_started_it() -> None:
    """Goal: a server that is killed leaves no process that goes on. Method: one that computes for ever; the end of its
    standard input alone."""
    command = [sys.executable, "-P", "-m", computing.__name__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(computing.frame((ACME, os.getpid)) + computing.frame((ACME, signal.pause)))
        process.stdin.flush()
        (size,) = computing.HEADER.unpack(process.stdout.read(computing.HEADER.size))
        assert process.stdout.read(size) == computing.frame(("done", process.pid))[computing.HEADER.size :]
        process.stdin.close()
        assert process.wait(WAIT_SECONDS_MAX) == 0


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_what_goes_wrong_is_internal(apart: Apart, caplog: pytest.LogCaptureFixture) -> None:
    """Goal: a fault in a process is one of the server, whose log has its place and no value; and the next computation
    is answered. Method: an error that quotes a value, and a process that ends."""
    pid = apart.run(ACME, os.getpid)
    with pytest.raises(Internal):
        apart.run(ACME, partial(int, "a caller's words"))
    assert "ValueError" in caplog.text
    assert "words" not in caplog.text
    assert apart.run(ACME, os.getpid) == pid
    with pytest.raises(Internal):
        apart.run(ACME, partial(os._exit, 3))
    assert "ended (status 3)" in caplog.text
    assert apart.run(ACME, os.getpid) != pid
    os.kill(pids(apart)[0], signal.SIGKILL)
    until(lambda: not any(one.is_alive for one in apart._idle))
    assert apart.run(ACME, os.getpid) in pids(apart)


# --- in a server -----------------------------------------------------------------------------------------------------


@pytest.fixture
def server(templates: Templates, tmp_path: Path) -> Iterator[Settings]:
    """The settings of a server that computes in processes."""
    with templates.clone("sqlite", tmp_path) as settings:
        yield settings.model_copy(update={"computing_processes": 2})


def certificates_of(ledger: Ledger) -> Certificates:
    """Those of a server in this process."""
    found: Certificates = ledger.client.app.state.services.certificates
    return found


def test_a_server_computes_no_certificate_itself(server: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: whatever takes long to compute is computed in other processes, which end with the server. Method: every
    call that needs it, in a server in which none can be computed."""

    def not_here(*_: Any, **__: Any) -> Any:
        raise AssertionError

    run = {**RELEASE, "datasets": ["certified"], "mechanism": DPSGD}
    many = {**RELEASE, "mechanism": MANY}
    with Ledger.open(server) as ledger:
        monkeypatch.setattr(certificate, "certified", not_here)
        monkeypatch.setattr(zcdp, "mu_zcdp", not_here)
        ledger.register(budget={"mu": 0.5})
        ledger.register(name="certified", budget={"mu": 3, "delta": 1e-6}, bound="certified")
        certificates = certificates_of(ledger)
        assert certificates.processes == 0
        approved = ledger.post("/v1/runs", run, idempotency_key="a")
        assert approved.status_code == 201
        assert ledger.post(f"/v1/runs/{approved.json()['id']}/start").status_code == 200
        settled = {"steps": 500, "stop": "data_independent"}
        assert ledger.post(f"/v1/runs/{approved.json()['id']}/settle", settled).status_code == 200
        longer = {**run, "mechanism": {**DPSGD, "steps": 90_000}, "delta": 1e-8}
        refused = ledger.post("/v1/runs", longer, idempotency_key="b")
        for _ in range(REPETITIONS):
            if refused.status_code != 503:  # what would fit is still being computed, and the same key gets it
                break
            refused = ledger.post("/v1/runs", longer, idempotency_key="b")
        assert (refused.status_code, set(refused.json()["fits"])) == (409, {"noise_multiplier", "steps"})
        assert ledger.post("/v1/runs", many, idempotency_key="c").status_code == 409
        for mechanism, dataset in ((DPSGD, "certified"), (MANY, "mnist")):
            assert ledger.post("/v1/evaluate", {"mechanism": mechanism}).status_code == 200
            planned = ledger.post("/v1/plan", {"datasets": [dataset], "mechanism": mechanism, "solve_for": "runs"})
            assert planned.status_code == 200
        assert 1 <= certificates.processes <= 3
        left = pids(certificates._apart)  # type: ignore[arg-type]
    assert certificates.processes == 0
    assert not [pid for pid in left if is_there(pid)]


def test_small_work_is_handed_to_no_process(server: Settings) -> None:
    """Goal: who releases a number waits for no process to start. Method: runs of closed forms, approved and refused, a
    plan and an evaluation; the processes afterwards."""
    two = {
        "type": "composed",
        "parts": [{"type": "gaussian", "noise_multiplier": 9}, {"type": "laplace", "noise_multiplier": 9}],
    }
    assert not is_heavy(mechanisms.parse(two), ANY_TERMS)
    assert is_heavy(mechanisms.parse(MANY), ANY_TERMS)
    with Ledger.open(server) as ledger:
        ledger.register(budget={"mu": 0.5})
        for mechanism, status in ((two, 201), ({"type": "gaussian", "noise_multiplier": 1}, 409)):
            assert ledger.ask(mechanism=mechanism).status_code == status
            assert ledger.post("/v1/evaluate", {"mechanism": mechanism}).status_code == 200
            planned = {"datasets": ["mnist"], "mechanism": mechanism, "solve_for": "runs"}
            assert ledger.post("/v1/plan", planned).status_code == 200
        assert certificates_of(ledger).processes == 0


def test_closing_ends_what_computes(store: Store) -> None:
    """Goal: a server that ends does not wait for certificates. Method: work that waits for ever, of two tenants."""
    made = Certificates(store, seconds_max=WAIT_SECONDS_MAX, apart=Apart(kept_max=2))

    async def close() -> list[BaseException | None]:
        asked = [made.beside(tenant, signal.pause, key={}) for tenant in (ACME, BETA)]  # advice, of which one runs
        waiting = [asyncio.ensure_future(one) for one in asked]
        await asyncio.to_thread(until, lambda: made.processes == 1)
        await asyncio.to_thread(made.close)
        await asyncio.wait(waiting, timeout=WAIT_SECONDS_MAX)
        return [task.exception() for task in waiting]

    ended = asyncio.run(close())
    assert {type(error).__name__ for error in ended} == {"Overloaded"}
    assert made.processes == 0
