"""Bodies that mean harm, or nothing: they are refused with the name of the field, and leave no trace."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable

import pytest

from ledger.api.problems import STATUS
from tests.kit.hostile import (
    HOSTILE,
    MECHANISMS,
    OF_A_FORM,
    SEED,
    Call,
    Place,
    Target,
    at,
    calls,
    dotted,
    is_as_expected,
    is_fine,
    leaves,
    problem_of,
    replaced,
    with_member,
    without,
)


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
    chosen = random.Random(f"{SEED} {request.node.name}").sample(cases, tries(200, len(cases)))
    for call, path, raw in chosen:
        answer = target.send(call, replaced(call.body, path, raw))
        if not 400 <= answer.status_code < 500 or not is_as_expected(path, raw, problem_of(answer)):
            wrong.append(f"{call.name} {dotted(path)} = {raw[:30]}: {answer.status_code} {answer.text[60:200]}")
    assert not wrong, "\n".join(wrong[:20])
    assert target.is_untouched()


MAY_BE_ABSENT = {
    *("title", "description", "size", "bound", "derived_from", "expires_at", "state", "delta", "segments", "purpose"),
    *("labels", "labels.team", "code", "valid_for", "steps", "stop", "evidence", "evidence.log", "report_deltas"),
    *("size_differs", "mechanism.dataset_size", "mechanism.parts.0.dataset_size"),
    *("budget.slack", "mechanism.count", "mechanism.parts.0.count"),
    *("ceiling", "ceiling.delta", "partitions", "datasets.0.partitions", "project", "held", "held.delta"),
    *("runs_per_hour", "atomic", "models"),
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
            surprise: object = [] if path[-1:] == ("labels",) else 1  # a label may have any name
            body = with_member(call.body, (*path, "surprise"), surprise)
            unknown = problem_of(reader.send(call, json.dumps(body).encode()))
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
    "fraction": b"-1.5",
    "number with an exponent": b"1e9",
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
