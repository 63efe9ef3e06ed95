"""The runs of a report as CSV (RFC 4180): a header, and a row for each item of `runs`.

A cell that a spreadsheet would take for a formula gets an apostrophe in front: it begins with `=`, `+`, `-`, `@`, a tab
or a line break. A negative number is not a formula, and is left unchanged.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from ledger.encoding import JsonObject, encode

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")
_NUMBER: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?(e-?[0-9]+)?")
ROWS_AT_ONCE: Final = 200


def _within(*path: str) -> Callable[[JsonObject], Any]:
    def member(item: JsonObject) -> Any:
        value: Any = item
        for name in path:
            value = None if value is None else value.get(name)
        return value

    return member


COLUMNS: Final[dict[str, Callable[[JsonObject], Any]]] = {
    "dataset": _within("dataset"),
    "run": _within("run"),
    "seq": _within("seq"),
    "hash": _within("hash"),
    "at": _within("at"),
    "state": _within("state"),
    "is_carried_in": _within("is_carried_in"),
    "is_estimate": _within("is_estimate"),
    "asked_by": _within("asked_by", "name"),
    "role": _within("asked_by", "role"),
    "principal": _within("asked_by", "principal"),
    "key": _within("asked_by", "key"),
    "purpose": _within("purpose"),
    "project": _within("project"),
    "labels": _within("labels"),
    "code_repository": _within("code", "repository"),
    "code_commit": _within("code", "commit"),
    "idempotency_key": _within("idempotency_key"),
    "named_as": _within("named_as"),
    "partitions": _within("partitions"),
    "mechanism": _within("mechanism", "type"),
    "mechanism_parameters": _within("mechanism"),
    "mechanism_digest": _within("mechanism_digest"),
    "bound": _within("bound"),
    "adjacency": _within("adjacency"),
    "method": _within("method"),
    "accountant": _within("accountant"),
    "delta_share": _within("delta_share"),
    "segments": _within("segments", "count"),
    "planned_steps": _within("planned_steps"),
    "executed_steps": _within("executed_steps"),
    "stop": _within("stop"),
    "restarts": lambda item: None if item["restarts"] is None else encode(item["restarts"]),
    "models": lambda item: None if item["models"] is None else encode(item["models"]),
    "cost_mu": lambda item: float(item["cost"]["mu"]),
    "cost_delta": lambda item: float(item["cost"]["delta"]),
    "cost_mu_sq_pico": _within("cost", "mu_sq_pico"),
    "cost_delta_atto": _within("cost", "delta_atto"),
    "charged_mu_sq_pico": _within("charged", "mu_sq_pico"),
    "charged_delta_atto": _within("charged", "delta_atto"),
    "returned_mu_sq_pico": _within("returned", "mu_sq_pico"),
    "returned_delta_atto": _within("returned", "delta_atto"),
    "overrun_steps": _within("overrun", "steps"),
    "overrun_fits": _within("overrun", "fits"),
    "start_by": _within("start_by"),
    "started_at": _within("started", "at"),
    "started_seq": _within("started", "seq"),
    "settle_by": _within("started", "settle_by"),
    "ended_at": _within("ended", "at"),
    "ended_seq": _within("ended", "seq"),
    "void_reason": _within("ended", "reason"),
    "left_after_decision_mu_sq_pico": _within("left_after_decision", "mu_sq_pico"),
    "left_after_decision_delta_atto": _within("left_after_decision", "delta_atto"),
    "left_at_end_mu_sq_pico": _within("left_at_end", "mu_sq_pico"),
    "left_at_end_delta_atto": _within("left_at_end", "delta_atto"),
}
"""The columns by name, each with its value of a run."""


def rows(members: Iterable[tuple[str, Any]]) -> Iterator[str]:
    """Yield the CSV in pieces, from the members of a document. Members after the runs are not read."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for name, value in members:
        if name != "runs":
            continue
        for number, item in enumerate(value, start=1):
            writer.writerow([_cell(member(item)) for member in COLUMNS.values()])
            if number % ROWS_AT_ONCE == 0:
                yield _taken(file)
        break
    yield _taken(file)


def _taken(file: io.StringIO) -> str:
    text = file.getvalue()
    file.seek(0)
    file.truncate()
    return text


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case str():
            return guarded(value)
        case list() | tuple():
            return guarded(" ".join(map(str, value)))
        case Mapping():
            return encode(value) if value else ""
        case _:
            return encode(value)


def guarded(text: str) -> str:
    """Return the text, with an apostrophe in front if a spreadsheet would take it for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) and not _NUMBER.fullmatch(text) else text
