"""What the tests about parts of a budget ask over HTTP, and the costs that they expect, in closed form."""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from typing import Any

from ledger.access.keys import tenant_of
from ledger.operate import check
from ledger.store import Store
from ledger.verifier.witness import Witnesses
from tests.kit.driver import MNIST, WEAK, Ledger

ONCE = 40_000_000_000
"""One release with noise multiplier 5: 1/25 of mu², in units of 1e-12."""


def gaussian(noise_multiplier: float = 5, count: int = 1) -> dict[str, Any]:
    """Releases with Gaussian noise."""
    return {"type": "gaussian", "noise_multiplier": noise_multiplier, "count": count}


def cost_of(noise_multiplier: float, count: int) -> int:
    """count/noise², rounded up."""
    return ceil(Fraction(10**12 * count) / Fraction(str(noise_multiplier)) ** 2)


def parted(ledger: Ledger, *partitions: str, **changes: Any) -> dict[str, Any]:
    """Registers `clicks`, which has partitions, with a budget of mu 1."""
    return ledger.register(name="clicks", partitions=list(partitions), **changes)


def derive(ledger: Ledger, name: str, *parents: str, **changes: Any) -> Any:
    """Registers a dataset that is derived from others."""
    origins = [{"name": parent, "unit_preserving": True} for parent in parents]
    return ledger.post("/v1/datasets", {"name": name, "derived_from": origins, **WEAK, **changes})


def approved(ledger: Ledger, *datasets: Any, **changes: Any) -> dict[str, Any]:
    """Asks for a run that fits."""
    answer = ledger.ask(datasets=list(datasets), **changes)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def started(ledger: Ledger, *datasets: Any, **changes: Any) -> str:
    """Asks for a run, and starts it."""
    run = str(approved(ledger, *datasets, **changes)["id"])
    assert ledger.post(f"/v1/runs/{run}/start").status_code == 200
    return run


def held(ledger: Ledger, name: str) -> int:
    """What a dataset holds, of mu."""
    return ledger.balance(name)["held"][0]


def of_partitions(ledger: Ledger, name: str = "clicks", part: str = "held") -> dict[str, int]:
    """What each partition has of a part of its balance, of mu."""
    items = ledger.get(f"/v1/datasets/{name}/partitions", limit=1000).json()["items"]
    return {item["name"]: int(item["balance"][part]["mu_sq_pico"]) for item in items}


def kinds(ledger: Ledger, name: str) -> list[str]:
    """The kinds of a journal's entries."""
    items = ledger.get(f"/v1/datasets/{name}/entries", limit=1000).json()["items"]
    return [item["entry"]["kind"] for item in items]


def demand_in_order(ledger: Ledger, store: Store) -> None:
    """Every journal adds up to the rows of its dataset."""
    tenant_id = tenant_of(ledger.key)
    with store.reading(tenant_id) as reading:
        for dataset in reading.datasets.page(after=None, limit=1000, only=None):
            check.demand_holds(reading, dataset, Witnesses())


def error(answer: Any) -> tuple[int, str, str | None]:
    """Status, code and field of a problem."""
    problem = answer.json()
    return answer.status_code, problem["code"], problem.get("field")


DERIVED_AS: dict[str, Any] = {name: MNIST[name] for name in ("privacy_unit", "adjacency", "bound")}
"""What a derived dataset inherits."""
