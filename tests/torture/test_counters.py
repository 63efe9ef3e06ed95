"""That the counters of `make torture` count: records of a small ledger, falsified in one place each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from tests.torture.faults.counters import Count, disordered
from tests.torture.faults.records import Answer, Intent, Outcome
from tests.torture.faults.replay import COUNTERS, Findings, Journal

LIMIT = 100
Entries = list[dict[str, Any]]


def amount(number: int) -> dict[str, str]:
    """mu² only."""
    return {"mu_sq_pico": str(number), "delta_atto": "0"}


def balance(spent: int, held: int, limit: int = LIMIT) -> dict[str, Any]:
    """What an entry states."""
    return {"limit": amount(limit), "spent": amount(spent), "held": amount(held), "overdrawn": amount(0)}


def asked(key: str, run: str, cost: int, held: int, *, spent: int = 0, fits: bool = True) -> dict[str, Any]:
    """A decision, with the balance after it."""
    request = {"datasets": ["d"], "mechanism": {"type": "gaussian", "noise_multiplier": 1}}
    decided = {"run": run, "idempotency_key": key, "cost": amount(cost), "request": request}
    refused: dict[str, Any] = {"kind": "run-refused", "binding": ["mu"], "binding_elsewhere": []}
    return {**decided, **({"kind": "run-approved"} if fits else refused), "balance": balance(spent, held)}


def journal() -> Entries:
    """Registered, two runs approved, one started and settled early, and one refused."""
    registered = {"kind": "dataset-registered", "limit": amount(LIMIT), "balance": balance(0, 0)}
    settled = {"kind": "run-settled", "run": "r1", "charged": amount(20), "returned": amount(20)}
    return [
        registered,
        asked("c-1", "r1", 40, 40),
        asked("c-2", "r2", 30, 70),
        {"kind": "run-started", "run": "r1", "balance": balance(0, 70)},
        {**settled, "balance": balance(20, 30)},
        asked("c-5", "r3", 60, 30, spent=20, fits=False),
    ]


def exported(entries: Entries) -> list[str]:
    """The lines of an export: chained, and numbered from 1."""
    lines, prev = ['{"format":"privacy-ledger-export"}'], "0" * 64
    for number, entry in enumerate(entries, start=1):
        text = json.dumps({"seq": number, "prev": prev, "at": f"2026-01-01T00:00:{number:02}", **entry})
        prev = hashlib.sha256(text.encode()).hexdigest()
        lines.append(f'{{"seq":{number},"hash":"{prev}","entry":{text}}}')
    return [*lines, json.dumps({"head": {"seq": len(entries), "hash": prev}})]


def intents() -> dict[str, Intent]:
    """What the client wrote down."""
    body = {"datasets": ["d"], "mechanism": {"type": "gaussian", "noise_multiplier": 1}}
    sent = [
        Intent("c-1", 10, "ask", "/v1/runs", "requester", body),
        Intent("c-2", 20, "ask", "/v1/runs", "requester", body),
        Intent("c-3", 30, "start", "/v1/runs/r1/start", "requester", about="r1"),
        Intent("c-4", 40, "settle", "/v1/runs/r1/settle", "requester", about="r1"),
        Intent("c-5", 50, "ask", "/v1/runs", "requester", body),
    ]
    return {intent.id: intent for intent in sent}


def answers() -> list[Answer]:
    """What it was answered, each before the next was sent."""
    came = [
        Outcome("c-1", "run-approved", "r1", {"d": 2}, "40"),
        Outcome("c-2", "run-approved", "r2", {"d": 3}, "30"),
        Outcome("c-3", "run-started", "r1", {"d": 4}),
        Outcome("c-4", "run-settled", "r1", {"d": 5}, "20"),
        Outcome("c-5", "run-refused", "r3", {"d": 6}),
    ]
    return [Answer(one.key, 10 * number + 5, 200, "", [one]) for number, one in enumerate(came, start=1)]


def counted(lines: list[str], sent: dict[str, Intent], came: list[Answer]) -> Findings:
    """All eight counters."""
    findings = Findings()
    return Count(sent, came, {"d": Journal("d", findings).read(lines)}, findings).run()


def test_nothing_is_wrong_with_true_records() -> None:
    """Goal: no counter moves without a cause. Method: the true records."""
    found = counted(exported(journal()), intents(), answers())
    assert not found.counts, found.shown


def dropped(entries: Entries) -> None:
    """The newest refusal is gone: acknowledged, and nowhere."""
    del entries[5]


def doubled(entries: Entries) -> None:
    """The key of one run has another one too."""
    entries.append(asked("c-2", "r9", 30, 60, spent=20))


def settled_twice(entries: Entries) -> None:
    """Its settlement stands twice, and gave back twice."""
    entries.append({**entries[4], "balance": balance(40, -10)})


def changed(entries: Entries) -> None:
    """It cost another amount than was acknowledged."""
    entries[1] = asked("c-1", "r1", 41, 41)
    entries[2]["balance"] = balance(0, 71)
    entries[3]["balance"] = balance(0, 71)
    entries[4] = {**entries[4], "returned": amount(21)}


def phantom(entries: Entries) -> None:
    """A run that nobody asked for."""
    entries.append(asked("x-1", "r9", 1, 31, spent=20))


def overspent(entries: Entries) -> None:
    """The run that does not fit was approved."""
    entries[5] = asked("c-5", "r3", 60, 90, spent=20)


def wrongly_refused(entries: Entries) -> None:
    """The run would have fitted."""
    entries[5] = asked("c-5", "r3", 50, 30, spent=20, fits=False)


def unbalanced(entries: Entries) -> None:
    """A balance that does not add up."""
    entries[4]["balance"] = balance(19, 30)


def earlier(entries: Entries) -> None:
    """A time that runs backwards."""
    entries[3]["at"] = "2026-01-01T00:00:01"


PLANTED: dict[str, list[Callable[[Entries], None]]] = {
    "lost": [dropped],
    "doubled": [doubled, settled_twice],
    "changed": [changed],
    "phantom": [phantom],
    "overspent": [overspent],
    "wrongly refused": [wrongly_refused],
    "broken": [unbalanced, earlier],
}


@pytest.mark.parametrize(("counter", "plant"), [(name, plant) for name, plants in PLANTED.items() for plant in plants])
def test_a_planted_fault_moves_its_counter(counter: str, plant: Callable[[Entries], None]) -> None:
    """Goal: each counter finds what it is for, by name. Method: one fault in the entries, which are chained again."""
    entries = deepcopy(journal())
    plant(entries)
    found = counted(exported(entries), intents(), answers())
    assert found.counts[counter] > 0, found.shown


@pytest.mark.parametrize("number", [2, 4])
def test_an_entry_that_was_altered_breaks_the_chain(number: int) -> None:
    """Goal: an altered or missing line is found by hash and number. Method: other text in a line, and a line less."""
    lines = exported(journal())
    altered = [*lines[:number], lines[number].replace('"40"', '"39"').replace("r1", "r8"), *lines[number + 1 :]]
    for wrong in (altered, lines[:number] + lines[number + 1 :]):
        assert counted(wrong, intents(), answers()).counts["broken"] > 0


def test_an_answer_that_differs_is_changed() -> None:
    """Goal: two answers under one key must be the same. Method: one more answer, with another run."""
    other = replace(answers()[1].outcomes[0], about="r7")
    found = counted(exported(journal()), intents(), [*answers(), Answer("c-2", 99, 201, "", [other])])
    assert found.counts == {"changed": 1}, found.shown


def test_an_order_that_time_contradicts_is_disordered() -> None:
    """Goal: what was acknowledged before a request was sent has the smaller seq, and nothing is claimed of requests
    that overlap. Method: spans by hand, and true records in which the first request is sent late."""
    assert not list(disordered([(1, 5, 2), (4, 6, 1), (7, 8, 3)]))
    assert list(disordered([(1, 5, 2), (6, 7, 1), (8, 9, 3)])) == [(6, 1, 2)]
    sent = intents() | {"c-1": replace(intents()["c-1"], at=28)}
    came = [replace(one, at=29) if one.intent == "c-1" else one for one in answers()]
    assert counted(exported(journal()), sent, came).counts == {"disordered": 1}


def test_every_counter_is_tested() -> None:
    """Goal: no counter is without a planted fault. Method: the list of counters."""
    assert set(PLANTED) | {"disordered"} == set(COUNTERS)
