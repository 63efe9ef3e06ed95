"""JSON Schema in words: what type a member has, and a table of an object's members."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from guide.markdown import code, codes, sentence, table

Link = Callable[[str], str]
"""From the name of a schema to the Markdown that leads to it."""


def type_of(schema: Mapping[str, Any], link: Link) -> str:
    """The type of a value, in a few words."""
    if "$ref" in schema:
        return link(schema["$ref"].rpartition("/")[2])
    for word in ("anyOf", "oneOf", "allOf"):
        if word in schema:
            return " or ".join(dict.fromkeys(type_of(part, link) for part in schema[word]))
    if "enum" in schema:
        return " or ".join(code(value) for value in schema["enum"])
    if "const" in schema:
        return code(schema["const"])
    if isinstance(schema.get("type"), list):
        return " or ".join(schema["type"])
    return _plain(schema, link)


def _plain(schema: Mapping[str, Any], link: Link) -> str:
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {type_of(schema.get('items', {}), link)}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        return f"object of {type_of(schema['additionalProperties'], link)}"
    return " ".join([kind, *_limits(schema)])


def _limits(schema: Mapping[str, Any]) -> list[str]:
    words = [f"({schema['format']})"] if "format" in schema else []
    if "minimum" in schema and "maximum" in schema:
        words.append(f"from {_number(schema['minimum'])} to {_number(schema['maximum'])}")
    else:
        signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
        words += [f"{sign} {_number(schema[name])}" for name, sign in signs.items() if name in schema]
    if "pattern" in schema:
        words.append(f"matching {code(schema['pattern'])}")
    return words


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def members(schema: Mapping[str, Any], link: Link) -> str:
    """A table of the members of an object; nothing if it has none of its own."""
    properties = schema.get("properties", {})
    if not properties:
        return ""
    required = set(schema.get("required", ()))
    return table(
        ("member", "type", "", "meaning"),
        (
            (code(name), type_of(part, link), "required" if name in required else "", description(part))
            for name, part in properties.items()
        ),
    )


def description(schema: Mapping[str, Any]) -> str:
    """What a member means, and its default."""
    text = sentence(schema.get("description", ""))
    default = schema.get("default")
    return text if default is None else f"{text} Default: {code(default)}.".strip()


def listed(names: list[str]) -> str:
    """Names as code, or a dash."""
    return codes(names) or "–"
