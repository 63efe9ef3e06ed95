"""The adjacency zero_out from end to end: one unit's data is replaced by nothing, and the number of units is public."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from importlib import resources
from math import ceil
from typing import Any, get_args

import jsonschema
import pytest

from ledger.core.datasets import Adjacency
from ledger.recompute import opinion, recompute
from ledger.recompute.registry import ADJACENT, registry_entry
from ledger.report import phrases, words
from ledger.store import Store
from ledger.verifier.verify import Verified, verify
from tests.kit import independent_verifier
from tests.kit.driver import Ledger
from tests.kit.parts import demand_in_order, derive, error, gaussian
from tests.kit.scene import ok
from tests.recompute.test_recompute import ONE_DATABASE

ZERO_OUT = {
    "adjacency": "zero_out",
    "size": None,
    "bound": "certified",
    "costing": "standalone",
    "budget": {"mu": 2, "delta": 1e-6},
}
SHUFFLED: dict[str, Any] = {
    "type": "dpsgd",
    "noise_multiplier": 10,
    "sampling": "shuffle",
    "dataset_size": 100,
    "batch_size": 20,
    "epochs": 4,
}
CORRELATED: dict[str, Any] = {
    "type": "matrix_factorization",
    "noise_multiplier": 8,
    "strategy": "identity",
    "steps": 12,
    "participations": 3,
    "separation": 4,
}
ANSWERS: dict[str, Any] = {"type": "randomized_response", "epsilon": 0.5, "categories": 4}


def mu_sq_pico(mu_sq: Fraction) -> int:
    """mu² in units of 1e-12, rounded up."""
    return ceil(mu_sq * 10**12)


ONCE = {
    "gaussian": (gaussian(5, 4), Fraction(4, 25)),
    "shuffled": (SHUFFLED, Fraction(4, 100)),
    "correlated": (CORRELATED, Fraction(3, 64)),
    "composed": (
        {"type": "composed", "parts": [gaussian(5), SHUFFLED, CORRELATED]},
        Fraction(1, 25) + Fraction(4, 100) + Fraction(3, 64),
    ),
}
"""Mechanisms, and their mu² if a unit that is replaced by nothing moves what it is in by one clip norm."""


@pytest.fixture
def lines(ledger: Ledger) -> list[str]:
    """The export of a dataset in which most things have happened."""
    assert ledger.register(**ZERO_OUT)["adjacency"] == "zero_out"
    bodies = [
        {"datasets": ["mnist"], "mechanism": declared, "idempotency_key": name} for name, (declared, _) in ONCE.items()
    ]
    batch = ok(ledger.post("/v1/runs/batch", {"runs": bodies, "atomic": True}))
    runs = [item["run"]["id"] for item in batch["results"]]
    for run in runs:
        ok(ledger.post(f"/v1/runs/{run}/start"))
    ok(ledger.post(f"/v1/runs/{runs[0]}/settle", {"steps": 1}))
    ok(ledger.post(f"/v1/runs/{runs[1]}/settle", {"steps": 7, "stop": "data_dependent"}))
    ok(ledger.post(f"/v1/runs/{runs[2]}/settle", {"steps": 12}))
    ok(ledger.post(f"/v1/runs/{runs[3]}/void", {"reason": "the node died before the first batch"}))
    ok(ledger.ask(ANSWERS))
    assert ledger.ask(gaussian(0.1)).status_code == 409
    text = ledger.get("/v1/datasets/mnist/export").text
    return [f"{line}\n" for line in text.split("\n")[:-1]]


def test_costs_are_of_one_clip_norm(ledger: Ledger) -> None:
    """Goal: every way of asking charges what replacing by nothing costs, and says the adjacency. Method: evaluate,
    plan, ask, and the balance, against mu² counted by hand."""
    for name, (declared, mu_sq) in ONCE.items():
        ledger.register(**ZERO_OUT, name=name)
        evaluated = ok(ledger.post("/v1/evaluate", {"mechanism": declared, "adjacency": "zero_out"}))
        planned = ok(ledger.post("/v1/plan", {"datasets": [name], "mechanism": declared, "solve_for": "runs"}))
        asked = ok(ledger.ask(declared, datasets=[name]))
        costs = {int(answer["cost"]["mu_sq_pico"]) for answer in (evaluated, planned, asked)}
        assert costs == {mu_sq_pico(mu_sq)}
        assert evaluated["adjacency"] == "zero_out"
        assert planned["solution"]["value"] == 4 * 10**12 // mu_sq_pico(mu_sq)
        assert ok(ledger.get(f"/v1/runs/{asked['id']}"))["adjacency"] == "zero_out"
        assert ledger.balance(name)["held"][0] == mu_sq_pico(mu_sq)


def test_runs_end_and_the_journal_verifies(ledger: Ledger, store: Store, lines: list[str]) -> None:
    """Goal: what was settled is charged by hand-counted amounts, and everybody who checks the journal agrees. Method:
    settlements as planned, early and voided; the rows; both verifiers; every cost again."""
    settled = [Fraction(1, 25), Fraction(2, 100), Fraction(3, 64)]
    assert ledger.balance()["spent"][0] == sum(map(mu_sq_pico, settled))
    demand_in_order(ledger, store)
    verified = verify(lines)
    assert isinstance(verified, Verified)
    (account,) = verified.journal.accounts.values()
    assert account.spent.mu_sq_pico == ledger.balance()["spent"][0]
    _, accounts = independent_verifier.verify([line.rstrip("\n") for line in lines])
    assert [each["spent"][0] for each in accounts.values()] == [ledger.balance()["spent"][0]]
    recomputed = recompute(lines, with_opinion=False)
    assert recomputed.is_as_recorded
    assert recomputed.counts["exact"] == 9


@ONE_DATABASE
def test_what_is_written_about_it(ledger: Ledger, lines: list[str]) -> None:
    """Goal: reports and drafts say which datasets are neighbours. Method: the report by its schema, the draft of the
    registry, and what randomized response assumes."""
    report = ok(ledger.get("/v1/datasets/mnist/report"))
    schema = json.loads(resources.files("ledger").joinpath("report/schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(report)
    (sentence,) = [item["sentence"] for item in report["assumptions"] if item["about"] == "adjacency"]
    assert "the data of one record is replaced by nothing" in sentence
    assert report["datasets"][0]["adjacency"] == "zero_out"
    loss = registry_entry(lines).body["deployment"]["privacy_loss"]
    assert "replaced by nothing" in loss["privacy_unit_details"]
    assumed = ok(ledger.post("/v1/evaluate", {"mechanism": ANSWERS, "adjacency": "zero_out"}))["assumptions"]
    assert any("a unit without data answers too" in text for text in assumed)
    assert not any("removed" in text for text in assumed)


def test_every_table_has_each_adjacency() -> None:
    """Goal: no adjacency can be registered that some page has no words for. Method: the tables by adjacency, and the
    enumerations of the report's schema, beside the type."""
    for table in (words.ADJACENCY, phrases.ADJACENCY, ADJACENT, opinion.RELATIONS):
        assert set(table) == set(get_args(Adjacency))
    schema = (resources.files("ledger") / "report/schema.json").read_text()
    enumerated = re.findall(r'"adjacency": \{[^{}]*(?:\{\s*)?"enum": \[([^]]*)\]', schema)
    assert len(enumerated) == 2
    assert {tuple(re.findall(r"\w+", names)) for names in enumerated} == {get_args(Adjacency)}


@ONE_DATABASE
def test_datasets_of_other_adjacencies_stay_apart(ledger: Ledger) -> None:
    """Goal: no run mixes adjacencies, what is derived has that of its root, and unknown ones are rejected. Method: a
    run on two, a copy that declares another one, and a made-up one."""
    ledger.register(**ZERO_OUT)
    ledger.register(**{**ZERO_OUT, "name": "other", "adjacency": "add_or_remove_one"})
    assert error(ledger.ask(datasets=["mnist", "other"]))[:2] == (409, "unit-mismatch")
    assert ok(derive(ledger, "copy", "mnist"))["adjacency"] == "zero_out"
    assert error(derive(ledger, "odd", "mnist", adjacency="replace_one"))[:2] == (409, "unit-mismatch")
    assert error(derive(ledger, "both", "mnist", "other"))[:2] == (409, "unit-mismatch")
    for path, body in (
        ("/v1/datasets", {**ZERO_OUT, "name": "new", "privacy_unit": "record", "adjacency": "replace_special"}),
        ("/v1/evaluate", {"mechanism": ANSWERS, "adjacency": "replace_special"}),
    ):
        rejected = ledger.post(path, body)
        assert error(rejected)[0::2] == (422, "adjacency")
        assert "'zero_out'" in rejected.json()["detail"]
