"""Starts by several processes: one of them trains, and it gets its own answer however often that is lost."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from ledger import errors
from ledger.client import DPSGD, Run, Unreachable, verify_receipt
from ledger.client import Ledger as Client
from ledger.client.files import FILES_MAX, Files, open_record
from ledger.settings import Settings
from tests.client.test_killed import started
from tests.kit.clients import Faults, connect, connect_async, died
from tests.kit.driver import MNIST, Ledger, first_keys, serve_here
from tests.kit.lines import line_to

STEPS = DPSGD(noise_multiplier=30, sample_rate=0.01, steps=87)
JOB: dict[str, Any] = {"datasets": ["mnist"], "mechanism": STEPS, "idempotency_key": "job"}
ELSEWHERE = "was started .*by another process"


@contextmanager
def elsewhere() -> Iterator[None]:
    """Another host, as far as its files are concerned."""
    here = os.environ["LEDGER_STATE_DIR"]
    os.environ["LEDGER_STATE_DIR"] = here + "-elsewhere"
    try:
        yield
    finally:
        os.environ["LEDGER_STATE_DIR"] = here


def files() -> Files:
    """The state directory."""
    return Files(Path(os.environ["LEDGER_STATE_DIR"]))


class Meanwhile(Faults):
    """Another host starts the run just before this one does, though its answers are lost at first."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger, self.first = ledger, list[Run]()

    def before(self, request: httpx.Request) -> httpx.Response | str:
        if request.url.path.endswith("/start") and not self.first:
            with elsewhere(), connect(self.ledger, Faults(["pass", "lose", "lose"])) as other:
                self.first.append(other.run(**JOB).__enter__())
        return super().before(request)


def test_of_two_hosts_that_start_a_run_at_once_only_one_trains(ledger: Ledger, client: Client) -> None:
    """Goal: where both found the run held, the one that did not start it stops before any step, and so does a restart
    there, until it is stated what the other executed; lost answers to one's own start change nothing. The run stays
    that of the other. Method: another host just before the start."""
    faults = Meanwhile(ledger)
    with connect(ledger, faults) as late, pytest.raises(errors.RunState, match=ELSEWHERE) as caught:
        late.run(**JOB).__enter__()
    (first,) = faults.first
    assert (caught.value.facts["run"], caught.value.facts["state"]) == (first.id, "started")
    assert "is held" not in str(getattr(caught.value, "__notes__", ()))
    assert (first.is_resumed, first.steps) == (False, 0)
    for _ in range(2):
        with pytest.raises(errors.RunState, match=r"executed no step\. .*steps_done=N"):
            client.run(**JOB).__enter__()
    assert len([*first.batches(range(100))]) == 87
    died(first)
    again = client.run(**JOB, steps_done=87).__enter__()
    assert (again.id, again.is_resumed) == (first.id, True)
    assert not [*again.batches(range(100))]
    died(again)
    # From there on this place knows of all steps.
    once_more = client.run(**JOB).__enter__()
    assert (once_more.steps, once_more.is_unknown) == (87, False)
    died(once_more)


def test_an_asynchronous_start_is_refused_too(ledger: Ledger, client: Client) -> None:
    """Goal: `AsyncLedger` stops before any step as well; nothing of its own is started."""

    async def begin() -> None:
        async with connect_async(ledger, Meanwhile(ledger)) as late, late.run(**JOB):
            pytest.fail("it trains")

    with pytest.raises(errors.RunState, match=ELSEWHERE):
        asyncio.run(begin())
    assert [run["state"] for run in client.runs()] == ["started"]


def test_a_lost_answer_is_found_again_with_the_same_token(ledger: Ledger, client: Client) -> None:
    """Goal: if the answer to the start is lost, and the process gives up or dies, the next one here has the run, with
    its receipt and all its steps; the token is on disk before it is sent. Method: every answer to the start is lost."""
    lost = Faults(["pass", *["lose"] * 4])
    with connect(ledger, lost) as first, pytest.raises(Unreachable):
        first.run(**JOB).__enter__()
    starts = [request for request in lost.seen if request.url.path.endswith("/start")]
    assert len(starts) == 4
    assert len({request.content for request in starts}) == 1
    run_id = client.run_info(next(client.runs())["id"])["id"]
    kept = files().read(f"runs/{run_id}.json")
    assert kept is not None
    assert (kept["begun"], kept["steps"]) == (False, {})
    shown = client.run_info(run_id)["started"]["token_sha256"]
    assert shown == sha256(kept["token"].encode()).hexdigest()
    with client.run(**JOB) as run:
        assert (run.id, run.steps, run.is_unknown) == (run_id, 0, False)
        assert run.remaining["mnist"] is not None
        assert run.receipt is not None
        assert verify_receipt(run.receipt, jwks=client.jwks(), datasets="mnist", run=run_id).state == "started"
        assert len([*run.batches(range(100))]) == 87
    assert client.run_info(run_id)["settled"]["steps"] == 87


def test_a_start_that_never_arrived_is_not_believed(ledger: Ledger, client: Client) -> None:
    """Goal: a process that died before its start arrived leaves no right to train: another host started the run
    meanwhile and reported nothing yet. A sweep does not settle it from here either. Method: the start is refused on the
    way; then the other host starts it."""
    with connect(ledger, Faults(["pass", *["refuse"] * 4])) as first, pytest.raises(Unreachable):
        first.run(**JOB).__enter__()
    with elsewhere():
        other = client.run(**JOB).__enter__()
    with pytest.raises(errors.RunState, match=ELSEWHERE):
        client.run(**JOB).__enter__()
    record = open_record(files(), other.id)
    assert record is not None
    assert (record.is_known, record.is_of(client.run_info(other.id)["started"])) == (True, False)
    record.close()
    died(other)
    with elsewhere(), client.run(**JOB) as run:
        assert (run.id, run.is_unknown) == (other.id, False)
        run.step(87)


def test_a_run_that_was_started_without_a_token_counts_as_anothers(ledger: Ledger, client: Client) -> None:
    """Goal: a start by an older client has no token: it is nobody's here, so that the whole plan counts; what an older
    client wrote down of its own run is still known. Method: POST without a body; a file without a token."""
    run_id = client.ask(**JOB)["id"]
    assert ledger.post(f"/v1/runs/{run_id}/start").status_code == 200
    files().write(f"runs/{run_id}.json", {"run": run_id, "steps": {"": 40}, "ends": [], "host": "h"})
    with pytest.raises(errors.RunState, match=ELSEWHERE):
        client.start(run_id)
    with client.run(**JOB) as run:
        assert (run.steps, run.is_unknown) == (40, False)
        assert len([*run.batches(range(100))]) == 47
    other = client.ask(**{**JOB, "idempotency_key": "other"})["id"]
    assert ledger.post(f"/v1/runs/{other}/start").status_code == 200
    doubtful = client.run(**{**JOB, "idempotency_key": "other"}).__enter__()
    assert (doubtful.is_unknown, doubtful.steps) == (True, 87)
    died(doubtful)


def test_tokens_are_bounded(tmp_path: Path) -> None:
    """Goal: starts that no process went on from do not fill the disk, and those of running processes stay."""
    here = Files(tmp_path)
    going = open_record(here, "going")
    assert going is not None
    going.begin({"": 3}, is_restart=False)
    for number in range(FILES_MAX + 1):
        here.write(f"runs/{number}.json", {"run": str(number), "steps": {}, "ends": [], "token": "t", "begun": False})
        here.write(f"starts/{number}.json", {"run": str(number), "token": "t"})
    here.bound_starts()
    assert len([*here.names("runs")]) <= FILES_MAX
    assert len([*here.names("starts")]) <= FILES_MAX
    assert here.read("runs/going.json") is not None


# --- real processes --------------------------------------------------------------------------------------------------

TRAIN = """
import os, sys
from ledger.client import Gaussian, Ledger
from ledger.errors import RunState

print("ready", flush=True)
sys.stdin.readline()
try:
    with Ledger() as ledger, ledger.run(
        datasets=["mnist"], mechanism=Gaussian(noise_multiplier=50, count=60), idempotency_key=sys.argv[2]
    ) as run:
        for _ in run.batches(range(1000)):
            with open(sys.argv[1], "ab") as log:
                log.write(b".")
        print("trained", run.id)
except RunState as error:
    print("refused", error.facts["run"])
"""


def test_of_processes_on_several_hosts_one_trains(database: Settings, tmp_path: Path) -> None:
    """Goal: four processes with one idempotency key, each on a host of its own, begin at once: exactly one executes the
    plan, and the run is charged for just that. Method: real processes over TCP, three rounds; a byte for each step."""
    key = first_keys(database).admin_key
    with serve_here(database.model_copy(update={"watch_seconds": 3600})) as url, line_to(url) as line:
        with Client(url, key) as client:
            client.register(**{**MNIST, "budget": {"mu": 2, "delta": 1e-6}})
        for turn in range(3):
            log = tmp_path / f"executed-{turn}"
            hosts = [{"LEDGER_STATE_DIR": str(tmp_path / f"host-{turn}-{number}")} for number in range(4)]
            trains = [started(TRAIN, line, key, str(log), f"turn-{turn}", **host) for host in hosts]
            for process in trains:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
            said = [process.communicate("go\n", timeout=60) for process in trains]
            words = sorted(out.split()[0] for out, _ in said)
            assert words == ["refused"] * 3 + ["trained"], said
            assert log.stat().st_size == 60
            (run_id,) = {out.split()[1] for out, _ in said}
            with Client(url, key) as client:
                assert client.run_info(run_id)["settled"]["steps"] == 60
