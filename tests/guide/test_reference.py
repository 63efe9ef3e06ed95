"""The generated reference misses nothing that the code has."""

from __future__ import annotations

import re

import pytest

from guide import commands, errors, http, pages, report, settings
from ledger.accounting.mechanisms import BY_TYPE
from ledger.api.problems import STATUS
from ledger.cli import app as command_line
from ledger.core.journal.shapes import DATASET_KINDS, TENANT_KINDS
from ledger.settings import Settings
from tests.api.test_openapi import CALLS


def page(name: str) -> str:
    """A generated page of the reference."""
    return pages.generated()[f"reference/{name}"]


def rows(text: str, first: str) -> list[str]:
    """The rows of any table whose first cell is this code, linked or not."""
    wanted = re.compile(rf"\| \[?`{re.escape(first)}`[\]|( ]")
    return [line for line in text.splitlines() if wanted.match(line)]


def section(text: str, heading: str) -> str:
    """What stands under a heading that is code."""
    return text.partition(f"\n## `{heading}` ")[2].partition("\n## ")[0]


def test_every_call() -> None:
    """Goal: no call without who, answers and codes. Method: the list of calls that the API's tests keep, against the
    index and the page of each call's group."""
    index = page("http/index.md")
    whole = "".join(text for name, text in pages.generated().items() if "/http/" in name)
    for method, path in CALLS:
        name = f"{method.upper()} {path}"
        (row,) = rows(index, name)
        who = row.split("|")[2].strip()
        assert who
        about = section(whole, name)
        assert f"**Who:** {who}." in about
        assert "| any error |" in about
        assert "**Codes:**" in about
    assert whole.count("\n## `") == len(CALLS)


def test_every_parameter_and_shape() -> None:
    """Goal: whoever writes a client needs no other page. Method: each parameter and each member of each shape of the
    OpenAPI document has a row."""
    document = pages.document()
    shapes = page("http/shapes.md")
    for name, schema in document["components"]["schemas"].items():
        about = shapes.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        for member in schema.get("properties", {}):
            assert rows(about, member), f"{name}.{member}"
    for call in http.calls(document):
        about = section(page(f"http/{call.group.replace(' ', '-')}.md"), call.name)
        for parameter in call.facts.get("parameters", ()):
            assert rows(about, parameter["name"]), f"{call.name}: {parameter['name']}"
        assert ("**Body:**" in about) == ("requestBody" in call.facts)


def test_every_command_and_option() -> None:
    """Goal: no command or option that only --help knows. Method: Typer's own registrations against the page."""
    text = page("commands.md")
    groups = {"": command_line, **{f"{group.name} ": group.typer_instance for group in command_line.registered_groups}}
    registered = {
        f"privacy-ledger {group}{command.name or command.callback.__name__.replace('_', '-')}"  # type: ignore[union-attr]
        for group, part in groups.items()
        if part is not None
        for command in part.registered_commands
    }
    assert {name for name, _ in commands.commands()} == registered
    for name, command in commands.commands():
        about = section(text, name)
        assert about, name
        for parameter in command.params:
            for option in [] if parameter.param_type_name == "argument" else parameter.opts:
                assert option == "--help" or f"`{option}`" in about, f"{name} {option}"


def test_every_setting() -> None:
    """Goal: no setting that only the code knows, and each has its default and what it takes."""
    text = page("settings.md")
    for name, field in Settings.model_fields.items():
        (row,) = rows(text, f"LEDGER_{name.upper()}")
        _, _, meaning, values, default, _ = (cell.strip() for cell in re.split(r"(?<!\\)\|", row))
        assert meaning
        assert default
        assert values
        if isinstance(field.default, int):
            assert default == f"`{field.default}`"


@pytest.mark.parametrize(
    ("name", "unit"),
    [("watch_seconds", "seconds"), ("body_bytes_max", "bytes"), ("workers", "processes"), ("host", ""), ("port", "")],
)
def test_units(name: str, unit: str) -> None:
    """Goal: a number has its unit."""
    assert settings.unit(name) == unit


def test_every_number_has_a_unit() -> None:
    """Goal: no number without a unit. Method: every setting whose default is a number, but the port."""
    numbers = {name for name, field in Settings.model_fields.items() if isinstance(field.default, int)}
    assert {name for name in numbers if not settings.unit(name)} == {"port"}


def test_every_code_and_error() -> None:
    """Goal: whoever meets a code finds it, with its status, its meaning and the calls that return it."""
    text = page("errors.md")
    for code, status in STATUS.items():
        (row,) = rows(text, code)
        assert row.split("|")[2].strip() == str(status)
        assert re.search(r"Returned by |can return it|not of a call", section(text, code)), code
    assert {error.code for _, error in errors.tree()} <= {*STATUS, "misconfigured", "database-unusable"}
    tree = text.partition("```text\n")[2]
    for depth, error in errors.tree():
        assert f"\n{'    ' * depth}{error.__name__}\n" in f"\n{tree}"


def test_every_mechanism() -> None:
    """Goal: each mechanism has its fields and methods. Method: the registry and the models' own fields."""
    text = page("mechanisms.md")
    for name, mechanism in BY_TYPE.items():
        about = section(text, name)
        for field in mechanism.model_fields:
            assert rows(about, field), f"{name}.{field}"
            (row,) = rows(about, field)
            assert field == "type" or row.split("|")[4].strip(), f"{name}.{field} is not explained"
        for method in mechanism.methods:
            assert rows(about, method), f"{name}: {method}"


def test_every_kind_of_entry() -> None:
    """Goal: each kind of entry has its members. Method: the shapes that the verifier demands."""
    text = page("journal-members.md")
    for kind, shape in {**DATASET_KINDS, **TENANT_KINDS}.items():
        (row,) = rows(text, kind)
        assert {name for name in re.findall(r"`(\w+)`", row) if name != kind} == shape.required | shape.optional


def test_every_part_of_the_report() -> None:
    """Goal: each member of the report that the schema requires has a row."""
    text = page("report-schema.md")
    schema = report.schema()
    for name, part in schema["properties"].items():
        about = section(text, name)
        assert about
        for member in part.get("required", part.get("items", {}).get("required", ())):
            assert re.search(rf"^\| `{name}(\[\])?\.{member}` \|", about, re.MULTILINE), f"{name}.{member}"
    for name in schema["$defs"]:
        assert f"\n## {name} " in text
