"""Corrections of settled runs over HTTP: what is charged, who may, and what everything that shows a run tells of it."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any, Final

import jsonschema
import pytest

from ledger.core.amounts import Amount
from ledger.core.decision import correcting
from ledger.errors import JournalBroken
from ledger.operate.check import check_journals
from ledger.settings import Settings
from ledger.verifier.verify import verify
from tests.kit import independent_verifier
from tests.kit.driver import Ledger

SCHEMA: Final = json.loads(resources.files("ledger").joinpath("report/schema.json").read_text())
REASON: Final = {"reason": "the log of the job", "decided_by_output": False}


def gaussian(noise: float, count: int = 1) -> dict[str, Any]:
    """Separate releases of Gaussian noise."""
    return {"type": "gaussian", "noise_multiplier": noise, "count": count}


def settled(ledger: Ledger, mechanism: dict[str, Any], key: str, dataset: str = "mnist", **body: Any) -> str:
    """A run that was executed as it was declared, as far as anybody knows."""
    run = str(ledger.ask(mechanism, key=key, datasets=[dataset]).json()["id"])
    assert ledger.post(f"/v1/runs/{run}/start").is_success
    assert ledger.post(f"/v1/runs/{run}/settle", body).is_success
    return run


def mu_sq(ledger: Ledger, part: str = "spent", dataset: str = "mnist") -> float:
    """What a dataset has spent, in mu squared."""
    return float(ledger.get(f"/v1/datasets/{dataset}").json()["balance"][part]["mu"]) ** 2


def demand_consistent(ledger: Ledger, database: Settings, dataset: str = "mnist") -> None:
    """Rows and journal agree, and both verifiers accept the export."""
    assert [found for found in check_journals(database) if found["error"] is not None] == []
    lines = ledger.get(f"/v1/datasets/{dataset}/export").text.splitlines()
    verify(lines)
    independent_verifier.verify(lines)


def test_more_than_was_declared_is_charged_in_its_place(ledger: Ledger, database: Settings) -> None:
    """Goal: the true mechanism takes the place of the declared one, and a project's share is charged too; a second
    correction begins where the first one ended. Method: by hand, in mu squared."""
    ledger.register(bound="clt", budget={"mu": 1, "delta": 1e-6})
    run = settled(ledger, gaussian(10), "one", models=[{"name": "m", "sha256": "ab" * 32, "size": 1}])
    body = {"mechanism": gaussian(5), **REASON}
    answer = ledger.post(f"/v1/runs/{run}/correction", body).json()
    assert (answer["number"], answer["fits"], answer["replaces"], answer["frozen"]) == (1, True, True, [])
    assert answer["late"]["mu"] ** 2 == pytest.approx(0.04 - 0.01)
    assert mu_sq(ledger) == pytest.approx(0.04)
    added = ledger.post(f"/v1/runs/{run}/correction", {**body, "decided_by_output": True}).json()
    assert (added["number"], added["replaces"]) == (2, False)
    assert mu_sq(ledger) == pytest.approx(0.08)
    again = ledger.post(f"/v1/runs/{run}/correction", {**body, "decided_by_output": True})
    assert (again.status_code, again.json()) == (200, added)
    attested = ledger.get(f"/v1/runs/{run}/attestation").json()
    assert (attested["code"], "corrected after" in attested["detail"]) == ("run-state", True)
    shown = ledger.get(f"/v1/runs/{run}").json()
    assert [made["charged"]["mu"] ** 2 for made in shown["corrections"]] == pytest.approx([0.04, 0.08])
    assert shown["percent_charged"] == pytest.approx(8, abs=0.01)
    changes = ledger.get("/v1/datasets/mnist/history").json()["items"]
    corrected = [change for change in changes if change["kind"] == "run-corrected"]
    assert [(change["run"], change["reason"]) for change in corrected] == [(run, REASON["reason"])] * 2
    assert "corrected: charged mu 0.28284 in place of 0.2" in corrected[0]["what"]
    demand_consistent(ledger, database)


def test_giving_back_takes_two_people_and_a_word(ledger: Ledger, database: Settings) -> None:
    """Goal: without a policy of two people, what was charged too much is given back by two all the same, on
    somebody's word, at most all of it, and by no more than is left counted. Method: alone, without a word, by the
    proposer, then by another; again."""
    ledger.register(bound="clt", budget={"mu": 1, "delta": 1e-6})
    run = settled(ledger, gaussian(5), "one")
    body = {"mechanism": gaussian(10), **REASON}
    nobody = ledger.post(f"/v1/runs/{run}/correction", body)
    assert (nobody.status_code, nobody.json()["field"]) == (422, "on_word_of")
    before = mu_sq(ledger)
    proposed = ledger.post(f"/v1/runs/{run}/correction", {**body, "on_word_of": "Ada, who ran it"})
    assert proposed.status_code == 202, proposed.text
    proposal = proposed.json()["proposal"]
    assert (proposal["what"], proposal["proposes"]["lowers"], mu_sq(ledger)) == ("correction", True, before)
    same = ledger.post(f"/v1/runs/{run}/correction", {**body, "on_word_of": "Ada, who ran it"})
    assert same.json() == proposed.json()
    alone = ledger.post(f"/v1/proposals/{proposal['id']}/approve")
    assert (alone.status_code, mu_sq(ledger)) == (403, before)
    given = ledger.as_("steward").post(f"/v1/proposals/{proposal['id']}/approve", {"reason": "seen"}).json()
    assert given["returned"]["mu"] ** 2 == pytest.approx(0.03)
    assert mu_sq(ledger) == pytest.approx(0.01)
    report = ledger.get("/v1/datasets/mnist/report").json()
    jsonschema.validate(report, SCHEMA)
    shown = ledger.get("/v1/datasets/mnist/report", format="html").text
    assert "on the word of: Ada, who ran it" in shown
    assert "given back: mu 0.17" in shown
    (listed,) = report["corrections"]
    assert (listed["on_word_of"], listed["proposed_by"]["role"]) == ("Ada, who ran it", "admin")
    assert (report["datasets"][0]["totals"]["corrections"], report["runs"][0]["corrections"]) == (1, 1)
    assert report["runs"][0]["charged_now"]["mu"] ** 2 == pytest.approx(0.01)
    demand_consistent(ledger, database)


def test_a_proposed_correction_rests_on_what_it_saw(ledger: Ledger) -> None:
    """Goal: a proposal that was made before another correction is not carried out on top of it. Method: one proposal
    to give back, then more is charged, then the proposal is approved."""
    ledger.register(bound="clt", budget={"mu": 1, "delta": 1e-6})
    run = settled(ledger, gaussian(5), "one")
    lower = {"mechanism": gaussian(10), **REASON, "on_word_of": "Ada"}
    proposal = ledger.post(f"/v1/runs/{run}/correction", lower).json()["proposal"]["id"]
    assert ledger.post(f"/v1/runs/{run}/correction", {"mechanism": gaussian(4), **REASON}).status_code == 200
    late = ledger.as_("steward").post(f"/v1/proposals/{proposal}/approve")
    assert (late.status_code, late.json()["code"]) == (409, "proposal-state")
    assert mu_sq(ledger) == pytest.approx(1 / 16)


def test_by_the_policy_every_correction_takes_two(ledger: Ledger, database: Settings) -> None:
    """Goal: with the policy of two people a correction upwards is proposed too, and verifies against the tenant's own
    journal. Method: propose, approve; verify with the tenant's export."""
    ledger.register(bound="clt", budget={"mu": 1, "delta": 1e-6})
    run = settled(ledger, gaussian(10), "one")
    assert ledger.put("/v1/policy", {"second_steward": True, "reason": "r"}).is_success
    proposed = ledger.post(f"/v1/runs/{run}/correction", {"mechanism": gaussian(5), **REASON})
    assert (proposed.status_code, "lowers" in proposed.json()["proposal"]["proposes"]) == (202, False)
    done = ledger.as_("steward").post(f"/v1/proposals/{proposed.json()['proposal']['id']}/approve")
    assert (done.status_code, done.json()["number"]) == (200, 1)
    lines = ledger.get("/v1/datasets/mnist/export").text.splitlines()
    tenant = ledger.get("/v1/export").text.splitlines()
    verify(lines, tenant=tenant)
    independent_verifier.verify(lines, tenant)
    demand_consistent(ledger, database)


@pytest.mark.parametrize("state", ["held", "started", "voided"])
def test_only_a_settled_run_is_corrected(ledger: Ledger, state: str) -> None:
    """Goal: another state answers with what it allows."""
    ledger.register(bound="clt", budget={"mu": 1, "delta": 1e-6})
    run = str(ledger.ask(gaussian(10)).json()["id"])
    if state != "held":
        ledger.post(
            f"/v1/runs/{run}/{'start' if state == 'started' else 'void'}",
            {"reason": "r"} if state == "voided" else None,
        )
    answer = ledger.post(f"/v1/runs/{run}/correction", {"mechanism": gaussian(5), **REASON})
    assert (answer.status_code, answer.json()["code"], answer.json()["state"]) == (409, "run-state", state)


def test_certified_runs_keep_their_share_of_delta(ledger: Ledger, database: Settings) -> None:
    """Goal: a wrong sample rate is put right beside what is left at the run's own share of delta; a run that used none
    takes what its dataset fixed when it was registered, whatever the limit is now. Method: Poisson sampling in the
    place of Poisson, and of a Gaussian; the entries; recomputed costs agree."""
    ledger.register(bound="certified", budget={"epsilon": 8, "at_delta": 1e-5})
    poisson = {"type": "dpsgd", "noise_multiplier": 1.1, "sampling": "poisson", "sample_rate": 0.004, "steps": 200}
    run, plain = settled(ledger, poisson, "one"), settled(ledger, gaussian(4), "two")
    share = ledger.get(f"/v1/runs/{run}").json()["delta"]
    first = ledger.post(f"/v1/runs/{run}/correction", {"mechanism": {**poisson, "sample_rate": 0.02}, **REASON}).json()
    assert (first["delta"], first["method"], first["fits"]) == (share, "pld-poisson", True)
    assert first["late"]["mu"] > 0 == first["late"]["delta"]
    raised = {"budget": {"epsilon": 8.5, "at_delta": 1e-4}, "reason": "r", "accepts_weak_protection": True}
    assert ledger.put("/v1/datasets/mnist/budget", raised).is_success
    second = ledger.post(f"/v1/runs/{plain}/correction", {"mechanism": poisson, **REASON}).json()
    lines = ledger.get("/v1/datasets/mnist/export").text.splitlines()
    entries = [json.loads(line)["entry"] for line in lines[1:-1] if '"entry":' in line]
    fixed = Amount.from_facts(entries[0]["limit"]).delta_atto / 100
    assert second["delta"] * 1e18 == pytest.approx(fixed, rel=1e-3)
    demand_consistent(ledger, database)


def test_a_planted_fault_is_found(ledger: Ledger, database: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: if the ledger let one person give back, `check` and both verifiers would find that entry. Method: the rule
    is taken out of the decision."""
    ledger.register(bound="clt", budget={"mu": 1, "delta": 1e-6})
    run = settled(ledger, gaussian(5), "one")
    monkeypatch.setattr(correcting, "propose_first", lambda *_: None)
    body = {"mechanism": gaussian(10), **REASON, "on_word_of": "Ada"}
    assert ledger.post(f"/v1/runs/{run}/correction", body).status_code == 200
    assert mu_sq(ledger) == pytest.approx(0.01)
    (found,) = [found for found in check_journals(database) if found["error"] is not None]
    assert "gives back what a run was charged, by one person" in str(found["error"])
    lines = ledger.get("/v1/datasets/mnist/export").text.splitlines()
    with pytest.raises(JournalBroken, match="by one person"):
        verify(lines)
    with pytest.raises(ValueError, match="given back by one person"):
        independent_verifier.verify(lines)
