"""Every mistake that a request can have is described in words of this project, with what was probably meant."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticKnownError
from pydantic_core.core_schema import ErrorType

from ledger import mistakes, suggest
from ledger.accounting import mechanisms
from ledger.api.app import declared_routes
from ledger.api.problems import Unfit, of_validation
from ledger.api.routing import Route, read_body
from ledger.errors import InvalidMechanism, LedgerError
from ledger.service.requests.datasets import NewDataset
from ledger.service.requests.runs import RunRequest
from tests.kit.driver import Ledger

BANNED = re.compile(
    r"\^\[|\[a-z|\\.|Input should|String should|List should|Dictionary should|Value error|Assertion|pattern|regex"
    r"|valid (string|integer|list|dictionary|boolean|number|datetime)|pydantic|NoneType|Decimal\(|<class|[Uu]nable to",
    re.ASCII,
)
"""The words of Pydantic, and what only a programmer of Python reads."""
CONTEXT: dict[str, Any] = {
    **dict.fromkeys(("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "actual_length"), 1),
    "max_digits": 3,
    "decimal_places": 2,
    "whole_digits": 2,
    "nanoseconds": 1,
    "pattern": mistakes.NAME_PATTERN,
    "expected": "'a' or 'b'",
    "expected_tags": "'a', 'b'",
    "tag": "c",
    "discriminator": "'type'",
    "field_type": "List",
    "error": "x",
    "class": "Decimal",
    "class_name": "Model",
    "method_name": "m",
    "attribute": "x",
    "function_name": "f",
    "mode": "m",
    "field": "f",
    "expected_version": 4,
    "expected_schemes": "'https'",
    "parsed_schemes": "x",
    "encoding": "utf8",
    "encoding_error": "x",
    "tz_expected": 0,
    "tz_actual": 1,
}


@pytest.mark.parametrize("kind", sorted(get_args(ErrorType)))
def test_every_kind_of_error_has_words_of_its_own(kind: str) -> None:
    """Goal: no kind of error that Pydantic knows is answered in its words. Method: each kind, with a context of every
    member; the text that Pydantic has for it shows that it is one."""
    error = {
        "type": kind,
        "loc": ("body", "field"),
        "msg": "Input should be Pydantic's",
        "ctx": CONTEXT,
        "input": "A b",
    }
    text = mistakes.message(error)
    assert not BANNED.search(text), text
    assert text
    assert text[0].islower()


def test_the_kinds_are_those_of_pydantic() -> None:
    """Goal: the list of kinds is the library's, not ours. Method: make some of them with it."""
    for kind in ("string_too_short", "literal_error", "missing", "greater_than_equal"):
        assert PydanticKnownError(kind, CONTEXT).message()


# --- every field of every request ------------------------------------------------------------------------------------

WRONG: list[Any] = [
    None,
    True,
    0,
    -1,
    256,
    10**30,
    1.5,
    "",
    "A b",
    "x" * 5000,
    "^[a-z]",
    [],
    ["A b"],
    [1, 1],
    {},
    {"a": 1},
]


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in members:
        yield from _places(item, (*path, name))


def _changed(value: Any, path: tuple[Any, ...], wrong: Any) -> Any:
    if not path:
        return wrong
    changed = copy.deepcopy(value)
    inside = changed
    for part in path[:-1]:
        inside = inside[part]
    inside[path[-1]] = wrong
    return changed


def _mutants(value: Any) -> Iterator[Any]:
    """Yield a body with each of its places made wrong in each way, taken away, and with a field too many."""
    for path in _places(value):
        yield from (_changed(value, path, wrong) for wrong in WRONG)
        inside: Any = value
        for part in path:
            inside = inside[part]
        if isinstance(inside, dict):
            yield _changed(value, path, {**inside, "sigma": 1})
            yield from (_changed(value, path, {n: i for n, i in inside.items() if n != name}) for name in inside)


MECHANISMS: list[dict[str, Any]] = [
    {"type": "dpsgd", "noise_multiplier": 1.1, "sampling": "poisson", "sample_rate": 0.01, "steps": 10},
    {"type": "dpsgd", "noise_multiplier": 1, "sampling": "shuffle", "dataset_size": 9, "batch_size": 3, "epochs": 2},
    *({"type": kind, "noise_multiplier": 5, "count": 2} for kind in ("gaussian", "laplace")),
    {"type": "pure_dp", "epsilon": 0.1, "count": 2},
    {"type": "approximate_dp", "epsilon": 0.1, "delta": 1e-9, "count": 2},
    {"type": "randomized_response", "epsilon": 1, "categories": 10, "count": 1},
    {"type": "zcdp", "rho": 0.1},
    {"type": "gdp", "mu": 0.1, "delta": 0, "evidence": "Theorem 1"},
    {"type": "matrix_factorization", "noise_multiplier": 8, "sensitivity": 2, "evidence": "Table 1"},
    {"type": "composed", "parts": [{"type": "gaussian", "noise_multiplier": 5}, {"type": "zcdp", "rho": 0.1}]},
]
WHOLE: dict[str, list[dict[str, Any]]] = {
    "RunRequest": [
        {
            "datasets": ["mnist", {"name": "b", "partitions": ["p"]}],
            "mechanism": mechanism,
            "delta": 1e-9,
            "segments": 1,
            "project": "p",
            "purpose": "x",
            "labels": {"a": "b"},
            "code": {"repository": "r", "commit": "c"},
            "valid_for": "P1D",
        }
        for mechanism in MECHANISMS
    ],
    "NewDataset": [
        {
            "name": "a",
            "privacy_unit": "record",
            "adjacency": "add_or_remove_one",
            "size": 3,
            "bound": "clt",
            "budget": budget,
            "partitions": ["p"],
            "ceiling": budget,
            "costing": "standalone",
        }
        for budget in ({"mu": 1, "delta": 1e-6}, {"epsilon": 1, "at_delta": 1e-5, "slack": 0.1})
    ],
    "SettleRequest": [
        {
            "steps": 3,
            "stop": "planned",
            "evidence": {"a": 1},
            "restarts": [{"from_step": 1, "to_step": 2, "new_batches": True}],
        }
    ],
}


def _requests() -> list[tuple[Any, list[Any]]]:
    """Every type of body that the application reads, with bodies that it accepts."""
    found: dict[str, tuple[Any, list[Any]]] = {}
    for route in declared_routes():
        if not isinstance(route, Route) or route.body_field is None:
            continue
        annotation: Any = route.body_field.field_info.annotation
        schema = TypeAdapter(annotation).json_schema()
        name = next((one.__name__ for one in mistakes._alternatives(annotation) if hasattr(one, "model_fields")), "")
        examples = WHOLE.get(name) or [schema["example"]] if "example" in schema else WHOLE.get(name, [{}])
        found[name] = annotation, examples
    return list(found.values())


def _messages(body: Any, annotation: Any) -> list[str]:
    """The messages about a body; none if it is accepted."""
    try:
        _, model = read_body(json.dumps(body).encode(), annotation)
    except LedgerError as error:
        return [error.detail]
    errors = of_validation(model.errors).facts["errors"] if isinstance(model, Unfit) else []
    return [item["message"] for item in errors]


def test_every_field_of_every_request_is_described() -> None:
    """Goal: whatever is wrong with whatever field of whatever call, the answer has no regular expression and no word of
    Pydantic. Method: take bodies that each call accepts, and put every kind of wrong value into every place."""
    types = _requests()
    assert len(types) >= 15
    count = 0
    for annotation, examples in types:
        for example in examples:
            for mutant in _mutants(example):
                for text in _messages(mutant, annotation):
                    count += 1
                    assert not BANNED.search(text.replace("'^[a-z]'", "")), (mutant, text)
    assert count > 5000


def test_parameters_are_described(ledger: Ledger) -> None:
    """Goal: the same for what stands in paths and queries. Method: wrong ones of each type."""
    wrong = ({"state": "done"}, {"limit": "x"}, {"limit": 0}, {"overdue": "x"}, {"dataset": "A b"}, {"cursor": "?"})
    for parameters in wrong:
        problem = ledger.get("/v1/runs", **parameters).json()
        assert problem["code"] == "invalid-request", problem
        assert not BANNED.search(problem["detail"]), problem["detail"]
    assert "Did you mean settled?" in ledger.get("/v1/runs", state="done").json()["detail"]
    assert ledger.get("/v1/runs/x").json()["detail"].startswith("id: must be an id, such as ")


# --- what was meant --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("sigma", "noise_multiplier"),
        ("noise", "noise_multiplier"),
        ("noiseMultiplier", "noise_multiplier"),
        ("noise-multiplier", "noise_multiplier"),
        ("noise_multipler", "noise_multiplier"),
        ("q", "sample_rate"),
        ("sampling_rate", "sample_rate"),
        ("lot_size", "batch_size"),
        ("num_epochs", "epochs"),
        ("epcohs", "epochs"),
        ("foo", None),
        ("", None),
        ("x" * 100, None),
    ],
)
def test_the_field_that_was_meant(name: str, meant: str | None) -> None:
    """Goal: other libraries' names and slips of the keyboard lead to the field. Method: some of each; noise leads
    nowhere."""
    assert suggest.nearest(name, mechanisms.DpSgd.model_fields) == meant


@pytest.mark.parametrize(
    ("type_", "meant"),
    [
        *(("dp-sgd", "dpsgd"), ("DPSGD", "dpsgd"), ("dp_ftrl", "matrix_factorization"), ("gausian", "gaussian")),
        *(("approx-dp", "approximate_dp"), ("rr", "randomized_response"), ("magic", None)),
    ],
)
def test_the_type_that_was_meant(type_: str, meant: str | None) -> None:
    """Goal: an unknown kind of mechanism is answered with all kinds, and the one that was meant. Method: some slips."""
    with pytest.raises(InvalidMechanism) as caught:
        mechanisms.parse({"type": type_, "noise_multiplier": 1})
    assert all(repr(kind) in caught.value.detail for kind in mechanisms.BY_TYPE)
    assert (f"Did you mean {meant}?" in caught.value.detail) == (meant is not None)


def errors_of(body: dict[str, Any], model: Any = RunRequest) -> dict[str, str]:
    """The messages about a body, by field."""
    _, found = read_body(json.dumps(body).encode(), model)
    assert isinstance(found, Unfit)
    return {item["field"]: item["message"] for item in of_validation(found.errors).facts["errors"]}


def test_an_unknown_field_comes_first() -> None:
    """Goal: the first message is the one that helps. Method: a required field under another library's name."""
    body = {"datasets": ["a"], "mechanism": {"type": "gaussian", "sigma": 1}}
    _, found = read_body(json.dumps(body).encode(), RunRequest)
    assert isinstance(found, Unfit)
    assert of_validation(found.errors).detail.startswith(
        "mechanism.sigma: is not a field here. Did you mean noise_multiplier? What comes nearest: "
    )


def test_choices_are_listed() -> None:
    """Goal: allowed values are listed if one is missing or wrong. Method: both, at several depths."""
    sgd = {"type": "dpsgd", "noise_multiplier": 1, "sample_rate": 256, "steps": 1}
    found = errors_of({"datasets": ["a"], "mechanism": {"type": "composed", "parts": [sgd]}})
    assert found["mechanism.parts.0.sampling"] == "is required: one of poisson, fixed_size, shuffle"
    assert "256 looks like a batch size" in found["mechanism.parts.0.sample_rate"]
    assert "dataset_size, batch_size and epochs" in found["mechanism.parts.0.sample_rate"]
    dataset = {"name": "A b", "adjacency": "unbounded", "budget": {"epsilon": 1, "delta": 1}}
    found = errors_of(dataset, NewDataset)
    assert found["adjacency"].endswith("not 'unbounded'. Did you mean add_or_remove_one?")
    assert "Did you mean at_delta?" in found["budget.delta"]
    assert found["name"].endswith("for example a-b")
    assert "dpsgd" in errors_of({"datasets": ["a"], "mechanism": {}})["mechanism.type"]


def test_every_pattern_of_a_request_has_words() -> None:
    """Goal: no field has a pattern that only a regular expression describes. Method: the patterns of every body."""
    found = 0
    for annotation, _ in _requests():
        text = json.dumps(TypeAdapter(annotation).json_schema())
        for pattern in re.findall(r'"pattern": ("(?:[^"\\]|\\.)*")', text):
            found += 1
            assert json.loads(pattern) in mistakes.FORMS
    assert found > 5


def test_a_suggested_name_fits() -> None:
    """Goal: what is suggested in place of a bad name is a good one. Method: bad names, checked by the pattern."""
    adapter: TypeAdapter[Any] = TypeAdapter(NewDataset.model_fields["name"].rebuild_annotation())
    for bad in ("A b", "ÄÖ x", "-a", ".", "x" * 100, "UPPER_CASE", "a/b\n"):
        with pytest.raises(ValidationError) as caught:
            adapter.validate_python(bad)
        text = mistakes.message({**caught.value.errors()[0], "loc": ("name",)})
        if "for example " in text:
            adapter.validate_python(text.rpartition("for example ")[2])
