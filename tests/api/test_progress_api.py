"""The progress of a running job: evidence that a job which died leaves."""

from __future__ import annotations

from tests.kit.clients import kinds
from tests.kit.driver import Ledger
from tests.kit.scene import another_tenant, ok


def started(ledger: Ledger, key: str = "k") -> str:
    """A run that has started."""
    run = str(ok(ledger.ask(key=key))["id"])
    ok(ledger.post(f"/v1/runs/{run}/start"))
    return run


def test_the_newest_report_is_kept_and_shown(ledger: Ledger) -> None:
    """Goal: one row a run, the newest, whose number never falls; no entry; shown with the run, in lists while it runs,
    and still after a steward voids it."""
    ledger.register()
    run = started(ledger)
    before = kinds(ledger)
    first = ok(ledger.put(f"/v1/runs/{run}/progress", {"steps": 7, "reporter": "node-1"}))
    assert (first["steps"], first["reporter"]) == (7, "node-1")
    late = ok(ledger.put(f"/v1/runs/{run}/progress", {"steps": 5}))
    assert (late["steps"], late["reporter"], late["at"] > first["at"]) == (7, None, True)
    assert ok(ledger.get(f"/v1/runs/{run}"))["progress"] == late
    assert [item["progress"] for item in ok(ledger.get("/v1/runs"))["items"]] == [late]
    assert kinds(ledger) == before
    ok(ledger.post(f"/v1/runs/{run}/void", {"reason": "the node burned"}))
    assert ok(ledger.get(f"/v1/runs/{run}"))["progress"]["steps"] == 7
    assert "progress" not in ok(ledger.get("/v1/runs"))["items"][0]


def test_only_a_started_run_has_progress(ledger: Ledger) -> None:
    """Goal: no row for what is not running, and only its own principal reports. Method: a run in each other state; a
    requester and another tenant; numbers and names that are none."""
    ledger.register()
    held = str(ok(ledger.ask(key="held"))["id"])
    settled = started(ledger, "settled")
    ok(ledger.post(f"/v1/runs/{settled}/settle"))
    for run, state in ((held, "held"), (settled, "settled")):
        refused = ledger.put(f"/v1/runs/{run}/progress", {"steps": 1})
        assert (refused.status_code, refused.json()["code"], refused.json()["state"]) == (409, "run-state", state)
        assert "progress" not in ok(ledger.get(f"/v1/runs/{run}"))
    running = started(ledger)
    assert ledger.as_("requester").put(f"/v1/runs/{running}/progress", {"steps": 1}).status_code == 403
    assert another_tenant(ledger).put(f"/v1/runs/{running}/progress", {"steps": 1}).status_code == 404
    for body in ({"steps": -1}, {}, {"steps": 1, "reporter": "a b"}, {"steps": 1, "reporter": "x" * 65}):
        assert ledger.put(f"/v1/runs/{running}/progress", body).status_code == 422, body


def test_a_run_is_found_by_its_key(ledger: Ledger) -> None:
    """Goal: a process finds the run of its job by the idempotency key, its own principal's alone; no other filter
    beside it."""
    ledger.register()
    run = started(ledger, "job-1")
    assert [item["id"] for item in ok(ledger.get("/v1/runs", key="job-1"))["items"]] == [run]
    assert ok(ledger.get("/v1/runs", key="job-2"))["items"] == []
    assert ok(ledger.as_("requester").get("/v1/runs", key="job-1"))["items"] == []
    assert ok(another_tenant(ledger).get("/v1/runs", key="job-1"))["items"] == []
    assert ledger.get("/v1/runs", key="job-1", state="held").json()["field"] == "key"
    ledger.register(name="other")
    limited = ledger.as_("requester", datasets=["other"])
    assert ok(limited.get("/v1/runs", key="job-1"))["items"] == []
