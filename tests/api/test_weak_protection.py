"""Budgets that protect weakly: what must be stated, and where it is kept."""

from __future__ import annotations

import io
import json
import re
from statistics import NormalDist
from typing import Any

import pypdf
import pytest

from ledger.verifier import verify
from tests.kit import independent_verifier
from tests.kit.driver import MNIST, WEAK, Ledger
from tests.kit.scene import ok

STRONG = {"epsilon": 20, "at_delta": 1e-5}
REASON = {"reason": "more questions"}


def _body(budget: dict[str, Any], name: str = "data", **more: Any) -> dict[str, Any]:
    return {**MNIST, "bound": "certified", "name": name, "budget": budget, **more}


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ({"epsilon": 20.001, "at_delta": 1e-5}, ("epsilon 20.001 at delta 1e-05", "1 of 1,000")),
        ({"epsilon": 3000, "at_delta": 1e-5}, ("epsilon 3000", "100 %")),
        ({"mu": 3.5, "delta": 1e-6}, ("at delta 1e-05", "1 of 1,000")),
        # Above the budget's own delta, since no epsilon holds below it.
        ({"mu": 5, "delta": 1e-4}, ("at delta 0.001",)),
        # A small epsilon at a large delta hides a large mu, and a large delta is weak by itself.
        ({"epsilon": 15, "at_delta": 0.3, "slack": 0}, ("at delta 1e-05", "1 of 1,000")),
        ({"epsilon": 1, "at_delta": 0.45}, ("no finite epsilon at delta 1e-05",)),
        ({"mu": 1, "delta": 0.0101}, ("no finite epsilon at delta 1e-05",)),
        ({"mu": 4, "delta": 0.01}, ("no finite epsilon at delta 1e-05",)),
    ],
)
def test_weak_protection_must_be_accepted(ledger: Ledger, budget: dict[str, Any], words: tuple[str, ...]) -> None:
    """Goal: above epsilon 20 nothing is registered and no budget raised unless a steward states that this is
    acceptable; the error says what an attacker may learn, and what to send. Method: each with and without the
    statement; budgets at the bound; lowering what is above it."""
    status, _, detail = _refused(ledger.post("/v1/datasets", _body(budget)))
    assert status == 422
    for word in (*words, "accepts_weak_protection: true", "--accept-weak-protection"):
        assert word in detail, detail
    assert ledger.get("/v1/datasets/data").status_code == 404
    assert ledger.post("/v1/datasets", _body(budget, accepts_weak_protection=False)).status_code == 422
    made = ok(ledger.post("/v1/datasets", _body(budget, **WEAK)))
    limit = made["balance"]["limit"]
    found = NormalDist().cdf(NormalDist().inv_cdf(0.001 / (1 - limit["delta"])) + limit["mu"])
    found = found * (1 - limit["delta"]) + limit["delta"]
    stated = re.search(r"find up to ([0-9.]+) %", detail)
    assert stated is not None
    assert float(stated[1]) == pytest.approx(100 * found, rel=5e-3)
    # At the bound, by either unit, nothing is asked, and a statement that is not needed is not recorded.
    ok(ledger.post("/v1/datasets", _body(STRONG, "strong", **WEAK)))
    ok(ledger.post("/v1/datasets", _body({"mu": 3.3, "delta": 1e-6}, "by-mu")))
    assert "accepts_weak_protection" not in _entries(ledger, "strong")[0]
    assert _refused(ledger.put("/v1/datasets/strong/budget", {"budget": budget, **REASON}))[0] == 422
    ok(ledger.put("/v1/datasets/strong/budget", {"budget": budget, **REASON, **WEAK}))
    half = {name: value / 1.01 if name in ("mu", "epsilon") else value for name, value in budget.items()}
    ok(ledger.put("/v1/datasets/data/budget", {"budget": half, **REASON}))  # less than before
    first, second = _entries(ledger, "data")[0], _entries(ledger, "strong")[-1]
    assert first["accepts_weak_protection"] is second["accepts_weak_protection"] is True
    assert "weak protection accepted" in ok(ledger.get("/v1/datasets/strong/history"))["items"][0]["what"]
    for name in ("data", "strong"):
        _verify(ledger, name)


def test_a_second_steward_sees_and_carries_it(ledger: Ledger) -> None:
    """Goal: a proposal to raise a budget above the bound has the statement, and so has the entry that makes the change.
    Method: under a policy of two people; both verifiers."""
    ok(ledger.post("/v1/datasets", _body(STRONG)))
    ok(ledger.put("/v1/policy", {"second_steward": True, **REASON}))
    other = ledger.as_("steward")
    body = {"budget": {"epsilon": 50, "at_delta": 1e-5}, **REASON}
    assert _refused(ledger.put("/v1/datasets/data/budget", body))[0] == 422
    proposal = ledger.put("/v1/datasets/data/budget", {**body, **WEAK}).json()["proposal"]
    assert ok(other.get(f"/v1/proposals/{proposal['id']}"))["proposes"]["accepts_weak_protection"] is True
    ok(other.post(f"/v1/proposals/{proposal['id']}/approve"))
    assert _entries(ledger, "data")[-1]["accepts_weak_protection"] is True
    _verify(ledger, "data")


def test_the_report_states_it_first(ledger: Ledger) -> None:
    """Goal: the first page of the report names a dataset that protects weakly, what an attacker may learn, and who
    accepted that; a dataset at the bound is not named. Method: the PDF's first page, the HTML and the JSON."""
    ok(ledger.post("/v1/datasets", _body({"epsilon": 30, "at_delta": 1e-5}, "weakly", **WEAK)))
    ok(ledger.post("/v1/datasets", _body(STRONG, "strongly")))
    page = pypdf.PdfReader(io.BytesIO(ledger.get("/v1/datasets/weakly/report", format="pdf").content)).pages[0]
    for text in (page.extract_text(), ledger.get("/v1/datasets/weakly/report", format="html").text):
        shown = " ".join(text.split())
        assert "Weak protection" in shown
        assert "weakly: epsilon 30 at delta 1e-5" in shown or "weakly: epsilon 30 at delta 0.00001" in shown, shown
        assert "in entry 1" in shown
    (item,) = json.loads(ledger.get("/v1/datasets/weakly/report", format="json").content)["verdict"]["datasets"]
    assert item["weak_protection"]["epsilon"] == 30
    assert item["weak_protection"]["true_positive_rate"] > 0.5
    assert item["weak_protection"]["accepted"]["seq"] == 1
    (item,) = json.loads(ledger.get("/v1/datasets/strongly/report", format="json").content)["verdict"]["datasets"]
    assert item["weak_protection"] is None


def _refused(answer: Any) -> tuple[int, str, str]:
    problem = answer.json()
    assert problem["field"] == "accepts_weak_protection", problem
    return answer.status_code, problem["code"], problem["detail"]


def _verify(ledger: Ledger, name: str) -> None:
    lines = ledger.get(f"/v1/datasets/{name}/export").text.splitlines()
    assert verify.verify(lines).journal.seq == independent_verifier.verify(lines)[0]


def _entries(ledger: Ledger, name: str) -> list[dict[str, Any]]:
    return [item["entry"] for item in ok(ledger.get(f"/v1/datasets/{name}/entries"))["items"]]
