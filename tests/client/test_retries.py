"""What is sent again, what is not, and for how long."""

from __future__ import annotations

import random
from collections.abc import Callable

import httpx
import pytest

from ledger import errors
from ledger.client import Ledger as Client
from ledger.client import RateLimited, Unreachable
from ledger.client.flows import PAUSES_SECONDS_MAX
from tests.kit.clients import COST, KEY, RELEASE, URL, Faults, connect, kinds, problem
from tests.kit.driver import MNIST, Ledger


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
        with connect(ledger, faults, retries=7) as client, client.run(datasets=["mnist"], mechanism=RELEASE) as run:
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
            assert fault == "gateway" or "Check before you call again" in str(caught.value)
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
