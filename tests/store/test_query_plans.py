"""No statement of a decision, a page or a balance reads more rows the longer a journal is.

Goal: what one call costs does not grow with what is behind it. Method: every statement that the ledger sends while
everything is asked for, decided, ended and listed is planned again by the database, over thousands of runs. A step
of its plan that reads a large table must go along an index by more than the tenant, or stop at a page's limit.
"""

from __future__ import annotations

import random
import re
import sqlite3
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from ledger.settings import Settings
from ledger.store import proposals, runs
from tests.kit import databases as kit
from tests.kit.accountant import DPSGD
from tests.kit.databases import Databases
from tests.kit.days import count_some
from tests.kit.driver import MNIST, RELEASE, WEAK, Ledger
from tests.kit.scene import REASON, ok
from tests.kit.trials import trials

MANY = 20_000
MANY_SQLITE = trials(2_000, MANY)
"""SQLite counts no rows for a plan before it is told to."""
LARGE = frozenset({"runs", "places", "entries", "claims", "alerts", "certificates", "days"})
PREFIX = frozenset({"tenant_id", "dataset_id", "principal_id"})
"""All rows of a journal or of a person, or more."""


@contextmanager
def _statements() -> Iterator[tuple[dict[str, Any], set[str]]]:
    """The statements that are sent, with parameters of one of their calls, and those that decide."""
    sent: dict[str, Any] = {}
    deciding: set[str] = set()

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, is_many: bool) -> None:
        if re.match(r"\s*(SELECT|UPDATE|DELETE|WITH)\b", statement):
            sent.setdefault(statement, parameters[0] if is_many else parameters)
            if threading.current_thread().name.startswith("ledger-writer"):
                deciding.add(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield sent, deciding
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def _everything(admin: Ledger, name: str) -> None:
    """All calls that decide, end, show and list."""
    budget = {"mu": 1000, "delta": 0.001}
    ok(
        admin.post(
            "/v1/datasets",
            {**MNIST, "name": name, "bound": "certified", "costing": "standalone", "budget": budget, **WEAK},
        )
    )
    ok(admin.post("/v1/datasets", {"name": f"{name}.copy", "derived_from": [{"name": name, "unit_preserving": True}]}))
    ok(admin.post("/v1/datasets", {**MNIST, "name": f"{name}.parts", "partitions": ["a", "b"]}))
    ok(admin.put(f"/v1/datasets/{name}/projects/planning", {"budget": {"mu": 900, "delta": 0.0009}}))
    ok(admin.put(f"/v1/datasets/{name}/fair-use", {"held": budget, "runs_per_hour": 100, **REASON}))
    ok(admin.ask(DPSGD, datasets=[f"{name}.copy"], project="planning", key=f"{name}-copy"))
    ok(admin.ask(datasets=[f"{name}.parts"], key=f"{name}-parts"))
    run = ok(admin.ask(datasets=[name], key=f"{name}-started"))["id"]
    ok(admin.post(f"/v1/runs/{run}/start"))
    ok(admin.post(f"/v1/runs/{run}/settle"))
    ok(admin.ask(datasets=[name], key=f"{name}-started"))
    for more in ({}, {}, {"atomic": True}):  # the same keys again, and keys that are let go
        runs = [
            {**RELEASE, "datasets": [name, f"{name}.parts"], "idempotency_key": f"{name}-{len(more)}-{number}"}
            for number in range(2)
        ]
        if more:
            runs[1]["mechanism"] = {"type": "gaussian", "noise_multiplier": 0.0001}
        assert admin.post("/v1/runs/batch", {"runs": runs, **more}).status_code == (409 if more else 200)
    voided = ok(admin.ask(datasets=[name], key=f"{name}-voided"))["id"]
    ok(admin.post(f"/v1/runs/{voided}/void", REASON))
    ok(admin.post("/v1/datasets", {**MNIST, "name": f"{name}.waits"}))
    ok(admin.put(f"/v1/datasets/{name}.waits/fair-use", {"waits_above_percent": 1, **REASON}))
    for answer in ("refuse", "approve", None):
        waiting = admin.ask(datasets=[f"{name}.waits"], key=f"{name}-waits-{answer}").json()["run"]
        ok(admin.get(f"/v1/runs/{waiting}"))
        if answer is not None:
            ok(admin.as_("steward").post(f"/v1/proposals/{waiting}/{answer}", REASON))
    limited = admin.as_("requester", datasets=[name])
    for path in (
        *("/v1/datasets", f"/v1/datasets/{name}", f"/v1/datasets/{name}.parts"),
        *(f"/v1/datasets/{name}.parts/partitions", f"/v1/datasets/{name}/report"),
        *(f"/v1/datasets/{name}/proof?seq=3", "/v1/projects/planning/report", "/v1/entries", "/v1/alerting"),
        *(f"/v1/runs/{run}", "/v1/runs", f"/v1/runs?dataset={name}", "/v1/proposals"),
        *("/v1/runs?state=waiting", f"/v1/runs?state=expired&dataset={name}.waits", f"/v1/runs?key={name}-waits-None"),
        *(
            "/v1/runs?project=planning",
            "/v1/runs?overdue=true",
            "/v1/alerts",
            "/v1/keys",
            "/v1/policy",
            "/v1/forecasts",
        ),
        *(f"/v1/runs?state=refused&dataset={name}&project=planning", "/v1/runs?since=2020-01-01&until=2020-01-02"),
        *(
            f"/v1/datasets/{name}/history",
            f"/v1/datasets/{name}/balance?at=2100-01-01",
            f"/v1/datasets/{name}/spending?by=person",
            f"/v1/datasets/{name}/burndown",
            f"/v1/datasets/{name}.parts/burndown?by=month&partition=a",
            "/v1/overview",
        ),
        *(f"/v1/datasets/{name}.parts/balance?seq=1", f"/v1/datasets/{name}.parts/spending?by=month&partition=a"),
        *("/v1/runs?label=sweep%3D7&purpose=x&mechanism=gaussian", "/v1/runs?person=admin", f"/v1/runs/{run[:13]}"),
        *(f"/v1/runs?person={uuid.UUID(int=1)}", f"/v1/runs?person={uuid.UUID(int=1)}&dataset={name}"),
        *(f"/v1/datasets/{name}/entries?limit=5", f"/v1/datasets/{name}/forecast", f"/v1/datasets/{name}/head"),
    ):
        ok(admin.request("GET", path))
    ok(limited.get("/v1/runs"))
    ok(limited.get("/v1/overview"))
    ok(limited.get("/v1/runs?state=held&purpose=x"))
    assert limited.get("/v1/runs/00000000").status_code == 404
    assert admin.delete("/v1/keys/00000000").status_code == 404
    assert admin.get("/v1/proposals/00000000").status_code == 404
    assert admin.get(f"/v1/datasets/{name}/export").is_success


def _copies(template: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A row like another one, under a key of its own."""
    row = dict(template)
    fresh = uuid.uuid5(uuid.NAMESPACE_OID, f"copy {number}")
    for column in ("id", "run_id"):
        if row.get(column) is not None:
            row[column] = str(fresh) if isinstance(row[column], str) else fresh
    if row.get("seq") is not None:
        row["seq"] += number
    if "key" in row:
        row["key"] = f"copy {number}"
    if "digest" in row and "body" in row:
        row["digest"] = fresh.bytes * 2
    for column in ("created_us", "at_us", "day"):
        if column in row:
            row[column] += number
    return row


_LAST = (
    "SELECT run_id FROM entries AS one WHERE kind = 'run-approved' AND NOT EXISTS (SELECT 1 FROM entries AS next"
    " WHERE next.dataset_id = one.dataset_id AND next.seq > one.seq)"
    " AND run_id IN (SELECT id FROM runs WHERE project IS NULL) ORDER BY run_id LIMIT 1"
)
NEWEST = {
    "runs": f"SELECT * FROM runs WHERE id = ({_LAST})",
    "places": f"SELECT * FROM places WHERE run_id = ({_LAST})",
    "entries": f"SELECT * FROM entries WHERE run_id = ({_LAST})",
    "claims": "SELECT * FROM claims LIMIT 1",
    "alerts": "SELECT * FROM alerts LIMIT 1",
    "certificates": "SELECT * FROM certificates LIMIT 1",
    "days": "SELECT * FROM days WHERE project = '' AND partition = '' LIMIT 1",
}
"""What is copied, so that each large table is."""


def _fill(among: Databases, settings: Settings) -> None:
    """Thousands of rows more in each large table, past the constraints between tables, which plans know nothing of."""
    if settings.is_sqlite:
        with closing(sqlite3.connect(kit.file_of(settings))) as file:
            file.row_factory = sqlite3.Row
            for table, query in NEWEST.items():
                template = dict(file.execute(query).fetchone())
                rows = [_copies(template, number) for number in range(1, MANY_SQLITE + 1)]
                marks = ", ".join(f":{column}" for column in template)
                file.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
            file.commit()
        return
    with among.superuser(settings) as server:
        server.execute("SET session_replication_role = replica")
        for table, query in NEWEST.items():
            cursor = server.execute(query)
            template = dict(
                zip((column.name for column in cursor.description or ()), cursor.fetchone() or (), strict=True)
            )
            with server.cursor().copy(f"COPY {table} FROM STDIN") as copy:
                for number in range(1, MANY + 1):
                    copy.write_row(list(_copies(template, number).values()))
        server.execute("ANALYZE")


def _sqlite_faults(connection: sqlite3.Connection, statement: str, parameters: Any) -> Iterator[str]:
    for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters):
        step = str(row[3])
        read = re.match(r"(SCAN|SEARCH) (\w+)(?: USING .*?\((.*)\))?", step)
        if read is None or read[2] not in LARGE:
            continue
        columns = set(re.findall(r"(\w+)[=<>]", read[3] or ""))
        if read[1] == "SCAN" or (columns <= PREFIX and "LIMIT" not in statement):
            yield step


def _postgresql_faults(node: Mapping[str, Any], prefix: frozenset[str], *, is_bounded: bool = False) -> Iterator[str]:
    is_bounded = is_bounded or node["Node Type"] == "Limit"
    if node.get("Relation Name") in LARGE:
        columns = re.findall(r"\((\w+) [=<>]", str(node.get("Index Cond", "")))
        if node["Node Type"] == "Seq Scan" or (
            node["Node Type"] not in ("Bitmap Heap Scan", "ModifyTable") and set(columns) <= prefix and not is_bounded
        ):
            yield f"{node['Node Type']} on {node['Relation Name']} by {node.get('Index Cond')}"
    for child in node.get("Plans", ()):
        yield from _postgresql_faults(child, prefix, is_bounded=is_bounded)


def _forget(among: Databases, settings: Settings) -> None:
    """Let the database know no more of its rows than before it counted them."""
    if not settings.is_sqlite:
        with among.superuser(settings) as server:
            server.execute("DELETE FROM pg_statistic")
            server.execute("UPDATE pg_class SET reltuples = -1, relpages = 0 WHERE relname = ANY(%s)", [list(LARGE)])


def _faults(settings: Settings, sent: Mapping[str, Any], prefix: frozenset[str] = PREFIX) -> dict[str, list[str]]:
    """The statements that read more the more there is, with the steps that do."""
    faults: dict[str, list[str]] = {}
    if settings.is_sqlite:
        with closing(sqlite3.connect(kit.file_of(settings))) as connection:
            for statement, parameters in sent.items():
                faults[statement] = list(_sqlite_faults(connection, statement, parameters))
    else:
        with kit.served(settings) as connection:
            for statement, parameters in sent.items():
                plan = connection.execute(f"EXPLAIN (FORMAT JSON) {statement}".encode(), parameters).fetchone()
                assert plan is not None
                faults[statement] = list(_postgresql_faults(plan[0][0]["Plan"], prefix))
    return {statement: steps for statement, steps in faults.items() if steps}


def test_no_statement_reads_more_the_longer_a_journal_is(
    databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every statement of every call goes by more than the tenant, or ends with its page."""
    monkeypatch.setattr(proposals, "SCANNED_MAX", 50)
    monkeypatch.setattr(runs, "SCANNED_MAX", 50)  # so that a filter's search ends before the runs do
    with ExitStack() as stack:
        settings = stack.enter_context(databases.templates.clone(databases.kind, tmp_path))
        # What is done once an hour in the background is no call, and would be noted if the test took long.
        admin = stack.enter_context(Ledger.open(settings.model_copy(update={"watch_seconds": 3600})))
        ok(admin.post("/v1/alerting/test"))
        _everything(admin, "before")
        count_some(settings, random.Random(0), passes=1, entries_max=10_000)
        _fill(databases, settings)
        with _statements() as (sent, deciding):
            _everything(admin, "after")
            count_some(settings, random.Random(0), passes=2, entries_max=10)
        assert len(sent) > 50
        assert len(deciding) > 10
        # A database that has counted its rows reads the whole of a journal only if it is short.
        faults = _faults(settings, sent, PREFIX if settings.is_sqlite else frozenset({"tenant_id"}))
        # A new ledger grows, and must decide, before its database has counted anything.
        _forget(databases, settings)
        faults |= _faults(settings, {statement: sent[statement] for statement in deciding})
        assert not faults, "\n\n".join(f"{statement}\n  {steps}" for statement, steps in faults.items())
