"""The shell completes what the server knows, and says nothing if it cannot be asked."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.kit.driver import Terminal

Complete = Callable[[str], list[str]]


@pytest.fixture
def completed(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> Complete:
    """What the shell offers for the last word of a line."""

    def complete(line: str) -> list[str]:
        with monkeypatch.context() as asking:
            asking.setenv("_PRIVACY_LEDGER_COMPLETE", "complete_bash")
            asking.setenv("COMP_WORDS", f"privacy-ledger {line}")
            asking.setenv("COMP_CWORD", str(len(f"x {line}".split(" ")) - 1))
            said = terminal("privacy-ledger")
        assert (said.status, said.err) == (0, ""), line
        return said.out.split()

    return complete


def test_names_are_completed(terminal: Terminal, completed: Complete, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: datasets, runs, kinds and states are offered; without a server or a key, nothing, and no error.

    Method: lines as a shell sends them."""
    for name in ("mnist", "mnist-small", "clicks"):
        terminal(f"dataset create {name} --mu 1 --bound clt")
    run = terminal("request mnist --type gaussian --noise-multiplier 5 --json").json["id"]
    assert completed("dataset show mn") == ["mnist", "mnist-small"]
    assert completed("request ") == ["clicks", "mnist", "mnist-small"]
    assert completed("runs --dataset cl") == ["clicks"]
    assert completed(f"start {run[:4]}") == [run]
    assert completed("start zzz") == []
    assert completed("request mnist --type ga") == ["gaussian"]
    assert completed("runs --state s") == ["started", "settled"]
    monkeypatch.setenv("LEDGER_URL", "http://127.0.0.1:1")
    assert completed("dataset show mn") == []
    monkeypatch.setenv("LEDGER_KEY", "")
    assert completed("dataset show mn") == []
