"""Counting: by steps, by segments declared before the start, and by the parts of a composed mechanism."""

from __future__ import annotations

import dis
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from ledger import errors
from ledger.client import DPSGD, BudgetExceeded, Composed, DryRun, Gaussian, Laplace, PlanExceeded, Run, ZCdp
from ledger.client import Ledger as Client
from ledger.client.counting import parts_of
from ledger.client.errors import of_response
from ledger.client.mechanisms import planned_steps
from ledger.client.notebooks import Shown
from tests.kit.clients import RELEASE, SGD, answering, kinds, problem
from tests.kit.driver import Ledger

STARTED: dict[str, Any] = {"id": "a", "cost": {}, "datasets": []}
TWO = Composed(parts=[Gaussian(noise_multiplier=20, count=30), ZCdp(rho=1e-4), Laplace(noise_multiplier=50, count=28)])


def counting(**arguments: Any) -> Run:
    """A run that only counts."""
    return Run(STARTED, **{"planned": (9, 9), "steps_done": None, "is_resumed": False, **arguments})


# --- steps -----------------------------------------------------------------------------------------------------------


def test_a_step_is_cheap() -> None:
    """Goal: a step costs a training loop nothing: one lock, no call of a function of ours, nothing allocated. Method:
    the functions that are called, and how many instructions run, while there is room."""
    import sys

    run = counting(planned=(10**6, 10**6))
    run.step()
    called: list[str] = []
    executed = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal executed
        frame.f_trace_opcodes = True
        if event == "call":
            called.append(frame.f_code.co_name)
        executed += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run.step()
    finally:
        sys.settrace(before)
    assert called == ["step"]
    assert executed < len(list(dis.get_instructions(Run.step)))
    assert executed <= 75


@pytest.mark.parametrize("n", [1, np.int64(2), np.uint8(3), True])
def test_steps_are_whole_numbers(n: Any) -> None:
    """Goal: whole numbers of any library count; others are refused with what they are."""
    run = counting()
    run.step(n)
    assert run.steps == int(n)
    for wrong in (0, -1, 1.0, np.float32(1), None):
        with pytest.raises(ValueError, match=r"^n: "):
            run.step(wrong)  # type: ignore[arg-type]
    assert run.steps == int(n)


@pytest.mark.parametrize(
    "value",
    [
        np.float32(1.1),
        np.float16(1.1),
        np.array(1.25),
        np.array([0.5])[0],
        np.float64(1.1),
        1.1,
        Decimal("1.1"),
        np.int32(3),
    ],
    ids=repr,
)
def test_numbers_of_other_libraries_are_sent_exactly(value: Any) -> None:
    """Goal: single precision is the float of the same value; steps are planned with it too. Method: what arrives."""
    seen: list[bytes] = []

    def keep(request: Any) -> Any:
        seen.append(request.content)
        return problem("internal", 500)

    with answering(keep) as client, pytest.raises(errors.LedgerError):
        client.ask(datasets=["mnist"], mechanism=DPSGD(noise_multiplier=value, sample_rate=value, steps=np.int32(7)))  # type: ignore[arg-type]
    text = seen[0].split(b'"noise_multiplier":')[1].split(b",")[0].decode()
    assert Fraction(text) == Fraction(
        str(value) if isinstance(value, Decimal) else repr(value.item() if hasattr(value, "item") else value)
    )
    wide = DPSGD(noise_multiplier=1, dataset_size=np.int64(100), batch_size=np.float32(8), epochs=np.float32(1.5))  # type: ignore[arg-type]
    assert planned_steps(wide) == (18, 19)


# --- segments --------------------------------------------------------------------------------------------------------


def test_segments_are_walked_through(client: Client) -> None:
    """Goal: the steps that a segment did not execute are not left for the next one, so that what was begun is charged:
    two of three here."""
    with client.run(datasets=["mnist"], mechanism=SGD, segments=3) as run:
        assert (run.segments, run.segment_steps, run.planned_steps) == (3, 5, 15)
        assert run.segment()
        run.step(2)
        assert run.segment()
        assert run.steps == 5
        assert run.segment()  # between two segments it ends none
        run.step()
    settled = client.run_info(run.id)["settled"]
    assert settled["steps"] == 6
    assert int(settled["charged"]["mu_sq_pico"]) == pytest.approx(int(run.cost["mu_sq_pico"]) * 2 / 3, abs=1)
    begun = 0
    with client.run(datasets=["mnist"], mechanism=SGD, segments=3) as run:
        while run.segment():
            begun += 1
            run.step(run.segment_steps or 0)
        with pytest.raises(PlanExceeded):
            run.step()
    assert (begun, run.steps) == (3, 15)


def test_a_run_in_one_piece_has_no_segments(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """Goal: who stops early without segments reads what it cost, and what to declare; who ends as planned reads
    nothing."""
    with client.run(datasets=["mnist"], mechanism=SGD) as run:
        with pytest.raises(errors.InvalidRequest, match="segments=4") as caught:
            run.segment()
        assert caught.value.field == "segments"
        run.step(5)
    (said,) = [record.message for record in caplog.records if "stopped after" in record.message]
    assert said.startswith(f"Run {run.id} stopped after 5 of 13 steps and is charged in full")
    assert "segments=4" in said
    caplog.clear()
    for mechanism, steps in ((SGD, 12), (Gaussian(noise_multiplier=20, count=4), 1)):
        with client.run(datasets=["mnist"], mechanism=mechanism) as run:
            run.step(steps)
    assert caplog.messages == []


# --- parts of a composed mechanism -----------------------------------------------------------------------------------


def test_parts_are_counted_apart(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """Goal: a composed run stops at the plan of each part, and its journal says how far each came."""
    arguments: dict[str, Any] = {"datasets": ["mnist"], "mechanism": TWO, "phases": ["pretrain", "noise", "fine-tune"]}
    with client.run(**arguments) as run:
        assert (run.planned_steps, run.phases) == (58, {"pretrain": (0, 30), "fine-tune": (0, 28)})
        run.step("fine-tune")
        run.step(27, phase="fine-tune")
        with pytest.raises(PlanExceeded, match=r"Step 29 is beyond the plan of 28 of fine-tune\."):
            run.step("fine-tune")
        for wrong in ("noise", "tune"):
            with pytest.raises(errors.InvalidRequest, match="It has pretrain, fine-tune"):
                run.step(wrong)
        assert len([*run.batches(range(100), phase="pretrain")]) == 30
        assert run.steps == 58
    settled = client.run_info(run.id)["settled"]
    assert settled["evidence"] == {"steps": {"pretrain": 30, "fine-tune": 28}}
    assert settled["charged"] == run.cost
    assert caplog.messages == []


def test_counted_steps_of_a_composed_run_are_not_ignored(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """Goal: 580 steps of 58 are stopped at the 59th, named or not; fewer are charged in full, with a warning."""
    run = client.run(datasets=["mnist"], mechanism=TWO)
    executed = 0
    with pytest.raises(PlanExceeded, match="ask for a run for each part") as beyond, run as counted:  # noqa: PT012
        for _ in range(580):
            counted.step()
            executed += 1
    assert "allow_overrun" not in str(beyond.value)  # it is refused below
    assert (executed, counted.phases) == (58, {"part 1": (30, 30), "part 3": (28, 28)})
    with client.run(datasets=["mnist"], mechanism=TWO) as short:
        short.step(3)
    assert "stopped after 3 of 58 steps and is charged in full" in caplog.text
    assert "together (3 of 30 of part 1, 0 of 28 of part 3). A part that was not begun is not given back" in caplog.text
    assert "ask for a run for each part" in caplog.text
    assert short.settled is not None
    assert short.settled["charged"] == short.cost
    with pytest.raises(errors.InvalidRequest, match="allow_overrun"):
        client.run(datasets=["mnist"], mechanism=TWO, allow_overrun=True)


def test_parts_have_their_names() -> None:
    """Goal: names are one for each part, all different, and only of what has parts."""
    assert parts_of(RELEASE) == {}
    assert parts_of({"type": "composed", "parts": [{"type": "gaussian", "count": 2}, 3, None]}) == {"part 1": 2}
    for names in (("a",), ("a", "a", "b"), ("a", "b", 3)):
        with pytest.raises(ValueError, match="give 3 different names"):
            parts_of(TWO, names)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="only the parts of a composed"):
        parts_of(RELEASE, ("a",))


# --- before it is approved, and in a notebook ------------------------------------------------------------------------


def test_a_dry_run_approves_nothing(ledger: Ledger, client: Client) -> None:
    """Goal: what it would cost and what would fit, and the body is never entered."""
    for mechanism, said in (
        (SGD, "It fits now. If it may stop early: with segments=4"),
        (
            Gaussian(noise_multiplier=0.5),
            "(it needs mu 2, and 1 of 1 is left). By itself it has epsilon 10",
        ),
    ):
        with pytest.raises(DryRun, match="A dry run: nothing was approved, so do not train") as caught:
            client.run(datasets=["mnist"], mechanism=mechanism, dry_run=True).__enter__()
        assert said in str(caught.value)
        assert caught.value.plan["fits"] == ("It fits" in said)
        assert "<table>" in caught.value._repr_html_()
    assert kinds(ledger) == ["dataset-registered"]
    client.set_fair_use("mnist", waits_above_percent=1, reason="large ones wait")
    with pytest.raises(DryRun, match="It would wait until a steward approves it: it asks for much of mnist"):
        client.run(datasets=["mnist"], mechanism=Gaussian(noise_multiplier=2), dry_run=True).__enter__()


def test_notebooks_show_tables(ledger: Ledger, client: Client) -> None:
    """Goal: runs, datasets, balances and refusals are readable, and nothing of them is markup. Method: a name that
    would be a script."""
    script = "<script>alert(1)</script>"
    client.change("mnist", title=script)
    for shown in (client.dataset("mnist"), Shown({"a": script, script: 1, "b": [script], "c": {"mu": 0.1}, "d": None})):
        html = shown._repr_html_()  # type: ignore[attr-defined]
        assert ("<script" in html, "&lt;script&gt;" in html) == (False, True)
    html = client.dataset("mnist")._repr_html_()  # type: ignore[attr-defined]
    assert "balance remaining" in html
    assert ">mu 1, delta 1e-06<" in html.replace("1e-06", "1e-06") or ">mu 1, delta 0<" in html
    with client.run(datasets=["mnist"], mechanism=SGD, segments=3) as run:
        assert "3 of 5 steps" in run._repr_html_()
        run.step(5)
    assert "charged" in run._repr_html_()
    with pytest.raises(BudgetExceeded) as caught:
        client.ask(datasets=["mnist"], mechanism=Gaussian(noise_multiplier=0.5))
    html = caught.value._repr_html_()
    assert "needs mu 2" in html
    assert "noise_multiplier=" in html
    many = Shown({str(number): number for number in range(1000)})
    assert "and 950 more" in many._repr_html_()
    odd = of_response(problem("budget-exceeded", 409, run=script, fits={script: 1}), url="http://a")
    assert "<script" not in odd._repr_html_()  # type: ignore[attr-defined]
