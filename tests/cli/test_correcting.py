"""The command that corrects a settled run, as a person sees it."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

import pytest

TRUE = shlex.quote('{"type":"gaussian","noise_multiplier":%s}')


@pytest.fixture
def run(terminal: Callable[[str], Any]) -> str:
    """A run that was settled as one release at noise 10."""
    assert terminal("dataset create wrong --mu 0.3 --bound clt --delta 1e-6").status == 0
    declared = shlex.quote('{"type":"gaussian","noise_multiplier":10}')
    made = terminal(f"request wrong --mechanism {declared} --json").json["id"]
    assert terminal(f"start {made}").status == 0
    assert terminal(f"settle {made}").status == 0
    return str(made)


def test_a_settled_run_is_corrected(terminal: Callable[[str], Any], run: str) -> None:
    """Goal: what it is charged now, and what to do if that does not fit. Method: one correction that fits, then one
    that freezes; the run, its receipt, the history."""
    said = "--not-decided-by-output --reason 'clipped to 2'"
    fitting = terminal(f"correct {run} --mechanism {TRUE % 5} {said}")
    assert (fitting.status, f"run {run}: mu 0.2 charged in place of 0.1" in fitting.out) == (0, True), fitting.out
    beyond = terminal(f"correct {run} --mechanism {TRUE % 2} {said} --advisory some-fault")
    assert (beyond.status, "It does not fit in wrong, which is frozen." in beyond.err) == (0, True)
    assert "privacy-ledger dataset thaw wrong" in beyond.err
    shown = terminal(f"run show {run}").out
    assert "corrected to gaussian, mu 0.5 charged" in shown
    assert "0.5 corrected" in shown
    receipt = terminal(f"receipt show {run}")
    assert (receipt.status, "A correction followed" in receipt.err) == (1, True)
    changes = terminal("dataset history wrong --json").json["items"]
    assert any(change["what"].endswith("charged mu 0.5 in place of 0.2; frozen: it does not fit") for change in changes)


def test_giving_back_prints_the_proposal(terminal: Callable[[str], Any], run: str) -> None:
    """Goal: a correction downwards waits for another steward, and the list of proposals says what it is."""
    said = f"correct {run} --mechanism {TRUE % 20} --not-decided-by-output --reason r --on-word-of Ada"
    proposed = terminal(f"{said} --json").json["proposal"]
    assert proposed["proposes"]["lowers"] is True
    assert f"give back: run {run} was gaussian" in terminal("proposal list").out


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        (f"--mechanism {TRUE % 5}", "decided_by_output: is missing"),
        (f"--mechanism {TRUE % 5} --not-decided-by-output --steps 3", "steps: is of a reported number"),
        ("--on-word-of Ada", "on_word_of: is of a settled run"),
        ("--decided-by-output", "decided_by_output: is of a settled run"),
    ],
)
def test_options_that_do_not_go_together(terminal: Callable[[str], Any], options: str, wrong: str) -> None:
    """Goal: the error names the option and what to do, before anything is sent."""
    answer = terminal(f"correct 018f3c6e --reason r {options}")
    assert answer.status != 0
    assert wrong in answer.err
