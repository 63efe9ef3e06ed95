"""The public methods of both clients: training jobs are written for their names, arguments and return types."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from ledger.client import AsyncLedger, Ledger

RECORDED = Path(__file__).with_name("signatures.txt")
"""One line for each public method. A line that changes or goes breaks somebody's training job; a new call adds two."""


def type_name(annotation: Any) -> str:
    """A type as it is written in source, without modules."""
    text = annotation.__name__ if type(annotation) is type else str(annotation)
    return re.sub(r"\b(\w+\.)+", "", text)


def signatures(client: type[Any]) -> list[str]:
    """The public methods of a client, with the types that it fills in for the variables of `Methods`."""
    (methods,) = client.__orig_bases__
    types = zip(methods.__origin__.__parameters__, methods.__args__, strict=True)
    types_by_variable = {variable.__name__: type_name(filled) for variable, filled in types}
    lines = []
    for name, method in inspect.getmembers(client, inspect.isfunction):
        if name.startswith("_") and name != "__init__":
            continue
        signature = inspect.signature(method)
        returned = types_by_variable.get(signature.return_annotation, signature.return_annotation)
        returned = f"Coroutine[Any, Any, {returned}]" if inspect.iscoroutinefunction(method) else returned
        arguments = str(signature.replace(return_annotation=inspect.Signature.empty)).replace("'", "")
        arguments = re.sub(r" at 0x\w+", "", arguments)
        lines.append(f"{client.__name__}.{name}{arguments} -> {returned}")
    return lines


@pytest.mark.parametrize("client", [Ledger, AsyncLedger])
def test_public_methods_keep_their_signatures(client: type[Any]) -> None:
    """Goal: no public method changes its name, arguments or return type unnoticed. Method: a recorded list."""
    recorded = [line for line in RECORDED.read_text().splitlines() if line.startswith(f"{client.__name__}.")]
    assert signatures(client) == recorded


@pytest.mark.parametrize("client", [Ledger, AsyncLedger])
def test_public_methods_are_documented(client: type[Any]) -> None:
    """Goal: an editor shows what each method does, on both clients."""
    for name, method in inspect.getmembers(client, inspect.isfunction):
        assert name.startswith("_") or inspect.getdoc(method), name
