"""What changed a dataset, in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from ledger.accounting import amounts
from ledger.core.amounts import Amount
from ledger.core.entries import Record

NAMES_MAX: Final = 5
"""How many partitions are named."""
_BUDGET: Final = ("epsilon", "at_delta", "slack", "mu", "delta")
_STATES: Final = {"frozen": "frozen", "active": "thawed", "retired": "retired"}


def in_words(entry: Record) -> str:
    """Return what an entry changed, in one line."""
    return _WORDS[entry["kind"]](entry)


def _registered(entry: Record) -> str:
    unit = f"{entry['privacy_unit']}, {entry['adjacency']}, bound {entry['bound']}"
    costing = f", costing {entry['costing']}" if "costing" in entry else ""
    ceiling = f", ceiling {_budget(entry['ceiling'])}" if entry.get("ceiling") else ""
    origins = ", ".join(parent["name"] for parent in entry.get("derived_from", ()))
    origin = f", derived from {origins}" if origins else ""
    return f"registered with {_budget(entry['budget'])}, unit {unit}{costing}{ceiling}{origin}{_accepted(entry)}"


def _changed(entry: Record) -> str:
    parts = []
    if "state" in entry:
        parts.append(_STATES[entry["state"]])
    parts += [f"{name} set to {entry[name]!r}" for name in ("title", "description") if name in entry]
    if "costing" in entry:
        parts.append(f"costing set to {entry['costing']}")
    return ", ".join(parts) or "nothing changed"


def _budget_set(entry: Record) -> str:
    return f"budget set to {_budget(entry['budget'])}: {_limits(entry)}{_accepted(entry)}"


def _accepted(entry: Record) -> str:
    return ", weak protection accepted" if "accepts_weak_protection" in entry else ""


def _limits(entry: Record) -> str:
    after, before = (Amount.from_facts(entry[name]) for name in ("limit", "limit_before"))
    return (
        f"mu {amounts.mu_of(before):.5g} to {amounts.mu_of(after):.5g},"
        f" delta {amounts.delta_of(before):.5g} to {amounts.delta_of(after):.5g}"
    )


def _partitions_added(entry: Record) -> str:
    return f"{_counted(entry['names'], 'partition')} added"


def _counted(names: Sequence[str], noun: str) -> str:
    more = ", …" if len(names) > NAMES_MAX else ""
    return f"{len(names):,} {noun}{'' if len(names) == 1 else 's'} ({', '.join(names[:NAMES_MAX])}{more})"


def _project_set(entry: Record) -> str:
    share = _budget(entry["budget"])
    was = "" if entry.get("limit_before") is None else f": {_limits(entry)}"
    return f"share of project {entry['project']} set to {share}{was}"


def _fair_use_set(entry: Record) -> str:
    return f"fair use set to {_fair_use(entry['fair_use'])}"


def _fair_use(fair_use: Record) -> str:
    limits = []
    if fair_use["held"] is not None:
        limits.append(f"{_budget(fair_use['held'])} held at once")
    if fair_use["runs_per_hour"] is not None:
        limits.append(f"{fair_use['runs_per_hour']:,} runs an hour")
    if fair_use.get("waits_above_percent") is not None:
        limits.append(f"a steward for runs above {fair_use['waits_above_percent']} % of a limit")
    return " and ".join(limits) or "no limit"


def _frozen_by_run(entry: Record) -> str:
    done = "reported more than any budget could cover" if entry["kind"] == "run-reported" else "executed more than fits"
    return f"frozen: run {entry['run']} {done}"


def _corrected(entry: Record) -> str:
    mu, before = (int(entry[part]["mu_sq_pico"]) ** 0.5 / 1e6 for part in ("charged", "before"))
    frozen = "" if "state" not in entry else f"; {entry['state']}: it does not fit"
    return f"run {entry['run']} corrected: charged mu {mu:.5g} in place of {before:.5g}{frozen}"


def _entered(entry: Record) -> str:
    mu = int(entry["cost"]["mu_sq_pico"]) ** 0.5 / 1e6
    frozen = "" if "state" not in entry else f"; {entry['state']}: it does not fit"
    return f"past run {entry['run']} entered (declared, not observed): charged mu {mu:.5g}{frozen}"


def _proposed(entry: Record) -> str:
    facts = entry["proposes"]
    words: dict[str, Callable[[], str]] = {
        "budget": lambda: f"budget of {_budget(facts['budget'])}{_accepted(facts)}",
        "thaw": lambda: "thaw",
        "partitions": lambda: _counted(facts["names"], "new partition"),
        "project": lambda: f"share of project {facts['project']} of {_budget(facts['budget'])}",
        "fair-use": lambda: f"fair use of {_fair_use(facts['fair_use'])}",
        "void": lambda: f"void of run {entry.get('about_run')}",
        "correction": lambda: f"correction of run {entry.get('about_run')}",
        "run": lambda: f"run {entry.get('about_run')}, which waits for a steward",
    }
    return f"proposed: {words[entry['what']]()}"


def _refused(entry: Record) -> str:
    return f"proposal refused: {entry['what']}"


def _budget(budget: Mapping[str, Any] | None) -> str:
    if budget is None:
        return "no budget of its own"
    return ", ".join(f"{name} {float(budget[name]):.5g}" for name in _BUDGET if budget.get(name) is not None)


_WORDS: Final[Mapping[str, Callable[[Record], str]]] = {
    "dataset-registered": _registered,
    "dataset-changed": _changed,
    "budget-set": _budget_set,
    "partitions-added": _partitions_added,
    "project-set": _project_set,
    "fair-use-set": _fair_use_set,
    "run-settled": _frozen_by_run,
    "run-reported": _frozen_by_run,
    "run-corrected": _corrected,
    "run-entered": _entered,
    "change-proposed": _proposed,
    "proposal-refused": _refused,
}
