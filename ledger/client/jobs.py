"""Which job a process is part of, and which of its processes it is. Idempotency keys are derived from that."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import uuid4

from ledger.addresses import is_loopback
from ledger.errors import Misconfigured

PROCESSES: Final = ("together", "each")
_RANKS: Final = ("RANK", "WORLD_SIZE")
"""Set by torchrun, accelerate and others that start the processes of one training."""
_TASKS: Final = (
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
)
"""Set by what starts many processes, which may train one model or one each."""


@dataclass(frozen=True, slots=True)
class World:
    """The processes that train together. rank: the number of this one, from 0. task: its number, if each is alone."""

    rank: int = 0
    size: int = 1
    task: int | None = None


def world_of(processes: str | None, environ: Mapping[str, str] = os.environ) -> World:
    """Return the processes that train one model with this one. Raises Misconfigured if that is not clear.

    processes: "together" or "each", as stated; default LEDGER_PROCESSES.
    """
    stated = processes or environ.get("LEDGER_PROCESSES") or None
    if stated not in (None, *PROCESSES):
        raise Misconfigured(f"processes: {stated!r} is neither 'together' nor 'each'.")
    for names in (_RANKS, *_TASKS):
        rank, size = (_number(environ, name) for name in names)
        if rank is None or size is None or size == 1:
            continue
        if rank >= size:
            raise Misconfigured(f"{names[0]} is {rank}, and {names[1]} only {size}.")
        if stated is None and names is not _RANKS:
            raise Misconfigured(
                f"This is process {rank} of {size} ({names[0]}). If they train one model together, set"
                " LEDGER_PROCESSES=together, or processes='together' in Python: one of them asks, for all. If each"
                " trains by itself, set LEDGER_PROCESSES=each: each asks for a run of its own."
            )
        return World(task=rank) if stated == "each" else World(rank, size)
    return World()


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name)
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise Misconfigured(f"{name} is {text[:20]!r}, which is no number of a process.")
    return int(text)


def job_of(world: World, place: str | None, environ: Mapping[str, str] = os.environ) -> tuple[str, ...] | None:
    """Return what identifies this job, on all its hosts and after a restart; None if nothing does.

    place: the random name of this machine's state directory, if there is one. Raises Misconfigured if processes of
    several hosts train together and nothing identifies their job.
    """
    program = (str(Path(sys.argv[0]).absolute()), *sys.argv[1:]) if sys.argv else ()
    task = () if world.task is None else ("task", str(world.task))
    for name in ("LEDGER_JOB_ID", "SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"):
        value = environ.get(name)
        # torchrun calls every job `none` whose --rdzv-id is not given.
        if value and value != "none":
            more = [environ.get(other, "") for other in ("SLURM_CLUSTER_NAME", "SLURM_STEP_ID")]
            return (name, value, *(more if name == "SLURM_JOB_ID" else ()), *task, *program)
    if world.size > 1 and not _is_one_host(environ):
        raise Misconfigured(
            "Processes on several hosts train together, and nothing identifies their job. Set LEDGER_JOB_ID to a text"
            " that all of them have and no other job has, or give idempotency_key=, or torchrun --rdzv-id."
        )
    if place is None:
        if world.size > 1:
            raise Misconfigured(
                "Processes train together, and no state directory can be written by which they find their run. Set"
                " LEDGER_STATE_DIR, or give idempotency_key=."
            )
        return None
    port = environ.get("MASTER_PORT", "") if world.size > 1 else ""
    return ("host", place, socket.gethostname(), port, *task, *program, str(Path.cwd()))


def _is_one_host(environ: Mapping[str, str]) -> bool:
    """Return whether all processes that train together are on this host."""
    address = environ.get("MASTER_ADDR", "")
    return environ.get("LOCAL_WORLD_SIZE") == environ.get("WORLD_SIZE") or bool(address and is_loopback(address))


def new_token() -> str:
    """Return a token by which one process starts a run."""
    return uuid4().hex


def token_digest(token: str | None) -> str | None:
    """Return what the ledger shows of the token of a start: its SHA-256."""
    return None if token is None else hashlib.sha256(token.encode()).hexdigest()


def digest_of(job: tuple[str, ...], url: str, request: bytes) -> str:
    """Return what a job's runs with the same request have in common, as a short text."""
    whole = json.dumps([job, url, hashlib.sha256(request).hexdigest()])
    return hashlib.sha256(whole.encode()).hexdigest()[:32]


def key_of(digest: str, slot: int, generation: int) -> str:
    """Return an idempotency key. slot: of jobs of one identity at the same time; generation: one after another.

    It is the same for every process of the job, and after a restart.
    """
    return f"job-{digest}-{slot}-{generation}"
