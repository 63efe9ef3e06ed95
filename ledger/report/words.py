"""The sentences of a report: the verdict, what was assumed, and how all of it is worked out again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ledger.report.source import Question
from ledger.report.standing import Standing, TenantStanding

_ADJACENCY: Final = {
    "add_or_remove_one": "Two datasets are neighbours where one of them has one {unit} more than the other.",
    "replace_one": "Two datasets are neighbours where one {unit} is replaced by another one.",
}
_SAMPLING: Final = {
    "poisson": "Poisson sampling: every {unit} enters each batch independently with the stated sample rate. A loader "
    "that shuffles and cuts batches does not do that.",
    "fixed_size": "fixed-size sampling: each batch is a fresh uniform draw of a fixed number of {unit}s, without "
    "replacement.",
    "shuffle": "shuffling: each epoch passes over the data once in a random order; no amplification is counted.",
}


def verdict(standings: Sequence[Standing], tenant: TenantStanding | None) -> str:
    """Whether every budget is kept, in one or two sentences."""
    broken = [(standing.name, standing.broken.seq) for standing in standings if standing.broken is not None]
    if tenant is not None and tenant.broken is not None:
        broken.append(("the tenant's own journal", tenant.broken.seq))
    if broken:
        named = ", ".join(f"{name} at entry {seq}" for name, seq in broken)
        return (
            f"This report cannot say that every budget is kept: a journal does not hold ({named}). What stands here "
            "of it ends before that entry, and nothing after it is counted."
        )
    exceeded = [standing.name for standing in standings if standing.exceeded]
    if exceeded:
        return (
            f"Not every budget was kept: a limit was passed in {', '.join(exceeded)}. A run executed more than it was "
            "approved for; what it executed is charged in full."
        )
    if not any(standing.accounts for standing in standings):
        return "There is no budget in this report that could be exceeded: no account was charged or limited."
    kept = "Every budget is kept: at no entry of the period did what is spent and held pass a limit."
    if any(standing.is_estimate for standing in standings):
        estimated = ", ".join(standing.name for standing in standings if standing.is_estimate)
        kept += f" For {estimated} this rests on estimates (bound clt), not on a guarantee."
    return kept


def assumptions(standing: Standing) -> list[dict[str, str]]:
    """What the numbers of a dataset rest on, each as what it is about and a sentence."""
    registered = standing.registered
    if not registered:
        return []
    unit = registered["privacy_unit"]
    sentences = [
        ("privacy unit", f"What is protected is one {unit}: whether it is in the data, and what it says."),
        ("adjacency", _ADJACENCY[registered["adjacency"]].format(unit=unit)),
        ("bound", _bound(registered["bound"])),
    ]
    if registered.get("is_partitioned"):
        sentences.append(("disjointness", _disjoint(unit)))
    sentences += [("derivation", _derived(parent["name"], unit)) for parent in registered.get("derived_from", ())]
    for sampling, runs in sorted(standing.samplings.items()):
        if sampling in _SAMPLING:
            sentences.append(("sampling", f"{_runs(runs)} declared {_SAMPLING[sampling].format(unit=unit)}"))
    sentences.append(("composition", _COMPOSITION))
    sentences.append(("declarations", _DECLARED))
    sentences += [("runs", f"{_runs(runs)}: {sentence}") for sentence, runs in sorted(standing.assumed.items())]
    return [{"dataset": standing.name, "about": about, "sentence": sentence} for about, sentence in sentences]


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def _bound(bound: str) -> str:
    if bound == "clt":
        return (
            "Costs of DP-SGD are central-limit estimates (bound clt), not guarantees: the true cost can be higher. "
            "They are there to reproduce published numbers, and are marked as estimates wherever they stand."
        )
    return "Every cost is certified: a theorem stands behind it, and errors of computation are added on the safe side."


def _disjoint(unit: str) -> str:
    return (
        f"Partitions are disjoint: no {unit} lies in two of them, and which one it lies in depends on it alone. The "
        "ledger cannot check that; a steward affirmed it for every partition, which the journal keeps."
    )


def _derived(parent: str, unit: str) -> str:
    return (
        f"It is derived from {parent} so that changing one {unit} there changes only its own rows here. The ledger "
        "cannot check that; a steward affirmed it when the dataset was registered."
    )


_COMPOSITION: Final = (
    "Runs may be chosen by what earlier ones showed: adding up mu² against a limit fixed beforehand is a valid privacy "
    "filter (Smith & Thakurta 2022; Koskela, Tobaben & Honkela 2023); that the deltas are added so is the argument in "
    "docs/explanation/decision.md. What is guaranteed is the limit that was fixed beforehand; the epsilon of what is "
    "spent so far is a guarantee for runs that were fixed in advance, and an indication otherwise."
)
_DECLARED: Final = (
    "The ledger does not watch a run. Mechanism, noise, sampling and executed steps are what was declared; code "
    "repository and commit say what can be looked at."
)

FORMULAS: Final[tuple[dict[str, str], ...]] = (
    {
        "quantity": "mu",
        "formula": "sqrt(mu_sq_pico / 10^12)",
        "source": "composition adds mu²: Dong, Roth & Su 2022 (JRSS-B 84), Corollary 3.3",
    },
    {
        "quantity": "delta",
        "formula": "1 - exp(-delta_atto / 10^18)",
        "source": "1 - delta multiplies under composition: Dong, Roth & Su 2022, section 3",
    },
    {
        "quantity": "epsilon at delta d",
        "formula": "the least epsilon >= 0 with delta + (1 - delta) (Phi(-epsilon/mu + mu/2) - e^epsilon "
        "Phi(-epsilon/mu - mu/2)) <= d, rounded up",
        "source": "Dong, Roth & Su 2022, Corollary 2.13",
    },
    {
        "quantity": "best true-positive rate at false-positive rate a",
        "formula": "min(1, delta + (1 - delta) Phi(Phi^-1(a / (1 - delta)) + mu)), and 1 where a >= 1 - delta",
        "source": "Dong, Roth & Su 2022, section 2.3",
    },
    {
        "quantity": "best advantage",
        "formula": "delta + (1 - delta) (2 Phi(mu / 2) - 1)",
        "source": "Dong, Roth & Su 2022, Corollary 2.13 at epsilon 0",
    },
)
TOTALS: Final = (
    "Of each account: spent is the sum of `charged` over the settled runs that charged it, held the sum of `cost` over "
    "those that are held or started, left is limit - spent - held, in each of mu_sq_pico and delta_atto. An account of "
    "a principal counts what is held alone. A sum stays at 2^63 - 1 where it would pass it."
)
DOCUMENTS: Final = (
    "docs/how-to/report.md",
    "docs/reference/export.md",
    "docs/explanation/accounting.md",
    "ledger/report/schema.json",
)


def commands(question: Question, names: Sequence[str]) -> list[str]:
    """What to type to get the same again, and to work it out from the journals."""
    period = "".join(
        f" --{name} {value}" for name, value in (("from", question.since), ("to", question.until)) if value is not None
    )
    about = {"dataset": f" {question.dataset}", "project": f" --project {question.project}", "tenant": " --tenant"}
    lines = [f"privacy-ledger report{about[question.scope]}{period} --output report.json"]
    lines.append("privacy-ledger jwks --output jwks.json")
    for name in names[:COMMANDS_MAX]:
        lines.append(f"privacy-ledger export {name} --output {name}.jsonl")
        lines.append(f"privacy-ledger verify {name}.jsonl --jwks jwks.json")
        lines.append(f"privacy-ledger recompute {name}.jsonl")
    return lines


COMMANDS_MAX: Final = 20


def recomputation(question: Question, names: Sequence[str]) -> dict[str, Any]:
    """How an auditor gets to the same numbers."""
    return {
        "commands": commands(question, names),
        "documents": list(DOCUMENTS),
        "totals": TOTALS,
        "formulas": [dict(formula) for formula in FORMULAS],
    }
