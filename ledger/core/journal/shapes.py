"""Which members an entry of each kind and version has: exactly these, because a ledger writes no others."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple
from uuid import UUID

from ledger.core.journal.chain import Demand

_COMMON: Final = frozenset({"v", "tenant", "seq", "at", "prev", "kind", "actor"})
_OF_DATASET: Final = frozenset({"dataset", "dataset_id"})
_BALANCES: Final = frozenset({"balance", "accounts"})


class Shape(NamedTuple):
    """The required members, and the optional ones."""

    required: frozenset[str]
    optional: frozenset[str] = frozenset()

    def fits(self, members: Iterable[str]) -> bool:
        """Return whether an object has all required members, and no unknown ones."""
        names = set(members)
        return self.required <= names <= self.required | self.optional


def _shape(required: str, optional: str = "") -> Shape:
    return Shape(frozenset(required.split()), frozenset(optional.split()))


_COSTED: Final = "request cost idempotency_key bound adjacency method assumptions accountant"
_OF_RUN: Final = "project segments delta residual expected_batch warnings proposal"
_REGISTERED: Final = "title description privacy_unit adjacency bound size budget limit state"

_WEAK: Final = "accepts_weak_protection"
"""A steward stated that the weak protection of a budget is acceptable; there only if it was necessary."""

DATASET_KINDS: Final[Mapping[str, Shape]] = {
    "dataset-registered": _shape(
        f"{_REGISTERED} is_partitioned derived_from costing", f"ceiling ceiling_limit {_WEAK}"
    ),
    "dataset-changed": _shape("", "state title description reason proposal costing"),
    "budget-set": _shape("budget limit limit_before reason", f"proposal lost state {_WEAK}"),
    "partitions-added": _shape("names disjoint limit", "proposal reason"),
    "project-set": _shape("project budget limit limit_before", "reason proposal"),
    "fair-use-set": _shape("fair_use reason", "proposal"),
    "run-approved": _shape(f"run {_COSTED} via start_by begin_by", f"{_OF_RUN} together"),
    "run-refused": _shape(f"run {_COSTED} via binding binding_elsewhere", _OF_RUN),
    "run-started": _shape("run settle_by begin_by", "token_sha256"),
    "run-settled": _shape(
        "run request steps stop charged returned accountant",
        "overrun state restarts assumptions report reason proposal kept kept_for models",
    ),
    "run-reported": _shape("run request steps stop overrun state"),
    "run-voided": _shape("run request returned", "proposal kept kept_for independent"),
    "run-corrected": _shape(
        "run request number replaces before cost charged late returned fits frozen method assumptions accountant",
        "project delta residual state proposal",
    ),
    "run-entered": _shape(f"run {_COSTED} via fits frozen", "delta residual expected_batch warnings state"),
    "change-proposed": _shape("proposal what proposes approve_by", "about_run"),
    "proposal-refused": _shape("proposal what reason"),
}
"""For a dataset's journal: the members of each kind, in addition to those of every entry and the balances."""

_BY_DIGEST: Final = frozenset({"request_in", "request_sha256"})
"""In place of `request`, since version 4: its journal, and its digest."""

_OF_VERSION_4: Final[Mapping[str, Shape]] = {
    **{kind: shape for kind, shape in DATASET_KINDS.items() if kind not in ("run-corrected", "run-entered")},
    "dataset-registered": _shape(f"{_REGISTERED} is_partitioned derived_from", "ceiling ceiling_limit"),
    "dataset-changed": _shape("", "state title description reason proposal"),
    "budget-set": _shape("budget limit limit_before reason", "proposal"),
    "partitions-added": _shape("names disjoint limit", "proposal"),
    "run-approved": _shape(f"run {_COSTED} via start_by begin_by", "project segments delta"),
    "run-refused": _shape(f"run {_COSTED} via binding binding_elsewhere", "project segments delta"),
    "run-settled": _shape(
        "run request steps stop charged returned accountant",
        "overrun state restarts assumptions report reason proposal",
    ),
    "run-started": _shape("run settle_by begin_by"),
    "run-voided": _shape("run request returned", "proposal"),
}

_OF_VERSION_2: Final[Mapping[str, Shape]] = {
    **{kind: shape for kind, shape in _OF_VERSION_4.items() if kind != "run-reported"},
    "partitions-added": _shape("names disjoint limit"),
    "project-set": _shape("project budget limit limit_before", "reason"),
    "fair-use-set": _shape("fair_use reason"),
    "run-approved": _shape(f"run {_COSTED} via start_by", "project segments delta"),
    "run-started": _shape("run settle_by"),
    "run-settled": _shape("run request steps stop charged returned", "overrun state"),
}

_OF_VERSION_1: Final[Mapping[str, Shape]] = {
    "dataset-registered": _shape(f"account {_REGISTERED}"),
    "dataset-changed": _shape("", "state title description reason"),
    "budget-set": _shape("budget limit limit_before reason"),
    "run-approved": _shape(f"run {_COSTED} start_by", "delta"),
    "run-refused": _shape(f"run {_COSTED} binding", "delta"),
    "run-started": _shape("run settle_by"),
    "run-settled": _shape("run request steps stop charged returned"),
    "run-voided": _shape("run request returned"),
}

_OF_VERSION: Final = {1: _OF_VERSION_1, 2: _OF_VERSION_2, 3: _OF_VERSION_4, 4: _OF_VERSION_4}

TENANT_KINDS: Final[Mapping[str, Shape]] = {
    "tenant-made": _shape("name"),
    "key-made": _shape("made principal name key_role datasets projects expires_at"),
    "key-rotated": _shape("made principal name key_role datasets projects expires_at rotates old_ends_at"),
    "key-revoked": _shape("revokes"),
    "policy-set": _shape("second_steward reason", "guards"),
    "alerting-set": _shape("thresholds refusals_in_a_row forecast_days webhook heads reason"),
}
"""For a tenant's own journal."""

_ACTOR: Final = _shape("key principal name role")
_OPERATOR: Final = _shape("name role", "key")
_BALANCE: Final = _shape("limit spent held overdrawn", "slack")
_GROUP: Final = _shape("limit spent held overdrawn", "partitions project principal slack")

_PARTS: Final[Mapping[str, Shape]] = {
    "actor": _ACTOR,
    "balance": _BALANCE,
    "fair_use": _shape("held runs_per_hour limit", "waits_above_percent"),
    "segments": _shape("count steps cost unsegmented"),
    "residual": _shape("base costs", "level by"),
    "together": _shape("first runs"),
    "expected_batch": _shape("size units", "least"),
    "request_in": _shape("id dataset seq"),
    "lost": _shape("first seq hash runs"),
    "overrun": _shape("steps cost fits frozen method assumptions accountant", "delta repeated beyond_limits residual"),
}
_LATE_RESIDUAL: Final = _shape("base costs", "level")
_TEXTS: Final = _shape(
    "dataset title description privacy_unit reason project idempotency_key method accountant name"
).required
_PROPOSES: Final[Mapping[str, Shape]] = {
    "budget": DATASET_KINDS["budget-set"]._replace(optional=frozenset([_WEAK, "lost"])),
    "thaw": _shape("state", "title description reason costing"),
    "void": _shape("request"),
    "partitions": _shape("names disjoint", "reason"),
    "project": _shape("project budget limit limit_before", "reason"),
    "fair-use": _shape("fair_use reason"),
    "correction": _shape("request report reason"),
    "run": _shape(f"{_COSTED} waits_for", "project segments delta expected_batch warnings"),
}
_PROPOSES_CORRECTED: Final = _shape("request number", "lowers")
"""Of a proposal to correct a settled run, whose kind is that of one to correct a reported number."""
_SECONDED: Final = _shape("id by at", "reason")
_SECONDED_RUN: Final = _shape("id by at approved_by", "reason")


def demand_dataset_entry(entry: Mapping[str, Any], demand: Demand) -> None:
    """Check that an entry of a dataset's journal has the members of its kind and version, each in its form."""
    kinds = _OF_VERSION.get(entry["v"], DATASET_KINDS)
    shape = _of_kind(kinds, entry, demand)
    is_balanced = "balance" in entry or entry["v"] > 1
    members = set(entry) - _COMMON - _OF_DATASET - (_BALANCES if entry["v"] > 1 else {"balance"})
    if entry["v"] > 3 and members >= _BY_DIGEST:
        demand("request" not in members, "contains its request, and names another journal that has it")
        members = members - _BY_DIGEST | {"request"}
    demand(is_balanced and shape.fits(members) and entry.keys() >= _OF_DATASET, _other_members(entry))
    _demand_parts(entry, demand)
    demand(
        all(is_id(entry["actor"][name]) for name in ("key", "principal")),
        "has an actor in a form that no ledger writes",
    )
    for group in entry.get("accounts", ()):
        demand(_GROUP.fits(group), "has a balance with members that no ledger writes")
    if entry["kind"] == "change-proposed":
        _demand_proposed(entry, demand)
    elif entry["kind"] != "proposal-refused" and "proposal" in entry:
        proposal, is_of_run = entry["proposal"], entry["kind"] in ("run-approved", "run-refused")
        is_stated = (_SECONDED_RUN if is_of_run else _SECONDED).fits(proposal)
        demand(is_stated, "does not state who proposed it, and when")
        people = [proposal[name] for name in ("by", "approved_by") if name in proposal]
        demand(all(map(_ACTOR.fits, people)), "has a proposer in a form that no ledger writes")
        demand(isinstance(proposal.get("reason", ""), str), "has a reason that is not text")


def demand_tenant_entry(entry: Mapping[str, Any], demand: Demand) -> None:
    """Check that an entry of a tenant's own journal has the members of its kind."""
    shape = _of_kind(TENANT_KINDS, entry, demand)
    demand(shape.fits(set(entry) - _COMMON), _other_members(entry))
    actor = entry["actor"]
    demand(
        (_OPERATOR if actor["role"] == "operator" else _ACTOR).fits(actor),
        "has an actor in a form that no ledger writes",
    )
    _demand_texts(entry, demand)


def _of_kind(kinds: Mapping[str, Shape], entry: Mapping[str, Any], demand: Demand) -> Shape:
    kind = entry["kind"]
    demand(kind in kinds, f"has the unknown kind {kind!r}")
    return kinds[kind]


def _other_members(entry: Mapping[str, Any]) -> str:
    return f"has other members than a {entry['kind']} of version {entry['v']}"


def _demand_parts(entry: Mapping[str, Any], demand: Demand) -> None:
    for name, shape in _PARTS.items():
        if name in entry:
            demand(shape.fits(entry[name]), f"has members in {name!r} that no ledger writes")
    if "residual" in entry.get("overrun", ()):
        is_table = _LATE_RESIDUAL.fits(entry["overrun"]["residual"])
        demand(is_table, "has members in an overrun's table that no ledger writes")
    _demand_texts(entry, demand)
    for name, is_it in _FORMS.items():
        demand(name not in entry or is_it(entry[name]), f"has a value in {name!r} that no ledger writes")


def _demand_texts(entry: Mapping[str, Any], demand: Demand) -> None:
    for name in _TEXTS & entry.keys():
        demand(isinstance(entry[name], str), f"has a {name!r} that is not text")


def _demand_proposed(entry: Mapping[str, Any], demand: Demand) -> None:
    what = entry["what"]
    demand(what in _PROPOSES, "proposes a change that needs no second person")
    is_settled = what == "correction" and "number" in entry["proposes"]
    shape = _PROPOSES_CORRECTED if is_settled else _PROPOSES[what]
    demand(shape.fits(entry["proposes"]), "proposes a change other than the one it names")
    demand(entry["proposes"].get("lowers", True) is True, "has a value in 'lowers' that no ledger writes")
    is_of_run = what in ("void", "correction", "run")
    demand(("about_run" in entry) == is_of_run, "proposes a change about a run that is not about one, or the reverse")


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def is_id(value: Any) -> bool:
    """Return whether that is an id in the form that a ledger writes."""
    return isinstance(value, str) and str(UUID(value)) == value


def _is_seq(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


_MODEL: Final = _shape("name sha256 size")


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


def _is_model(value: Any) -> bool:
    is_one = isinstance(value, dict) and _MODEL.fits(value)
    return is_one and isinstance(value["name"], str) and _is_sha256(value["sha256"]) and _is_count(value["size"])


def _is_lost(value: Any) -> bool:
    runs = value["runs"]
    is_list = isinstance(runs, list) and all(isinstance(run, dict) and set(run) == {"run", "cost"} for run in runs)
    ids = [run["run"] for run in runs] if is_list else []
    is_sorted = all(map(is_id, ids)) and ids == sorted(set(ids))
    return is_list and is_sorted and _is_seq(value["first"]) and _is_seq(value["seq"]) and _is_sha256(value["hash"])


def _is_models(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_model, value))


_FORMS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "run": is_id,
    "about_run": is_id,
    "request": lambda value: isinstance(value, dict),
    "request_in": lambda value: is_id(value["id"]) and isinstance(value["dataset"], str) and _is_seq(value["seq"]),
    "request_sha256": _is_sha256,
    "token_sha256": _is_sha256,
    "models": _is_models,
    "lost": _is_lost,
    "steps": lambda value: value is None or _is_count(value),
    "stop": lambda value: value in ("planned", "data_independent", "data_dependent"),
    "state": lambda value: value in ("active", "frozen", "retired"),
    "bound": lambda value: value in ("certified", "clt"),
    "adjacency": lambda value: value in ("add_or_remove_one", "replace_one", "zero_out"),
    "size": lambda value: value is None or _is_count(value),
    "is_partitioned": lambda value: isinstance(value, bool),
    "costing": lambda value: value in ("standalone", "residual"),
    "independent": lambda value: value is True,
    "number": _is_seq,
    "replaces": lambda value: isinstance(value, bool),
    "fits": lambda value: isinstance(value, bool),
    "frozen": _is_texts,
    _WEAK: lambda value: value is True,
    "together": lambda value: _is_seq(value["first"]) and _is_seq(value["runs"]),
    "expected_batch": lambda value: _is_seq(value["units"]),
    "warnings": lambda value: _is_texts(value) and bool(value),
    "kept_for": lambda value: _is_texts(value) and bool(value),
    "via": _is_texts,
    "names": _is_texts,
    "assumptions": _is_texts,
    "binding": _is_texts,
    "binding_elsewhere": _is_texts,
}
