"""What a client writes down: each intent, on disk before it is sent, and each answer."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

Seqs = dict[str, int]
"""By dataset."""
DECIDED: Final = {201: "run-approved", 409: "run-refused"}
UNKNOWN: Final = (0, 408, 429, 500, 502, 503, 504)
"""Statuses after which a client does not know what was decided; 0 is no answer."""


@dataclass(frozen=True, slots=True)
class Intent:
    """What a client means to send: enough to send it again, byte for byte."""

    id: str
    """Also its idempotency key, or what the keys of a batch begin with."""
    at: int
    """Before it was sent for the first time, in nanoseconds of the machine's monotonic clock."""
    kind: str
    """`ask`, `batch`, `start`, `settle`, `void`, `correction`, `change` or `approve`."""
    path: str
    who: str
    body: Any = None
    method: str = "POST"
    count: int = 0
    """Of a batch: how many runs it has. They repeat those in the body."""
    about: str = ""
    """The run or the proposal that it is about."""

    @property
    def is_once(self) -> bool:
        """Whether to send it again would be another request."""
        return self.kind == "change"

    def content(self) -> Any:
        """The body as it is sent."""
        if self.kind != "batch":
            return self.body
        given = self.body["runs"]
        runs = [
            {**given[number % len(given)], "idempotency_key": f"{self.id}-{number}"} for number in range(self.count)
        ]
        return {**self.body, "runs": runs}

    def asked(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Its idempotency keys, each with the run that is asked for."""
        if self.kind == "ask":
            yield self.id, self.body
        elif self.kind == "batch":
            given = self.body["runs"]
            yield from ((f"{self.id}-{number}", given[number % len(given)]) for number in range(self.count))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an answer states about one run or change."""

    key: str
    kind: str
    """The kind of the entry that it acknowledges."""
    about: str
    """The run or the proposal."""
    seqs: Seqs = field(default_factory=dict)
    cost: str = ""
    """Of a decision, the cost; of a settlement, the charge: mu² in 1e-12."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    intent: str
    at: int
    status: int
    code: str
    outcomes: list[Outcome]


def now() -> int:
    """The machine's monotonic clock, which all processes share."""
    return time.monotonic_ns()


class Book:
    """The files of one client. Intents reach the disk before `intend` returns."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self._intents = (folder / f"intents-{name}.jsonl").open("a", encoding="utf-8")
        self._answers = (folder / f"answers-{name}.jsonl").open("a", encoding="utf-8")
        self._next = 0

    def intend(self, kind: str, path: str, who: str, body: Any = None, **rest: Any) -> Intent:
        """Write down what is about to be sent."""
        self._next += 1
        intent = Intent(f"{self.name}-{self._next}", now(), kind, path, who, body, **rest)
        self._intents.write(json.dumps(asdict(intent)) + "\n")
        self._intents.flush()
        os.fsync(self._intents.fileno())
        return intent

    def answered(self, intent: Intent, status: int, body: Any) -> Answer:
        """Write down what came back."""
        code = body.get("code", "") if isinstance(body, dict) else ""
        answer = Answer(intent.id, now(), status, str(code), list(outcomes(intent, status, body)))
        self._answers.write(json.dumps(asdict(answer)) + "\n")
        self._answers.flush()
        return answer

    def close(self) -> None:
        """Close the files."""
        self._intents.close()
        self._answers.close()


def outcomes(intent: Intent, status: int, body: Any) -> Iterator[Outcome]:
    """What an answer acknowledges; nothing if it is an error, or states that nothing was recorded."""
    if intent.kind == "batch" and status == 200:
        for (key, run), result in zip(intent.asked(), body["results"], strict=True):
            yield from _decided(key, run, result["status"], result.get("run") or result.get("problem"))
    elif intent.kind == "ask":
        yield from _decided(intent.id, intent.body, status, body)
    elif intent.kind == "start" and status == 200:
        yield Outcome(intent.id, "run-started", body["id"], _seqs(body))
    elif intent.kind == "settle" and status in (200, 409) and "charged" in body:
        yield Outcome(
            intent.id, "run-settled", body.get("id") or body["run"], _seqs(body), body["charged"]["mu_sq_pico"]
        )
    elif intent.kind == "void" and status == 200:
        yield Outcome(intent.id, "run-voided", body["id"], _seqs(body))
    elif status == 202:
        yield Outcome(intent.id, "change-proposed", body["proposal"]["id"])
    elif intent.kind == "approve" and status == 200:
        yield Outcome(intent.id, "approved", intent.about)
    elif intent.kind == "change" and status == 200:
        yield Outcome(intent.id, "changed", intent.body["reason"])


def _decided(key: str, run: Mapping[str, Any], status: int, body: Any) -> Iterator[Outcome]:
    if status == 201:
        yield Outcome(key, DECIDED[status], body["id"], _seqs(body), body["cost"]["mu_sq_pico"])
    elif status == 409 and body.get("code") == "budget-exceeded" and "run" in body:
        yield Outcome(key, DECIDED[status], body["run"], {names_of(run)[0]: body["seq"]})


def names_of(run: Mapping[str, Any]) -> list[str]:
    """The datasets that a run names."""
    return [one if isinstance(one, str) else one["name"] for one in run["datasets"]]


def _seqs(body: Any) -> Seqs:
    return {one["name"]: one["seq"] for one in body.get("datasets", ()) if "seq" in one}


def read_intents(folder: Path) -> dict[str, Intent]:
    """All that was written down, by id. A client that was killed may have left half a line, which it never sent."""
    return {line["id"]: Intent(**line) for line in _lines(folder, "intents")}


def read_answers(folder: Path) -> list[Answer]:
    """All answers, in no order."""
    return [
        Answer(**{**line, "outcomes": [Outcome(**one) for one in line["outcomes"]]})
        for line in _lines(folder, "answers")
    ]


def _lines(folder: Path, name: str) -> Iterator[Any]:
    for file in sorted(folder.glob(f"{name}-*.jsonl")):
        with file.open(encoding="utf-8") as lines:
            yield from (json.loads(line) for line in lines if line.endswith("\n"))
