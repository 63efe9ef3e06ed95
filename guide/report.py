"""The reference of the audit report's JSON, from its schema."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

from guide.markdown import code, sentence, table
from guide.schemas import type_of


def schema() -> dict[str, Any]:
    """The report's JSON Schema, as `privacy-ledger report --schema` prints it."""
    found: dict[str, Any] = json.loads((files("ledger.report") / "schema.json").read_text(encoding="utf-8"))
    return found


def page() -> str:
    """The page: a table for each part of a report, and for each definition that parts share."""
    whole = schema()
    text = """# Schema of the audit report

JSON Schema (draft 2020-12) of `privacy-ledger report --format json`. `privacy-ledger report --schema` prints it for
your validator. [The audit report](../how-to/report.md) explains the parts. `[]` in a path means every item of a list.
"""
    for name, part in whole["properties"].items():
        text += f"\n## {code(name)} {{ #{name} }}\n\n{_part(name, part)}"
    for name, part in whole.get("$defs", {}).items():
        text += f"\n## {name} {{ #def-{name.lower()} }}\n\n{_part('', part)}"
    return text


def _part(name: str, part: Mapping[str, Any]) -> str:
    about = sentence(part.get("description", ""))
    rows = list(_rows(name, part))
    return (f"{about}\n\n" if about else "") + table(("path", "type", "meaning"), rows)


def _rows(path: str, schema_: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    if path:
        yield code(path), type_of(schema_, _link), sentence(schema_.get("description", ""))
    yield from _members(path, schema_)


def _members(path: str, schema_: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name, part in schema_.get("properties", {}).items():
        yield from _rows(f"{path}.{name}" if path else name, part)
    for part in schema_.get("anyOf", ()):
        yield from _members(path, part)
    if "items" in schema_:
        yield from _members(f"{path}[]", schema_["items"])


def _link(name: str) -> str:
    return f"[{name}](#def-{name.lower()})"
