"""The public semantics, by an independent model and random operations over HTTP."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from ledger.settings import Settings
from tests.kit.driver import Ledger
from tests.model import prices
from tests.model.prices import NOTHING, Amount, Json, beyond_plan, limit_of, price, segmented, within_plan
from tests.model.walk import Walk

SEED: Final = 20
STEPS_OF_TENANT: Final = 250
LINES_MAX: Final = 400
"""Of a module of the model."""
RULES: Final = ("prices", "books", "stewards", "model", "views", "today")
"""The modules that say what is right; the others drive and compare."""
LEAST: Final = {
    "ask: 201": 40,
    "ask: 409 budget-exceeded": 20,
    "ask: 409 dataset-frozen": 3,
    "ask: 422": 5,
    "ask again: 422 idempotency-key-reused": 3,
    "the first answer again": 10,
    "batch, atomic: 200": 1,
    "batch, atomic: 409 batch-refused": 3,
    "receipt: started": 30,
    "starts beside partitions that were not charged": 5,
    "partitions added beside held runs": 2,
    "settle: 200": 15,
    "overrun: 200": 3,
    "overrun: 409 overrun": 2,
    "frozen: 200": 5,
    "active: 202": 1,
    "budget: 202": 2,
    "void: 202": 3,
    "approve: 200": 3,
    "approve: 403 forbidden": 3,
    "refuse: 200": 1,
    "keys made, revoked and rotated": 1,
}
"""What has to occur in the everyday run, on each database."""


def test_the_ledger_follows_the_model(ledger: Ledger, database: Settings, tries: Callable[[int, int], int]) -> None:
    """Goal: whatever is done, in whatever order, is answered, charged, written and signed as the documentation has it.

    Method: random operations on one tenant after another, each compared with the model, and in between every balance,
    run, proposal, entry and receipt.
    """
    counts: Counter[str] = Counter()
    operator = ledger.with_key(ledger.operator_key)
    seed = SEED if database.is_sqlite else SEED + 10_000
    for number in range(tries(1_000, 25_000) // STEPS_OF_TENANT):
        made = operator.post("/v1/tenants", {"name": f"tenant-{number}"})
        walk = Walk(ledger.with_key(made.json()["key"]["secret"]), f"tenant-{number}", seed + number, counts)
        for _ in range(2):
            walk.run_steps(STEPS_OF_TENANT // 2)
        counts["receipts that permit what nobody charged"] += walk.receipts.permit_more
    print(*(f"{count:7} {kind}" for kind, count in sorted(counts.items())), sep="\n")
    for kind, least in LEAST.items():
        assert sum(count for name, count in counts.items() if name.startswith(kind)) >= least, kind
    assert counts["receipts that permit what nobody charged"] == 0


def test_the_model_stands_alone() -> None:
    """Goal: the model is independent of the ledger, and short enough to be read. Method: its imports, and its lines."""
    for name in (*RULES, "evidence", "draws", "compare"):
        source = (Path(__file__).parent / f"{name}.py").read_text()
        tree = ast.parse(source)
        imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert not {module for module in imported if module.split(".")[0] == "ledger" or module.startswith("tests.kit")}
        assert name not in RULES or len(source.splitlines()) <= LINES_MAX


# --- the model by hand ------------------------------------------------------------------------------------------------

SHUFFLED: Final[Json] = {"type": "dpsgd", "noise_multiplier": 5, "sampling": "shuffle"}
BY_EPOCHS: Final[Json] = {**SHUFFLED, "dataset_size": 100, "batch_size": 30, "epochs": 2}
IDENTITY: Final[Json] = {"type": "matrix_factorization", "noise_multiplier": 5, "strategy": "identity"} | {
    "steps": 10,
    "participations": 1,
    "separation": 1,
}
GAUSSIAN: Final[Json] = {"type": "gaussian", "noise_multiplier": 5, "count": 3}


@pytest.mark.parametrize(
    ("mechanism", "adjacency", "mu", "delta"),
    [
        (GAUSSIAN, "replace_one", 120_000_000_000, 0),
        ({**GAUSSIAN, "noise_multiplier": 3, "count": 1}, "add_or_remove_one", 111_111_111_112, 0),
        ({"type": "gdp", "mu": 0.3, "delta": 1e-6}, "replace_one", 90_000_000_000, 1_000_000_500_001),
        ({**SHUFFLED, "sample_rate": 0.25, "steps": 9}, "add_or_remove_one", 120_000_000_000, 0),
        (BY_EPOCHS, "replace_one", 320_000_000_000, 0),  # two epochs, as declared
        ({**IDENTITY, "participations": 3, "separation": 4}, "add_or_remove_one", 120_000_000_000, 0),
        # mu is -2 Phi^-1(1/(1+e^0.1)) = 0.125309012…, by bisection; delta 1e-7 + 5e-15 + …, twice.
        (
            {"type": "approximate_dp", "epsilon": 0.1, "delta": 1e-7, "count": 2},
            "add_or_remove_one",
            31_404_697_083,
            200_000_010_001,
        ),
        ({"type": "composed", "parts": [GAUSSIAN, {**GAUSSIAN, "noise_multiplier": 2}]}, "", 870_000_000_000, 0),
    ],
)
def test_prices(mechanism: Json, adjacency: str, mu: int, delta: int) -> None:
    """Goal: costs are those of the documentation, rounded up, and limits are rounded down. Method: by hand."""
    assert price(mechanism, adjacency).rounded() == Amount(mu, delta)
    assert limit_of({"mu": 0.3, "delta": 1e-6}) == Amount(90_000_000_000, 1_000_000_500_000)


@pytest.mark.parametrize(
    ("mechanism", "segments", "steps", "stop", "hundredths"),
    [
        ({**GAUSSIAN, "count": 5}, 1, 2, "data_dependent", 8),
        ({**GAUSSIAN, "count": 5}, 1, 0, "data_dependent", 4),
        ({**GAUSSIAN, "count": 5}, 1, 7, "planned", 28),
        ({**SHUFFLED, "sample_rate": 0.25, "steps": 9}, 1, 5, "data_dependent", 8),
        ({**SHUFFLED, "sample_rate": 0.25, "steps": 9}, 1, 10, "planned", 12 + 8),
        ({**IDENTITY, "participations": 2}, 1, 1, "data_dependent", 8),
        ({**IDENTITY, "participations": 2}, 1, 1, "data_independent", 4),
        ({**IDENTITY, "participations": 1}, 4, 4, "data_dependent", 8),
        ({**IDENTITY, "participations": 1}, 4, 13, "planned", 16 + 4),
    ],
)
def test_settling(mechanism: Json, segments: int, steps: int, stop: str, hundredths: int) -> None:
    """Goal: an early stop and an overrun are charged as the documentation has it. Method: by hand."""
    approved = segmented(mechanism, "", segments).rounded()
    most = segments * prices.segment_steps(mechanism, segments)
    terms = mechanism, "", segments, approved
    more = beyond_plan(*terms, steps - most) if steps > most else NOTHING
    assert (approved if steps > most else within_plan(*terms, steps, stop)) + more == Amount(hundredths * 10**10)
