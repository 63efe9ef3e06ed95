"""One run with everything that is known of it, found by its id or by the beginning of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction
from uuid import UUID

import pytest

from ledger.service import asking, ids
from tests.accounting import oracle
from tests.kit.driver import Ledger
from tests.kit.scene import REASON, ok

ALIKE = "0a1b2c3d"
"""How the ids of runs begin here."""


@pytest.fixture
def alike(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Runs whose ids begin alike: they differ from the ninth digit on."""
    numbers = itertools.count(1)
    monkeypatch.setattr(asking, "uuid4", lambda: UUID(f"{ALIKE}{next(numbers):04x}4000800000000000000{'0'}"))
    return iter(())


# --- ids -------------------------------------------------------------------------------------------------------------


def test_the_bounds_of_a_beginning() -> None:
    """Goal: exactly the ids that begin with a text lie between its bounds. Method: the neighbours of both ends."""
    for text in ("018f3c6e", "018F3C6E-7d2", "018f3c6e-7d2a-7c41-9b0e-2f5d8a1c4e7"):
        digits = text.replace("-", "").lower()
        bounds = ids.bounds(text)
        assert bounds is not None
        first, last = bounds
        assert first.hex.startswith(digits)
        assert last.hex.startswith(digits)
        assert not UUID(int=first.int - 1).hex.startswith(digits)
        assert not UUID(int=last.int + 1).hex.startswith(digits)
    assert ids.bounds("0" * 33) is None
    assert ids.whole("018f3c6e-7d2a-7c41-9b0e-2f5d8a1c4e77") == UUID("018f3c6e7d2a7c419b0e2f5d8a1c4e77")
    assert ids.whole("018f3c6e-7d2a-7c41-9b0e-2f5d8a1c4e7") is None


@pytest.mark.usefixtures("alike")
def test_a_run_by_the_beginning_of_its_id(ledger: Ledger) -> None:
    """Goal: every call takes the beginning of a run's id, and does nothing if several begin so. Method: three runs that
    begin alike, each call by all lengths; what an ambiguous call left."""
    ledger.register()
    runs = [ok(ledger.ask())["id"] for _ in range(3)]
    assert {run[:8] for run in runs} == {ALIKE}
    for call in ("start", "settle", "void", "confirm", "correct"):
        body = {"void": REASON, "confirm": REASON, "correct": REASON}.get(call)
        answer = ledger.post(f"/v1/runs/{ALIKE}/{call}", body)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid-request")
        assert (answer.json()["ids"], answer.json()["is_all"]) == (runs, True)
    assert {run["state"] for run in ok(ledger.get("/v1/runs"))["items"]} == {"held"}
    assert ledger.get(f"/v1/runs/{ALIKE}").json()["ids"] == runs
    assert ledger.get("/v1/runs/0a1b2c3e").status_code == 404
    assert ledger.get("/v1/runs/0a1b2c3").status_code == 422
    for run in runs:
        for length in (13, 20, 35, 36):
            assert ok(ledger.get(f"/v1/runs/{run[:length]}"))["id"] == run
        assert ok(ledger.get(f"/v1/runs/{run[:13].upper()}"))["id"] == run
        assert ok(ledger.get(f"/v1/runs/{run.replace('-', '')[:12]}"))["id"] == run
    assert ok(ledger.post(f"/v1/runs/{runs[0][:13]}/start"))["id"] == runs[0]
    assert ok(ledger.get(f"/v1/runs/{runs[0][:13]}/receipt"))["run"] == runs[0]
    assert ok(ledger.post(f"/v1/runs/{runs[0][:13]}/settle", {"steps": 1}))["state"] == "settled"
    assert ok(ledger.post(f"/v1/runs/{runs[1][:13]}/void", REASON))["state"] == "voided"


@pytest.mark.usefixtures("alike")
def test_a_limited_key_finds_no_hidden_run(ledger: Ledger) -> None:
    """Goal: a limited key learns nothing of runs that it does not see. Method: its own run is the only one that it
    sees among several that begin alike; beside others it still finds it, and without it finds none."""
    for name in ("seen", "hidden"):
        ledger.register(name=name)
    limited = ledger.as_("requester", datasets=["seen"])
    ok(ledger.ask(datasets=["hidden"]))
    ok(ledger.ask(datasets=["seen"]))
    assert limited.get(f"/v1/runs/{ALIKE}").json() == limited.get("/v1/runs/ffffffff").json()
    own = ok(limited.ask(datasets=["seen"]))["id"]
    assert ok(limited.get(f"/v1/runs/{ALIKE}"))["id"] == own
    assert ok(limited.post(f"/v1/runs/{ALIKE}/start"))["id"] == own
    assert len(ledger.get(f"/v1/runs/{ALIKE}").json()["ids"]) == 3
    another_own = ok(limited.ask(datasets=["seen"]))["id"]
    assert limited.get(f"/v1/runs/{ALIKE}").json()["ids"] == [own, another_own]


@pytest.mark.usefixtures("alike")
def test_more_candidates_than_are_listed(ledger: Ledger) -> None:
    """Goal: the list of candidates is bounded, and states that it is cut."""
    ledger.register(budget={"mu": 100})
    for _ in range(ids.CANDIDATES_MAX + 2):
        ok(ledger.ask())
    answer = ledger.get(f"/v1/runs/{ALIKE}").json()
    assert (len(answer["ids"]), answer["is_all"]) == (ids.CANDIDATES_MAX, False)
    assert f"more than {ids.CANDIDATES_MAX} ids" in answer["detail"]


def test_keys_and_proposals_by_the_beginning_of_their_ids(ledger: Ledger) -> None:
    """Goal: the same holds for keys and proposals. Method: rotate and revoke; show, refuse and approve."""
    ledger.register()
    second = ledger.as_("steward")
    ok(ledger.put("/v1/policy", {"second_steward": True, **REASON}))
    higher = {"budget": {"mu": 2}, **REASON}
    first, other = (ok(ledger.put("/v1/datasets/mnist/budget", higher))["proposal"]["id"] for _ in range(2))
    assert ok(ledger.get(f"/v1/proposals/{first[:8]}"))["id"] == first
    assert ok(second.post(f"/v1/proposals/{first[:8]}/refuse", REASON))["state"] == "refused"
    assert ok(second.post(f"/v1/proposals/{other[:9]}/approve"))["balance"]["limit"]["mu"] == 2
    assert ledger.get("/v1/proposals/00000000").status_code == 404
    limited = ledger.as_("steward", datasets=["mnist"])
    assert ok(limited.get(f"/v1/proposals/{first[:8]}"))["id"] == first
    made = ok(ledger.post("/v1/keys", {"name": "k", "role": "auditor"}))
    rotated = ok(ledger.post(f"/v1/keys/{made['id'][:8]}/rotate"))
    assert rotated["principal"] == made["principal"]
    assert ledger.delete(f"/v1/keys/{rotated['id'][:8]}").status_code == 204
    assert ledger.with_key(rotated["secret"]).get("/v1/runs").status_code == 401
    assert ledger.delete("/v1/keys/00000000").status_code == 404


# --- why a run was refused -------------------------------------------------------------------------------------------


def test_why_a_run_was_refused(ledger: Ledger) -> None:
    """Goal: a refused run shows what it asked for, what was left and the limit, also as parts of the limit and as
    epsilon. Method: a dataset of mu 1 with a run of mu 0.6 on it refuses one of mu 0.9; the parts are fractions."""
    ledger.register(budget={"mu": 1, "delta": 1e-9}, bound="certified", costing="standalone")
    ok(ledger.ask({"type": "gaussian", "noise_multiplier": 1 / 0.6}))
    refused = ledger.ask({"type": "gaussian", "noise_multiplier": 1 / 0.9}).json()["run"]
    shown = ok(ledger.get(f"/v1/runs/{refused}"))
    (why,) = shown["refused_by"]
    assert (why["name"], why["quantity"], shown["refused_by_count"]) == ("mnist", "mu", 1)
    assert why["requested"] == pytest.approx(0.9)
    assert why["limit"] == pytest.approx(1)
    assert why["share_requested"] == pytest.approx(float(Fraction(81, 100)), rel=1e-9)
    assert why["share_remaining"] == pytest.approx(float(1 - Fraction(36, 100)), rel=1e-9)
    for at in why["epsilon"]:
        for name, mu, delta in (("requested", 0.9, 0.0), ("remaining", 0.8, 1e-9), ("limit", 1.0, 1e-9)):
            assert at[name] == pytest.approx(float(oracle.epsilon(mu, delta, at["delta"])), rel=1e-6)
    (place,) = shown["datasets"]
    (entry,) = (item for item in ok(ledger.get("/v1/datasets/mnist/entries"))["items"] if item["seq"] == place["seq"])
    assert place == {"name": "mnist", "seq": entry["seq"], "hash": entry["hash"]}
    raised = ok(ledger.put("/v1/datasets/mnist/budget", {"budget": {"mu": 3, "delta": 1e-9}, **REASON}))
    assert raised["balance"]["limit"]["mu"] == 3
    assert ok(ledger.get(f"/v1/runs/{refused}"))["refused_by"][0]["limit"] == pytest.approx(1)


def test_what_a_limited_key_sees_of_a_refusal(ledger: Ledger) -> None:
    """Goal: amounts of an original that the key does not see are not shown. Method: a derived dataset, whose original
    refuses."""
    ledger.register(name="original", budget={"mu": 0.1})
    ok(ledger.post("/v1/datasets", {"name": "copy", "derived_from": [{"name": "original", "unit_preserving": True}]}))
    limited = ledger.as_("requester", datasets=["copy"])
    run = limited.ask(datasets=["copy"]).json()["run"]
    (seen,) = ok(limited.get(f"/v1/runs/{run}"))["refused_by"]
    hidden = ("remaining", "limit", "share_requested", "share_remaining")
    assert [seen[name] for name in hidden] == [None] * 4
    assert seen["epsilon"] == []
    (whole,) = ok(ledger.get(f"/v1/runs/{run}"))["refused_by"]
    assert whole["limit"] == pytest.approx(0.1)
    assert whole["requested"] == seen["requested"]


# --- what happened ---------------------------------------------------------------------------------------------------


def test_who_proposed_and_who_approved(ledger: Ledger) -> None:
    """Goal: a run shows who proposed a void and who approved or refused it. Method: a started run under two people."""
    ledger.register()
    second = ledger.as_("steward")
    ok(ledger.put("/v1/policy", {"second_steward": True, **REASON}))
    run = ok(ledger.ask())["id"]
    assert ok(ledger.get(f"/v1/runs/{run}"))["proposals"] == []
    raised = ok(ledger.put("/v1/datasets/mnist/budget", {"budget": {"mu": 2}, **REASON}))["proposal"]["id"]
    ok(ledger.post(f"/v1/runs/{run}/start"))
    first = ok(ledger.post(f"/v1/runs/{run}/void", REASON))["proposal"]
    ok(second.post(f"/v1/proposals/{first['id']}/refuse", REASON))
    again = ok(ledger.post(f"/v1/runs/{run}/void", REASON))["proposal"]
    shown = ok(ledger.get(f"/v1/runs/{run}"))
    listed = [(item["id"], item["state"], item["what"]) for item in shown["proposals"]]
    assert listed == [(first["id"], "refused", "void"), (again["id"], "open", "void")]
    ok(second.post(f"/v1/proposals/{again['id']}/approve"))
    shown = ok(ledger.get(f"/v1/runs/{run}"))
    assert shown["proposals"][1]["state"] == "approved"
    voided = shown["voided"]
    assert voided["proposal"]["id"] == again["id"]
    assert voided["proposal"]["by"] == again["proposed_by"]
    assert voided["by"]["role"] == "steward"
    assert (shown["refused_by"], shown["refused_by_count"]) == (None, None)
    assert ok(ledger.get(f"/v1/proposals/{raised}"))["answered_by"] is None
    ok(second.post(f"/v1/proposals/{raised}/approve"))
    waiting = ok(ledger.put("/v1/datasets/mnist/budget", {"budget": {"mu": 3}, **REASON}))["proposal"]["id"]
    answered = {item["id"]: item for item in ok(ledger.get("/v1/proposals"))["items"]}
    who = {id_: item["answered_by"] and item["answered_by"]["role"] for id_, item in answered.items()}
    assert who == {first["id"]: "steward", again["id"]: "steward", raised: "steward", waiting: None}
    assert answered[again["id"]]["answered_at"] == voided["at"]
    assert ok(ledger.get(f"/v1/proposals/{raised[:8]}")) == answered[raised]
    moments = [answered[id_]["answered_at"] for id_ in (first["id"], again["id"], raised)]
    assert moments == sorted(moments)
    assert answered[waiting]["answered_at"] is None
    entries = {item["seq"]: item["hash"] for item in ok(ledger.get("/v1/datasets/mnist/entries"))["items"]}
    assert [shown[name]["hash"] for name in ("started", "voided")] == [
        entries[shown[name]["seq"]] for name in ("started", "voided")
    ]
