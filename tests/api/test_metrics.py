"""What /metrics counts, and that it names nobody."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.api.test_surface import ones_own_key
from tests.conftest import Templates
from tests.kit.accountant import DPSGD
from tests.kit.driver import MNIST, RELEASE, Ledger

LABELS = {"route", "method", "status", "outcome", "reason", "version", "le"}
"""All labels that there are: none has a value for each tenant, dataset, key or run."""


@pytest.fixture
def here(templates: Templates, tmp_path: Path) -> Iterator[Ledger]:
    """A ledger on SQLite alone, for what does not depend on the database."""
    with templates.clone("sqlite", tmp_path) as settings, Ledger.open(settings) as opened:
        yield opened


def counted(ledger: Ledger) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample, by name and labels, asked for without a key."""
    answer = ledger.client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = text_string_to_metric_families(answer.text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(ledger: Ledger, name: str, **labels: str) -> float:
    """One sample; 0 where nothing was counted yet."""
    return counted(ledger).get((name, frozenset(labels.items())), 0)


def test_requests_and_decisions(ledger: Ledger) -> None:
    """Goal: requests are counted by route, method and status, decisions by outcome. Method: some of each, on every
    database; the writer's groups and their sizes add up to what it was given."""
    before = value(ledger, "ledger_writer_group_size_sum")
    ledger.register()
    for _ in range(3):
        assert ledger.ask(key="same").status_code == 201
    assert ledger.ask({"type": "gaussian", "noise_multiplier": 0.1}).status_code == 409
    runs = {"route": "/v1/runs", "method": "POST"}
    assert value(ledger, "ledger_requests_total", **runs, status="201") == 3
    assert value(ledger, "ledger_requests_total", **runs, status="409") == 1
    assert value(ledger, "ledger_request_seconds_count", **runs) == 4
    outcomes = {name: value(ledger, "ledger_decisions_total", outcome=name) for name in ("approved", "refused")}
    assert outcomes == {"approved": 1, "refused": 1}
    assert value(ledger, "ledger_decisions_total", outcome="replayed") == 2
    assert value(ledger, "ledger_writer_group_size_sum") == before + 5
    assert 0 < value(ledger, "ledger_writer_group_seconds_count") <= before + 5
    assert 0 < value(ledger, "ledger_writer_group_seconds_sum") < 60
    assert value(ledger, "ledger_writer_waiting") == 0


def test_batches(here: Ledger) -> None:
    """Goal: each run of a batch is a decision; of a batch that was refused whole, none is."""
    here.register()
    large = {**RELEASE, "mechanism": {"type": "gaussian", "noise_multiplier": 0.1}, "idempotency_key": "c"}
    runs = [{**RELEASE, "idempotency_key": "a"}, {**RELEASE, "idempotency_key": "b"}, large]
    assert here.post("/v1/runs/batch", {"runs": runs, "atomic": True}).status_code == 409
    assert value(here, "ledger_decisions_total", outcome="approved") == 0
    assert here.post("/v1/runs/batch", {"runs": runs}).status_code == 200
    assert value(here, "ledger_decisions_total", outcome="approved") == 2
    assert value(here, "ledger_decisions_total", outcome="refused") == 1


def test_certificates(here: Ledger) -> None:
    """Goal: what is dear is counted once. Method: evaluate the same mechanism twice."""
    for _ in range(2):
        assert here.post("/v1/evaluate", {"mechanism": DPSGD}).status_code == 200
    assert value(here, "ledger_certificate_seconds_count") == 2  # the cost, and the line along which it is traded
    assert value(here, "ledger_certificates_waiting") == 0


def test_failed_sign_ins(here: Ledger) -> None:
    """Goal: failed sign-ins are counted by reason. Method: some of each; a good key counts as none."""
    stranger = ones_own_key(here)
    for header in (None, f"Bearer {stranger}", f"Bearer {stranger[:-1]}", "Basic x", f"Bearer {stranger}"):
        headers = {} if header is None else {"Authorization": header}
        assert here.client.get("/v1/datasets", headers=headers).status_code == 401
    assert here.get("/v1/datasets").status_code == 200
    reasons = ("missing", "malformed", "unknown", "limited")
    found = {reason: value(here, "ledger_failed_sign_ins_total", reason=reason) for reason in reasons}
    assert found == {"missing": 1, "malformed": 2, "unknown": 2, "limited": 0}


def test_nobody_is_named(here: Ledger) -> None:
    """Goal: no label grows with what callers send, and none names a tenant, a dataset, a key or a run.

    Method: names, ids and methods of all kinds; then the labels there are, and what their values are made of.
    """
    here.register(name="a-most-secret-dataset")
    run = here.ask(datasets=["a-most-secret-dataset"]).json()["id"]
    here.post(f"/v1/runs/{run}/start")
    for number in range(50):
        here.get(f"/v1/datasets/name-{number}")
        here.get(f"/v1/runs/{number}?state={number}")
        here.get(f"/nothing/{number}")
        here.request(f"BREW{number}", f"/v1/datasets/name-{number}")
    text = here.client.get("/metrics").text
    for name in ("a-most-secret-dataset", run, here.tenant, "name-", "BREW", here.key[4:20], "nothing/"):
        assert name not in text
    samples = counted(here)
    assert {label for _, labels in samples for label, _ in labels} <= LABELS
    known = {*here.client.app.openapi()["paths"], "/", "/docs", "/openapi.json", "unknown"}
    for _, labels in samples:
        assert dict(labels).get("route", "unknown") in known
        assert re.fullmatch(r"[A-Z]+", dict(labels).get("method", "GET"))
    assert len(samples) < 1000


def test_every_application_counts_for_itself(templates: Templates, tmp_path: Path) -> None:
    """Goal: two applications of one process do not count together, and one that is gone leaves nothing behind."""
    with templates.clone("sqlite", tmp_path) as settings:
        with Ledger.open(settings) as one:
            one.register()
            assert value(one, "ledger_requests_total", route="/v1/datasets", method="POST", status="201") == 1
            key = one.key
        (tmp_path / "other").mkdir()
        with templates.clone("sqlite", tmp_path / "other") as others, Ledger.open(others) as other:
            assert value(other, "ledger_requests_total", route="/v1/datasets", method="POST", status="201") == 0
            assert key != other.key


def test_counting_loses_nothing(ledger: Ledger) -> None:
    """Goal: what many do at once is counted in full. Method: requests from eight threads, against their number."""
    ledger.register(budget={"mu": 1000})
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: ledger.ask(key=f"k{number}").status_code, range(200)))
    assert answers == [201] * 200
    assert value(ledger, "ledger_decisions_total", outcome="approved") == 200
    assert value(ledger, "ledger_requests_total", route="/v1/runs", method="POST", status="201") == 200
    assert value(ledger, "ledger_writer_group_size_sum") >= 200
    assert MNIST["name"] not in ledger.client.get("/metrics").text
