"""`request --wait --receipt`: what a CI job or a cluster does, interrupted and repeated."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger.client import Ledger, verify_receipt
from tests.kit.driver import Terminal

ASK = "request mnist --type gaussian --noise-multiplier 2 --purpose 'nightly training'"
PROGRAM = [sys.executable, "-c", "from ledger.cli import main; main()"]


@pytest.fixture
def ledger(terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """A dataset whose large runs wait for a steward."""
    monkeypatch.chdir(tmp_path)
    terminal("dataset create mnist --mu 1 --delta 1e-6")
    terminal("dataset fair-use mnist --waits-above 10 --reason 'large ones wait'")
    with Ledger() as client:
        yield client


@pytest.fixture
def steward(ledger: Ledger) -> Iterator[Ledger]:
    """A second person."""
    with Ledger(key=ledger.make_key(name="sue", role="steward")["secret"]) as client:
        yield client


def begin(line: str) -> subprocess.Popen[str]:
    """Type a command in a process of its own."""
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [*PROGRAM, *shlex.split(line)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )


def until_it_waits(process: subprocess.Popen[str]) -> None:
    """Read what the command prints until it waits."""
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("Waiting."):
            return
    raise AssertionError("it does not wait")


def good(ledger: Ledger, file: Path, **required: Any) -> Any:
    """The receipt in a file, checked as a job checks it."""
    assert file.stat().st_mode & 0o777 == 0o600
    return verify_receipt(file.read_text().strip(), jwks=ledger.jwks(), **required)


def test_it_waits_until_a_steward_approves_and_goes_on_after_an_interruption(
    terminal: Terminal, ledger: Ledger, steward: Ledger, tmp_path: Path
) -> None:
    """Goal: one run, one approval, one receipt, whatever happens meanwhile. Method: the command is interrupted while it
    waits, typed again, and the steward approves; then it is typed once more."""
    file = tmp_path / "run.jwt"
    file.write_text("the receipt of another run")
    line = f"{ASK} --key nightly-1 --wait --wait-at-most 5m --start --receipt {file}"
    first = begin(line)
    until_it_waits(first)
    assert not file.exists()  # nothing that another run left lets a job begin
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=30)
    assert first.returncode not in (0, 7)
    second = begin(line)
    until_it_waits(second)
    (waiting,) = ledger.runs(state="waiting")
    steward.approve(waiting["id"], reason="a good plan")
    _, told = second.communicate(timeout=60)
    assert second.returncode == 0, told
    receipt = good(ledger, file, run=waiting["id"], datasets=["mnist"], state="started")
    assert (receipt.run, receipt.state) == (waiting["id"], "started")
    assert [run["id"] for run in ledger.runs()] == [waiting["id"]]
    again = terminal(line)
    assert (again.status, file.exists()) == (1, False)
    assert "one receipt covers one execution" in again.err
    assert f"privacy-ledger receipt show {waiting['id'][:8]} --output {file}" in again.err


def test_it_learns_that_a_steward_refused(ledger: Ledger, steward: Ledger, tmp_path: Path) -> None:
    """Goal: a refusal ends the wait with status 1 and no receipt."""
    file = tmp_path / "run.jwt"
    process = begin(f"{ASK} --key nightly-2 --wait --receipt {file}")
    until_it_waits(process)
    (waiting,) = ledger.runs(state="waiting")
    steward.refuse(waiting["id"], reason="Use more noise.")
    _, told = process.communicate(timeout=60)
    assert (process.returncode, file.exists()) == (1, False)
    assert "refused it: Use more noise." in told


def test_statuses_and_files(terminal: Terminal, ledger: Ledger, tmp_path: Path) -> None:
    """Goal: scripts tell the outcomes apart, and no receipt is left of a run that was not approved or has ended.
    Method: each outcome at once: time is up, approved, refused, wrong usage, a place that cannot be written, ended."""
    file = tmp_path / "run.jwt"
    for line, status, is_there in (
        (f"{ASK} --key a --wait --wait-at-most 0s --receipt {file}", 7, False),
        (f"{ASK} --key a --receipt {file}", 7, False),
        (f"request mnist --type gaussian --noise-multiplier 5 --key b --wait --receipt {file}", 0, True),
        (f"request mnist --type gaussian --noise-multiplier 0.5 --key c --wait --receipt {file}", 1, False),
        (f"{ASK} --wait --receipt {file}", 2, False),
        (f"{ASK} --key a --wait-at-most 1h", 2, False),
        (f"{ASK} --key a --wait --wait-at-most soon", 2, False),
        (f"request mnist --type gaussian --noise-multiplier 5 --key d --receipt {tmp_path}/missing/run.jwt", 2, False),
        (f"request mnist --type gaussian --noise-multiplier 5 --key d --receipt {tmp_path}", 2, False),
    ):
        told = terminal(line)
        assert (told.status, file.exists()) == (status, is_there), (line, told)
    held = terminal(f"request mnist --type gaussian --noise-multiplier 5 --key d --receipt {file} --json").json
    assert (held["state"], held["file"]) == ("held", str(file))
    assert good(ledger, file, state="held").run == held["id"]
    assert list(tmp_path.glob(".run.jwt*")) == []
    ledger.start(held["id"])
    ledger.settle(held["id"])
    ended = terminal(f"request mnist --type gaussian --noise-multiplier 5 --key d --receipt {file}")
    assert (ended.status, file.exists()) == (1, False)
    unwaited = terminal(f"{ASK} --key a --wait --wait-at-most 0s --json")
    assert (unwaited.status, unwaited.json["code"], unwaited.err) == (7, "run-waits", "")
