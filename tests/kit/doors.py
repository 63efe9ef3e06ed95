"""Doors into a database, for tests of what the database itself refuses, and rows that it accepts.

A test that takes the fixture `door` comes in through each of these:

    sqlite-ledger   the ledger's own connection
    sqlite-plain    `sqlite3` as it comes, with none of the ledger's pragmas: foreign keys are not checked there, and
                    REPLACE fires no DELETE trigger; constraints of a row, unique keys, types and triggers hold
    …-server        PostgreSQL with the server's role, which privileges limit too
    …-owner         PostgreSQL with the role that owns the tables
    …-replica       a superuser under session_replication_role = replica: foreign keys are not checked there, and only
                    triggers that are ENABLE ALWAYS fire
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import (
    Connection,
    Engine,
    Executable,
    Table,
    create_engine,
    insert,
    make_url,
    text,
)
from sqlalchemy.exc import DBAPIError

from ledger.settings import Settings
from ledger.store import columns, engine_for, guards, tables
from tests.conftest import Templates
from tests.kit import postgres

INT64_MAX = 2**63 - 1
LIMIT_MAX = 10**18
QUANTITIES = ("mu_sq_pico", "delta_atto")
PARTS = ("limit", "spent", "held", "overdrawn")
AMOUNTS = [f"{part}_{quantity}" for quantity in QUANTITIES for part in PARTS]

ACCEPTED = "accepted"
SQLSTATES = {
    "0A000": "unsupported",
    "22003": "number",
    "23001": "trigger",
    "23502": "null",
    "23503": "foreign key",
    "23505": "unique",
    "23514": "check",
    "42501": "privilege",
}
SQLITE_CODES = {
    sqlite3.SQLITE_CONSTRAINT_CHECK: "check",
    sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY: "foreign key",
    sqlite3.SQLITE_CONSTRAINT_NOTNULL: "null",
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY: "unique",
    sqlite3.SQLITE_CONSTRAINT_TRIGGER: "trigger",
    sqlite3.SQLITE_CONSTRAINT_UNIQUE: "unique",
    # Python 3.11 has no name for SQLITE_CONSTRAINT_DATATYPE.
    sqlite3.SQLITE_CONSTRAINT | 12 << 8: "type",
    sqlite3.SQLITE_ERROR: "no such thing",
}


# --- the doors -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Door:
    """A way into the database: an engine, and what it is that comes in through it."""

    who: str
    engine: Engine
    owner: Engine

    @property
    def is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    @property
    def checks_references(self) -> bool:
        return self.who not in ("plain", "replica")

    def attempt(self, *statements: Executable | str, **parameters: Any) -> str:
        """Runs statements in one transaction, and says what kind of refusal ended it. Nothing of it stays."""
        with self.engine.connect().execution_options(writing=True) as connection, connection.begin() as transaction:
            refused = attempt(connection, *statements, **parameters)
            transaction.rollback()
        return refused


def attempt(connection: Connection, *statements: Executable | str, **parameters: Any) -> str:
    """The kind of refusal that the first refused statement met, with the name of the check that failed."""
    try:
        for statement in statements:
            connection.execute(text(statement) if isinstance(statement, str) else statement, parameters)
    except DBAPIError as error:
        return refusal(error.orig)
    return ACCEPTED


def refusal(error: object) -> str:
    """What a database error is, in one word for both databases; a check's comes with its name."""
    if isinstance(error, sqlite3.Error):
        kind = SQLITE_CODES.get(error.sqlite_errorcode, str(error))
        return f"check {str(error).removeprefix('CHECK constraint failed: ')}" if kind == "check" else kind
    if isinstance(error, psycopg.Error):
        kind = SQLSTATES.get(error.sqlstate or "", str(error))
        return f"check {error.diag.constraint_name}" if kind == "check" else kind
    raise TypeError(error)


KINDS_OF_DOOR = [
    *(("sqlite", who) for who in ("ledger", "plain")),
    *((kind, who) for kind in postgres.chosen() for who in ("server", "owner", "replica")),
]


on_sqlite, on_postgresql = (
    pytest.mark.parametrize(
        "door", [kind for kind in KINDS_OF_DOOR if (kind[0] == "sqlite") == is_sqlite], indirect=True, ids="-".join
    )
    for is_sqlite in (True, False)
)


def engine_of(kind: str, who: str, settings: Settings, templates: Templates) -> Engine:
    """The engine that comes in through one door of a database."""
    match who:
        case "plain":
            return create_engine(settings.owner_url)
        case "replica":
            admin = make_url(templates.server(kind).admin_url).set(database=make_url(settings.owner_url).database)
            engine = create_engine(admin, connect_args={"options": "-c session_replication_role=replica"})
            with engine.connect() as connection:
                if not connection.execute(text("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")).scalar():
                    pytest.skip("the given server's URL names no superuser")
            return engine
        case "owner":
            return engine_for(settings.owner_url)
        case _:
            return engine_for(settings.database_url.get_secret_value())


# --- the rows --------------------------------------------------------------------------------------------------------

ACME, BETA = UUID(int=0xA), UUID(int=0xB)
MNIST, SPARE, MAIN_RUN, SPARE_RUN, MAIN_KEY = (UUID(int=number) for number in range(1, 6))
NOWHERE = UUID(int=0xF)


def row(table: Table, *, tenant: UUID = ACME, **changes: Any) -> dict[str, Any]:
    """A valid row beside those of `ROWS`, with its own id, name, key and digest; what it refers to is there."""
    id_ = uuid4()
    mine: dict[str, dict[str, Any]] = {
        "tenants": {
            "tenant_id": id_,
            "name": f"tenant {id_}",
            "second_steward": 0,
            "seq": 0,
            "head": bytes(32),
            "created_us": 1,
            "alerting": None,
        },
        "leases": {"name": str(id_), "holder": NOWHERE, "until_us": 1},
        "operator_keys": {"id": id_, "digest": 2 * id_.bytes, "created_us": 1, "revoked_us": None},
        "keys": {
            "id": id_,
            "principal_id": NOWHERE,
            "name": "a key",
            "role": "admin",
            "digest": 2 * id_.bytes,
            "datasets": None,
            "projects": None,
            "created_us": 1,
            "expires_us": None,
            "revoked_us": None,
            "last_used_us": None,
        },
        "datasets": {
            "id": id_,
            "name": f"dataset-{id_}",
            "title": "",
            "description": "",
            "privacy_unit": "record",
            "adjacency": "replace_one",
            "bound": "certified",
            "size": None,
            "is_partitioned": 0,
            "ceiling_mu_sq_pico": 200,
            "ceiling_delta_atto": 200,
            "budget": "{}",
            "limit_mu_sq_pico": 100,
            "limit_delta_atto": 100,
            "fair_use": None,
            "state": "active",
            "seq": 0,
            "head": bytes(32),
            "created_us": 1,
            "costing": "standalone",
            "least_seq": None,
            "least_mu_sq_pico": None,
            "least_delta_atto": None,
        },
        "lineage": {"dataset_id": SPARE, "ancestor_id": MNIST, "position": 0},
        "projects": {
            "dataset_id": MNIST,
            "name": f"project-{id_}",
            "budget": "{}",
            "limit_mu_sq_pico": 100,
            "limit_delta_atto": 100,
        },
        "accounts": {"dataset_id": SPARE if tenant == ACME else MNIST}
        | {"partition": "", "project": "", "principal_id": columns.NOBODY}
        | {f"limit_{quantity}": 100 for quantity in QUANTITIES}
        | {f"spent_{quantity}": 40 for quantity in QUANTITIES}
        | {f"held_{quantity}": 30 for quantity in QUANTITIES}
        | {f"overdrawn_{quantity}": 10 for quantity in QUANTITIES}
        | {"trail": ""},
        "entries": {
            "dataset_id": MNIST,
            "seq": 4 if tenant == ACME else 1,
            "kind": "run.approved",
            "at_us": 1,
            "run_id": None,
            "body": "{}",
            "hash": bytes(32),
        },
        "tenant_entries": {
            "seq": 2 if tenant == ACME else 1,
            "kind": "key-made",
            "at_us": 1,
            "body": "{}",
            "hash": bytes(32),
        },
        "proposals": {
            "id": id_,
            "kind": "budget",
            "dataset_id": MNIST,
            "run_id": None,
            "principal_id": NOWHERE,
            "body": "{}",
            "state": "open",
            "created_us": 1,
            "expires_us": 2,
        },
        "runs": {
            "id": id_,
            "principal_id": NOWHERE,
            "project": None,
            "state": "held",
            "mu_sq_pico": 0,
            "delta_atto": 0,
            "created_us": 1,
            "started_us": None,
            "ended_us": None,
            "due_us": 2,
            "reported_us": None,
            "r_pico": 0,
            "corrections": 0,
        },
        "places": {
            "position": 0,
            "run_id": SPARE_RUN,
            "dataset_id": MNIST if tenant == ACME else SPARE,
            "seq": 1,
            "principal_id": NOWHERE,
            "created_us": 1,
        },
        "sessions": {
            "id": id_,
            "kind": "session",
            "digest": 2 * id_.bytes,
            "principal_id": NOWHERE,
            "key_id": MAIN_KEY if tenant == ACME else None,
            "subject": None if tenant == ACME else "{}",
            "csrf": bytes(32),
            "created_us": 1,
            "used_us": 1,
            "expires_us": 2,
        },
        "tallies": {"dataset_id": SPARE, "name": "spare", "seq": 0, "left_ppm": 1, "forecast_seq": 0, "forecast_us": 0}
        | {"ends_us": None},
        "days": {
            "dataset_id": MNIST,
            "project": "",
            "partition": "",
            "day": 1,
            "seq": 1,
            **{f"{part}_{quantity}": 1 for quantity in QUANTITIES for part in ("limit", "spent", "held", "remaining")},
            "approvals": 1,
            "refusals": 0,
            **dict.fromkeys(("least_seq", "least_mu_sq_pico", "least_delta_atto")),
        },
        "progress": {"run_id": MAIN_RUN, "steps": 1, "at_us": 1, "reporter": None},
        "claims": {"key": f"key {id_}", "principal_id": NOWHERE, "digest": bytes(32), "run_id": MAIN_RUN},
        "certificates": {"digest": 2 * id_.bytes, "body": "{}", "created_us": 1},
        "alerts": {
            "id": id_,
            "kind": "threshold",
            "dataset_id": MNIST,
            "run_id": None,
            "seq": 1,
            "at_us": 1,
            "body": "{}",
            "state": "pending",
            "attempts": 0,
            "next_us": 1,
            "delivered_us": None,
            "failure": None,
        },
    }
    own = {} if table.name in ("tenants", "operator_keys", "leases") else {"tenant_id": tenant}
    return own | mine[table.name] | changes


# Two tenants. Beta has datasets with the same ids as Acme's, so that what belongs to one can be tried on the other.
ROWS: dict[Table, list[dict[str, Any]]] = {
    tables.tenants: [row(tables.tenants, tenant_id=tenant, name=str(tenant)) for tenant in (ACME, BETA)],
    tables.operator_keys: [row(tables.operator_keys, digest=bytes(32))],
    tables.leases: [row(tables.leases, name="a lease")],
    tables.keys: [row(tables.keys, id=MAIN_KEY, digest=bytes(32))],
    tables.sessions: [row(tables.sessions, id=MAIN_KEY, digest=bytes(32))],
    tables.datasets: [
        row(tables.datasets, id=MNIST, name="mnist", seq=3),
        row(tables.datasets, id=SPARE, name="spare"),
        row(tables.datasets, tenant=BETA, id=MNIST, name="beta's"),
        row(tables.datasets, tenant=BETA, id=SPARE, name="beta's, too", seq=1),
    ],
    tables.lineage: [row(tables.lineage, dataset_id=MNIST, ancestor_id=SPARE)],
    tables.projects: [row(tables.projects, name="ranking")],
    tables.accounts: [row(tables.accounts, dataset_id=MNIST)],
    tables.entries: [
        *(row(tables.entries, seq=seq, body=f'{{"seq":{seq}}}') for seq in (1, 2, 3)),
        row(tables.entries, tenant=BETA, dataset_id=SPARE),
    ],
    tables.tenant_entries: [row(tables.tenant_entries, seq=1)],
    tables.proposals: [row(tables.proposals, id=MAIN_RUN)],
    tables.runs: [
        *(row(tables.runs, id=id_) for id_ in (MAIN_RUN, SPARE_RUN)),
        row(tables.runs, tenant=BETA, id=SPARE_RUN),
    ],
    tables.places: [row(tables.places, run_id=MAIN_RUN)],
    tables.progress: [row(tables.progress, run_id=SPARE_RUN)],
    tables.tallies: [row(tables.tallies, dataset_id=MNIST)],
    tables.days: [row(tables.days, day=0)],
    tables.claims: [row(tables.claims, key="once")],
    tables.certificates: [row(tables.certificates, digest=bytes(32))],
    tables.alerts: [row(tables.alerts, id=MAIN_RUN)],
}
TABLES = tables.metadata.sorted_tables


def add(table: Table, *, tenant: UUID = ACME, **changes: Any) -> Executable:
    """An INSERT of a valid row, but for these changes."""
    return insert(table).values(row(table, tenant=tenant, **changes))


def limited(door: Door, table: Table, otherwise: str) -> str:
    """What is expected of an INSERT: the server's role does not get as far as a constraint of a table closed to it."""
    return "privilege" if door.who == "server" and "INSERT" not in guards.GRANTS[table.name] else otherwise
