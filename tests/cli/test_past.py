"""The command that enters past runs, as a person sees it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CSV = """purpose,ran_at,mechanism,noise_multiplier,epsilon,delta,library,version
counts,2025-01-02,gaussian,20,,,numpy,2.1
a paper,2025-02-03,approximate_dp,,0.1,1e-9,,
"""


@pytest.fixture
def before(terminal: Callable[[str], Any]) -> Callable[[str], Any]:
    """The command, on a new dataset."""
    assert terminal("dataset create before --mu 0.3 --bound clt --delta 1e-6").status == 0
    return lambda options: terminal(f"dataset past-runs before --reason 'our notes' {options}")


def test_a_csv_is_previewed_then_entered_once(
    before: Callable[[str], Any], terminal: Callable[[str], Any], tmp_path: Path
) -> None:
    """Goal: nothing is recorded without --enter; with it all is, once. Method: the amounts that are printed."""
    file = tmp_path / "runs.csv"
    file.write_text(CSV)
    preview = before(f"--csv {file}")
    assert preview.status == 0, preview.err
    for text in ("Preview: nothing is recorded", "declared, not observed", "counts", "gaussian", "0.05", "--enter"):
        assert text in preview.out, preview.out
    assert terminal("runs --dataset before --json").json["items"] == []
    entered = before(f"--csv {file} --enter --json").json
    assert [run["purpose"] for run in entered["runs"]] == ["counts", "a paper"]
    again = before(f"--csv {file} --enter")
    assert (again.status, again.out.count("entered before"), "mu 0." in again.out) == (0, 2, True)
    shown = terminal(f"run show {entered['runs'][0]['id']}").out
    assert "entered, declared and not observed" in shown
    assert "our notes" in shown
    assert len(terminal("runs --dataset before --json").json["items"]) == 2


def test_more_than_fits_is_named(before: Callable[[str], Any], terminal: Callable[[str], Any]) -> None:
    """Goal: who enters more than the budget learns what happens, before and after. Method: epsilon 3."""
    assert "before would be overdrawn and frozen" in before("--epsilon 3").out
    assert "before is overdrawn and frozen" in before("--epsilon 3 --enter").out
    assert terminal("dataset show before --json").json["state"] == "frozen"


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("purpose,noise_multiplier\nx,1\n", "line 1: the column mechanism is missing"),
        ("mechanism,mechanism\ngaussian,1\n", "line 1: has a column without a name, or one twice"),
        ("mechanism,noise_multiplier\ngaussian\n", "line 2: has another number of cells"),
        ("mechanism,noise_multiplier\n,1\ngaussian,2,3\n", "line 2, column mechanism: is empty"),
        ('mechanism,steps\n"{""type"":""gaussian""}",3\n', "line 2, column steps: must be empty beside"),
        ("mechanism\n{x}\n", "line 2, column mechanism: is no JSON object"),
        ("mechanism,noise_multiplier\ngaussian,1\ngaussian,-1\n", "line 3, column noise_multiplier:"),
        ("mechanism,noise_multiplier,stepz\ngaussian,1,4\n", "line 2, column stepz:"),
        ("mechanism,noise_multiplier,ran_at\ngaussian,1,May\n", "line 2, column ran_at:"),
        ("mechanism\n", "has no runs below its header"),
        ("mechanism,noise_multiplier\n" + "gaussian,5\n" * 1001, "has more than 1,000 runs"),
        ("mechanism,purpose\ngaussian," + "x" * 1_000_000, "is longer than 1000000 characters"),
    ],
)
def test_a_wrong_row_is_named_by_line_and_column(
    before: Callable[[str], Any], terminal: Callable[[str], Any], tmp_path: Path, text: str, wrong: str
) -> None:
    """Goal: each mistake is found where it is, and keeps all rows out."""
    file = tmp_path / "runs.csv"
    file.write_text(text)
    answer = before(f"--csv {file} --enter")
    assert (answer.status, wrong in answer.err.replace("\n", " ")) == (2, True), answer.err
    assert terminal("runs --dataset before --json").json["items"] == []


def test_a_checkpoint_and_an_event(before: Callable[[str], Any], tmp_path: Path) -> None:
    """Goal: the state of an accountant and an event are entered; what no file has is asked for. Method: JSON files."""
    state = tmp_path / "state.json"
    state.write_text(json.dumps({"history": [[1.1, 0.004, 60], [1.1, 0.004, 40]], "mechanism": "rdp"}))
    for options, wrong in (
        ("", "opacus_version: is missing"),
        ("--opacus-version 1.5.3", "sampling: is missing"),
        ("--opacus-version 1.5.3 --sampling poisson", "adaptive_clipping: is missing"),
        ("--opacus-version 1.5.3 --sampling poisson --adaptive-clipping", "unclipped_num_std: is missing"),
        ("--opacus-version new --sampling poisson", "is no version of Opacus"),
    ):
        answer = before(f"--opacus {state} {options}")
        assert (answer.status, wrong in answer.err.replace("\n", " ")) == (2, True), answer.err
    said = f"--opacus {state} --opacus-version 1.5.3 --sampling poisson"
    (run,) = before(f"{said} --no-adaptive-clipping --purpose one --json").json["runs"]
    assert (run["mechanism"]["type"], run["mechanism"]["steps"], run["purpose"]) == ("dpsgd", 100, "one")
    (dearer,) = before(f"{said} --adaptive-clipping --unclipped-num-std 5 --json").json["runs"]
    assert dearer["cost"]["mu"] > run["cost"]["mu"]
    event = tmp_path / "event.json"
    event.write_text(json.dumps({"class_name": "GaussianDpEvent", "noise_multiplier": 30}))
    (gaussian,) = before(f"--dp-event {event} --json").json["runs"]
    assert gaussian["mechanism"]["noise_multiplier"] == 30
    two = before(f"--dp-event {event} --epsilon 1")
    assert (two.status, "give one of" in two.err) == (2, True)
