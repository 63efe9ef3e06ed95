"""A server's problems as exceptions, with their facts and in words for people."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from ledger import errors
from ledger.api.problems import STATUS, of_error
from ledger.client import BudgetExceeded, LedgerError, Unreachable
from tests.kit.clients import RELEASE, answering, copied, problem


def over_the_wire(error: LedgerError) -> LedgerError:
    """An error of the server as the client raises it."""
    answer = of_error(error)
    with answering(
        lambda _: httpx.Response(answer.status_code, headers=answer.headers, content=bytes(answer.body)), retries=0
    ) as client:
        with pytest.raises(LedgerError) as caught:
            client.dataset("mnist")
        return caught.value


def test_every_code_is_its_exception() -> None:
    """Goal: what the server raises is what the client raises, with message and facts. Method: every class of the tree
    that has a status, through the server's own rendering."""
    tree = [LedgerError]
    for kind in tree:
        tree.extend(kind.__subclasses__())
    for code in STATUS:
        kinds = [kind for kind in tree if "code" in vars(kind) and kind.code == code and kind is not LedgerError]
        if code == "internal":
            kinds = [errors.Internal]
        if not kinds:
            continue
        about: dict[type[LedgerError], dict[str, Any]] = {errors.Overloaded: {}, errors.JournalBroken: {"seq": 7}}
        sent = kinds[0]("It is so.", **about.get(kinds[0], {"dataset": "mnist"}))
        got = over_the_wire(sent)
        assert isinstance(got, kinds[0]), code
        assert (got.code, str(got), got.facts) == (code, str(sent), sent.facts)
        assert str(copied(got)) == str(sent)
    field = over_the_wire(errors.InvalidRequest("size: no", field="size"))
    assert isinstance(field, errors.InvalidRequest)
    assert field.field == "size"


def test_a_newer_server_s_code_is_kept() -> None:
    """Goal: an unknown code is a LedgerError that still says which."""
    with (
        answering(lambda _: problem("unit-mismatched", 409, unit="user")) as client,
        pytest.raises(LedgerError) as caught,
    ):
        client.dataset("mnist")
    assert (type(caught.value), caught.value.code, caught.value.facts) == (
        LedgerError,
        "unit-mismatched",
        {"unit": "user"},
    )
    assert LedgerError.code == "internal"


BACK = "What is held comes back when runs are voided or end early; what is spent never does. A steward can set a larger"


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (
            {
                "datasets": [
                    {"name": "mnist", "quantity": "mu", "requested": 0.57404, "remaining": 0.43391, "limit": 0.7193}
                ],
                "fits": {"noise_multiplier": 1.34727, "epochs": 34.3074},
            },
            "The run does not fit. It exceeds the budget of mnist: it needs mu 0.574, and 0.434 of 0.719 is left. "
            f"This would fit: noise_multiplier=1.34727, or epochs=34.3074. {BACK} budget.",
        ),
        (
            {
                "datasets": [
                    {
                        "name": "clicks",
                        "partition": "2026-10",
                        "project": "ranking",
                        "quantity": "mu",
                        "requested": 0.2000001,
                        "remaining": 0.2,
                        "limit": 0.2,
                    },
                    {"name": "mnist", "quantity": "delta", "requested": 1e-6, "remaining": 0, "limit": 1e-6},
                ],
                "fits": {},
            },
            "The run does not fit. It exceeds the share of project ranking in clicks, partition 2026-10: it needs "
            "mu 0.2000001, and 0.2 of 0.2 is left; the budget of mnist: it needs delta 1e-06, and 0 of 1e-06 is left. "
            f"No change of a single parameter would make it fit. {BACK} share or budget.",
        ),
        (
            {
                "datasets": [
                    {
                        "name": "clicks",
                        "partition": str(day),
                        "quantity": "mu",
                        "requested": 3,
                        "remaining": 1,
                        "limit": 2,
                    }
                    for day in range(365)
                ],
                "fits": {},
            },
            "The run does not fit. "
            + "It exceeds "
            + "; ".join(f"the budget of clicks, partition {day}: it needs mu 3, and 1 of 2 is left" for day in range(5))
            + f"; and 360 more. No change of a single parameter would make it fit. {BACK} budget.",
        ),
        (
            {
                "datasets": [
                    {"name": "mnist", "principal": "p", "quantity": "mu", "requested": 3, "remaining": 1, "limit": 2}
                ],
                "fits": {},
            },
            "The run does not fit. It exceeds the fair-use share of mnist, which limits what one principal may"
            " hold at a time: it needs mu 3, and 1 of 2 is left. No change of a single parameter would make it fit."
            " A fair-use share comes back when your own runs are settled or voided: privacy-ledger runs --state held,"
            " and --state started.",
        ),
        ({"datasets": "?", "fits": {}}, "It said no."),
        ({}, "It said no."),
    ],
    ids=["one", "two", "many", "mine", "odd", "none"],
)
def test_a_refusal_says_what_a_person_needs(facts: dict[str, Any], said: str) -> None:
    """Goal: one line: what binds, by how much, and what would fit; numbers that differ look different."""
    with (
        answering(lambda _: problem("budget-exceeded", 409, run="r", **facts)) as client,
        pytest.raises(BudgetExceeded) as caught,
    ):
        client.ask(datasets=["mnist"], mechanism=RELEASE)
    assert str(caught.value) == said
    again = copied(caught.value)
    assert (str(again), again.facts, again.fits) == (said, caught.value.facts, facts.get("fits", {}))


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="<h1>It works!</h1>"),
        httpx.Response(200, json=["a"]),
        httpx.Response(301, headers={"Location": "https://elsewhere"}),
        httpx.Response(404, text="nothing here"),
        httpx.Response(500, json={"error": "?"}),
        httpx.Response(502, content=b"\xff"),
    ],
    ids=lambda answer: f"{answer.status_code}-{len(answer.content)}",
)
def test_what_is_no_ledger_is_said_to_be_none(answer: httpx.Response) -> None:
    """Goal: a wrong URL, a proxy or a portal is found out, and no redirect takes the key elsewhere."""
    with answering(lambda _: answer, retries=0) as client, pytest.raises(Unreachable, match="is not one of the ledger"):
        client.dataset("mnist")
