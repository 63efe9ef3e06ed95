"""The public semantics, by an independent model and random operations over HTTP."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from tests.kit.driver import Ledger
from tests.model.walk import Walk

STEPS_OF_TENANT = 250
SEED = 20


def test_the_ledger_follows_the_model(ledger: Ledger, tries: Callable[[int, int], int]) -> None:
    """Goal: whatever is done, in whatever order, is answered, charged, written and signed as the documentation has it.

    Method: random operations on one tenant after another, each compared with the model, the whole state in between.
    """
    counts: Counter[str] = Counter()
    operator = ledger.with_key(ledger.operator_key)
    for number in range(tries(1_000, 25_000) // STEPS_OF_TENANT):
        name = f"tenant-{number}"
        made = operator.post("/v1/tenants", {"name": name})
        walk = Walk(ledger.with_key(made.json()["key"]["secret"]), name, SEED + number, counts)
        for _ in range(2):
            walk.run_steps(STEPS_OF_TENANT // 2)
        counts["receipts that permit what nobody charged"] += walk.receipts.permit_more
    for kind, count in sorted(counts.items()):
        print(f"{count:7} {kind}")
