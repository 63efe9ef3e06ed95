"""Input that means harm, or nothing: it is refused with the name of the field, and leaves no trace.

The corpus is generated: every value of every valid body below is replaced by every hostile value, as raw JSON text,
since no encoder would write most of them. What a place takes all the same stands in `FINE`.
"""

from __future__ import annotations

import base64
import copy
import itertools
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ledger.api.problems import STATUS
from ledger.core.datasets import Adjacency, Bound
from tests.conftest import Templates
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
            {"steps": 1, "stop": "planned", "evidence": {"log": "x"}},
            fine={"steps": ("0", "null")},  # 0 is of the right kind, though not all that was planned
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
FINE: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("name", "privacy_unit", "reason", "labels.team", "code.repository", "code.commit"), (A_TEXT,)),
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
    "labels": ("null", "{}"),
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

    def is_untouched(self) -> bool:
        """Whether nothing changed, and a valid run is approved as ever. To be asked once."""
        same = self.picture() == self.before
        return same and bool(self.ledger.ask().status_code == 201)


@pytest.fixture
def target(ledger: Ledger) -> Target:
    """A target on every kind of database."""
    return Target(ledger)


@pytest.fixture
def reader(templates: Templates, tmp_path: Path) -> Iterator[Target]:
    """A target on SQLite alone, for what is refused before any database is asked."""
    with templates.clone("sqlite", tmp_path) as settings, Ledger.open(settings) as opened:
        yield Target(opened)


def problem_of(answer: Any) -> dict[str, Any]:
    """The problem that an answer is, with a code of the contract that has this status."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text[:500]
    problem: dict[str, Any] = answer.json()
    assert 400 <= answer.status_code < 500, problem
    assert STATUS[problem["code"]] == answer.status_code == problem["status"]
    return problem


# --- bodies ----------------------------------------------------------------------------------------------------------


def test_every_hostile_value_in_every_place(
    target: Target, tries: Callable[[int, int], int], request: pytest.FixtureRequest
) -> None:
    """Goal: no value in any place of any body is taken for another, or fails inside; the refusal names the place.

    Method: replace values of valid bodies by hostile ones (a sample that differs from database to database, or all)
    and read status, code and field of each answer; afterwards all that the tenant sees is as before.
    """
    cases = [
        (call, path, raw)
        for call in calls()
        for path in leaves(call.body)
        for raw in HOSTILE
        if not is_fine(call, path, raw)
    ]
    wrong = []
    chosen = random.Random(f"{SEED} {request.node.name}").sample(cases, tries(2000, len(cases)))
    for call, path, raw in chosen:
        answer = target.send(call, replaced(call.body, path, raw))
        if not 400 <= answer.status_code < 500 or not is_as_expected(path, raw, problem_of(answer)):
            wrong.append(f"{call.name} {dotted(path)} = {raw[:30]}: {answer.status_code} {answer.text[60:200]}")
    assert not wrong, "\n".join(wrong[:20])
    assert target.is_untouched()


MAY_BE_ABSENT = {
    *("title", "description", "size", "bound", "derived_from", "expires_at", "state", "delta", "segments", "purpose"),
    *("labels", "labels.team", "code", "valid_for", "steps", "stop", "evidence", "evidence.log", "report_deltas"),
    *("budget.slack", "mechanism.count", "mechanism.parts.0.count"),
    *("ceiling", "ceiling.delta", "partitions", "datasets.0.partitions", "project", "held", "held.delta"),
    *("runs_per_hour", "atomic"),
}
OF_A_BUDGET = ("budget.mu", "ceiling.mu", "held.mu")


def test_members_that_are_missing_or_unknown(reader: Target) -> None:
    """Goal: a misspelt field is never ignored, and what is needed is asked for by name.

    Method: take each needed member out of each valid body, and put an unknown one into each of its objects.
    """
    for call in calls():
        objects: list[Place] = [(), *(path for path in leaves(call.body) if isinstance(at(call.body, path), dict))]
        for path in objects:
            if path == ("evidence",):  # which is anyone's to fill
                continue
            unknown = problem_of(reader.send(call, json.dumps(with_member(call.body, (*path, "surprise"), 1)).encode()))
            assert unknown["field"] == dotted((*path, "surprise")), (call, path)
            assert "is not a field" in unknown["detail"] or path[-1:] == ("labels",)
        for path in leaves(call.body):
            place, inside = dotted(path), path[2:] if path[0] == "runs" and len(path) > 2 else path
            if isinstance(path[-1], int) or dotted(inside) in MAY_BE_ABSENT or place in call.absent:
                continue
            missing = problem_of(reader.send(call, json.dumps(without(call.body, path)).encode()))
            in_form = inside[0] == "mechanism" and path[-1] in OF_A_FORM
            named = dotted(path[:-1]) if in_form else place
            assert missing["field"] == named or place in OF_A_BUDGET, (call, place, missing)
            code = {"mechanism": "invalid-mechanism", "idempotency_key": "idempotency-key-missing"}
            assert missing["code"] == code.get(str(inside[0]), "invalid-request")
    assert reader.is_untouched()


NO_JSON = {
    "truncated": b'{"name": "x"',
    "trailing": b'{"name": "x"} x',
    "two": b"{}{}",
    "single quotes": b"{'name': 'x'}",
    "comment": b"{} // done",
    "trailing comma": b'{"name": "x",}',
    "byte order mark": b'\xef\xbb\xbf{"name": "x"}',
    "utf-16": '{"name": "x"}'.encode("utf-16"),
    "latin-1": '{"name": "é"}'.encode("latin-1"),
    "overlong": b'{"name": "\xc0\xaf"}',
    "raw surrogate": b'{"name": "\xed\xa0\x80"}',
    "raw zero": b'{"name": "\x00"}',
    "raw newline": b'{"name": "a\nb"}',
    "zeros": bytes(100),
    "leading zero": b'{"name": 01}',
    "hexadecimal": b'{"name": 0x10}',
    "plus": b'{"name": +1}',
    "undefined": b'{"name": undefined}',
    "form": b"name=x",
}
NO_OBJECT = {
    "number": b"1",
    "text": b'"x"',
    "list": b"[]",
    "true": b"true",
    "not a number": b"NaN",
    "huge": b"9" * 10_000,
}


def test_bodies_that_are_no_json_object(reader: Target) -> None:
    """Goal: what is no JSON, or no object, is said to be so. Method: send each such body to each call."""
    for call in calls():
        for name, content in NO_JSON.items():
            assert problem_of(reader.send(call, content))["code"] == "invalid-json", (call, name)
        for name, content in NO_OBJECT.items():
            problem = problem_of(reader.send(call, content))
            assert (problem["code"], problem["field"]) == ("invalid-request", "body"), (call, name)
        if not call.path.endswith("/settle"):  # there, nothing means all that was planned
            for content in (b"", b"null"):
                problem = problem_of(reader.send(call, content))
                assert (problem["code"], problem["field"]) == ("invalid-request", "body"), (call, content)
    assert reader.is_untouched()


@pytest.mark.parametrize("levels", [20, 1000, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_deep_nesting(reader: Target, levels: int, opening: str, closing: str) -> None:
    """Goal: depth is refused, however deep. Method: nest lists and objects, as a body and in each member of each."""
    deep = opening * levels + "1" + closing * levels
    some = deep[:500_000]
    for call in calls():
        bodies = [deep.encode(), some.encode(), *(replaced(call.body, (name,), deep) for name in call.body)]
        for body in bodies:
            assert problem_of(reader.send(call, body))["code"] in ("invalid-json", "too-large"), call
        small = replaced(call.body, (next(iter(call.body)),), opening * 20 + "1" + closing * 20)
        assert problem_of(reader.send(call, small))["field"].startswith(next(iter(call.body)))
    assert reader.is_untouched()


def test_members_that_stand_twice(reader: Target) -> None:
    """Goal: of two values for one field, none is chosen. Method: repeat each member of each object, value and all."""
    for call in calls():
        for path in leaves(call.body):
            if isinstance(path[-1], int):
                continue
            text = json.dumps(with_member(call.body, (*path[:-1], "the place"), at(call.body, path)))
            problem = problem_of(reader.send(call, text.replace('"the place"', json.dumps(path[-1])).encode()))
            assert (problem["code"], problem["field"]) == ("invalid-json", dotted(path)), call
    assert reader.is_untouched()


def test_members_with_unfit_names(reader: Target) -> None:
    """Goal: a name that no database keeps is refused like such a text. Method: add members with such names."""
    for call, name in itertools.product(
        calls(), (r"\u0000", r"\ud800", "x" * 9000, "", "\u202e", "__proto__", "loc.body.0")
    ):
        text = json.dumps(call.body)[:-1] + f', "{name}": 1}}'
        problem = problem_of(reader.send(call, text.encode("utf-8")))
        assert STATUS[problem["code"]] == 422, (call, name)
        assert len(problem["detail"]) < 20_000
    assert reader.is_untouched()


def test_large_bodies(target: Target) -> None:
    """Goal: a body beyond the limit is refused unread, whether or not its size was said; one at the limit is read.

    Method: send 5 MB with a length and in chunks to each call, and a valid body that white space makes just so large.
    """
    large = b'{"name": "' + b"x" * 5_000_000 + b'"}'
    for call in calls():
        for content in (large, iter([large[:3_000_000], large[3_000_000:]])):
            problem = problem_of(target.send(call, content))
            assert (problem["code"], problem["bytes_max"]) == ("too-large", 1024 * 1024)
    assert (
        problem_of(target.ledger.request("POST", f"/v1/runs/{target.run}/start", content=large))["code"] == "too-large"
    )
    assert target.is_untouched()
    call = Call("POST", "/v1/evaluate", {"mechanism": MECHANISMS["gaussian"]})
    body = json.dumps(call.body).encode()
    filled = body + b" " * (1024 * 1024 - len(body))
    assert target.send(call, filled).status_code == 200
    assert target.send(call, iter([filled[:1000], filled[1000:]])).status_code == 200
    assert problem_of(target.send(call, filled + b" "))["code"] == "too-large"


# --- headers ---------------------------------------------------------------------------------------------------------


def test_idempotency_keys(target: Target) -> None:
    """Goal: only 1 to 255 visible ASCII characters are a key. Method: send others, and then the longest that is one."""
    body = json.dumps(RUN).encode()
    bad: tuple[bytes | None, ...] = (
        *(None, b"", b" ", b"a b", b"\t", b"\x7f", b"\x01", b"\xe9", "é".encode(), "鍵".encode(), "🔑".encode()),
        *(b"k" * 256, b"k" * 9000, b"a,b c"),
    )
    for key in bad:
        problem = problem_of(target.send(Call("POST", "/v1/runs", RUN), body, **{"Idempotency-Key": key}))
        assert (problem["code"], problem["field"]) == ("idempotency-key-missing", "Idempotency-Key"), key
    assert target.is_untouched()
    for key in (b"k" * 255, b"!", b"~", b"' OR 1=1; --".replace(b" ", b"+"), b"%00", b"../..", b'"quoted"'):
        assert target.send(Call("POST", "/v1/runs", RUN), body, **{"Idempotency-Key": key}).status_code == 201, key


CONTENT_TYPES = (
    *("text/plain", "text/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "json", "*/*"),
    *(
        "application/json5",
        "application/vnd.api+json",
        "application/xml",
        "application",
        "application/json, text/plain",
    ),
)


def test_content_types(reader: Target) -> None:
    """Goal: only application/json is read as JSON. Method: send each valid body under other types, and under none."""
    for call in calls():
        body = json.dumps(call.body).encode()
        for kind in (*CONTENT_TYPES, "application/é".encode(), None):
            problem = problem_of(reader.send(call, body, **{"Content-Type": kind}))
            assert problem["code"] == "unsupported-media-type", (call, kind)
    assert reader.is_untouched()
    call = Call("POST", "/v1/evaluate", {"mechanism": MECHANISMS["gaussian"]})
    for kind in ("application/json; charset=utf-8", "Application/JSON", "application/json;", " application/json "):
        assert reader.send(call, json.dumps(call.body).encode(), **{"Content-Type": kind}).status_code == 200, kind


def test_authorization(target: Target) -> None:
    """Goal: nothing but one whole key opens anything. Method: send headers that are nearly one, to reads and writes."""
    key = target.ledger.key.encode()
    junk = (
        *(b"", b"Bearer", b"Bearer ", b"Bearer  ", b"Basic " + key, b"Token " + key, key, b"Bearer" + key),
        *(b"Bearer " + key + b" x", b"Bearer x " + key, b"Bearer " + key + b", Bearer " + key, b"Bearer " + key * 2),
        *(
            b"Bearer " + key.upper(),
            b"Bearer " + key[:-1],
            b"Bearer " + key + b"a",
            b"Bearer pbl_",
            b"Bearer " + key[4:],
        ),
        *(b"Bearer " + b"x" * 9000, b"Bearer pbl_" + b"0" * 64, b"Bearer pbl_" + b"=" * 64, b"Bearer pbl_" + b"a" * 64),
        *(b"Bearer pbl_" + "\u07ff".encode() * 32, b"Bearer pbl_\x00" + b"a" * 63, b"Bearer \xff\xfe"),
    )
    for header in junk:
        for method, path in (
            ("GET", "/v1/datasets"),
            ("POST", "/v1/datasets"),
            ("POST", "/v1/tenants"),
            ("GET", "/v1/x"),
        ):
            headers: Any = {"Authorization": header}
            answer = target.ledger.request(method, path, headers=headers, json=DATASET if method == "POST" else None)
            assert problem_of(answer)["code"] == "unauthenticated", header
            assert answer.headers["www-authenticate"].startswith("Bearer")
    assert target.is_untouched()


# --- paths and queries -----------------------------------------------------------------------------------------------

HOSTILE_NAMES = (
    *("%00", "mnist%00", "%0a", "mnist%0A", "%ff", "%ed%a0%80", "%F0%9F%92%A3", "Mnist", "mnist%20", "..", "%2e%2e%2f"),
    *("..%2fmnist", "mnist%2fbudget", "mnist;a=b", "'%20OR%201=1--", "%25", "%", "*", "_", "%c0%af", "a" * 9000),
    *("%E5%90%8D", "null", "-1", "1e400", "%7B%7D", "%5B%5D", "mnist%00.json"),
)
HOSTILE_IDS = (*HOSTILE_NAMES, "0", "00000000-0000-0000-0000-000000000000", "f" * 32, "g" * 32, "1" * 4000, "{id}%00")


def test_names_and_ids_in_paths(target: Target) -> None:
    """Goal: a path finds what it names or nothing. Method: ask each path that names a thing for hostile names of it."""
    change = {"state": "frozen", "reason": "r"}
    budget = {"budget": {"mu": 2}, "reason": "r"}
    for name in HOSTILE_NAMES:
        answers = [
            target.ledger.get(f"/v1/datasets/{name}{rest}")
            for rest in ("", "/entries", "/head", "/export", "/forecast")
        ]
        answers.append(target.ledger.patch(f"/v1/datasets/{name}", change))
        answers.append(target.ledger.put(f"/v1/datasets/{name}/budget", budget))
        for answer in answers:
            if name == "..":  # which the client takes out of the path, so that it is another one
                continue
            assert problem_of(answer)["code"] in ("not-found", "method-not-allowed"), (name, answer.request.url)
    for wrong in HOSTILE_IDS:
        id_ = wrong.replace("{id}", target.run)
        answers = [target.ledger.post(f"/v1/runs/{id_}/{verb}", {"reason": "r"}) for verb in ("start", "void")]
        answers += [target.ledger.post(f"/v1/runs/{id_}/settle", {}), target.ledger.get(f"/v1/runs/{id_}")]
        answers.append(target.ledger.delete(f"/v1/keys/{id_}"))
        for answer in answers:
            if wrong == "..":
                continue
            problem = problem_of(answer)
            assert problem["code"] in ("not-found", "method-not-allowed") or problem["field"] == "id", (wrong, problem)
    assert target.is_untouched()


LISTS = ("/v1/datasets", "/v1/datasets/mnist/entries", "/v1/runs", "/v1/keys", "/v1/alerts")
NO_UUID = "0" * 31


def encoded(text: str) -> str:
    """A cursor as the ledger itself would write it, with this inside."""
    return base64.urlsafe_b64encode(text.encode("utf-8", "surrogatepass")).decode().rstrip("=")


CURSORS = (
    *("", " ", "x", "é", "=", "====", "a" * 500, "a" * 501, "a" * 9000, "////", "\x00", "%00", "null"),
    *map(
        encoded, ("null", "true", "1.5", "-1", "{}", "[]", "[1]", "[[]]", '"\\ud800"', '"\\u0000"', "NaN", "1e400", "x")
    ),
    *map(
        encoded,
        (str(2**63), "9" * 350, "[" * 350, '{"a":' * 60, f'[1,"{NO_UUID}"]', '["1","2"]', '[true,"x"]', "[null,null]"),
    ),
    *map(encoded, ('[1,["x"]]', '{"0":1,"1":"x"}', f'[{2**63},"{NO_UUID}0"]', f'[-1,"{NO_UUID}0"]', '"\\u00e9"')),
)


def test_queries(target: Target) -> None:
    """Goal: a query that means nothing is refused by the name of its parameter, never taken for another.

    Method: limits, cursors and filters of wrong kinds, sizes and shapes, to each list.
    """
    limits = (
        "0",
        "-1",
        "1001",
        "abc",
        "1e3",
        "1.5",
        "",
        "9" * 400,
        "9" * 5000,
        "0x10",
        "NaN",
        "null",
        "\uff11",
        "\x00",
    )
    for path in LISTS:
        for limit in limits:
            problem = problem_of(target.ledger.get(path, limit=limit))
            assert (problem["code"], problem["field"]) == ("invalid-request", "limit"), (path, limit)
        for cursor in CURSORS:
            problem = problem_of(target.ledger.get(path, cursor=cursor))
            assert (problem["code"], problem["field"]) == ("invalid-request", "cursor"), (path, cursor)
    noise = random.Random(SEED)
    for path in LISTS:
        for _ in range(50):
            cursor = base64.urlsafe_b64encode(noise.randbytes(noise.randrange(1, 60))).decode()
            answer = target.ledger.get(path, cursor=cursor)
            assert answer.status_code == 200 or problem_of(answer)["field"] == "cursor", cursor
    filters = {
        "state": ("", "HELD", "held,started", "x" * 9000, "\x00", "1"),
        "dataset": ("", "MNIST", "é", "mnist\n", "mnist\x00", "x" * 9000, "../mnist"),
        "overdue": ("", "maybe", "2", "\x00", "null"),
        "project": ("", "Ranking", "x" * 64, "ranking\x00", "ranking,other"),
    }
    for name, values in filters.items():
        for value in values:
            problem = problem_of(target.ledger.get("/v1/runs", **{name: value}))
            assert (problem["code"], problem["field"]) == ("invalid-request", name), value
    assert target.is_untouched()


# --- valid, and at the edge ------------------------------------------------------------------------------------------

NINES = "0." + "9" * 60
EXTREMES: dict[str, dict[str, tuple[str, ...]]] = {
    "dpsgd": {
        "noise_multiplier": ("1e-12", "0.03", "1.1", "1e12", "1." + "0" * 58 + "1"),
        "sampling": ('"poisson"', '"fixed_size"', '"shuffle"'),
        "sample_rate": ("1e-12", "0.3", "1", NINES),
        "steps": ("1", "1000000000000"),
    },
    "gaussian": {"noise_multiplier": ("1e-12", "1e12", "1000000000000.0"), "count": ("1", "1000000000000")},
    "laplace": {"noise_multiplier": ("1e-12", "1", "1e12"), "count": ("1", "1000000000000")},
    "pure_dp": {"epsilon": ("1e-12", "1", "1e12"), "count": ("1", "1000000000000")},
    "approximate_dp": {"epsilon": ("1e-12", "1e12"), "delta": ("1e-300", NINES), "count": ("1", "1000000000000")},
    "gdp": {"mu": ("1e-12", "1e12"), "delta": ("0", "0.0", "1e-300", NINES), "evidence": ('"x"',)},
}
EPOCHS: dict[str, tuple[str, ...]] = {
    "noise_multiplier": ("0.03", "1.1", "1e12"),
    "sampling": ('"poisson"', '"fixed_size"', '"shuffle"'),
    "dataset_size": ("1", "1000000000000"),
    "batch_size": ("1", "1000000000000"),
    "epochs": ("1e-12", "0.3", "1e12"),
}


def extremes() -> Iterator[str]:
    """The JSON of mechanisms at the ends of every range, in every combination."""
    forms = [*EXTREMES.items(), ("dpsgd", EPOCHS)]
    for kind, form in forms:
        for values in itertools.product(*form.values()):
            members = "".join(f', "{name}": {value}' for name, value in zip(form, values, strict=True))
            yield f'{{"type": "{kind}"{members}}}'
    part = f'{{"type": "approximate_dp", "epsilon": 1e12, "delta": {NINES}, "count": 1000000000000}}'
    yield f'{{"type": "composed", "parts": [{", ".join([part] * 100)}]}}'


@pytest.mark.parametrize("adjacency", ["add_or_remove_one", "replace_one"])
@pytest.mark.parametrize("bound", ["certified", "clt"])
def test_valid_extremes(
    target: Target,
    bound: Bound,
    adjacency: Adjacency,
    tries: Callable[[int, int], int],
    request: pytest.FixtureRequest,
) -> None:
    """Goal: at the edge of what is allowed nothing fails inside, and what was approved can be settled.

    Method: evaluate mechanisms at the ends of every range (a sample, or all), ask for them, start and settle them.
    """
    target.ledger.register(name="edge", bound=bound, adjacency=adjacency, budget={"mu": 1000, "delta": 0.1})
    every = list(extremes())
    chosen = random.Random(f"{SEED} {request.node.name}").sample(every, tries(40, len(every)))
    for number, mechanism in enumerate(chosen):
        said = f'"mechanism": {mechanism}, "bound": "{bound}", "adjacency": "{adjacency}"'
        evaluated = target.send(
            Call("POST", "/v1/evaluate", {}), f'{{{said}, "report_deltas": [1e-300, {NINES}]}}'.encode()
        )
        assert evaluated.status_code == 200 or problem_of(evaluated)["code"] == "invalid-mechanism", mechanism
        asked = target.send(
            Call("POST", "/v1/runs", {}),
            f'{{"datasets": ["edge"], "mechanism": {mechanism}}}'.encode(),
            **{"Idempotency-Key": f"edge-{number}"},
        )
        assert asked.status_code in (201, 409, 422), (mechanism, asked.text)
        if evaluated.status_code == 422:
            assert asked.status_code == 422, mechanism
        elif asked.status_code == 422:
            assert "at least one step" in problem_of(asked)["detail"], mechanism
        if asked.status_code == 201:
            for verb in ("start", "settle"):
                moved = target.ledger.post(f"/v1/runs/{asked.json()['id']}/{verb}")
                assert moved.status_code == 200, (mechanism, moved.text)
    assert target.ledger.get("/v1/runs", dataset="edge").status_code == 200


BUDGETS: tuple[dict[str, tuple[str, ...]], ...] = (
    {"mu": ("1e-12", "1e-6", "1000", "1000.0000000001"), "delta": ("0", "0.0", "1e-300", "0.1", NINES)},
    {
        "epsilon": ("1e-12", "1", "500000", "1e6", "1e12"),
        "at_delta": ("1e-300", "1e-5", "0.5", NINES),
        "slack": ("0", "1e-300", NINES),
    },
)


@pytest.mark.parametrize("bound", ["certified", "clt"])
def test_extreme_budgets(target: Target, bound: Bound) -> None:
    """Goal: a budget at the edge is either set, and then shown, or refused by its field. Method: every combination."""
    number = 0
    for form in BUDGETS:
        for values in itertools.product(*form.values()):
            budget = ", ".join(f'"{name}": {value}' for name, value in zip(form, values, strict=True))
            number += 1
            body = json.dumps({**MNIST, "name": f"edge-{number}", "bound": bound, "budget": 0})
            body = body.replace('"budget": 0', f'"budget": {{{budget}}}')
            answer = target.send(Call("POST", "/v1/datasets", {}), body.encode())
            if answer.status_code == 201:
                assert target.ledger.get(f"/v1/datasets/edge-{number}").json() == answer.json()
            else:
                assert problem_of(answer)["field"].startswith("budget."), budget


def test_part_of_a_step_costs_a_step(reader: Target) -> None:
    """Goal: nobody pays for a millionth of a step and takes a whole one. Method: ask for epochs shorter than a step."""
    a_step = MECHANISMS["rate"] | {"sample_rate": 256 / 60_000, "steps": 1, "sampling": "fixed_size"}
    least = reader.ledger.post("/v1/evaluate", {"mechanism": a_step, "bound": "clt"}).json()["cost"]["mu_sq_pico"]
    for epochs in (1e-12, 0.004):
        asked = reader.ledger.ask(MECHANISMS["epochs"] | {"epochs": epochs})
        if asked.status_code == 201:
            assert int(asked.json()["cost"]["mu_sq_pico"]) >= int(least)
        else:
            problem = problem_of(asked)
            assert problem["code"] == "invalid-mechanism"
            assert "epochs" in problem["detail"]


# --- texts with rules of their own -----------------------------------------------------------------------------------

DURATIONS: tuple[Any, ...] = (
    *(
        "P0D",
        "-P1D",
        "+P1D",
        "P-1D",
        "P1000D",
        "P366DT1S",
        "P",
        "PT",
        "P1DT",
        "P1D1D",
        "PT1H1D",
        "p1d",
        " P1D",
        "P1D ",
        "",
    ),
    *(
        "P1Y",
        "P1M",
        "PT0.0000001S",
        "P1.D",
        "P1,5D",
        "1 day",
        "86400",
        "1",
        "P1D\n",
        "P\uff11D",
        "P" + "9" * 30 + "D",
        "P1H",
        "1:00",
    ),
    *(1, 86400, 1.5, True, [], {}, ["P1D"]),
)


TIMES: tuple[Any, ...] = (
    *("9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+01:00", "2020-01-01T00:00:00Z", "2100-01-01T00:00:00", "now"),
    *("2100-01-01", "2100-13-01T00:00:00Z", "2100-02-30T00:00:00Z", "10000-01-01T00:00:00Z", "4102444800", "", "T"),
    *(4102444800, 4102444800.5, True, [], {}),
)


def test_odd_durations(reader: Target) -> None:
    """Goal: how long an approval lasts is never guessed. Method: durations that are none, or of no certain length."""
    wrong = []
    for valid_for in DURATIONS:
        answer = reader.ledger.ask(valid_for=valid_for)
        if answer.status_code == 201 or problem_of(answer).get("field") != "valid_for":
            wrong.append((valid_for, answer.text))
    assert not wrong
    assert reader.is_untouched()


def test_durations_that_last(reader: Target) -> None:
    """Goal: an approval lasts exactly as long as asked. Method: `start_by` against `created_at`."""
    for valid_for, length in (
        *(("P1D", timedelta(days=1)), ("P2W", timedelta(weeks=2)), ("P366D", timedelta(days=366))),
        *(("PT1H30M", timedelta(minutes=90)), ("P1DT12H", timedelta(hours=36)), ("PT86400S", timedelta(days=1))),
        *(("PT90.500000S", timedelta(seconds=90.5)), ("PT0.000001S", timedelta(microseconds=1))),
    ):
        asked = reader.ledger.ask({"type": "gaussian", "noise_multiplier": 500}, valid_for=valid_for)
        run = reader.ledger.get(f"/v1/runs/{asked.json()['id']}").json()
        lasts = datetime.fromisoformat(run["start_by"]) - datetime.fromisoformat(run["created_at"])
        assert lasts == length, valid_for


def test_odd_times(reader: Target) -> None:
    """Goal: a key's end is a moment that will come, and can be shown. Method: times that are none, or too far."""
    for expires_at in TIMES:
        answer = reader.ledger.post("/v1/keys", {"name": "k", "role": "auditor", "expires_at": expires_at})
        problem = problem_of(answer)
        assert (problem["code"], problem["field"]) == ("invalid-request", "expires_at"), expires_at
    assert reader.is_untouched()


def test_labels(reader: Target) -> None:
    """Goal: labels are few and short. Method: one more than allowed, one longer, and the largest that are taken."""
    for labels, place in (
        ({str(number): "x" for number in range(65)}, "labels"),
        ({"k": "v" * 256}, "labels.k"),
        ({"k": ""}, "labels.k"),
        ({"k" * 64: "v"}, "labels." + "k" * 64),
    ):
        problem = problem_of(reader.ledger.ask(labels=labels))
        assert problem["code"] == "invalid-request"
        assert problem["field"].startswith(place)
    assert reader.is_untouched()
    most = {f"{number:063}": "v" * 255 for number in range(64)}
    run = reader.ledger.ask(labels=most).json()["id"]
    assert reader.ledger.get(f"/v1/runs/{run}").json()["request"]["labels"] == most
