"""What the OpenAPI document says beside FastAPI's own: who may make each call, and with which codes it can fail.

A call has `x-roles`, the roles that may make it (`operator` is the operator's key; no `x-roles` is anyone, without a
key), and `x-codes`, the codes of the problems it can answer with. The reference of the documentation is made of both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from ledger.access import roles
from ledger.api import gate

_KEYED: Final = ("unauthenticated", "forbidden", "rate-limited", "invalid-request")
_ALWAYS: Final = ("overloaded", "internal")
_WITH_BODY: Final = ("invalid-json", "invalid-request", "too-large", "unsupported-media-type")

_DECIDES: Final = frozenset(
    f"{method} /v1/{path}"
    for method, paths in {
        "POST": (
            *("runs", "runs/batch", "datasets", "datasets/{name}/partitions", "datasets/{name}/past-runs"),
            *(f"runs/{{id}}/{verb}" for verb in ("start", "settle", "confirm", "correct", "void")),
            *(f"proposals/{{id}}/{verb}" for verb in ("approve", "refuse")),
        ),
        "PATCH": ("datasets/{name}",),
        "PUT": ("datasets/{name}/budget", "datasets/{name}/projects/{project}", "datasets/{name}/fair-use"),
    }.items()
    for path in paths
)
"""The calls that decide something about a dataset."""

SPECIFIC: Final[Mapping[str, tuple[str, ...]]] = {
    "POST /v1/runs": (
        "budget-exceeded",
        "dataset-frozen",
        "idempotency-key-missing",
        "idempotency-key-reused",
        "invalid-mechanism",
        "not-found",
        "proposal-state",
        "run-waits",
        "unit-mismatch",
    ),
    "GET /v1/runs": ("invalid-mechanism", "not-found"),
    "POST /v1/runs/batch": ("batch-refused", "idempotency-key-missing", "invalid-mechanism"),
    "POST /v1/runs/{id}/start": ("dataset-frozen", "run-state"),
    "POST /v1/runs/{id}/settle": ("overrun", "run-state"),
    "POST /v1/runs/{id}/confirm": ("run-state",),
    "POST /v1/runs/{id}/correct": ("run-state",),
    "POST /v1/runs/{id}/correction": ("invalid-mechanism", "run-state"),
    "POST /v1/runs/{id}/void": ("run-state",),
    "GET /v1/runs/{id}/receipt": ("run-state",),
    "GET /v1/runs/{id}/attestation": ("journal-broken", "run-state"),
    "POST /v1/evaluate": ("invalid-mechanism",),
    "POST /v1/plan": ("invalid-mechanism", "journal-contradicted", "not-found", "unit-mismatch"),
    "POST /v1/plan/runs": ("invalid-mechanism", "not-found", "unit-mismatch"),
    "POST /v1/datasets": ("name-taken", "not-found", "unit-mismatch"),
    "PATCH /v1/datasets/{name}": ("dataset-frozen",),
    "PUT /v1/datasets/{name}/budget": ("budget-below-spent",),
    "POST /v1/datasets/{name}/partitions": ("dataset-frozen", "name-taken", "partitions-closed"),
    "POST /v1/datasets/{name}/past-runs": ("idempotency-key-reused", "invalid-mechanism"),
    "PUT /v1/datasets/{name}/projects/{project}": ("budget-below-spent",),
    **dict.fromkeys(
        (f"GET /v1{scope}/{kind}" for scope in ("", "/datasets/{name}") for kind in ("head", "proof", "consistency")),
        ("journal-broken",),
    ),
    "POST /v1/proposals/{id}/approve": (
        "budget-below-spent",
        "dataset-frozen",
        "invalid-mechanism",
        "name-taken",
        "proposal-state",
        "run-state",
    ),
    "POST /v1/proposals/{id}/refuse": ("proposal-state",),
    "POST /v1/tenants": ("name-taken",),
    "POST /v1/keys/{id}/rotate": ("run-state",),
    "GET /v1/alerts": ("not-found",),
}
"""What a call can fail with beside that which follows from its form, by method and path."""


def describe(document: dict[str, Any], routes: Iterable[BaseRoute]) -> None:
    """Add who may make each call of an OpenAPI document, and its codes."""
    for route in routes:
        if not isinstance(route, APIRoute) or not route.include_in_schema:
            continue
        for method in route.methods or ():
            call = document["paths"][route.path_format][method.lower()]
            allowed = _roles(route.dependant)
            if allowed is not None:
                call["x-roles"] = allowed
            call["x-codes"] = codes(f"{method} {route.path_format}", call, is_keyed=allowed is not None)


def codes(name: str, call: Mapping[str, Any], *, is_keyed: bool) -> list[str]:
    """Return the codes of a call: those that follow from its form, and its own."""
    places = {parameter["in"] for parameter in call.get("parameters", ())}
    found = [*(_KEYED if is_keyed else ()), *_ALWAYS, *SPECIFIC.get(name, ())]
    if "path" in places:
        found.append("not-found")
    if name in _DECIDES:
        found.append("journal-contradicted")
    if "requestBody" in call:
        found += _WITH_BODY
    elif places:
        found.append("invalid-request")
    return sorted(set(found))


def _roles(dependant: Dependant) -> list[str] | None:
    """Return the roles that the dependencies of a route let in; None if the route needs no key."""
    for call in _calls(dependant):
        if isinstance(call, gate.Allowed):
            return sorted(roles.ALLOWED[call.action])
        if call is gate.operator:
            return ["operator"]
        if call is gate.anyone:
            return sorted(roles.ALLOWED["read"] | {"operator"})
    return None


def _calls(dependant: Dependant) -> Iterator[Any]:
    yield dependant.call
    for part in dependant.dependencies:
        yield from _calls(part)
