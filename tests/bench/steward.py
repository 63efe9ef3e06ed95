"""What a steward's calls take, with a dataset of a million runs and a tenant of ten thousand datasets.

    PYTHONPATH=$PWD .venv/bin/python -m tests.bench.steward [RUNS] [DATASETS]

Rows are inserted behind the ledger's back, by statements that copy a real run and a real dataset; their hashes are not
right, which no list looks at. Printed for each call: processor time of this process, the whole time with the
database's, and statements; medians of nine.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr
from sqlalchemy import Engine, create_engine, event, text

from ledger.core.daily import day_of
from ledger.operate import deploy
from ledger.settings import Settings
from tests.bench.sites import durable
from tests.kit import postgres
from tests.kit.driver import MNIST, SIGNING_KEY, WEAK, Ledger
from tests.kit.scene import ok

RUNS: Final = 1_000_000
DATASETS: Final = 10_000
ROUNDS: Final = 9
DAYS_OF_DATASET: Final = 30
YEAR_US: Final = 365 * 86_400_000_000
OWN: Final = {
    "sqlite": {
        "uid": "printf('%08x-0000-4000-8000-%012x', n, {k})",
        "series": "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {count})",
        "at": "strftime('%Y-%m-%dT%H:%M:%S', ({us}) / 1000000, 'unixepoch') || '.000000Z'",
    },
    "postgresql": {
        "uid": "(lpad(to_hex(n), 8, '0') || '-0000-4000-8000-' || lpad(to_hex({k}), 12, '0'))::uuid",
        "series": "WITH s AS (SELECT n FROM generate_series(1::bigint, {count}) AS n)",
        "at": "to_char(to_timestamp(({us}) / 1000000) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS') || '.000000Z'",
    },
}


class Filler:
    """Copies rows, each in one statement."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._own = OWN[engine.dialect.name]
        self._is_postgresql = engine.dialect.name == "postgresql"

    def uid(self, kind: int) -> str:
        return self._own["uid"].format(k=kind)

    def at(self, us: str) -> str:
        return self._own["at"].format(us=us)

    def copy(self, table: str, template: str, count: int, values: dict[str, str]) -> None:
        """Insert `count` rows like the one that `template` selects. values: SQL for columns that differ, with `n` as
        the number of the row and `t` as the template's."""
        with self._engine.begin() as connection:
            if self._is_postgresql:
                connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
            else:
                connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
            names = list(connection.execute(text(template)).keys())
            columns = ", ".join(f'"{name}"' for name in names)
            given = ", ".join(values.get(name, f't."{name}"') for name in names)
            series = self._own["series"].format(count=count)
            into = f"INSERT INTO {table} ({columns})"
            query = f"SELECT {given} FROM s CROSS JOIN (SELECT * FROM ({template}) AS w) AS t ORDER BY n"
            joined = f"{series} {into} {query}" if self._is_postgresql else f"{into} {series} {query}"
            connection.exec_driver_sql(joined.replace("%", "%%") if self._is_postgresql else joined)

    def do(self, statement: str) -> None:
        with self._engine.begin() as connection:
            if self._is_postgresql:
                connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
            connection.exec_driver_sql(statement.replace("%", "%%") if self._is_postgresql else statement)


def fill(filler: Filler, admin: Ledger, *, runs: int, datasets: int) -> str:
    """Make the dataset `busy` with its runs, and the other datasets. Return the id of a run."""
    budget = {"mu": 900, "delta": 0.001}
    for name in ("busy", "small"):
        ok(
            admin.post(
                "/v1/datasets",
                {**MNIST, "name": name, "bound": "certified", "costing": "standalone", "budget": budget, **WEAK},
            )
        )
    more: dict[str, Any] = {"purpose": "tune the ranking", "labels": {"sweep": "7"}}
    run = ok(admin.ask({"type": "gaussian", "noise_multiplier": 100}, datasets=["busy"], **more))["id"]
    one = f"run_id = '{run}'"
    step = YEAR_US // runs
    now_us = int(time.time() * 1_000_000)
    begin = now_us - YEAR_US
    at_us = f"{begin} + n * {step}"
    refused = "n % 20 = 0"
    uid = filler.uid(1)

    filler.copy(
        "runs",
        f"SELECT * FROM runs WHERE id = '{run}'",
        runs,
        {
            "id": uid,
            "created_us": at_us,
            "due_us": "NULL",
            "ended_us": f"{at_us} + 1",
            "state": f"CASE WHEN {refused} THEN 'refused' ELSE 'settled' END",
            "mu_sq_pico": f"CASE WHEN {refused} THEN NULL ELSE t.mu_sq_pico END",
            "delta_atto": f"CASE WHEN {refused} THEN NULL ELSE t.delta_atto END",
            "project": "CASE WHEN n % 3 = 0 THEN NULL ELSE 'p' || (n % 50) END",
        },
    )
    body = f"""replace(replace(replace(t.body, '"seq":2', '"seq":' || (2 + n)), '{run}', {uid}::text),
        '"at":"' || substr(t.body, position('"at":"' in t.body) + 6, 27), '"at":"' || {filler.at(at_us)})"""
    if not filler._is_postgresql:
        body = body.replace("::text", "").replace('position(\'"at":"\' in t.body)', 'instr(t.body, \'"at":"\')')
    filler.copy(
        "entries",
        f"SELECT * FROM entries WHERE {one}",
        runs,
        {
            "seq": "2 + n",
            "run_id": uid,
            "at_us": at_us,
            "body": body,
            "kind": f"CASE WHEN {refused} THEN 'run-refused' ELSE 'run-approved' END",
        },
    )
    filler.copy(
        "places", f"SELECT * FROM places WHERE {one}", runs, {"run_id": uid, "created_us": at_us, "seq": "2 + n"}
    )
    filler.do(f"UPDATE datasets SET seq = {runs + 2}, created_us = {begin} WHERE name = 'busy'")
    small = "SELECT {} FROM {} WHERE {} = (SELECT id FROM datasets WHERE name = 'small')"
    filler.copy(
        "datasets",
        small.format("*", "datasets", "id"),
        datasets,
        {"id": filler.uid(2), "name": "'dataset-' || n", "seq": "1"},
    )
    filler.copy("entries", small.format("*", "entries", "dataset_id"), datasets, {"dataset_id": filler.uid(2)})
    taken = "t.limit_mu_sq_pico / 1000 * (n % 1000)"
    filler.copy(
        "accounts",
        small.format("*", "accounts", "dataset_id"),
        datasets,
        {"dataset_id": filler.uid(2), "spent_mu_sq_pico": taken},
    )
    filler.copy(
        "tallies",
        small.format("*", "tallies", "dataset_id"),
        datasets,
        {
            "dataset_id": filler.uid(2),
            "name": "'dataset-' || n",
            "seq": "1",
            "left_ppm": "1000000 - 1000 * (n % 1000)",
            "forecast_seq": "1",
            "forecast_us": f"{now_us}",
        },
    )
    return str(run)


def fill_days(filler: Filler, *, datasets: int) -> None:
    """Give each dataset the days of a month, like the one that was counted of a small one."""
    today = day_of(int(time.time() * 1_000_000))
    template = (
        "SELECT * FROM days WHERE dataset_id = (SELECT id FROM datasets WHERE name = 'small') AND project = ''"
        " AND partition = '' ORDER BY day DESC LIMIT 1"
    )
    for back in range(DAYS_OF_DATASET):
        filler.copy(
            "days",
            template,
            datasets,
            {"dataset_id": filler.uid(2), "day": f"{today - back}", "approvals": "3", "refusals": "1"},
        )


CALLS: Final = {
    "overview": "/v1/overview?limit=50",
    "overview, last page": "/v1/overview?limit=50&cursor=CURSOR",
    "burndown by day": "/v1/datasets/busy/burndown",
    "burndown by week, a year": "/v1/datasets/busy/burndown?by=week&since=365d",
    "dataset": "/v1/datasets/busy",
    "balance as of a date": "/v1/datasets/busy/balance?at=HALF",
    "history": "/v1/datasets/busy/history",
    "spending by person": "/v1/datasets/busy/spending?by=person",
    "forecast": "/v1/datasets/busy/forecast",
    "runs": "/v1/runs?limit=50",
    "runs of a dataset": "/v1/runs?dataset=busy&limit=50",
    "runs by state": "/v1/runs?state=refused&limit=50",
    "runs by a state that none has": "/v1/runs?state=started&limit=50",
    "runs of a project": "/v1/runs?project=p7&limit=50",
    "runs by purpose": "/v1/runs?purpose=RANKING&limit=50",
    "runs by a purpose that none has": "/v1/runs?purpose=nothing&limit=50",
    "runs by label": "/v1/runs?label=sweep%3D7&limit=50",
    "runs by mechanism": "/v1/runs?mechanism=gaussian&limit=50",
    "runs by a person's name": "/v1/runs?person=admin&limit=50",
    "runs by a person": "/v1/runs?person=PRINCIPAL&limit=50",
    "runs by a person and dataset": "/v1/runs?person=PRINCIPAL&dataset=busy&limit=50",
    "overdue runs": "/v1/runs?overdue=true&limit=50",
    "a run by its id's beginning": "/v1/runs/RUN",
}


def measure(name: str, settings: Settings, engine: Engine, *, runs: int, datasets: int) -> None:
    """Fill a database, and print what each call takes."""
    deploy.migrate(settings)
    with Ledger.open(settings.model_copy(update={"watch_seconds": 3600})) as admin:
        begun = time.perf_counter()
        filler = Filler(engine)
        run = fill(filler, admin, runs=runs, datasets=datasets)
        print(f"{name}: filled in {time.perf_counter() - begun:.0f} s", flush=True)
        _count(settings)
        fill_days(filler, datasets=datasets)
        if engine.dialect.name == "postgresql":
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("VACUUM ANALYZE")
        print(f"{name}: ready after {time.perf_counter() - begun:.0f} s", flush=True)
        principal = ok(admin.get("/v1/me"))["principal"]
        cursor = _last_cursor(admin)
        half = time.strftime("%Y-%m-%d", time.gmtime(time.time() - YEAR_US / 2_000_000))
        year = time.strftime("%Y-%m-%d", time.gmtime(time.time() - YEAR_US / 1_000_000 + 86_400))
        for what, path in CALLS.items():
            for mark, value in (
                ("CURSOR", cursor),
                ("HALF", half),
                ("PRINCIPAL", principal),
                ("RUN", run[:13]),
                ("365d", year),
            ):
                path = path.replace(mark, value)  # noqa: PLW2901
            used, whole, sent = _timed(admin, path)
            note = "  ABOVE 100 ms" if used > 100 else ""
            print(f"{name:11} {what:34} {used:7.1f} ms {whole:7.1f} ms in all {sent:3} statements{note}", flush=True)


def _timed(admin: Ledger, path: str) -> tuple[float, float, int]:
    used, whole, sent = [], [], []
    with _statements() as count:
        for _ in range(ROUNDS):
            count.clear()
            cpu, wall = time.process_time(), time.perf_counter()
            answer = admin.request("GET", path)
            used.append(1000 * (time.process_time() - cpu))
            whole.append(1000 * (time.perf_counter() - wall))
            sent.append(len(count))
            assert answer.is_success, answer.text
    return statistics.median(used), statistics.median(whole), int(statistics.median(sent))


@contextlib.contextmanager
def _statements() -> Iterator[list[str]]:
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def _last_cursor(admin: Ledger) -> str:
    """The cursor in the middle of the list."""
    cursor, page = "", ok(admin.get("/v1/overview", limit=100))
    for _ in range(20):
        if page["next"] is None:
            break
        cursor = page["next"]
        page = ok(admin.get("/v1/overview", limit=100, cursor=cursor))
    return str(cursor)


def _count(settings: Settings) -> None:
    """Count the journals that were filled, as the background does."""
    import random

    from tests.kit.days import count_some

    begun = time.process_time()
    while count_some(settings, random.Random(0), passes=1, entries_max=1_000_000):
        pass
    print(f"counted by day with {time.process_time() - begun:.0f} s of processor time", flush=True)


def main() -> None:
    """Measure on SQLite and on PostgreSQL."""
    runs, datasets = map(int, sys.argv[1:3] or (RUNS, DATASETS))
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'steward.db'}"
        settings = Settings(database_url=SecretStr(url), signing_key=SecretStr(SIGNING_KEY))
        measure("SQLite", settings, create_engine(url), runs=runs, datasets=datasets)
    with postgres.start(postgres.available()[0]) as server, contextlib.ExitStack() as stack:
        settings = stack.enter_context(durable(server, "steward"))
        engine = create_engine(_superuser(server.admin_url, settings))
        measure("PostgreSQL", settings, engine, runs=runs, datasets=datasets)
        engine.dispose()


def _superuser(admin_url: str, settings: Settings) -> str:
    from sqlalchemy import make_url

    database = make_url(settings.owner_url).database
    admin = make_url(admin_url).set(database=database, drivername="postgresql+psycopg")
    return admin.render_as_string(hide_password=False)


if __name__ == "__main__":
    main()
