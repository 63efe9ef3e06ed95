"""Valid bodies of every call that takes one, and what is done to them to test what is refused.

The corpus is generated: every value of every valid body is replaced by every hostile value, as raw JSON text, since no
encoder would write most of them. What a place takes all the same stands in `FINE`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ledger.api.problems import STATUS
from tests.kit.driver import MNIST, RELEASE, Ledger

SEED = 20261123
ID = "{id}"
"""Stands in a path for the run that was started."""

Place = tuple[str | int, ...]


# --- valid bodies ----------------------------------------------------------------------------------------------------


MECHANISMS: dict[str, dict[str, Any]] = {
    "rate": {"type": "dpsgd", "noise_multiplier": 20, "sampling": "poisson", "sample_rate": 0.01, "steps": 10},
    "epochs": {
        "type": "dpsgd",
        "noise_multiplier": 20,
        "sampling": "fixed_size",
        "dataset_size": 60_000,
        "batch_size": 256,
        "epochs": 1.5,
    },
    "gaussian": {"type": "gaussian", "noise_multiplier": 50, "count": 2},
    "laplace": {"type": "laplace", "noise_multiplier": 50, "count": 2},
    "pure": {"type": "pure_dp", "epsilon": 0.01, "count": 2},
    "approximate": {"type": "approximate_dp", "epsilon": 0.01, "delta": 1e-9, "count": 2},
    "gdp": {"type": "gdp", "mu": 0.01, "delta": 1e-9, "evidence": "Theorem 3"},
    "composed": {"type": "composed", "parts": [{"type": "gaussian", "noise_multiplier": 50}]},
}
MORE_IS_FINE: dict[str, Any] = {"gdp": {"fine": {"mechanism.delta": ("0",)}, "absent": ("mechanism.delta",)}}
RUN: dict[str, Any] = {
    **RELEASE,
    "delta": 1e-8,
    "segments": 1,
    "purpose": "baseline",
    "labels": {"team": "vision"},
    "code": {"repository": "git.example.org/vision", "commit": "0a1b2c"},
    "valid_for": "P1D",
}
DATASET: dict[str, Any] = {
    **MNIST,
    "name": "another",
    "title": "Another",
    "description": "One more.",
    "derived_from": [],
    "budget": {"epsilon": 3, "at_delta": 1e-5, "slack": 0.1},
}


@dataclass(frozen=True, slots=True)
class Call:
    """A writing call with a valid body."""

    method: str
    path: str
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)
    fine: dict[str, tuple[str, ...]] = field(default_factory=dict)
    absent: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"


def calls() -> list[Call]:
    """Every call that takes a body, each way of it."""
    key = {"Idempotency-Key": "hostile"}
    return [
        Call("POST", "/v1/tenants", {"name": "globex"}),
        Call(
            "POST",
            "/v1/keys",
            {"name": "ci", "role": "requester", "datasets": ["mnist"], "expires_at": "2100-01-01T00:00:00Z"},
            fine={"datasets": ("null",)},
            absent=("datasets",),
        ),
        Call(
            "PUT",
            "/v1/alerting",
            {"thresholds": [50, 80], "refusals_in_a_row": 3, "forecast_days": 30, "webhook": None, "reason": "r"},
            fine={
                "thresholds": ("[]", "[1]"),
                "refusals_in_a_row": ("null",),
                "forecast_days": ("null",),
                "webhook": ("null",),
            },
            absent=("thresholds", "refusals_in_a_row", "forecast_days", "webhook"),
        ),
        Call("POST", "/v1/datasets", DATASET),
        Call("POST", "/v1/datasets", {**DATASET, "budget": {"mu": 1, "delta": 1e-6}, "bound": "certified"}),
        Call(
            "POST",
            "/v1/datasets",
            {
                **MNIST,
                "name": "parted",
                "budget": {"mu": 1, "delta": 1e-6},
                "ceiling": {"mu": 2, "delta": 1e-6},
                "partitions": ["a", "b"],
            },
            fine={"budget.delta": ("0", "null")},
            absent=("budget.delta",),
        ),
        Call(
            "POST",
            "/v1/datasets",
            {"name": "derived", "derived_from": [{"name": "mnist", "unit_preserving": True}]},
            fine={"derived_from.0.unit_preserving": ("true",), "derived_from": ()},
        ),
        Call("POST", "/v1/datasets/mnist/partitions", {"names": ["a", "b"], "disjoint": True}),
        Call(
            "PUT",
            "/v1/datasets/mnist/projects/ranking",
            {"budget": {"mu": 1, "delta": 1e-6}, "reason": "r"},
            fine={"budget.delta": ("0", "null"), "reason": (A_TEXT, "null")},
            absent=("budget.delta", "reason"),
        ),
        Call(
            "PUT",
            "/v1/datasets/mnist/fair-use",
            {"held": {"mu": 1, "delta": 1e-6}, "runs_per_hour": 5, "reason": "r"},
        ),
        Call(
            "POST",
            "/v1/runs/batch",
            {"runs": [{**RUN, "idempotency_key": "hostile-in-a-batch"}], "atomic": True},
        ),
        Call(
            "POST",
            "/v1/runs",
            {**RELEASE, "datasets": [{"name": "mnist", "partitions": ["a"]}], "segments": 2, "project": "ranking"},
            key,
        ),
        Call("PATCH", "/v1/datasets/mnist", {"state": "frozen", "title": "t", "description": "d", "reason": "r"}),
        Call(
            "PUT",
            "/v1/datasets/mnist/budget",
            {"budget": {"mu": 2, "delta": 1e-6}, "reason": "r"},
            fine={"budget.delta": ("0", "null")},
            absent=("budget.delta",),
        ),
        Call("POST", "/v1/runs", RUN, key),
        *(
            Call("POST", "/v1/runs", {**RELEASE, "mechanism": mechanism}, key, **MORE_IS_FINE.get(name, {}))
            for name, mechanism in MECHANISMS.items()
        ),
        Call(
            "POST",
            f"/v1/runs/{ID}/settle",
            {
                "steps": 1,
                "stop": "planned",
                "models": [{"name": "m", "sha256": "0" * 64, "size": 1}],
                "evidence": {"log": "x"},
            },
            fine={
                "models": ("null",),
                "models.0.name": ('"1.1"',),
                "models.0.size": ("0",),
                "steps": ("0", "null"),  # 0 is of the right kind, though not all that was planned
            },
        ),
        Call("POST", f"/v1/runs/{ID}/void", {"reason": "never started"}),
        Call("POST", "/v1/evaluate", {"mechanism": MECHANISMS["rate"], "bound": "clt", "report_deltas": [1e-5]}),
        *(
            Call("POST", "/v1/evaluate", {"mechanism": mechanism, "delta": 1e-8}, **MORE_IS_FINE.get(name, {}))
            for name, mechanism in MECHANISMS.items()
            if mechanism["type"] != "dpsgd"
        ),
        *(
            Call(
                "POST",
                "/v1/plan",
                {**RELEASE, "mechanism": mechanism, "delta": 1e-8, "solve_for": "runs"},
                fine={"solve_for": ("null",), **MORE_IS_FINE.get(name, {}).get("fine", {})},
                absent=("solve_for", *MORE_IS_FINE.get(name, {}).get("absent", ())),
            )
            for name, mechanism in MECHANISMS.items()
        ),
    ]


# --- what is done to them --------------------------------------------------------------------------------------------


HUGE = "1" + "0" * 400
LONG = json.dumps("x" * 10_001)
NOT_A_NUMBER = ("NaN", "Infinity", "-Infinity")
BEYOND = ("1e400", "1e308", "-1", HUGE, "1" + "0" * 5000, "7" * 10_000, "0." + "1" * 10_000, "1e99999999999999999999")
SMALL = ("0", "1e-400", "0e-999999999", "1e-99999999999999999999")
OF_ANOTHER_TYPE = ('"1.1"', "true", "false", "null", "[]", "{}", "[1]", '{"a":1}', "1.5")
UNFIT_TEXT = (r'"\u0000"', r'"a\ud800b"', r'"\udc00"', LONG, '""')
TWICE = '{"a":1,"a":2}'
HOSTILE = (*NOT_A_NUMBER, *BEYOND, *SMALL, *OF_ANOTHER_TYPE, *UNFIT_TEXT, TWICE)

A_TEXT, NO_TEXT = '"1.1"', '""'
A_SCALAR = ("true", "false", "1.5", "-1", "0")
"""What a label takes as a text."""
FINE: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("name", "privacy_unit", "reason", "code.repository", "code.commit"), (A_TEXT,)),
    **dict.fromkeys(("title", "description"), (A_TEXT, NO_TEXT, "null")),
    **dict.fromkeys(("size", "state", "delta", "segments", "code", "steps", "stop", "report_deltas"), ("null",)),
    **dict.fromkeys(("noise_multiplier", "epsilon", "mu", "epochs"), ("1.5",)),
    "datasets.0": (A_TEXT,),  # a name, if of nothing
    "datasets.0.partitions": ("null",),
    "datasets.0.partitions.0": (A_TEXT,),
    "partitions": ("null", "[]"),
    "partitions.0": (A_TEXT,),
    "partitions.1": (A_TEXT,),
    "names.0": (A_TEXT,),
    "names.1": (A_TEXT,),
    "ceiling": ("null",),
    "bound": ("null",),
    "project": (A_TEXT, "null"),
    "held": ("null",),
    "held.delta": ("0", "null"),
    "ceiling.delta": ("0", "null"),
    "runs_per_hour": ("null",),
    "disjoint": ("true",),
    "atomic": ("true", "false"),
    "idempotency_key": (A_TEXT,),
    "derived_from": ("null", "[]"),
    "expires_at": ("null",),
    "budget.slack": ("null", "0"),
    "budget.delta": ("0",),
    "purpose": (A_TEXT, "null"),
    "labels": ("null", "{}", '{"a":1}'),
    "labels.team": (A_TEXT, *A_SCALAR),
    "evidence": ("null", "{}", '{"a":1}'),
    "evidence.log": ("1e400", "1e308", "-1", "0", "1e-400", *OF_ANOTHER_TYPE, LONG, NO_TEXT),
    "mechanism.evidence": (A_TEXT,),
    "mechanism.delta": (),
}
"""What a place takes of these values, by its path, or by its name alone."""

OF_A_FORM = ("sample_rate", "steps", "dataset_size", "batch_size", "epochs")


def leaves(body: Any, path: Place = ()) -> Iterator[Place]:
    """Every place of a body: of its members, and of theirs."""
    inside = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    for name, value in inside:
        yield (*path, name)
        yield from leaves(value, (*path, name))


def at(body: Any, path: Place) -> Any:
    """What stands at a place of a body."""
    for part in path:
        body = body[part]
    return body


def replaced(body: dict[str, Any], path: Place, raw: str) -> bytes:
    """The body's JSON with raw text at a place of it."""
    changed = copy.deepcopy(body)
    at(changed, path[:-1])[path[-1]] = "the place"
    return json.dumps(changed).replace('"the place"', raw).encode()


def with_member(body: dict[str, Any], path: Place, value: Any) -> dict[str, Any]:
    """A copy of the body with one more member."""
    changed = copy.deepcopy(body)
    at(changed, path[:-1])[path[-1]] = value
    return changed


def without(body: dict[str, Any], path: Place) -> dict[str, Any]:
    """A copy of the body that lacks a member."""
    changed = copy.deepcopy(body)
    del at(changed, path[:-1])[path[-1]]
    return changed


def dotted(path: Place) -> str:
    """A place as an error names it."""
    return ".".join(map(str, path))


def is_fine(call: Call, path: Place, raw: str) -> bool:
    """Whether the body is still valid with this value in this place."""
    path = path[2:] if path[0] == "runs" and len(path) > 2 else path
    where = dotted(path)
    known = (call.fine.get(where), FINE.get(where), FINE.get(str(path[-1])) if len(path) > 1 else None)
    return raw in next((values for values in known if values is not None), ())


def is_as_expected(path: Place, raw: str, problem: dict[str, Any]) -> bool:
    """Whether a refusal has the right status and code, and names the place."""
    place, names = dotted(path), str(problem.get("field"))
    if raw == TWICE:
        return (problem["code"], names) == ("invalid-json", f"{place}.a")
    if path[0] == "runs" and len(path) > 1:
        if path[-1] == "idempotency_key" or (len(path) == 2 and raw.startswith("{")):
            codes = ("idempotency-key-missing", "invalid-request")  # a key, and what nothing may be
            return problem["code"] in codes and names == "runs.0.idempotency_key"
        if len(path) > 2:
            return is_as_expected(path[2:], raw, {**problem, "field": names.removeprefix("runs.0.")})
    if problem["code"] != ("invalid-mechanism" if path[0] == "mechanism" else "invalid-request"):
        return False
    if path == ("derived_from",):  # of what is derived from nothing, more has to be said
        return names in ("derived_from", "privacy_unit") or names.startswith("derived_from.")
    if path[0] == "mechanism" and path[-1] in OF_A_FORM and raw == "null":
        return names == "mechanism"  # which now gives too little, or half of two forms
    # Where an object or a list should stand or does stand, the fault can be further in.
    return names == place or names.startswith(f"{place}.")


# --- how it is sent --------------------------------------------------------------------------------------------------


REPETITIONS = 20
"""A server computes for seconds before it answers 503, so that these are minutes."""


class Target:
    """A ledger with a dataset and two runs on it, one of them started, and a picture of all that they are."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.operator = ledger.with_key(ledger.operator_key)
        ledger.register()
        ledger.ask()
        self.run = ledger.ask(MECHANISMS["epochs"] | {"epochs": 256 / 60_000}).json()["id"]
        assert ledger.post(f"/v1/runs/{self.run}/start").status_code == 200
        self.before = self.picture()

    def picture(self) -> list[Any]:
        """Everything that a tenant can read of itself."""
        shown = ["/v1/datasets", "/v1/datasets/mnist", "/v1/datasets/mnist/entries", "/v1/runs", "/v1/keys"]
        return [self.ledger.get(path).json() for path in shown]

    def send(self, call: Call, content: bytes | Iterator[bytes], **headers: Any) -> Any:
        """Sends a body as it stands."""
        caller = self.operator if call.path == "/v1/tenants" else self.ledger
        given = {"Content-Type": "application/json", **call.headers, **headers}
        path = call.path.replace(ID, self.run)
        return caller.request(
            call.method, path, content=content, headers={k: v for k, v in given.items() if v is not None}
        )

    def answered(self, call: Call, content: bytes, **headers: Any) -> Any:
        """Sends a body again, as its answer says, while what it asks for is still being computed."""
        answer = self.send(call, content, **headers)
        for _ in range(REPETITIONS):
            if answer.status_code != 503:
                break
            assert answer.json()["code"] == "overloaded", answer.text
            answer = self.send(call, content, **headers)
        return answer

    def is_untouched(self) -> bool:
        """Whether nothing changed, and a valid run is approved as ever. To be asked once."""
        same = self.picture() == self.before
        return same and bool(self.ledger.ask().status_code == 201)


def problem_of(answer: Any) -> dict[str, Any]:
    """The problem that an answer is, with a code of the contract that has this status."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text[:500]
    problem: dict[str, Any] = answer.json()
    assert 400 <= answer.status_code < 500, problem
    assert STATUS[problem["code"]] == answer.status_code == problem["status"]
    return problem
