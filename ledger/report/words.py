"""The sentences of a report: the verdict, the assumptions, and how to recompute it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ledger.report.source import Question
from ledger.report.standing import Standing, TenantStanding

ADJACENCY: Final = {
    "add_or_remove_one": "Two datasets are neighbours if one of them has one {unit} more than the other.",
    "replace_one": "Two datasets are neighbours if one {unit} is replaced by another one.",
    "zero_out": "Two datasets are neighbours if the data of one {unit} is replaced by nothing: it contributes zero, "
    "and the number of {unit}s stays the same. That number is public.",
}
_SAMPLING: Final = {
    "poisson": "Poisson sampling: every {unit} enters each batch independently with the stated sample rate, or each of "
    "its records if several are declared. A loader that shuffles the data and splits it into batches does not do that, "
    "nor does one that cuts large batches, unless a cap is declared.",
    "fixed_size": "fixed-size sampling: each batch is a fresh uniform draw of a fixed number of {unit}s, without "
    "replacement.",
    "shuffle": "shuffling: each epoch passes over the data once in a random order; no amplification is counted.",
}


def verdict(standings: Sequence[Standing], tenant: TenantStanding | None) -> str:
    """Return whether every budget is kept, in one or two sentences."""
    broken = [(standing.name, standing.broken.seq) for standing in standings if standing.broken is not None]
    if tenant is not None and tenant.broken is not None:
        broken.append(("the tenant's own journal", tenant.broken.seq))
    if broken:
        named = ", ".join(f"{name} at entry {seq}" for name, seq in broken)
        return (
            f"This report cannot confirm that every budget is kept: a journal does not verify ({named}). Entries from "
            "there on are not counted."
        )
    exceeded = [standing.name for standing in standings if standing.exceeded]
    if exceeded:
        return (
            f"Not every budget was kept: a limit was exceeded in {', '.join(exceeded)}. A run executed more than was "
            "approved. What it executed is charged in full."
        )
    if not any(standing.accounts for standing in standings):
        return "This report has no budget that could be exceeded: no account has a limit or a charge."
    kept = "Every budget is kept: at no entry of the period did the spent and held budget exceed a limit."
    if any(standing.is_estimate for standing in standings):
        estimated = ", ".join(standing.name for standing in standings if standing.is_estimate)
        kept += f" For {estimated} this is based on estimates (bound clt), not on a guarantee."
    return kept


def assumptions(standing: Standing) -> list[dict[str, str]]:
    """Return the assumptions of a dataset's numbers, each with its subject and a sentence."""
    registered = standing.registered
    if not registered:
        return []
    unit = registered["privacy_unit"]
    sentences = [
        ("privacy unit", f"The protected unit is one {unit}: whether it is in the data, and what it contains."),
        ("adjacency", ADJACENCY[registered["adjacency"]].format(unit=unit)),
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
            "They reproduce published numbers, and are marked as estimates everywhere."
        )
    return "Every cost is certified: it is an upper bound by a theorem, and errors of computation are added to it."


def _disjoint(unit: str) -> str:
    return (
        f"Partitions are disjoint: no {unit} is in two of them, and which one it is in depends on it alone. The ledger "
        "cannot check that. A steward affirmed it for every partition, and the journal keeps that."
    )


def _derived(parent: str, unit: str) -> str:
    return (
        f"It is derived from {parent} so that changing one {unit} there changes only its own rows here. The ledger "
        "cannot check that. A steward affirmed it when the dataset was registered."
    )


_COMPOSITION: Final = (
    "Runs may be chosen after seeing the outputs of earlier ones: adding up mu² against a limit that is fixed in "
    "advance is a valid privacy filter (Smith & Thakurta 2022; Koskela, Tobaben & Honkela 2023). "
    "docs/explanation/decision.md has the argument for the deltas. The limit that was fixed in advance is guaranteed. "
    "The epsilon of what is spent so far is a guarantee if the runs were fixed in advance, and an indication "
    "otherwise. With residual costs (docs/explanation/residual.md) the limit is guaranteed as well, and what is spent "
    "is a share of it: its epsilon is no bound on what was released."
)
_DECLARED: Final = (
    "The ledger does not observe a run. Mechanism, noise, sampling and executed steps are those that were declared. "
    "Check them against the code repository and commit of each run."
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
        "formula": "min(1, delta + (1 - delta) Phi(Phi^-1(a / (1 - delta)) + mu)), and 1 if a >= 1 - delta",
        "source": "Dong, Roth & Su 2022, section 2.3",
    },
    {
        "quantity": "best advantage",
        "formula": "delta + (1 - delta) (2 Phi(mu / 2) - 1)",
        "source": "Dong, Roth & Su 2022, Corollary 2.13 at epsilon 0",
    },
)
TOTALS: Final = (
    "For each account, in mu_sq_pico and in delta_atto: spent is the sum of `charged` over the settled runs that "
    "charged it; held is the sum of `cost` over the runs that are held or started; left is limit - spent - held. The "
    "account of a principal counts only what is held. A sum that would exceed 2^63 - 1 is 2^63 - 1."
)
DOCUMENTS: Final = (
    "docs/how-to/report.md",
    "docs/reference/export.md",
    "docs/explanation/accounting.md",
    "ledger/report/schema.json",
)


def commands(question: Question, names: Sequence[str]) -> list[str]:
    """Return the commands that make this report again, and recompute it from the journals."""
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
    """Return how an auditor recomputes the same numbers."""
    return {
        "commands": commands(question, names),
        "documents": list(DOCUMENTS),
        "totals": TOTALS,
        "formulas": [dict(formula) for formula in FORMULAS],
    }
