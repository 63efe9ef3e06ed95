"""Equal runs before a refusal, as one run."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from ledger.accounting import mechanisms, plan
from ledger.accounting.numbers import COUNT_MAX
from ledger.accounting.plan import Left
from ledger.accounting.terms import Terms
from ledger.core.amounts import Amount
from ledger.service import as_one, inverting
from tests.kit.accountant import DPSGD, GAUSSIAN

ME, ANOTHER = (str(UUID(int=number)) for number in (1, 2))


def entry(run: int, kind: str = "run-approved", *, who: str = ME, **changes: Any) -> dict[str, Any]:
    """An entry that decides a run, or voids it."""
    if kind == "run-voided":
        return {"kind": kind, "run": str(run), "request": {"reason": "r"}, "actor": {"principal": who}}
    request = {"datasets": ["a"], "mechanism": DPSGD, "purpose": f"trial {run}", **changes}
    return {
        "kind": kind,
        "run": str(run),
        "request": request,
        "actor": {"principal": who},
        "cost": Amount(100 + run, 1).facts(),
    }


EPOCHS = {
    "type": "dpsgd",
    "noise_multiplier": 1,
    "sampling": "shuffle",
    "batch_size": 10,
    "dataset_size": 100,
    "epochs": 2,
}
REFUSED = entry(9, "run-refused")


def test_runs_that_asked_for_the_same_count() -> None:
    """Goal: the same mechanism on the same datasets by the same principal, not voided; whatever else was said of them.
    Method: two that count, and others that differ in one thing each."""
    others = [
        entry(3, who=ANOTHER),
        entry(4, mechanism=GAUSSIAN),
        entry(5, datasets=["a", "b"]),
        entry(6, project="p"),
        entry(7, segments=2),
        entry(8),
        entry(8, "run-voided"),
        {name: value for name, value in entry(10).items() if name != "request"},
    ]
    assert as_one.equals([entry(1), *others, entry(2)], REFUSED) == (2, Amount(203, 2))
    assert as_one.equals(others, REFUSED) == (0, Amount(0, 0))


@pytest.mark.parametrize(
    ("declared", "times", "expected"),
    [
        (DPSGD, 3, {"steps": 3000}),
        (EPOCHS, 5, {"epochs": 10}),
        (GAUSSIAN, 3, None),
        (DPSGD, COUNT_MAX // 999, None),
    ],
)
def test_a_run_that_is_as_long_as_several(
    declared: dict[str, Any], times: int, expected: dict[str, Any] | None
) -> None:
    """Goal: steps or epochs as often; nothing of what has no length, or would be too long."""
    mechanism = mechanisms.parse({name: value for name, value in declared.items() if value is not None})
    longer = as_one.longer(mechanism, times)
    if expected is None:
        assert longer is None
        return
    assert longer is not None
    assert longer.model_dump(exclude_none=True) == {**mechanism.model_dump(exclude_none=True), **expected}


def test_a_plan_says_how_many_fit_as_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: the most runs that fit as one run, with its charge: more than one after another; only where `runs` is asked
    for, of a run with a length, and not if it takes too long. Method: a small budget; the next longer run does not fit;
    a clock that stands still, and one that jumps."""
    mechanism = mechanisms.parse({**DPSGD, "noise_multiplier": 0.7, "steps": 20})
    terms = Terms(bound="certified", adjacency="add_or_remove_one", delta=Decimal("1e-8"))
    base = 10**12
    remaining, left = Amount(base, 10**12), Left(base, base, (Decimal("1e-8"),))
    question = inverting.Question(mechanism, terms, remaining, "runs", is_fit=True, is_dear=True, left=left)
    inverse = inverting.invert(question, lambda: 0.0)
    one = inverse.as_one
    assert one is not None
    assert inverse.solution is not None
    assert one.runs > int(inverse.solution.value)
    assert one.mechanism.model_dump()["steps"] == 20 * one.runs
    assert one.amount == plan.charged(one.mechanism, terms, remaining=remaining, left=left)
    beyond = as_one.longer(mechanism, one.runs + 1)
    assert beyond is not None
    assert plan.charged(beyond, terms, remaining=remaining, left=left) is None
    assert inverting.invert(replace(question, solve_for="steps"), lambda: 0.0).as_one is None
    assert inverting.invert(replace(question, mechanism=mechanisms.parse(GAUSSIAN)), lambda: 0.0).as_one is None
    monkeypatch.setattr(inverting, "SECONDS_MAX", 0.5)
    late = inverting.invert(question, iter(range(1000)).__next__)
    assert (late.as_one, late.solution) == (None, inverse.solution)
