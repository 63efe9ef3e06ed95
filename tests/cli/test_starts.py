"""Commands that start a run: one command gets the receipt, and again after an answer that was lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ledger.client import Ledger
from ledger.client.files import Files
from ledger.client.starts import own_start
from ledger.errors import RunState
from tests.kit.driver import Terminal
from tests.kit.lines import line_to

ASK = "request mnist --type gaussian --noise-multiplier 5"


@pytest.fixture
def run(terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run that is held."""
    monkeypatch.chdir(tmp_path)
    terminal("dataset create mnist --mu 1 --delta 1e-6")
    return str(terminal(f"{ASK} --key held --json").json["id"])


def files() -> Files:
    """The state directory."""
    return Files(Path(os.environ["LEDGER_STATE_DIR"]))


def start_in_vain(run: str) -> None:
    """Send the start of a command, whose answer is lost."""
    with Ledger() as ledger, own_start(files(), run) as token:
        ledger.start(run, token=token)
        raise ConnectionError("the answer is lost")


def test_a_second_start_is_refused(terminal: Terminal, run: str) -> None:
    """Goal: the second command that starts a run gets no receipt, on this machine and on another; the first leaves no
    file behind. Method: `start`, then `start` and `request --start` of the same run."""
    assert terminal(f"start {run[:8]} --json").json["state"] == "started"
    assert not [*files().names("starts")]
    again = terminal(f"start {run} --json")
    assert (again.status, again.json["code"], again.json["state"]) == (1, "run-state", "started")
    assert "started by another process" in again.json["detail"]
    asked = terminal(f"{ASK} --key held --start --json")
    assert (asked.status, "one receipt covers one execution" in asked.json["detail"]) == (1, True)
    assert not [*files().names("starts")]


@pytest.mark.parametrize("command", ["start {run} --json", f"{ASK} --key held --start --json"])
def test_a_lost_answer_is_found_by_the_same_command(
    terminal: Terminal, run: str, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Goal: if the answer to a start was lost, the same command gets the receipt, once; the token is on disk meanwhile.
    Method: a start whose answer never comes, sent with the token that the command would keep."""
    typed, url = command.format(run=run), os.environ["LEDGER_URL"]
    with pytest.raises(ConnectionError):
        start_in_vain(run)
    assert [*files().names("starts")] == [f"starts/{run}.json"]
    with line_to(url) as line:
        line.is_cut = True
        monkeypatch.setenv("LEDGER_URL", line.url)
        monkeypatch.setattr("ledger.client.flows.BACKOFF_SECONDS", 0.0)
        assert terminal(typed).status == 3
    monkeypatch.setenv("LEDGER_URL", url)
    assert [*files().names("starts")] == [f"starts/{run}.json"]
    found = terminal(typed)
    assert (found.status, found.json["state"]) == (0, "started"), found
    assert found.json["receipt"]
    assert not [*files().names("starts")]
    assert terminal(typed).status == 1


def test_commands_on_one_machine_take_turns(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: while a command starts a run, another one here does not send the same token. Method: the second waits no
    time for the first."""
    with own_start(files(), run) as token:
        monkeypatch.setattr("ledger.client.starts.LOCK_SECONDS", 0.0)
        with pytest.raises(RunState, match="on this machine is starting"):
            own_start(files(), run).__enter__()
        assert files().read(f"starts/{run}.json") == {"run": run, "token": token}
