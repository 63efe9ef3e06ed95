"""The reference of the HTTP API, from the OpenAPI document: a page for each group of calls, and one for the shapes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from guide import schemas
from guide.markdown import anchor, code, codes, sentence, table

ANYONE = "anyone, without a key"
ORDER = ("runs", "accountant", "datasets", "reports", "proposals", "alerts", "tenants and keys", "system")


class Call(NamedTuple):
    """A call of the OpenAPI document."""

    name: str
    """Its method and path."""
    group: str
    facts: Mapping[str, Any]
    example: Any
    """A body that the call takes; None if the document shows none."""


def calls(document: Mapping[str, Any]) -> Iterator[Call]:
    """Every call, in the order of the document."""
    for path, methods in document["paths"].items():
        for method, facts in methods.items():
            yield Call(f"{method.upper()} {path}", facts["tags"][0], facts, _example(document, facts))


def _example(document: Mapping[str, Any], facts: Mapping[str, Any]) -> Any:
    content = facts.get("requestBody", {}).get("content", {}).get("application/json", {})
    for example in content.get("examples", {}).values():
        return example["value"]
    schema = content.get("schema", {})
    for part in schema.get("anyOf", [schema]):
        named = document["components"]["schemas"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part
        for example in [*([named["example"]] if "example" in named else []), *named.get("examples", ())]:
            return example
    return None


def pages(document: Mapping[str, Any]) -> dict[str, str]:
    """The pages, by their path under `reference/`."""
    by_group: dict[str, list[Call]] = {}
    for call in calls(document):
        by_group.setdefault(call.group, []).append(call)
    groups = sorted(by_group, key=ORDER.index)
    found = {f"http/{_file(group)}": _group_page(group, by_group[group]) for group in groups}
    return {"http/index.md": _index(groups, by_group), **found, "http/shapes.md": _shapes(document)}


def callers(call: Call) -> str:
    """Who may make a call."""
    return ", ".join(call.facts["x-roles"]) if "x-roles" in call.facts else ANYONE


def _file(group: str) -> str:
    return f"{group.replace(' ', '-')}.md"


def _index(groups: list[str], by_group: Mapping[str, list[Call]]) -> str:
    text = """# HTTP API

Send JSON, and send your key as `Authorization: Bearer pbl_…`. Every error is `application/problem+json` with a
[code](../errors.md). A running server has this contract as OpenAPI at `/openapi.json`, with `x-roles` (who may make a
call) and `x-codes` (the codes it can fail with), and a page to try it at `/docs`.

An admin may do everything in its tenant. A key that is limited to datasets sees only those, and of their runs only
its own, if they name no other dataset. It reads no raw entries and no exports, and its reports leave out the texts of
runs that name other datasets. Pages end at 2 MiB: follow `next` even if a page has fewer items than `limit`.
`Idempotency-Key` makes a request for a run safe to repeat: the same key and body of one principal always get the same
answer.
"""
    for group in groups:
        rows = (
            (f"[{code(call.name)}]({_file(group)}#{_anchor(call)})", callers(call), _summary(call))
            for call in by_group[group]
        )
        text += f"\n## {group.capitalize()}\n\n{table(('call', 'who', 'does'), rows)}"
    return text + "\nThe shapes of bodies and answers are on [one page](shapes.md).\n"


def _anchor(call: Call) -> str:
    return anchor(call.name)


def _summary(call: Call) -> str:
    return sentence(call.facts["description"].partition("\n\n")[0])


def _group_page(group: str, group_calls: list[Call]) -> str:
    return f"# {group.capitalize()}\n\n" + "\n".join(map(_call, group_calls))


def _call(call: Call) -> str:
    parts = [f"## {code(call.name)} {{ #{_anchor(call)} }}", sentence(call.facts["description"])]
    parts.append(f"**Who:** {callers(call)}.")
    if "parameters" in call.facts:
        parts.append(_parameters(call.facts["parameters"]))
    if "requestBody" in call.facts:
        content = call.facts["requestBody"]["content"]["application/json"]
        parts.append(f"**Body:** {schemas.type_of(content['schema'], _link)}.")
        parts.append(f"```json\n{json.dumps(call.example, indent=2)}\n```")
    parts.append(_answers(call.facts["responses"]))
    parts.append(f"**Codes:** {', '.join(f'[{code(name)}](../errors.md#{name})' for name in call.facts['x-codes'])}.")
    return "\n\n".join(parts) + "\n"


def _parameters(parameters: list[Mapping[str, Any]]) -> str:
    return table(
        ("parameter", "in", "type", "", "meaning"),
        (
            (
                code(each["name"]),
                each["in"],
                schemas.type_of(each["schema"], _link),
                "required" if each.get("required") else "",
                schemas.description({**each["schema"], "description": each.get("description", "")}),
            )
            for each in parameters
        ),
    ).rstrip()


def _answers(responses: Mapping[str, Any]) -> str:
    rows = []
    for status, answer in responses.items():
        content = answer.get("content", {})
        types = [schemas.type_of(part["schema"], _link) for part in content.values() if "schema" in part]
        shown = types or [codes(content)]
        rows.append(("any error" if status == "default" else status, " or ".join(shown), _described(answer)))
    return table(("status", "answer", "meaning"), sorted(rows)).rstrip()


def _described(answer: Mapping[str, Any]) -> str:
    text = answer["description"]
    return "" if text == "Successful Response" else sentence(text)


def _link(name: str) -> str:
    return f"[{name}](shapes.md#{name.lower()})"


def _shapes(document: Mapping[str, Any]) -> str:
    text = (
        "# Shapes of bodies and answers\n\nThe objects that the calls take and return. A number in a string is exact.\n"
    )
    for name, schema in sorted(document["components"]["schemas"].items()):
        about = sentence(schema.get("description", "").partition("\n\n")[0])
        body = schemas.members(schema, lambda other: f"[{other}](#{other.lower()})")
        text += "\n\n".join(part for part in (f"\n## {name}", about, body) if part) + "\n"
    return text
