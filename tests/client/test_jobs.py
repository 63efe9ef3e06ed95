"""Which job a process is part of, which of its processes asks, and what the others do until then."""

from __future__ import annotations

import os
from typing import Any

import pytest

from ledger import errors
from ledger.client import BudgetExceeded, Gaussian
from ledger.client import Ledger as Client
from ledger.client.jobs import World, digest_of, job_of, key_of, world_of
from tests.kit.clients import RELEASE, Faults, connect, kinds
from tests.kit.driver import Ledger

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "node-7", "MASTER_PORT": "29500"}
SLURM = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_JOB_ID": "17", "SLURM_STEP_ID": "0"}


@pytest.mark.parametrize(
    ("environ", "processes", "world"),
    [
        ({}, None, World()),
        (TORCHRUN, None, World(1, 2)),
        (TORCHRUN, "together", World(1, 2)),
        (TORCHRUN, "each", World(task=1)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None, World()),
        ({"RANK": "1"}, None, World()),
        (SLURM, "together", World(3, 4)),
        (SLURM, "each", World(task=3)),
        ({**SLURM, **TORCHRUN}, None, World(1, 2)),
        ({**SLURM, "LEDGER_PROCESSES": "together"}, None, World(3, 4)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, None, World()),  # the batch script itself
        ({"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "8"}, "together", World(2, 8)),
    ],
)
def test_which_processes_train_together(environ: dict[str, str], processes: str | None, world: World) -> None:
    """Goal: torchrun and accelerate start the processes of one training; what starts tasks may do either."""
    assert world_of(processes, environ) == world


@pytest.mark.parametrize(
    ("environ", "processes", "said"),
    [
        (SLURM, None, "LEDGER_PROCESSES=together"),
        ({}, "both", "processes: 'both'"),
        ({**TORCHRUN, "RANK": "x"}, None, "RANK is 'x'"),
        ({**TORCHRUN, "RANK": "2"}, None, "RANK is 2, and WORLD_SIZE only 2"),
    ],
)
def test_what_is_not_clear_is_refused(environ: dict[str, str], processes: str | None, said: str) -> None:
    """Goal: independent trainings never share a run because they look alike."""
    with pytest.raises(errors.Misconfigured, match=said):
        world_of(processes, environ)


def test_what_identifies_a_job() -> None:
    """Goal: the same on all hosts and after a restart, and another one for another job, task, script or directory.

    torchrun names every job `none` unless it is given an id; several hosts without any id are refused."""
    one, two = World(0, 2), World(1, 2)
    assert job_of(one, "here", SLURM) == job_of(two, None, SLURM)
    differing = [
        job_of(World(), "here", SLURM),
        job_of(World(), "here", {**SLURM, "SLURM_STEP_ID": "1"}),
        job_of(World(), "here", {**SLURM, "SLURM_CLUSTER_NAME": "other"}),
        job_of(World(task=1), "here", SLURM),
        job_of(World(task=2), "here", SLURM),
        job_of(World(), "here", {"TORCHELASTIC_RUN_ID": "a"}),
        job_of(World(), "here", {"LEDGER_JOB_ID": "a"}),
        job_of(World(), "here", {}),
        job_of(World(), "elsewhere", {}),
        job_of(one, "here", TORCHRUN),
        job_of(one, "here", {**TORCHRUN, "MASTER_PORT": "1"}),
    ]
    assert len(set(differing)) == len(differing)
    assert job_of(World(), "here", {"TORCHELASTIC_RUN_ID": "none"}) == job_of(World(), "here", {})
    assert job_of(World(), None, {}) is None
    for place, environ, said in (
        ("here", {**TORCHRUN, "LOCAL_WORLD_SIZE": "1"}, "LEDGER_JOB_ID"),
        (None, TORCHRUN, "LEDGER_STATE_DIR"),
    ):
        with pytest.raises(errors.Misconfigured, match=said):
            job_of(one, place, environ)
    job = job_of(World(), "here", {})
    assert job is not None
    digests = {digest_of(job, url, request) for url in ("a", "b") for request in (b"1", b"2")}
    assert len(digests) == 4
    assert key_of("d", 1, 2) != key_of("d", 2, 1)


def test_the_others_wait_for_the_run_of_process_0(
    ledger: Ledger, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: no process trains without the answer; the others ask for nothing, settle nothing, and give up in the end.
    Method: process 1 before anything is asked for, while it is held, when it is started, and after it ended."""
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    wanted: dict[str, Any] = {"datasets": ["mnist"], "mechanism": Gaussian(noise_multiplier=20, count=3)}
    patient = Faults()
    with connect(ledger, patient) as other:
        with pytest.raises(errors.RunState, match="must not train"):
            other.run(**wanted).__enter__()
        assert 600 <= sum(patient.slept) <= 610
        assert {request.method for request in patient.seen} == {"GET"}
        asked = client.ask(**wanted, idempotency_key="given")
        with pytest.raises(errors.RunState, match="must not train"):
            other.run(**wanted, idempotency_key="given").__enter__()
        client.start(asked["id"])
        with other.run(**wanted, idempotency_key="given") as run:
            run.step()
            assert (run.id, run.rank, run.planned_steps) == (asked["id"], 1, 3)
        with other.resume(asked["id"]) as run:
            assert run.rank == 1
        assert client.run_info(asked["id"])["state"] == "started"
        client.settle(asked["id"])
        with pytest.raises(errors.RunState, match="is already settled"):
            other.run(**wanted, idempotency_key="given").__enter__()
    assert kinds(ledger).count("run-approved") == 1


def test_no_process_trains_under_a_refused_run(ledger: Ledger, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: the answer for all is the same; runs of the job that ended before are passed over."""
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    wanted: dict[str, Any] = {"datasets": ["mnist"], "mechanism": RELEASE}
    with client.run(**wanted) as ended:
        ended.step()
    too_much: dict[str, Any] = {"datasets": ["mnist"], "mechanism": Gaussian(noise_multiplier=0.1)}
    with pytest.raises(BudgetExceeded):
        client.run(**too_much).__enter__()
    going = client.run(**wanted).__enter__()
    monkeypatch.setenv("LEDGER_STATE_DIR", os.environ["LEDGER_STATE_DIR"] + "-elsewhere")
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    waiting = Faults()
    with connect(ledger, waiting) as other:
        with other.run(**wanted) as run:
            assert (run.id, run.rank) == (going.id, 1)
        with pytest.raises(errors.RunState, match="is refused"):
            other.run(**too_much).__enter__()
    assert 60 <= sum(waiting.slept) <= 65
