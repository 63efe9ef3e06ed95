"""`ledger.client.mechanisms` against the accountant's own: any other field would be refused, or lost."""

from __future__ import annotations

import json
import random
import shlex
import typing
from collections.abc import Callable
from dataclasses import MISSING, fields
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import PydanticUndefined

from ledger import client
from ledger.accounting import mechanisms as server
from ledger.cli.mechanism import TYPES, option_of
from ledger.client.mechanisms import BY_TYPE, planned_steps
from ledger.errors import InvalidMechanism
from tests.accounting.samples import EXAMPLES, random_mechanism
from tests.kit.driver import Terminal

CLIENT_ONLY_DEFAULTS = {("dpsgd", "sampling"): "poisson", ("dpsgd_schedule", "sampling"): "poisson"}
"""What the client fills in, though the contract asks for it."""


def kind_of(schema: dict[str, Any]) -> Any:
    """What a field of the contract takes: JSON types, or the texts that it may be; null apart."""
    if "anyOf" in schema:
        (schema,) = (choice for choice in schema["anyOf"] if choice.get("type") != "null")
    if "const" in schema:
        return frozenset([schema["const"]])
    return frozenset(schema["enum"]) if "enum" in schema else schema["type"]


def client_kind(hint: Any) -> Any:
    """The same of a field of the client's."""
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    choices = [hint] if is_literal(hint) else [c for c in typing.get_args(hint) if c is not type(None)] or [hint]
    if is_literal(choices[0]):
        return frozenset(typing.get_args(choices[0]))
    if Decimal in choices:
        return "number"
    return {int: "integer", str: "string"}.get(choices[0], "array")


def is_literal(hint: Any) -> bool:
    """Whether it lists the texts that it may be."""
    return typing.get_origin(hint) is typing.Literal


def test_the_client_knows_every_mechanism() -> None:
    """Goal: what the server costs, a training job can declare. Method: both registries, and what the client exports."""
    assert list(BY_TYPE) == list(server.BY_TYPE)
    assert {mechanism.__name__ for mechanism in BY_TYPE.values()} <= set(client.__all__)
    assert set(TYPES) == set(BY_TYPE) - {"composed"}


@pytest.mark.parametrize("type_", server.BY_TYPE)
def test_every_field_is_the_server_s(type_: str) -> None:
    """Goal: the client's class has the fields of the contract: names, types, and which may be left out, with which
    value. Method: the model's JSON schema and defaults, field by field."""
    model, declared = server.BY_TYPE[type_], BY_TYPE[type_]
    schema = model.model_json_schema()["properties"]
    theirs = {name: field for name, field in model.model_fields.items() if name != "type"}
    ours = {field.name: field for field in fields(declared)}
    hints = typing.get_type_hints(declared, include_extras=True)
    assert ours.keys() == theirs.keys()
    for name, field in theirs.items():
        assert client_kind(hints[name]) == kind_of(schema[name]), name
        default = ours[name].default
        if (type_, name) in CLIENT_ONLY_DEFAULTS:
            assert (default, field.default) == (CLIENT_ONLY_DEFAULTS[type_, name], PydanticUndefined)
        elif field.default is PydanticUndefined:
            assert default is MISSING, name
        else:
            assert default is None or default == field.default, name


def test_planned_steps_of_any_mechanism(tries: Callable[[int, int], int]) -> None:
    """Goal: client and server agree on what was planned, with segments too. Method: every form of every mechanism,
    and random ones."""
    rng = random.Random(31)
    seen: set[tuple[str, bool]] = set()
    drawn = (random_mechanism(rng) for _ in range(tries(1_000, 200_000)))
    for declared in chain(EXAMPLES.values(), drawn):
        try:
            mechanism = server.parse(declared)
        except InvalidMechanism:
            continue
        planned = server.planned_steps(mechanism)
        assert planned_steps(declared) == planned, declared
        segments = rng.randint(2, 9)
        if declared["type"] == "dpsgd_schedule":
            # It has no equal segments.
            assert planned_steps(declared, segments) is None
        elif planned is not None and planned[0] >= segments:
            assert planned_steps(declared, segments) == server.planned_steps(mechanism, segments), declared
        seen.add((declared["type"], planned is None))
    assert {type_ for type_, _ in seen} == set(BY_TYPE)
    assert {("matrix_factorization", True), ("matrix_factorization", False)} <= seen


def written(value: Any) -> str:
    """A value as it is typed."""
    if not isinstance(value, list):
        return str(value)
    is_numbers = not any(isinstance(item, dict) for item in value)
    return ",".join(map(str, value)) if is_numbers else json.dumps(value, default=float)


@pytest.mark.parametrize("name", [name for name, declared in EXAMPLES.items() if declared["type"] in TYPES])
def test_the_command_line_takes_every_type(name: str, terminal: Terminal) -> None:
    """Goal: `--type` knows every mechanism that is not made of others, each field by its option. Method: a command for
    each form, whose answer is that of the same mechanism as JSON."""
    declared = EXAMPLES[name]
    given = {field: value for field, value in declared.items() if field != "type"}
    options = [word for field, value in given.items() for word in (option_of(field), written(value))]
    # No estimate is known of some batches.
    bound = "certified" if {"truncated_batch_size", "max_examples_per_user"} & declared.keys() else "clt"
    answers = [
        terminal(shlex.join(["evaluate", "--bound", bound, *words, "--json"]))
        for words in (["--type", declared["type"], *options], ["--mechanism", json.dumps(declared, default=float)])
    ]
    assert [answer.status for answer in answers] == [0, 0], answers
    assert answers[0].out == answers[1].out


def test_phases_from_files(terminal: Terminal, tmp_path: Path) -> None:
    """Goal: a schedule is read from JSON or CSV, by steps or by phases, and what is wrong in a file is named. Method:
    the same schedule in three files; then a column, a number and a file that are not there."""
    texts = {
        "phases.json": '[{"noise_multiplier": 2, "sample_rate": 0.01, "steps": 2}]',
        "phases.csv": "noise_multiplier,sample_rate,steps\n2,0.01,2\n",
        "steps.csv": "sample_rate,noise_multiplier\n0.01,2\n0.01,2\n",
        "columns.csv": "noise,rate\n2,0.01\n",
        "numbers.csv": "noise_multiplier,sample_rate,steps\n2,0.01,2.5\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    command = f"evaluate --bound clt --json --type dpsgd_schedule --phases @{tmp_path}/"
    answers = [terminal(command + name) for name in list(texts)[:3]]
    assert [answer.status for answer in answers] == [0, 0, 0]
    assert len({answer.out for answer in answers}) == 1
    for name, said in (("columns.csv", "'noise,rate'"), ("numbers.csv", "line 2"), ("none.csv", "No such file")):
        failed = terminal(command + name)
        assert failed.status != 0
        assert said in " ".join((failed.out + failed.err).split())
