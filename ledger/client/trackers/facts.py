"""What trackers log about a run, as texts and finite numbers. Every name begins with `privacy_ledger/`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from ledger.client.mechanisms import GDP
from ledger.client.receipts import receipt_digest
from ledger.client.runs import Run

PREFIX: Final = "privacy_ledger/"


class Asked(Protocol):
    """The calls of a `Ledger` that are made for epsilon and for parts of budgets."""

    def run_info(self, run: str) -> dict[str, Any]: ...

    def dataset(self, name: str) -> dict[str, Any]: ...

    def evaluate(self, *, mechanism: Any, bound: str, adjacency: str, report_deltas: list[float]) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Facts:
    """Texts and finite numbers, by name. receipt: the signed receipt, if the ledger gave one."""

    texts: Mapping[str, str]
    numbers: Mapping[str, float]
    receipt: str | None


def facts_of(run: Run, ledger: Asked | None = None) -> Facts:
    """Return what is known of a run now: its plan and, once it is settled, what it was charged.

    ledger: a client, to ask for the part of each budget that the run takes, and for its epsilon.
    """
    texts, numbers = _plan(run)
    ended = run.settled or {}
    texts["state"] = str(ended.get("state", "started"))
    if "charged" in ended:
        numbers |= _amount("charged", ended["charged"])
        numbers["steps"] = run.steps
    if "overrun" in ended:
        numbers["overrun_steps"] = ended["overrun"]["steps"]
    if ledger is not None:
        numbers |= dict(_answered(run, ledger))
    return Facts(
        {f"{PREFIX}{name}": text for name, text in texts.items()},
        {f"{PREFIX}{name}": float(number) for name, number in numbers.items() if math.isfinite(number)},
        run.receipt,
    )


def _plan(run: Run) -> tuple[dict[str, str], dict[str, float]]:
    texts = {"run": run.id, "decision": "approved", "datasets": ", ".join(run.remaining)}
    if run.receipt is not None:
        texts["receipt_sha256"] = receipt_digest(run.receipt)
    numbers = _amount("cost", run.cost)
    if run.planned_steps is not None:
        numbers["planned_steps"] = run.planned_steps
    return texts, numbers


def _amount(name: str, amount: Mapping[str, Any]) -> dict[str, float]:
    return {f"{name}_mu": float(amount["mu"]), f"{name}_delta": float(amount["delta"])}


def _answered(run: Run, ledger: Asked) -> Iterator[tuple[str, float]]:
    """Yield what the ledger answers: percents of the budgets, and epsilon of the run by itself."""
    info = ledger.run_info(run.id)
    shown = [ledger.dataset(name) for name in run.remaining]
    budgets = [found["balance"]["limit"] for found in shown if found["balance"] is not None]
    is_charged = run.settled is not None and "charged" in run.settled
    charged = run.settled["charged"] if run.settled is not None and is_charged else None
    for name, amount in (("cost", info["cost"]), ("charged", charged)):
        if amount is not None and (percents := [*_percents(amount, budgets)]):
            yield f"{name}_percent", max(percents)
    alone = info.get("alone")
    planned = alone or info["cost"]
    yield from _epsilons("planned_epsilon", planned, info, shown, ledger)
    # Beside what is left, an overrun is charged less than it costs alone: no epsilon is known then.
    is_known = alone is None or "overrun" not in (run.settled or {})
    if charged is not None and is_known:
        yield from _epsilons("epsilon", alone or charged, info, shown, ledger)


def _percents(amount: Mapping[str, Any], limits: list[dict[str, Any]]) -> Iterator[float]:
    """Yield the parts of limits that an amount is, in the unit that adds up, in percent."""
    for limit in limits:
        for digits in ("mu_sq_pico", "delta_atto"):
            if int(limit[digits]):
                yield 100 * int(amount[digits]) / int(limit[digits])


def _epsilons(
    name: str, amount: Mapping[str, Any], info: Mapping[str, Any], shown: list[dict[str, Any]], ledger: Asked
) -> Iterator[tuple[str, float]]:
    """Yield the epsilons of an amount at the deltas of the budgets; none where it is infinite."""
    deltas = sorted({at["delta"] for found in shown for at in found["epsilon"]}, reverse=True)
    if not deltas or not amount["mu"]:
        return
    mechanism = GDP(mu=amount["mu"], delta=amount["delta"], evidence=f"the cost of run {info['id']}")
    answer = ledger.evaluate(
        mechanism=mechanism, bound=info["bound"], adjacency=info["adjacency"], report_deltas=deltas
    )
    for at in answer["epsilon"]:
        if at["value"] is not None:
            yield f"{name}_at_delta_{at['delta']:g}", at["value"]
