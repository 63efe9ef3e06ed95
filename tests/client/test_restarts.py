"""Jobs that die and are started again: the run is found, and what was executed is never charged as less."""

from __future__ import annotations

import itertools
import logging
import os
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ledger import errors
from ledger.client import (
    DPSGD,
    BudgetExceeded,
    Composed,
    Gaussian,
    Laplace,
    MatrixFactorization,
    PlanExceeded,
    Run,
    Unreachable,
)
from ledger.client import Ledger as Client
from ledger.client.beats import Send
from ledger.client.calls import Call
from ledger.client.files import FILES_MAX, Files, open_record
from tests.kit.clients import RELEASE, SGD, URL, Faults, connect, died, kinds
from tests.kit.driver import Ledger
from tests.kit.scene import REASON, ok

TWO = Composed(parts=[Gaussian(noise_multiplier=20, count=30), Laplace(noise_multiplier=50, count=28)])
STEPS = DPSGD(noise_multiplier=30, sample_rate=0.01, steps=87)
SHUFFLED = DPSGD(noise_multiplier=30, sampling="shuffle", sample_rate=0.1, steps=87)
TREE = MatrixFactorization(
    noise_multiplier=50, strategy="tree", steps=87, participations=2, separation=10, completion="power_of_two"
)


@pytest.fixture
def slow_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step takes a second, so that steps are written down one by one."""
    monkeypatch.setattr("ledger.client.counting.time.monotonic", itertools.count().__next__)


def files() -> Files:
    """The state directory."""
    return Files(Path(os.environ["LEDGER_STATE_DIR"]))


def killed_after(client: Client, steps: int, **arguments: Any) -> Run:
    """A run whose process is killed after so many steps."""
    run = client.run(**{"datasets": ["mnist"], "mechanism": STEPS, "idempotency_key": "job", **arguments}).__enter__()
    for _ in range(steps):
        run.step()
    died(run)
    return run


@pytest.mark.usefixtures("slow_steps")
def test_a_job_that_begins_again_is_charged_for_all_it_executed(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Goal: 37 steps, killed, and begun again from scratch: the plan of 87 ends with the 50th further step at the
    latest, the restart is stated, and a warning says what counts. Method: one killed twice; the journal."""
    first = killed_after(client, 37)
    second = killed_after(client, 20)
    assert (second.id, second.is_resumed, second.steps) == (first.id, True, 57)
    scope = client.run(datasets=["mnist"], mechanism=STEPS, idempotency_key="job")
    run = scope.__enter__()
    run.step(87 - 57)
    with pytest.raises(PlanExceeded, match="Earlier processes executed up to 57 of these steps") as caught:
        run.step()
    assert caught.value.facts == {"step": 88, "planned": 87}
    scope.__exit__(None, None, None)
    settled = client.run_info(run.id)["settled"]
    assert (settled["steps"], settled["charged"], "overrun" in settled) == (87, run.cost, False)
    assert settled["restarts"] == [{"from_step": end + 1, "to_step": end, "new_batches": True} for end in (37, 57)]
    said = [
        record.message for record in caplog.records if "goes on: earlier processes executed up to" in record.message
    ]
    assert len(said) == 2
    assert "fixed seed" in said[0]
    assert not list(files().names("runs"))


def test_no_step_is_executed_before_it_is_written_down(client: Client) -> None:
    """Goal: whenever the process dies, the file says at least what was executed, and at most a block more."""
    with client.run(datasets=["mnist"], mechanism=STEPS, idempotency_key="job") as run:
        for executed in range(1, 88):
            run.step()
            written = files().read(f"runs/{run.id}.json")
            assert written is not None
            assert executed <= written["steps"][""] <= min(87, 2 * executed + 2), executed


def test_where_nothing_is_known_the_whole_plan_counts(
    ledger: Ledger, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Goal: without the file a restart is no silent 87 for 124: it is refused, or if the start had no token warned, and
    no step is left until somebody says how many were executed, and not fewer than were reported. Method: another state
    directory, as on another host; a start by an older client."""
    arguments: dict[str, Any] = {"datasets": ["mnist"], "mechanism": STEPS, "idempotency_key": "job"}
    first = killed_after(client, 37)
    client.report_progress(first.id, steps=37)
    os.environ["LEDGER_STATE_DIR"] += "-elsewhere"
    with pytest.raises(errors.RunState, match=r"It reported 37 steps\. .*steps_done=N"):
        client.run(**arguments).__enter__()
    arguments["idempotency_key"] = "older"
    older = client.ask(**arguments)["id"]
    assert ledger.post(f"/v1/runs/{older}/start").status_code == 200
    client.report_progress(older, steps=37)
    doubtful = client.run(**arguments).__enter__()
    with pytest.raises(PlanExceeded, match=r"steps_done=N, or steps_done=0"):
        doubtful.step()
    assert (doubtful.steps, doubtful.settlement(is_failure=False)) == (87, {})
    assert any("except that it executed 37 steps at least" in record.message for record in caplog.records)
    died(doubtful)
    with pytest.raises(errors.InvalidRequest, match="steps_done: 36 is less than the 37 steps"):
        client.run(**arguments, steps_done=36).__enter__()
    with client.run(**arguments, steps_done=87, allow_overrun=True) as run:
        run.step()
    assert run.settled is not None
    assert run.settled["overrun"]["steps"] == 1


def test_steps_that_are_stated_of_a_composed_run_count_in_each_part(client: Client) -> None:
    """Goal: where only their sum is known, no part has more steps left than it can have: with 20 of 30 and 28 stated,
    10 and 8 are left. Method: another state directory; then a file that knows of fewer steps than are stated, and one
    that was written under other names of the parts."""
    arguments: dict[str, Any] = {"datasets": ["mnist"], "mechanism": TWO, "idempotency_key": "job"}
    died(client.run(**arguments).__enter__())
    os.environ["LEDGER_STATE_DIR"] += "-elsewhere"
    run = client.run(**arguments, steps_done=20).__enter__()
    assert run.phases == {"part 1": (20, 30), "part 2": (20, 28)}
    assert len([*run.batches(range(58), phase="part 1")]) == 10
    died(run)
    again = client.run(**arguments, steps_done=55).__enter__()
    assert again.phases == {"part 1": (30, 30), "part 2": (25, 28)}
    died(again)
    renamed = client.run(**arguments, phases=("a", "b")).__enter__()
    assert renamed.phases == {"a": (30, 30), "b": (28, 28)}
    died(renamed)


def test_a_run_that_no_steward_approved_does_not_keep_the_job_from_asking_again(ledger: Ledger, client: Client) -> None:
    """Goal: a job learns once that its run was not approved; the next time it asks for a new one. Method: refused."""
    ok(ledger.put("/v1/datasets/mnist/fair-use", {"waits_above_percent": 1, **REASON}))
    steward = ledger.as_("steward")
    scope = partial(client.run, datasets=["mnist"], mechanism=RELEASE)
    with pytest.raises(errors.RunWaits) as first:
        scope().__enter__()
    with pytest.raises(errors.RunWaits) as same:
        scope().__enter__()
    assert same.value.facts["run"] == first.value.facts["run"]
    ok(steward.post(f"/v1/proposals/{first.value.facts['run']}/refuse", REASON))
    with pytest.raises(errors.ProposalState):
        scope().__enter__()
    with pytest.raises(errors.RunWaits) as second:
        scope().__enter__()
    assert second.value.facts["run"] != first.value.facts["run"]
    ok(steward.post(f"/v1/proposals/{second.value.facts['run']}/approve"))
    with scope() as run:
        assert run.id == second.value.facts["run"]


def test_a_settlement_that_comes_too_late_is_reported(
    ledger: Ledger, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Goal: what a job executed is not lost in silence if a steward voided its run before the kept settlement was sent;
    a file with no settlement stops nothing. Method: no answer at the end of the run, then voided, then another run."""
    faults = Faults()
    with connect(ledger, faults) as cut, cut.run(datasets=["mnist"], mechanism=STEPS) as run:
        run.step(80)
        faults.script[:] = ["refuse"] * 20
    assert run.is_pending
    ok(ledger.as_("steward").post(f"/v1/runs/{run.id}/void", REASON))
    files().write("pending/other.json", {"url": URL})
    with client.run(datasets=["mnist"], mechanism=STEPS):
        pass
    (said,) = [message for message in caplog.messages if "was sent" in message]
    assert "it was voided before" in said
    assert '"steps":80' in said.replace(" ", "")
    assert [*files().names("pending")] == ["pending/other.json"]


def test_a_file_that_another_place_overtook_is_not_believed(client: Client) -> None:
    """Goal: a job that went on elsewhere, and comes back, does not count its first host's steps alone."""
    killed_after(client, 10)
    here = os.environ["LEDGER_STATE_DIR"]
    os.environ["LEDGER_STATE_DIR"] = f"{here}-elsewhere"
    killed_after(client, 5, steps_done=10)
    os.environ["LEDGER_STATE_DIR"] = here
    back = client.run(datasets=["mnist"], mechanism=STEPS, idempotency_key="job").__enter__()
    assert (back.is_unknown, back.steps) == (True, 87)
    died(back)


def test_steps_that_differ_need_their_restarts(client: Client) -> None:
    """Goal: where repeated steps cost more than new ones, a restart is stated, or nothing is executed; with a statement
    it goes on from the file. Method: shuffled epochs and a tree."""
    for mechanism in (SHUFFLED, TREE):
        arguments: dict[str, Any] = {"mechanism": mechanism, "idempotency_key": mechanism.type}
        run = killed_after(client, 30, **arguments)
        with pytest.raises(errors.InvalidRequest, match=r"It begins again: restarts=\[\{'from_step': 1") as caught:
            client.run(datasets=["mnist"], **arguments).__enter__()
        assert caught.value.field == "restarts"
        with client.run(datasets=["mnist"], **arguments, restarts=[]) as again:
            assert (again.id, again.steps >= 30) == (run.id, True)
            again.step(87 - again.steps)
        assert client.run_info(run.id)["settled"]["charged"] == run.cost


def test_steps_that_cannot_be_written_are_forgotten(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Goal: a full disk stops no training; but then nothing is known after a kill, rather than too little."""
    run = client.run(datasets=["mnist"], mechanism=STEPS, idempotency_key="job").__enter__()
    run.step()

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Files, "write", full)
        record = run._record
        assert record is not None
        for _ in range(50):
            run.step()
        assert run.steps == 51
    assert "cannot be written down any more" in caplog.text
    assert files().read(f"runs/{run.id}.json") is None
    record.close()
    with pytest.raises(errors.RunState, match="of which nothing is known here"):
        client.run(datasets=["mnist"], mechanism=STEPS, idempotency_key="job").__enter__()


def test_no_state_directory_stops_nothing(client: Client, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Goal: where nothing can be written the job trains, after a warning."""
    (tmp_path / "file").write_text("")
    os.environ["LEDGER_STATE_DIR"] = str(tmp_path / "file")
    for _ in range(2):
        with client.run(datasets=["mnist"], mechanism=RELEASE) as run:
            run.step()
    assert "cannot be written" in caplog.text
    assert client.dataset("mnist")["balance"]["spent"]["mu"] == pytest.approx(0.2 * 2**0.5)


# --- the keys of a job -----------------------------------------------------------------------------------------------


def abandon(scope: Any) -> Run:
    """A run of a derived key whose process dies."""
    run: Run = scope.__enter__()
    died(run)
    key = scope._entry.key
    key.lock.release()
    return run


def test_the_same_job_has_the_same_run_until_it_ends(ledger: Ledger, client: Client) -> None:
    """Goal: without a key given, a job that died goes on with its run; one that ended, was refused, or asks for
    something else, has a new one; two at the same time have one each."""
    wanted: dict[str, Any] = {"datasets": ["mnist"], "mechanism": Gaussian(noise_multiplier=20)}
    first = abandon(client.run(**wanted))
    assert abandon(client.run(**wanted)).id == first.id
    other = abandon(client.run(**wanted, purpose="another"))
    assert other.id != first.id
    with client.run(**wanted) as run, client.run(**wanted) as at_once:
        assert (run.id, at_once.id == first.id, at_once.is_resumed) == (first.id, False, False)
    with client.run(**wanted) as later:
        assert later.id not in (first.id, at_once.id)
    keys = {item["idempotency_key"] for item in client.runs()}
    assert len(keys) == 4
    assert all(key.startswith("job-") for key in keys)
    for _ in range(2):
        with pytest.raises(BudgetExceeded):
            client.run(datasets=["mnist"], mechanism=Gaussian(noise_multiplier=0.1)).__enter__()
    assert kinds(ledger).count("run-refused") == 2


def test_an_answer_that_was_lost_is_found_by_the_next_process(ledger: Ledger) -> None:
    """Goal: a run that was approved without anybody knowing is the next process's run: nothing is held twice."""
    ledger.register()
    with connect(ledger, Faults(["lose"] * 4), retries=3) as client, pytest.raises(Unreachable):
        client.run(datasets=["mnist"], mechanism=RELEASE).__enter__()
    assert kinds(ledger).count("run-approved") == 1
    with connect(ledger) as client, client.run(datasets=["mnist"], mechanism=RELEASE) as run:
        assert not run.is_resumed
    assert kinds(ledger).count("run-approved") == 1


def test_a_job_of_a_cluster_finds_its_run_on_another_host(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a requeued job has the key of its first try, with no file: it must state what that executed; runs that
    ended are passed over."""
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    for number in range(2):
        with client.run(datasets=["mnist"], mechanism=RELEASE) as ended:
            assert not ended.is_resumed, number
    first = abandon(client.run(datasets=["mnist"], mechanism=RELEASE))
    monkeypatch.setenv("LEDGER_STATE_DIR", os.environ["LEDGER_STATE_DIR"] + "-elsewhere")
    for _ in range(2):
        with pytest.raises(errors.RunState, match="steps_done=N") as caught:
            client.run(datasets=["mnist"], mechanism=RELEASE).__enter__()
        assert caught.value.facts["run"] == first.id
    assert abandon(client.run(datasets=["mnist"], mechanism=RELEASE, steps_done=1)).id == first.id
    monkeypatch.setenv("SLURM_JOB_ID", "4712")
    assert abandon(client.run(datasets=["mnist"], mechanism=RELEASE)).id != first.id


def test_one_process_trains_under_a_run(client: Client) -> None:
    """Goal: two processes on a machine cannot share a run; one whose settlement waits is over."""
    with client.run(datasets=["mnist"], mechanism=RELEASE, idempotency_key="one") as run:
        with pytest.raises(errors.RunState, match="Another process on this machine trains under run"):
            client.run(datasets=["mnist"], mechanism=RELEASE, idempotency_key="one").__enter__()
        with pytest.raises(errors.RunState, match="Another process"):
            client.resume(run.id).__enter__()


def test_files_are_bounded(tmp_path: Path) -> None:
    """Goal: keys of ended runs do not pile up; a file that is no JSON, or half a record, is as none."""
    kept = Files(tmp_path)
    for number in range(FILES_MAX + 1):
        (tmp_path / "keys" / f"{number}.json").write_text('{"generation": 0, "ended": true}')
    (tmp_path / "keys" / "0.json").write_text('{"generation": 0, "ended": false}')
    kept.bound_keys()
    assert FILES_MAX // 2 < len(list(kept.names("keys"))) <= FILES_MAX // 2 + 2
    assert Files(tmp_path).id == kept.id
    for text in ("", "[1]", '{"steps": 3, "ends": []}', '{"steps": {"": "x"}, "ends": []}', "{" * 100_000):
        (tmp_path / "runs" / "a.json").write_text(text)
        record = open_record(kept, "a")
        assert record is not None
        assert (record.is_known, record.steps) == (False, {})
        assert open_record(kept, "a") is None
        record.close()


# --- runs that were approved elsewhere -------------------------------------------------------------------------------


def test_a_run_of_the_command_line_is_trained(client: Client) -> None:
    """Goal: `resume` starts a held run, as it was declared, and settles it; for a started one of which nothing is
    known it must be stated what was executed; one that has ended is none."""
    asked = client.ask(datasets=["mnist"], mechanism=SGD, segments=3)
    with client.resume(asked["id"]) as run:
        assert (run.id, run.planned_steps, run.segments, run.is_resumed) == (asked["id"], 15, 3, False)
        assert run.segment()
        run.step(5)
    assert client.run_info(run.id)["settled"]["steps"] == 5
    with pytest.raises(errors.RunState, match=r"is settled\. Ask for a new run"):
        client.resume(run.id).__enter__()
    started = client.ask(datasets=["mnist"], mechanism=RELEASE)["id"]
    client.start(started)
    with pytest.raises(errors.RunState, match="steps_done=N"):
        client.resume(started).__enter__()
    with client.resume(started, steps_done=0) as run:
        run.step()
    assert client.run_info(started)["settled"]["steps"] == 1


# --- heartbeats and the network --------------------------------------------------------------------------------------


def test_a_run_reports_how_far_it_has_come(ledger: Ledger, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: heartbeats leave evidence, in the background, and their errors reach nobody."""
    monkeypatch.setattr("ledger.client.beats.EVERY_SECONDS", 0.01)
    heard = threading.Event()
    report = Client._beat

    def beat(of: Client) -> Send:
        send = report(of)

        def sending(call: Call) -> object:
            try:
                return send(call)
            finally:
                heard.set()

        return sending

    monkeypatch.setattr(Client, "_beat", beat)
    with client.run(datasets=["mnist"], mechanism=STEPS) as run:
        run.step(3)
        heard.clear()  # of one that began before the steps, perhaps
        assert heard.wait(30)
        heard.clear()
        assert heard.wait(30)
        assert client.run_info(run.id)["progress"]["steps"] == 3
        assert client.run_info(run.id)["progress"]["reporter"] == files().id
    faults = Faults(["pass", "pass", *["refuse"] * 1000])
    with connect(ledger, faults) as other:
        scope = other.run(datasets=["mnist"], mechanism=STEPS)
        run = scope.__enter__()
        heard.clear()
        assert heard.wait(30)
        run.step()
        faults.script.clear()
        scope.__exit__(None, None, None)
    assert run.settled is not None


def test_a_ledger_that_is_gone_is_given_up_in_seconds(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    """Goal: a start without the ledger fails soon, and each wait is printed; with more retries than the default, it is
    waited for."""
    faults = Faults(["refuse"] * 100)
    with connect(ledger, faults) as client, pytest.raises(Unreachable):
        client.run(datasets=["mnist"], mechanism=RELEASE).__enter__()
    assert len(faults.slept) == 3
    assert sum(faults.slept) < 5
    waits = [record for record in caplog.records if "Connection refused" in record.message]
    assert [record.levelno for record in waits] == [logging.WARNING] * 3
    patient = Faults(["refuse"] * 100)
    with connect(ledger, patient, retries=9) as client, pytest.raises(Unreachable):
        client.run(datasets=["mnist"], mechanism=RELEASE).__enter__()
    assert len(patient.slept) > 3


def test_offline_nothing_is_approved(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: LEDGER_OFFLINE fails closed, at once, and sends nothing."""
    ledger.register()
    monkeypatch.setenv("LEDGER_OFFLINE", "1")
    faults = Faults()
    with connect(ledger, faults) as client:
        for call in (client.run(datasets=["mnist"], mechanism=RELEASE).__enter__, lambda: client.dataset("mnist")):
            with pytest.raises(Unreachable, match="LEDGER_OFFLINE is set"):
                call()
    assert (faults.seen, faults.slept) == ([], [])
    monkeypatch.setenv("LEDGER_OFFLINE", "perhaps")
    with pytest.raises(errors.Misconfigured, match="LEDGER_OFFLINE is 'perhaps'"):
        connect(ledger)


@pytest.mark.parametrize("steps", [10**30, -5, 1.5, True, "7", None])
def test_a_record_that_no_process_wrote_counts_as_unknown(
    client: Client, caplog: pytest.LogCaptureFixture, steps: object
) -> None:
    """Goal: a damaged file neither charges too little nor keeps a run unsettled: the whole plan counts, with a warning.
    Method: numbers that are too large, negative, or none."""
    first = killed_after(client, 3)
    for damaged in ({"steps": {"": steps}, "ends": []}, {"steps": {"": 3}, "ends": [steps]}):
        files().write(f"runs/{first.id}.json", {"run": first.id, **damaged})
        caplog.clear()
        run = killed_after(client, 0)
        assert (run.id, run.steps) == (first.id, 87)
        assert "The whole plan counts as executed" in caplog.text
    with client.run(datasets=["mnist"], mechanism=STEPS, idempotency_key="job"):
        pass
    settled = client.run_info(first.id)
    assert (settled["state"], settled["settled"]["steps"], settled["settled"]["charged"]) == ("settled", 87, first.cost)


def test_settlements_that_wait_have_their_turn(client: Client) -> None:
    """Goal: neither another ledger's settlements nor some that always fail keep one from being sent. Method: fifty of
    another ledger and of runs that this one does not know, all older than a real one; two runs are begun."""
    ended = killed_after(client, 87, idempotency_key="ended")
    kept = {"url": URL, "run": ended.id, "settlement": '{"steps": 87}'}
    for number in range(50):
        run = f"00000000-0000-4000-8000-{number:012}"
        files().write(f"pending/{run}.json", {**kept, "run": run, **({} if number % 2 else {"url": "http://other"})})
        os.utime(files().folder / f"pending/{run}.json", (number, number))
    files().write(f"pending/{ended.id}.json", kept)
    os.utime(files().folder / f"pending/{ended.id}.json", (1_000, 1_000))
    for number in range(2):
        with client.run(datasets=["mnist"], mechanism=STEPS, idempotency_key=f"next-{number}") as run_now:
            run_now.step(1)
    assert client.run_info(ended.id)["state"] == "settled"
    assert len(list(files().names("pending"))) == 50
