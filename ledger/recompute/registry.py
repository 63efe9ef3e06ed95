"""A dataset or a run as a draft entry of the Differential Privacy Deployments Registry.

The registry (opendp/deployments-registry-data) keeps one YAML file for each deployment, in the sections `basic`,
`dp_variant`, `privacy_loss`, `deployment_model`, `implementation` and `administrative` of its
`schemas/deployments-schema.yaml`. A version of that schema had composition and post-processing in a section
`accounting`; `layout` says where they go.

The schema has no Gaussian differential privacy. So the entry states approximate DP, (epsilon, delta), which every
(mu, delta) implies, and has mu in the details. What only a person can know is marked with `MARK` or, if the schema
allows only some words, filled with the best one; `RegistryEntry.to_do` lists all of it.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import yaml

from ledger.accounting import amounts
from ledger.accounting.budgets import report_deltas
from ledger.accounting.mechanisms import BY_TYPE
from ledger.core.amounts import ZERO, Amount
from ledger.core.journal import chain
from ledger.errors import InvalidRequest, NotFound
from ledger.recompute.composed import gdp_epsilon
from ledger.recompute.reading import Export, opened

MARK: Final = "TO BE FILLED IN: "
MECHANISMS_MAX: Final = 20
"""How many different mechanisms an entry names."""
_TRAINING: Final = tuple(type_ for type_, mechanism in BY_TYPE.items() if mechanism.is_training)
Layout = Literal["implementation", "accounting"]


@dataclass(frozen=True, slots=True)
class RegistryEntry:
    """An entry of the registry. body: by the schema. to_do: what a person must complete or check, by path."""

    body: Mapping[str, Any]
    to_do: tuple[tuple[str, str], ...]


def registry_entry(lines: Iterable[str], *, run: str | None = None, layout: Layout = "implementation") -> RegistryEntry:
    """Return the entry of an export's dataset, or of one of its runs. lines: read twice, first to verify them.

    layout: the section for composition and post-processing. Raises JournalBroken and InvalidRequest as `reading.opened`
    does, NotFound if the run does not exist, and InvalidRequest if the run used no data.
    """
    export = opened(lines)
    facts = _read(export, run)
    if run is not None and facts.decision is None:
        raise NotFound(f"There is no run {run} in this export.")
    if facts.ended in ("run-refused", "run-voided"):
        raise InvalidRequest("run: was refused or voided, so it published nothing", field="run")
    draft = _Draft()
    claim = _claim_of_run(facts) if facts.decision is not None else _claim_of_dataset(export, facts)
    body = _body(draft, export, facts, claim)
    _put_accounting(draft, body["deployment"], layout)
    return RegistryEntry(body, tuple(draft.to_do))


# --- facts of an export ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Facts:
    """The needed facts of the entries."""

    registered: Mapping[str, Any] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)
    budget: Mapping[str, Any] = field(default_factory=dict)
    mechanisms: Counter[str] = field(default_factory=Counter)
    codes: dict[str, None] = field(default_factory=dict)
    has_new_partitions: bool = False
    settled: int = 0
    last_at: str = ""
    decision: Mapping[str, Any] | None = None
    settling: Mapping[str, Any] | None = None
    ended: str = ""


def _read(export: Export, run: str | None) -> _Facts:
    facts = _Facts()
    open_runs: dict[str, str] = {}
    for entry in export.entries():
        kind = entry["kind"]
        if kind == "dataset-registered":
            facts.registered, facts.budget = entry, entry["budget"] or {}
        if kind == "budget-set":
            facts.budget = entry["budget"]
        facts.has_new_partitions |= kind == "partitions-added"
        facts.about |= {name: entry[name] for name in ("title", "description") if isinstance(entry.get(name), str)}
        if kind == "run-approved":
            open_runs[entry["run"]] = chain.canonical(entry["request"]["mechanism"])
            _note_code(facts, entry["request"].get("code"))
        if kind == "run-entered":
            facts.mechanisms[chain.canonical(entry["request"]["mechanism"])] += 1
            facts.settled, facts.last_at = facts.settled + 1, entry["at"]
        if kind in ("run-settled", "run-voided"):
            mechanism = open_runs.pop(entry["run"])
            if kind == "run-settled":
                facts.mechanisms[mechanism] += 1
                facts.settled, facts.last_at = facts.settled + 1, entry["at"]
        if run is not None and entry.get("run") == run:
            _note_run(facts, entry)
    facts.mechanisms.update(open_runs.values())
    return facts


def _note_code(facts: _Facts, code: Any) -> None:
    if isinstance(code, dict) and len(facts.codes) < MECHANISMS_MAX:
        facts.codes[" at commit ".join(str(code[name]) for name in ("repository", "commit") if name in code)] = None


def _note_run(facts: _Facts, entry: Mapping[str, Any]) -> None:
    if entry["kind"] in ("run-approved", "run-refused", "run-entered"):
        facts.decision = entry
    if entry["kind"] == "run-settled":
        facts.settling = entry
    facts.ended = "run-settled" if entry["kind"] in ("run-corrected", "run-entered") else entry["kind"]


# --- the claim -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Claim:
    """The guarantee in an entry, and its explanation. name, at: of the data product."""

    name: str
    at: str
    amount: Amount
    at_delta: float
    words: str
    mechanisms: Mapping[str, int]
    is_training: bool
    is_many: bool


def _claim_of_run(facts: _Facts) -> _Claim:
    decision, settling = facts.decision or {}, facts.settling
    amount = Amount.from_facts(decision["cost"] if settling is None else settling["charged"])
    mechanism = chain.canonical(decision["request"]["mechanism"])
    standing = "it was charged" if settling is not None else "it is not settled yet, and was approved for"
    words = f"This is one run, with the method {decision['method']}: {standing} {_pair(amount)}."
    return _Claim(
        f"{decision['dataset']}, run {decision['run']}",
        (settling or decision)["at"],
        amount,
        report_deltas(dict(facts.budget))[0],
        words,
        {mechanism: 1},
        _is_training([mechanism]),
        False,
    )


def _claim_of_dataset(export: Export, facts: _Facts) -> _Claim:
    replayed = export.verified.journal
    accounts = [account for account in replayed.accounts.values() if account.key.is_base]
    limit = replayed.limit_highest or ZERO
    spent, held = ZERO, ZERO
    for account in accounts:
        spent, held = spent.most(account.spent), held.most(account.held)
        # State what was overdrawn, whatever the limit was.
        limit = limit.most(account.spent + account.held)
    if not accounts:
        raise InvalidRequest(
            "export: this dataset has no budget of its own. Export the dataset that it is derived from", field="export"
        )
    at_delta = report_deltas(dict(facts.budget))[0]
    words = (
        f"The parameters are those of the highest budget that the dataset ever had, {_pair(limit)}, which holds for all"
        f" runs together, chosen one after another. Spent so far is {_pair(spent)}, epsilon"
        f" {_number(gdp_epsilon(spent, at_delta))} at the same delta; held is {_pair(held)}."
    )
    if len(accounts) > 1:
        words += f" The data is in {len(accounts):,} disjoint partitions, each with this budget."
    names = list(facts.mechanisms)
    at = facts.last_at or facts.registered["at"]
    name = facts.registered["dataset"]
    return _Claim(name, at, limit, at_delta, words, facts.mechanisms, _is_training(names), facts.settled > 1)


def _pair(amount: Amount) -> str:
    mu, delta = amounts.mu_of(amount), amounts.delta_of(amount)
    return f"mu {_number(mu)} and delta {_number(delta)} in Gaussian differential privacy"


def _number(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else "infinite"


def _is_training(mechanisms: Iterable[str]) -> bool:
    return any(f'"type":"{type_}"' in mechanism for mechanism in mechanisms for type_ in _TRAINING)


# --- the entry -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Draft:
    """Collect what a person must complete."""

    to_do: list[tuple[str, str]] = field(default_factory=list)

    def mark(self, path: str, what: str) -> str:
        """Return a marked text that a person must write."""
        self.to_do.append((path, what))
        return MARK + what

    def guess(self, path: str, value: Any, why: str) -> Any:
        """Return a value that the schema needs and a person must check."""
        self.to_do.append((path, f"is {value!r}: {why}"))
        return value


def _body(draft: _Draft, export: Export, facts: _Facts, claim: _Claim) -> dict[str, Any]:
    return {
        "url_slug": _slug(f"{claim.name} {export.verified.tenant} {claim.at[:4]}"),
        "deployment": {
            "basic": _basic(draft, export, facts, claim),
            "dp_variant": _variant(draft, facts),
            "privacy_loss": _privacy_loss(draft, facts, claim),
            "deployment_model": _model(draft, facts, claim),
            "accounting": _accounting(draft, facts),
            "implementation": _implementation(draft, facts, claim),
            "administrative": {
                "status": "Draft",
                "registry_authors": [draft.mark("administrative.registry_authors", "who wrote this entry")],
                "tier": draft.guess("administrative.tier", 2, "3, when all marks are filled in"),
            },
        },
    }


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _basic(draft: _Draft, export: Export, facts: _Facts, claim: _Claim) -> dict[str, Any]:
    product = "Machine learning model" if claim.is_training else "Summary statistics"
    purpose = (facts.decision or {"request": {}})["request"].get("purpose")
    if isinstance(purpose, str) and purpose:
        use = draft.guess("basic.intended_use", purpose, "the purpose that the run was declared with")
    else:
        use = draft.mark("basic.intended_use", "what the data product is meant for")
    title = facts.about.get("title") or claim.name
    described = facts.about.get("description")
    curator = {
        "data_curator_name": export.verified.tenant,
        "data_curator_type": draft.guess(
            "basic.data_curators.0.data_curator_type", "Industry", "or Government, or Nonprofit"
        ),
    }
    draft.guess("basic.data_curators.0.data_curator_name", export.verified.tenant, "the tenant's name in the ledger")
    return {
        "name": title if facts.decision is None else f"{title}, run {facts.decision['run']}",
        "data_curators": [curator],
        "description": described or draft.mark("basic.description", "what the data product is"),
        "intended_use": use,
        "data_product_type": draft.guess("basic.data_product_type", product, "by the mechanisms that were used"),
        "data_product_region": draft.mark("basic.data_product_region", "what region the data describes"),
        "publication_date": draft.guess(
            "basic.publication_date", claim.at[:10], "when the last run was settled, or approved if none was"
        ),
    }


def _variant(draft: _Draft, facts: _Facts) -> dict[str, Any]:
    domain = draft.mark("dp_variant.data_domain", "which datasets could have been there: columns, their ranges")
    unprotected = draft.mark("dp_variant.unprotected_quantities", "what is published with no protection, if anything")
    if facts.registered["size"] is not None:
        unprotected += f" (the ledger was told the size of the dataset, {facts.registered['size']:,}, as public)"
    return {"variant_name": "Approximate DP", "data_domain": domain, "unprotected_quantities": unprotected}


ADJACENT: Final = {
    "add_or_remove_one": "Datasets are adjacent if one is the other without one {unit} and all that belongs to it.",
    "replace_one": "Datasets are adjacent if one has another {unit} in the place of one of the other's.",
    "zero_out": (
        "Datasets are adjacent if one is the other with all that belongs to one {unit} replaced by nothing: it"
        " contributes zero, and the number of {unit}s is public and the same."
    ),
}


def _privacy_loss(draft: _Draft, facts: _Facts, claim: _Claim) -> dict[str, Any]:
    unit = facts.registered["privacy_unit"]
    epsilon = gdp_epsilon(claim.amount, claim.at_delta)
    parameters: dict[str, float] = {"delta": claim.at_delta}
    if math.isfinite(epsilon):
        parameters["epsilon"] = epsilon
    else:
        draft.mark(
            "privacy_loss.privacy_parameters.epsilon", "there is no epsilon at this delta; choose a larger delta"
        )
    words = [claim.words, "Epsilon is rounded up; every (mu, delta) implies an (epsilon, delta) for each larger delta."]
    if facts.registered["bound"] == "clt":
        words.append("All of it is an estimate by the central limit theorem, not a guarantee: the loss can be higher.")
    loss = {
        "privacy_unit": unit,
        "privacy_unit_details": ADJACENT[facts.registered["adjacency"]].format(unit=unit),
        "privacy_parameters": dict(sorted(parameters.items(), reverse=True)),
        "privacy_parameters_details": "\n\n".join(words),
    }
    if unit == "record" and facts.registered["size"] is not None:
        loss["number_of_privacy_units"] = facts.registered["size"]
    return loss


def _model(draft: _Draft, facts: _Facts, claim: _Claim) -> dict[str, Any]:
    many = "Many releases" if claim.is_many else "One release"
    source = "Dynamic" if facts.has_new_partitions else "Static"
    section = "deployment_model"
    return {
        "model_name": draft.guess(f"{section}.model_name", "Central", "who runs the mechanisms sees the data"),
        "actors": draft.mark(f"{section}.actors", "who sees data or results, and why they are trusted"),
        "release_type": draft.guess(f"{section}.release_type", many, "by how many runs were settled"),
        "data_source_type": draft.guess(f"{section}.data_source_type", source, "by whether partitions were added"),
        "access_type": draft.guess(f"{section}.access_type", "Non-interactive", "or Interactive"),
    }


def _accounting(draft: _Draft, facts: _Facts) -> dict[str, str]:
    words = (
        "Every run is approved before it uses data, if mu² and -log(1 - delta) of all runs together stay within limits"
        " that were fixed in advance: a privacy filter for Gaussian differential privacy, which is valid even if runs"
        " are chosen after seeing the outputs of earlier ones. Concurrent runs count together."
    )
    if facts.registered.get("is_partitioned"):
        words += " Disjoint partitions compose in parallel."
    post = draft.mark("accounting.post_processing", "what was done to the results afterwards")
    return {"composition": words, "post_processing": post}


def _implementation(draft: _Draft, facts: _Facts, claim: _Claim) -> dict[str, str]:
    listed = Counter(claim.mechanisms).most_common(MECHANISMS_MAX)
    lines = [f"- {count:,} × `{mechanism}`" for mechanism, count in listed]
    left = len(claim.mechanisms) - len(listed)
    lines += [f"- and {left:,} other kinds of runs"] if left else []
    decision = facts.decision
    lines += [f"- assumed: {text}" for text in (decision["assumptions"] if decision is not None else ())]
    _note = facts.codes if decision is None else {}
    if decision is not None and isinstance(decision["request"].get("code"), dict):
        only = _Facts()
        _note_code(only, decision["request"]["code"])
        _note = only.codes
    lines += [f"- code: {code}" for code in _note]
    section = "implementation"
    lines.append(
        "- " + draft.mark(f"{section}.mechanisms", "library and version; floating point, timing, access to the data")
    )
    return {
        "preprocessing_and_hyperparameter_tuning": draft.mark(
            f"{section}.preprocessing_and_hyperparameter_tuning",
            "what was done to the data before, how parameters were chosen, and whether that was charged",
        ),
        "mechanisms": "\n".join(lines),
        "justification": draft.mark(f"{section}.justification", "why these choices were made, and by whom"),
    }


def _put_accounting(draft: _Draft, deployment: dict[str, Any], layout: Layout) -> None:
    """Put composition and post-processing where this version of the schema has them."""
    if layout == "accounting":
        return
    deployment["implementation"] |= deployment.pop("accounting")
    draft.to_do = [(path.replace("accounting.", "implementation."), what) for path, what in draft.to_do]


# --- YAML ------------------------------------------------------------------------------------------------------------


def as_json(entry: RegistryEntry) -> str:
    """Return the entry as JSON text."""
    return json.dumps(entry.body, ensure_ascii=False, indent=2) + "\n"


def as_yaml(entry: RegistryEntry) -> str:
    """Return the entry as YAML, with literal blocks for texts of several lines, as the registry asks."""
    return yaml.dump(entry.body, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=math.inf)


class _Dumper(yaml.SafeDumper):
    """Write a text of several lines as a literal block, if YAML allows that."""


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)
