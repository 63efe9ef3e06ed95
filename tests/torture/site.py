"""A real server with two tenants: one that works, and one that is hostile."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ledger.operate import deploy
from ledger.settings import Settings
from tests.kit.driver import Ledger, Served, environment, first_keys, free_port, serve_command
from tests.kit.scene import REASON, another_tenant, ok
from tests.torture.hostile import Plan

BIG: Final = {"mu": 1000, "delta": 1e-3}
TIGHT: Final = tuple(f"tight-{number:02}" for number in range(30))
NOTES: Final[dict[str, Any]] = {
    "purpose": "p" * 1000,
    "labels": {f"label-{number:02}": "x" * 100 for number in range(8)},
}
RUNS_OF_BATCH: Final = 200


@dataclass(frozen=True, slots=True)
class Site:
    """The server, the key of the tenant that works, and what the other one may do."""

    served: Served
    key: str
    plan: Plan


@contextlib.contextmanager
def open_site(
    settings: Settings,
    folder: Path,
    *,
    seconds: float,
    runs: int,
    attacks: tuple[str, ...],
    awaited: tuple[str, ...] = (),
) -> Iterator[Site]:
    """Start a server with one worker and fill it. runs: how many with long labels the hostile tenant has."""
    deploy.migrate(settings)
    first = first_keys(settings)
    port = free_port()
    env = {**environment(settings), "LEDGER_WEBHOOK_HOSTS": f"127.0.0.1:{port}"}
    with serve_command([sys.executable, "-m", "ledger", "serve"], folder, env) as served:
        with served.client() as client:
            admin = Ledger(client, first.admin_key, operator_key=first.operator_key, tenant=first.tenant)
            admin.register(budget=BIG)
            admin.register(name="certified", budget=BIG, bound="certified")
            other = another_tenant(admin)
            plan = Plan(
                url=served.url,
                seconds=seconds,
                webhook_port=port,
                key=other.key,
                auditors=(other.as_("auditor").key, other.as_("auditor").key),
                plenty="plenty",
                tight=TIGHT,
                attacks=attacks,
                awaited=awaited,
            )
            _fill(other, plan, runs)
        yield Site(served, first.admin_key, plan)


def _fill(other: Ledger, plan: Plan, runs: int) -> None:
    """The hostile tenant's datasets, its long journal, and its webhook."""
    other.register(name=plan.plenty, budget=BIG)
    for name in plan.tight:
        other.register(name=name, budget={"mu": 0.001})
    run = {"datasets": [plan.plenty], "mechanism": {"type": "gaussian", "noise_multiplier": 50}, **NOTES}
    for start in range(0, runs, RUNS_OF_BATCH):
        numbers = range(start, min(runs, start + RUNS_OF_BATCH))
        batch = [{**run, "idempotency_key": str(number)} for number in numbers]
        ok(other.post("/v1/runs/batch", {"runs": batch}))
    url = f"http://127.0.0.1:{plan.webhook_port}/"
    ok(other.put("/v1/alerting", {"webhook": url, "thresholds": [50], **REASON}))
