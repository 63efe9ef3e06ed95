"""The reference of the mechanisms, from the registry."""

from __future__ import annotations

import re
from typing import get_type_hints

from guide import schemas
from guide.markdown import code, codes, sentence, table
from ledger.accounting.cost import Precision
from ledger.accounting.mechanisms import BY_TYPE
from ledger.accounting.mechanisms.base import BaseMechanism
from ledger.client.mechanisms import BY_TYPE as IN_CLIENT

CLOSENESS = {
    Precision.EXACT: "exact fractions",
    Precision.CLOSED_FORM: "a formula in doubles, moved outward by its error",
    Precision.CERTIFICATE: "a certificate, computed on the safe side",
}


def page() -> str:
    """The page: a table of all mechanisms, then each with its fields and methods."""
    rows = (
        (f"[{code(name)}](#{name})", code(IN_CLIENT[name].__name__), _about(mechanism))
        for name, mechanism in BY_TYPE.items()
    )
    return f"""# Mechanisms

A mechanism is what a run does to the data. You declare it as a JSON object with a `type`, as a class of
`ledger.client`, or with options of the command line. An unknown field is rejected, and so is a mechanism whose cost
nobody can prove under the bound of the dataset. The [costs](../explanation/accounting.md#two-bounds-never-mixed) of
each are explained with their theorems.

{table(("type", "class in Python", "what it is"), rows)}""" + "".join(
        f"\n## {code(name)} {{ #{name} }}\n\n{_mechanism(mechanism)}" for name, mechanism in BY_TYPE.items()
    )


def _about(mechanism: type[BaseMechanism]) -> str:
    return sentence((mechanism.__doc__ or "").partition("\n\n")[0])


def descriptions() -> dict[str, str]:
    """What each field means, from the client's classes; their words name options of the command line."""
    found = {"parts": "The mechanisms it is made of; each of them is done once to the same data."}
    for mechanism in IN_CLIENT.values():
        for name, hint in get_type_hints(mechanism, include_extras=True).items():
            texts = [part for part in getattr(hint, "__metadata__", ()) if isinstance(part, str)]
            if texts:
                text = texts[0].replace(" (the default)", "")  # which is one of the command line alone
                found.setdefault(name, re.sub(r"--([a-z][a-z-]*)", lambda option: _field(option[1]), text))
    return found


def _field(option: str) -> str:
    return code(option.removeprefix("mechanism-").replace("-", "_"))


def _mechanism(mechanism: type[BaseMechanism]) -> str:
    schema = mechanism.model_json_schema(ref_template="#/{model}")
    meant = descriptions()
    for name, member in schema["properties"].items():
        member.setdefault("description", meant.get(name, ""))
    parts = [_about(mechanism), schemas.members(schema, lambda name: f"[{name}](http/shapes.md#{name.lower()})")]
    if mechanism.methods:
        rows = ((code(name), CLOSENESS[closeness]) for name, closeness in mechanism.methods.items())
        parts.append(table(("method of its cost", "computed by"), rows))
    if mechanism.solvable:
        parts.append(f"`solve_for` can find {codes(mechanism.solvable)}.\n")
    return "\n".join(parts)
