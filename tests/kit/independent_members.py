"""Which members and forms the entries of a journal have, for independent_verifier.py."""

import re
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

TIME = "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}[.][0-9]{6}Z"
DURATION = "P(?:([0-9]+)W|(?:([0-9]+)D)?(?:T(?:([0-9]+)H)?(?:([0-9]+)M)?(?:([0-9]+)(?:[.]([0-9]{1,6}))?S)?)?)"

COMMON = {"v", "tenant", "seq", "at", "prev", "kind", "actor"}
COSTED = "request cost idempotency_key bound adjacency method assumptions accountant"
OF_RUN = "project segments delta residual expected_batch warnings proposal"
ONCE = "title description privacy_unit adjacency bound size budget limit state"
MEMBERS = {
    "dataset-registered": (
        ONCE + " is_partitioned derived_from costing",
        "ceiling ceiling_limit accepts_weak_protection",
    ),
    "dataset-changed": ("", "state title description reason proposal costing"),
    "budget-set": ("budget limit limit_before reason", "proposal accepts_weak_protection lost state"),
    "partitions-added": ("names disjoint limit", "proposal reason"),
    "project-set": ("project budget limit limit_before", "reason proposal"),
    "fair-use-set": ("fair_use reason", "proposal"),
    "run-approved": ("run via start_by begin_by " + COSTED, OF_RUN + " together"),
    "run-refused": ("run via binding binding_elsewhere " + COSTED, OF_RUN),
    "run-started": ("run settle_by begin_by", "token_sha256"),
    "run-settled": (
        "run request steps stop charged returned accountant",
        "overrun state restarts assumptions report reason proposal kept kept_for models",
    ),
    "run-reported": ("run request steps stop overrun state", ""),
    "run-voided": ("run request returned", "proposal kept kept_for independent"),
    "run-entered": ("run via fits frozen " + COSTED, "delta residual expected_batch warnings state"),
    "change-proposed": ("proposal what proposes approve_by", "about_run"),
    "proposal-refused": ("proposal what reason", ""),
    "run-corrected": (
        "run request number replaces before cost charged late returned fits frozen method assumptions accountant",
        "project delta residual state proposal",
    ),
}
MEMBERS_4 = {kind: shape for kind, shape in MEMBERS.items() if kind not in ("run-corrected", "run-entered")} | {
    "dataset-registered": (ONCE + " is_partitioned derived_from", "ceiling ceiling_limit"),
    "dataset-changed": ("", "state title description reason proposal"),
    "budget-set": ("budget limit limit_before reason", "proposal"),
    "partitions-added": ("names disjoint limit", "proposal"),
    "run-approved": ("run via start_by begin_by " + COSTED, "project segments delta"),
    "run-refused": ("run via binding binding_elsewhere " + COSTED, "project segments delta"),
    "run-settled": (
        "run request steps stop charged returned accountant",
        "overrun state restarts assumptions report reason proposal",
    ),
    "run-started": ("run settle_by begin_by", ""),
    "run-voided": ("run request returned", "proposal"),
}
MEMBERS_2 = {kind: shape for kind, shape in MEMBERS_4.items() if kind != "run-reported"} | {
    "partitions-added": ("names disjoint limit", ""),
    "project-set": ("project budget limit limit_before", "reason"),
    "fair-use-set": ("fair_use reason", ""),
    "run-approved": ("run via start_by " + COSTED, "project segments delta"),
    "run-started": ("run settle_by", ""),
    "run-settled": ("run request steps stop charged returned", "overrun state"),
}
MEMBERS_1 = {
    "dataset-registered": ("account " + ONCE, ""),
    "dataset-changed": ("", "state title description reason"),
    "budget-set": ("budget limit limit_before reason", ""),
    "run-approved": ("run start_by " + COSTED, "delta"),
    "run-refused": ("run binding " + COSTED, "delta"),
    "run-started": ("run settle_by", ""),
    "run-settled": ("run request steps stop charged returned", ""),
    "run-voided": ("run request returned", ""),
}
WITHIN = {
    "actor": ("key principal name role", ""),
    "balance": ("limit spent held overdrawn", "slack"),
    "fair_use": ("held runs_per_hour limit", "waits_above_percent"),
    "segments": ("count steps cost unsegmented", ""),
    "overrun": ("steps cost fits frozen method assumptions accountant", "delta repeated beyond_limits residual"),
    "residual": ("base costs", "level by"),
    "lost": ("first seq hash runs", ""),
    "together": ("first runs", ""),
    "expected_batch": ("size units", "least"),
}
OF_OVERRUN = ("base costs", "level")  # of a table there
GROUP = ("limit spent held overdrawn", "partitions project principal slack")
PROPOSES = {
    "budget": ("budget limit limit_before reason", "accepts_weak_protection lost"),
    "thaw": ("state", "title description reason costing"),
    "void": ("request", ""),
    "partitions": ("names disjoint", "reason"),
    "project": ("project budget limit limit_before", "reason"),
    "fair-use": ("fair_use reason", ""),
    "correction": ("request report reason", ""),
    "run": ("waits_for " + COSTED, "project segments delta expected_batch warnings"),
}
PROPOSES_CORRECTED = ("request number", "lowers")
SECONDED = ("id by at", "reason")
SECONDED_RUN = ("id by at approved_by", "reason")
DONE_BY = {"budget": "budget-set", "thaw": "dataset-changed", "void": "run-voided", "partitions": "partitions-added"}
DONE_BY |= {"project": "project-set", "fair-use": "fair-use-set", "correction": "run-settled"}
OF_WAITING = ("request", "idempotency_key", "project", "bound", "adjacency")  # what its decision repeats
BY_DIGEST = {"request_in", "request_sha256"}  # in place of `request`, since version 4
GUARDED_AT_FIRST = {"budget", "thaw", "void"}
TEXTS = {"dataset", "title", "description", "privacy_unit", "reason", "project", "idempotency_key", "method"}
TEXTS |= {"accountant", "name"}
LISTS = {"via", "names", "assumptions", "binding", "binding_elsewhere", "kept_for", "warnings", "frozen"}
ONE_OF = {
    "stop": ("planned", "data_independent", "data_dependent"),
    "state": ("active", "frozen", "retired"),
    "bound": ("certified", "clt"),
    "adjacency": ("add_or_remove_one", "replace_one", "zero_out"),
    "costing": ("standalone", "residual"),
}


def moment(text: str) -> datetime:
    """A time in the one form."""
    if not re.fullmatch(TIME, text, re.ASCII):
        raise ValueError("a time in another form")
    return datetime.fromisoformat(text)


def later(at: str, wait: timedelta) -> str:
    """The time so much later."""
    return (moment(at) + wait).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def duration(text: str) -> timedelta:
    """A duration of ISO 8601 without years and months."""
    match = re.fullmatch(DURATION, text, re.ASCII) if len(text) <= 100 else None
    if match is None:
        raise ValueError("a duration in another form")
    weeks, days, hours, minutes, seconds = (int(part or 0) for part in match.groups()[:5])
    parts = int((match[6] or "").ljust(6, "0"))
    return timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds, microseconds=parts)


def is_count(value: object) -> bool:
    """Whether that is a whole number that is not negative."""
    return type(value) is int and value >= 0


def is_sha256(value: object) -> bool:
    """Whether that is a digest in hexadecimal."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value, re.ASCII) is not None


def is_accounted(entry: dict[str, Any], before: list[int], state: str) -> bool:
    """Whether a new limit is lower by what the runs in lost entries cost, and the dataset waits for a steward. before:
    mu and delta of the limit; state: of the dataset."""
    lost, runs = entry["lost"], {str(UUID(run["run"])): run["cost"] for run in entry["lost"]["runs"]}
    is_enough = lost["runs"] == [{"cost": cost, "run": run} for run, cost in sorted(runs.items())]
    for most, name in zip(before, ("mu_sq_pico", "delta_atto"), strict=True):
        costs = [int(cost[name]) for cost in runs.values()]
        is_enough &= min(costs, default=0) >= 0 and int(entry["limit"][name]) + sum(costs) <= most
    is_placed = is_sha256(lost["hash"]) and 1 <= lost["first"] <= entry["seq"] <= lost["seq"] + 1
    return is_enough and is_placed and entry.get("state") == ("retired" if state == "retired" else "frozen")


def are_models(value: object) -> bool:
    """Whether these are files with their digests and sizes, one at least."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(file, dict)
            and set(file) == {"name", "sha256", "size"}
            and isinstance(file["name"], str)
            and is_sha256(file["sha256"])
            and is_count(file["size"])
            for file in value
        )
    )


FORMS = {
    "number": lambda value: is_count(value) and value > 0,
    "replaces": lambda value: isinstance(value, bool),
    "fits": lambda value: isinstance(value, bool),
    "steps": lambda value: value is None or is_count(value),
    "size": lambda value: value is None or is_count(value),
    "models": are_models,
    "token_sha256": is_sha256,
}
