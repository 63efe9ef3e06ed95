"""Equal runs before a refusal, as one run."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from ledger.accounting import mechanisms
from ledger.accounting.numbers import COUNT_MAX
from ledger.core.amounts import Amount
from ledger.service import as_one
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
