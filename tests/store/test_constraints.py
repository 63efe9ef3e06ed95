"""The database itself refuses what a faulty program would do to it, whichever way the program comes in.

Every test comes in through each of these doors:

    sqlite-ledger   the ledger's own connection
    sqlite-plain    `sqlite3` as it comes, with none of the ledger's pragmas: foreign keys are not checked there, and
                    REPLACE fires no DELETE trigger; constraints of a row, unique keys, types and triggers hold
    …-server        PostgreSQL with the server's role, which privileges limit too
    …-owner         PostgreSQL with the role that owns the tables
    …-replica       a superuser under session_replication_role = replica: foreign keys are not checked there, and only
                    triggers that are ENABLE ALWAYS fire
"""

from __future__ import annotations

import random
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import (
    CheckConstraint,
    Connection,
    Engine,
    Executable,
    ForeignKeyConstraint,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    UniqueConstraint,
    create_engine,
    insert,
    make_url,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError

from ledger.settings import Settings
from ledger.store import engine_for, guards, tables
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


@pytest.fixture(params=KINDS_OF_DOOR, ids="-".join)
def door(request: pytest.FixtureRequest, templates: Templates, tmp_path: Path) -> Iterator[Door]:
    """Each door into a fresh database that the rows of `ROWS` are in."""
    kind, who = request.param
    with templates.clone(kind, tmp_path) as settings:
        owner = engine_for(settings.owner_url)
        engine = _engine(kind, who, settings, templates)
        try:
            with owner.execution_options(writing=True).begin() as connection:
                # It stands before every constraint, and has tests of its own (test_row_security.py).
                for table in ROWS if kind != "sqlite" else ():
                    connection.execute(text(f"ALTER TABLE {table.name} DISABLE ROW LEVEL SECURITY"))
                for table, rows in ROWS.items():
                    connection.execute(insert(table), rows)
            yield Door(who, engine, owner)
        finally:
            engine.dispose()
            owner.dispose()


on_sqlite, on_postgresql = (
    pytest.mark.parametrize(
        "door", [each for each in KINDS_OF_DOOR if (each[0] == "sqlite") == wanted], indirect=True, ids="-".join
    )
    for wanted in (True, False)
)


def _engine(kind: str, who: str, settings: Settings, templates: Templates) -> Engine:
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
        | {"partition": "", "project": "", "principal_id": tables.NOBODY}
        | {f"limit_{quantity}": 100 for quantity in QUANTITIES}
        | {f"spent_{quantity}": 40 for quantity in QUANTITIES}
        | {f"held_{quantity}": 30 for quantity in QUANTITIES}
        | {f"overdrawn_{quantity}": 10 for quantity in QUANTITIES},
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
        },
        "places": {
            "run_id": SPARE_RUN,
            "dataset_id": MNIST if tenant == ACME else SPARE,
            "seq": 1,
            "principal_id": NOWHERE,
            "created_us": 1,
        },
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
    own = {} if table.name in ("tenants", "operator_keys") else {"tenant_id": tenant}
    return own | mine[table.name] | changes


# Two tenants. Beta has datasets with the same ids as Acme's, so that what belongs to one can be tried on the other.
ROWS: dict[Table, list[dict[str, Any]]] = {
    tables.tenants: [row(tables.tenants, tenant_id=tenant, name=str(tenant)) for tenant in (ACME, BETA)],
    tables.operator_keys: [row(tables.operator_keys, digest=bytes(32))],
    tables.keys: [row(tables.keys, id=MAIN_KEY, digest=bytes(32))],
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


def test_what_the_tests_change_is_valid(door: Door) -> None:
    """Goal: when a row is refused, it is for what a test changed in it. Method: insert each row unchanged."""
    assert {table.name for table in TABLES} == {table.name for table in ROWS}
    for table in TABLES:
        assert door.attempt(add(table)) == limited(door, table, ACCEPTED), table.name


def test_plain_sqlite_has_none_of_the_pragmas(door: Door) -> None:
    """Goal: the doors differ in what this module's head says. Method: ask the connections for it."""
    with door.engine.connect() as connection:
        if door.is_sqlite:
            found = [
                connection.execute(text(f"PRAGMA {name}")).scalar() for name in ("foreign_keys", "recursive_triggers")
            ]
            assert found == ([0, 0] if door.who == "plain" else [1, 1])
        else:
            role, found = connection.execute(
                text("SELECT current_user, current_setting('session_replication_role')")
            ).one()
            assert found == ("replica" if door.who == "replica" else "origin")
            assert (role == door.owner.url.username) == (door.who == "owner")


# --- amounts ---------------------------------------------------------------------------------------------------------


def holds(amounts: Mapping[str, int]) -> bool:
    """The invariant of an account, in Python's integers."""
    return all(
        min(limit, spent, held, overdrawn) >= 0
        and limit <= LIMIT_MAX
        and overdrawn <= spent
        and spent + held <= limit + overdrawn
        for limit, spent, held, overdrawn in ([amounts[f"{part}_{q}"] for part in PARTS] for q in QUANTITIES)
    )


def holds_in_floats(amounts: Mapping[str, int]) -> bool:
    """The same in floats, which is what a database must not do."""
    return all(
        float(amounts[f"spent_{q}"]) + float(amounts[f"held_{q}"])
        <= float(amounts[f"limit_{q}"]) + float(amounts[f"overdrawn_{q}"])
        for q in QUANTITIES
    )


def set_amounts(amounts: Mapping[str, int]) -> Executable:
    """An UPDATE of amounts of Acme's account."""
    return update(tables.accounts).where(tables.accounts.c.dataset_id == MNIST).values(dict(amounts))


def test_an_amount_outside_its_range_is_refused(door: Door) -> None:
    """Goal: no amount is negative, no limit is above 10^18, no more is overdrawn than spent, no more held than is left.

    Method: from an account with 30 held of the 70 left, change one amount to its last valid and its first invalid
    value, by UPDATE and by INSERT, and see which check refuses it.
    """
    still_valid = {"limit": [60, LIMIT_MAX], "spent": [10, 80], "held": [0, 70], "overdrawn": [0, 40]}
    too_far = {
        "limit": [(59, "within_limit"), (-1, "range"), (LIMIT_MAX + 1, "range")],
        "spent": [(81, "within_limit"), (9, "range"), (-1, "range")],
        "held": [(71, "within_limit"), (-1, "range")],
        "overdrawn": [(41, "range"), (-1, "range")],
    }
    for quantity in QUANTITIES:
        expected = [
            *(({f"{part}_{quantity}": value}, ACCEPTED) for part in PARTS for value in still_valid[part]),
            *(
                ({f"{part}_{quantity}": value}, f"check accounts_{quantity}_{check}")
                for part in PARTS
                for value, check in too_far[part]
            ),
        ]
        for changed, outcome in expected:
            assert door.attempt(set_amounts(changed)) == outcome, changed
            assert door.attempt(insert(tables.accounts).values(row(tables.accounts) | changed)) == outcome, changed


def test_the_invariant_is_exact_near_two_to_the_63(door: Door) -> None:
    """Goal: no sum is made in floats, where one unit too many is lost.

    Method: put accounts at the end of 64 bits, exactly at their limit and one unit past it, and compare the answer with
    Python's integers; floats must give other answers for these accounts, or they would show nothing.
    """
    top, cap = INT64_MAX, LIMIT_MAX
    exactly_full = [
        (cap, 0, cap, 0),
        (cap, top, 0, top - cap),
        (cap, top - 1, 1, top - cap),
        (cap, top, cap, top),
        (cap, 2**62, cap, 2**62),
        (cap, 2**53 + 1, cap, 2**53 + 1),
        (cap - 1, 2**62 + 1, cap // 2, 2**62 + 1 - cap // 2 + 1),
        (0, top, 0, top),
    ]
    floats_disagree = 0
    for limit, spent, held, overdrawn in exactly_full:
        for more_held, less_overdrawn, less_limit in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (top - held, 0, 0)):
            for quantity in QUANTITIES:
                values = (limit - less_limit, spent, held + more_held, overdrawn - less_overdrawn)
                amounts = dict.fromkeys(AMOUNTS, 0) | {
                    f"{part}_{quantity}": value for part, value in zip(PARTS, values, strict=True)
                }
                accepted = door.attempt(set_amounts(amounts)) == ACCEPTED
                assert accepted == holds(amounts), amounts
                floats_disagree += holds_in_floats(amounts) != holds(amounts)
    assert floats_disagree >= 10


def test_amounts_past_two_to_the_63_are_refused(door: Door) -> None:
    """Goal: what does not fit 64 bits is refused, and not kept as a float. Method: as a number, and as a sum."""
    too_large = "type" if door.is_sqlite else "number"
    for column in AMOUNTS:
        assert door.attempt(f"UPDATE accounts SET {column} = 9223372036854775808") == too_large, column
    for quantity in QUANTITIES:
        spent, overdrawn = f"spent_{quantity}", f"overdrawn_{quantity}"
        full = set_amounts({spent: INT64_MAX, overdrawn: INT64_MAX})
        assert door.attempt(full) == ACCEPTED
        assert door.attempt(full, f"UPDATE accounts SET {spent} = {spent} + 1, {overdrawn} = {spent}") == too_large


def test_random_updates_are_accepted_exactly_when_the_invariant_holds(
    door: Door, tries: Callable[[int, int], int]
) -> None:
    """Goal: the database's invariant is Python's, whatever the amounts.

    Method: a random walk. Each step changes some of the account's amounts, mostly to values at the edge of what holds;
    what the database accepts is where the next step begins. In the end its row is the walker's.
    """
    chance = random.Random(f"walk {door.who}")
    steps = tries(150, 5_000)
    amounts = {name: value for name, value in ROWS[tables.accounts][0].items() if name in AMOUNTS}
    accepted = 0
    with door.engine.connect().execution_options(writing=True) as connection, connection.begin():
        for _ in range(steps):
            wanted = amounts | random_change(chance, amounts)
            changed = {name: value for name, value in wanted.items() if value != amounts[name]}
            if not changed:
                continue
            savepoint = connection.begin_nested()
            refused = attempt(connection, set_amounts(changed))
            assert (refused == ACCEPTED) == holds(wanted), (refused, amounts, changed)
            assert refused.startswith((ACCEPTED, "check", "number"))
            if refused == ACCEPTED:
                savepoint.commit()
                amounts = wanted
                accepted += 1
            else:
                savepoint.rollback()
        kept = connection.execute(select(tables.accounts).where(tables.accounts.c.dataset_id == MNIST)).one()
    assert {name: getattr(kept, name) for name in AMOUNTS} == amounts
    assert steps // 5 < accepted < steps - steps // 5


def random_change(chance: random.Random, amounts: Mapping[str, int]) -> dict[str, int]:
    """New amounts for one quantity: sometimes anything, mostly an account that is full, or one unit off being so."""
    quantity = chance.choice(QUANTITIES)
    size = chance.choice((10, 2**32, 2**53, LIMIT_MAX, INT64_MAX))
    if chance.random() < 0.2:
        return {f"{chance.choice(PARTS)}_{quantity}": chance.choice((-1, 0, LIMIT_MAX, LIMIT_MAX + 1, INT64_MAX, size))}
    limit, spent = chance.randint(0, min(size, LIMIT_MAX)), chance.randint(0, size)
    overdrawn = chance.randint(max(0, spent - limit), spent)
    held = limit + overdrawn - spent
    made = dict(zip(PARTS, (limit, spent, held, overdrawn), strict=True))
    made[chance.choice(PARTS)] += chance.choice((-1, 0, 0, 0, 1))
    return {f"{part}_{quantity}": min(value, INT64_MAX) for part, value in made.items()}


# --- the journal -----------------------------------------------------------------------------------------------------

COLUMNS = "(tenant_id, dataset_id, seq, kind, at_us, body, hash)"
KEYED = {"tenant": ACME, "dataset": MNIST, "zeros": bytes(32)}
CONFLICT = "ON CONFLICT (tenant_id, dataset_id, seq) DO"


def parameters(door: Door) -> dict[str, Any]:
    """The parameters of the statements below, as the driver takes them."""
    return {name: str(value) if door.is_sqlite and isinstance(value, UUID) else value for name, value in KEYED.items()}


def values(*seqs: int) -> str:
    """What comes after VALUES, for entries of these numbers in the journal that has three."""
    return ", ".join(f"(:tenant, :dataset, {seq}, 'forged', 1, '{{}}', :zeros)" for seq in seqs)


def journal(door: Door) -> Sequence[Any]:
    """Every entry, as the owner sees it."""
    with door.owner.connect() as connection:
        return connection.execute(select(tables.entries).order_by(*tables.entries.primary_key)).all()


def changes_of_entries(door: Door) -> dict[str, str]:
    """Statements that would change what is in the journal, or replace it, and how each is refused."""
    kept = "privilege" if door.who == "server" else "trigger"
    changes = {f"UPDATE entries SET {column.name} = {column.name}": kept for column in tables.entries.columns}
    changes |= {
        "UPDATE entries SET body = 'forged' WHERE seq = 2": kept,
        "UPDATE entries SET seq = seq + 1": kept,
        "DELETE FROM entries": kept,
        "DELETE FROM entries WHERE seq = 3": kept,
        f"INSERT INTO entries {COLUMNS} VALUES {values(2)} {CONFLICT} UPDATE SET body = excluded.body": kept,
        f"INSERT INTO entries {COLUMNS} VALUES {values(2)} {CONFLICT} NOTHING": "trigger",
    }
    return changes | (_of_sqlite() if door.is_sqlite else _of_postgresql(kept))


def _of_sqlite() -> dict[str, str]:
    conflicts = ("REPLACE", "IGNORE", "FAIL", "ABORT", "ROLLBACK")
    changes = {f"INSERT OR {how} INTO entries {COLUMNS} VALUES {values(2)}": "trigger" for how in conflicts}
    changes |= {f"UPDATE OR {how} entries SET seq = 1 WHERE seq = 3": "trigger" for how in conflicts}
    changes[f"REPLACE INTO entries {COLUMNS} VALUES {values(3)}"] = "trigger"
    # The next number, and the place of an entry that is there.
    for name in ("rowid", "oid", "_rowid_"):
        by_place = f"(1, {values(4).removeprefix('(')}"
        changes[f"REPLACE INTO entries ({name}, {COLUMNS.removeprefix('(')} VALUES {by_place}"] = "no such thing"
    return changes


def _of_postgresql(kept: str) -> dict[str, str]:
    merge = "MERGE INTO entries USING (VALUES (2)) AS wanted (seq) ON entries.seq = wanted.seq WHEN MATCHED THEN"
    return {
        # Before any trigger it says that runs refer to this table.
        "TRUNCATE entries": "privilege" if kept == "privilege" else "unsupported",
        "TRUNCATE entries, places": kept,
        "TRUNCATE entries CASCADE": kept,
        "TRUNCATE tenants CASCADE": kept,
        "WITH gone AS (DELETE FROM entries RETURNING seq) SELECT count(*) FROM gone": kept,
        f"{merge} UPDATE SET body = 'forged'": kept,
        f"{merge} DELETE": kept,
        f"""MERGE INTO entries USING (VALUES (2)) AS wanted (seq) ON false
            WHEN NOT MATCHED THEN INSERT {COLUMNS} VALUES {values(2)}""": "trigger",
    }


def test_an_entry_is_never_changed_replaced_or_removed(door: Door) -> None:
    """Goal: what is in the journal stays as it is.

    Method: every statement that changes, replaces or removes rows. Each is refused, and though its transaction is then
    committed where the database still lets it be, the journal is the same after all of them.
    """
    before = journal(door)
    assert len(before) == 4
    outcomes = {}
    expected = changes_of_entries(door)
    for statement in expected:
        with door.engine.connect().execution_options(writing=True) as connection, connection.begin():
            outcomes[statement] = attempt(connection, statement, **parameters(door))
    assert outcomes == expected
    assert journal(door) == before


def test_an_entry_is_added_at_the_end_or_not_at_all(door: Door) -> None:
    """Goal: numbers have no gap and no order but their own.

    Method: insert numbers that are not the next one, alone and among others, and then those that are.
    """
    for seqs in ((5,), (3,), (1,), (0,), (-1,), (INT64_MAX,), (5, 4), (4, 6), (4, 4), (4, 5, 5), (4, 5, 3)):
        statement = f"INSERT INTO entries {COLUMNS} VALUES {values(*seqs)}"
        assert door.attempt(statement, **parameters(door)) == "trigger", seqs
        one_by_one = [f"INSERT INTO entries {COLUMNS} VALUES {values(seq)}" for seq in seqs]
        assert door.attempt(*one_by_one, **parameters(door)) == "trigger", seqs
    for seqs in ((4,), (4, 5), (4, 5, 6)):
        statement = f"INSERT INTO entries {COLUMNS} VALUES {values(*seqs)}"
        assert door.attempt(statement, **parameters(door)) == ACCEPTED, seqs


def test_each_dataset_of_each_tenant_counts_for_itself(door: Door) -> None:
    """Goal: journals do not mix. Method: the next number of one journal is tried on the others, and their own too."""
    for tenant, dataset, following in ((ACME, MNIST, 4), (ACME, SPARE, 1), (BETA, MNIST, 1), (BETA, SPARE, 2)):
        for seq in range(6):
            refused = door.attempt(add(tables.entries, tenant=tenant, dataset_id=dataset, seq=seq))
            assert refused == (ACCEPTED if seq == following else "trigger"), (tenant, dataset, seq)


def test_a_temporary_table_of_the_same_name_is_no_journal(door: Door) -> None:
    """Goal: the numbers are checked against the journal itself, whatever else a session calls `entries`.

    Method: make a temporary table of that name with an entry 8, and insert a 9 and the true next number.
    """
    last = "SELECT 8 AS seq, tenant_id, dataset_id FROM entries WHERE seq = 3"
    shadow = f"CREATE TEMPORARY TABLE IF NOT EXISTS entries AS {last}"
    true = f"{'main' if door.is_sqlite else 'public'}.entries"
    for seq, expected in ((9, "trigger"), (4, ACCEPTED)):
        statement = f"INSERT INTO {true} {COLUMNS} VALUES {values(seq)}"
        assert door.attempt(shadow, statement, **parameters(door)) == expected, seq


@on_postgresql
def test_copy_adds_at_the_end_or_not_at_all(door: Door) -> None:
    """Goal: COPY is no way around. Method: copy in numbers that do and do not follow."""
    for seqs, expected in (((4, 5), ACCEPTED), ((4, 6), "trigger"), ((3,), "trigger"), ((5, 4), "trigger")):
        with door.engine.connect() as connection, connection.begin() as transaction:
            driver = connection.connection.driver_connection
            assert driver is not None
            assert copied(driver.cursor(), seqs) == expected, seqs
            transaction.rollback()


def copied(cursor: psycopg.Cursor[Any], seqs: Sequence[int]) -> str:
    """Copies in entries of these numbers, and says how that was refused."""
    try:
        with cursor.copy(f"COPY entries {COLUMNS} FROM STDIN") as copy:
            for seq in seqs:
                copy.write_row((ACME, MNIST, seq, "forged", 1, "{}", bytes(32)))
    except psycopg.Error as error:
        return refusal(error)
    return ACCEPTED


def test_of_two_that_add_the_same_number_one_wins(door: Door) -> None:
    """Goal: two writers that both saw the same end of a journal do not both add to it.

    Method: four threads read the end, wait for each other, and then insert the number that follows; five times over.
    Whichever way they meet, one is accepted and the others are refused, by the key or by the trigger.
    """
    writers = 4
    together = threading.Barrier(writers)

    def write(seq: int) -> str:
        with door.engine.connect().execution_options(writing=True) as connection:
            found = connection.execute(select(tables.entries.c.seq).where(tables.entries.c.dataset_id == MNIST))
            assert max(found.scalars()) == seq - 1
            connection.rollback()
            together.wait(timeout=30)
            with connection.begin():
                return attempt(connection, add(tables.entries, seq=seq))

    with ThreadPoolExecutor(writers) as pool:
        for seq in range(4, 9):
            outcomes = list(pool.map(write, [seq] * writers))
            assert outcomes.count(ACCEPTED) == 1, outcomes
            assert set(outcomes) <= {ACCEPTED, "unique", "trigger"}, outcomes
    assert [entry.seq for entry in journal(door) if entry.tenant_id == ACME] == list(range(1, 9))


@on_postgresql
@pytest.mark.parametrize("first_commits", [True, False])
def test_who_waits_for_the_same_number_learns_how_it_ended(door: Door, first_commits: bool) -> None:
    """Goal: the second of two open transactions is refused when the first commits, and accepted when it does not.

    Method: end the first only when the second is seen to wait. SQLite has one writing transaction at a time.
    """
    with ThreadPoolExecutor(1) as pool, door.engine.connect() as first, door.engine.connect() as second:
        ending = first.begin()
        assert attempt(first, add(tables.entries)) == ACCEPTED
        second_id = second.execute(text("SELECT pg_backend_pid()")).scalar()
        waiting = pool.submit(attempt, second, add(tables.entries))
        with door.owner.connect() as watcher:
            is_blocked = text("SELECT cardinality(pg_blocking_pids(:id)) > 0")
            while not watcher.execute(is_blocked, {"id": second_id}).scalar():
                assert not waiting.done(), waiting.result()
        if first_commits:
            ending.commit()
        else:
            ending.rollback()
        assert waiting.result(timeout=30) == ("unique" if first_commits else ACCEPTED)
        second.rollback()


def test_a_tenants_own_journal_is_kept_alike(door: Door) -> None:
    """Goal: what was done with keys and policies stays on record. Method: change, remove, and add out of order."""
    kept = "privilege" if door.who == "server" else "trigger"
    for statement in ("UPDATE tenant_entries SET body = 'forged'", "DELETE FROM tenant_entries"):
        assert door.attempt(statement) == kept, statement
    for seq in (0, 1, 3, -1):
        assert door.attempt(add(tables.tenant_entries, seq=seq)) == "trigger", seq
    assert door.attempt(add(tables.tenant_entries), add(tables.tenant_entries, seq=3)) == ACCEPTED
    if not door.is_sqlite:
        assert door.attempt("TRUNCATE tenant_entries") == kept


# --- every other constraint ------------------------------------------------------------------------------------------

LENGTHS = (b"", bytes(31), bytes(33))
NO_LIMIT: dict[str, Any] = dict.fromkeys(("limit_mu_sq_pico", "limit_delta_atto"))
NO_CEILING: dict[str, Any] = dict.fromkeys(("ceiling_mu_sq_pico", "ceiling_delta_atto"))
NO_LIMITS: list[dict[str, Any]] = [
    {**NO_CEILING, "limit_delta_atto": None},
    *({**NO_CEILING, f"limit_{quantity}": wrong} for quantity in QUANTITIES for wrong in (-1, LIMIT_MAX + 1)),
]
VIOLATIONS: dict[str, tuple[Table, list[dict[str, Any]]]] = {
    "tenants_second_steward": (tables.tenants, [{"second_steward": wrong} for wrong in (-1, 2)]),
    "tenants_head": (tables.tenants, [{"seq": -1}, *({"head": head} for head in LENGTHS)]),
    "tenant_entries_shape": (tables.tenant_entries, [{"hash": hash_} for hash_ in LENGTHS]),
    "proposals_kind": (tables.proposals, [{"kind": kind} for kind in ("", "raise", "Budget")]),
    "proposals_state": (tables.proposals, [{"state": state} for state in ("", "expired", "Open")]),
    "proposals_run": (tables.proposals, [{"kind": "void"}, {"run_id": MAIN_RUN}]),
    "keys_role": (tables.keys, [{"role": role} for role in ("root", "", "Admin")]),
    "keys_digest_length": (tables.keys, [{"digest": digest} for digest in LENGTHS]),
    "operator_keys_digest_length": (tables.operator_keys, [{"digest": digest} for digest in LENGTHS]),
    "claims_digest_length": (tables.claims, [{"digest": digest} for digest in LENGTHS]),
    "certificates_digest_length": (tables.certificates, [{"digest": digest} for digest in LENGTHS]),
    "datasets_adjacency": (tables.datasets, [{"adjacency": adjacency} for adjacency in ("", "add", "REPLACE_ONE")]),
    "datasets_bound": (tables.datasets, [{"bound": bound} for bound in ("", "none", "CLT")]),
    "datasets_state": (tables.datasets, [{"state": state} for state in ("", "deleted", "Active")]),
    "datasets_is_partitioned": (tables.datasets, [{"is_partitioned": wrong} for wrong in (-1, 2)]),
    "datasets_budget": (
        tables.datasets,
        [
            {"budget": None},
            {**NO_LIMIT, **NO_CEILING},
        ],
    ),
    "datasets_within_ceiling": (
        tables.datasets,
        [
            {"limit_mu_sq_pico": 201},
            {"limit_delta_atto": 201},
            {"ceiling_mu_sq_pico": 99},
            {"ceiling_delta_atto": 99},
            {**NO_LIMIT, "budget": None},
        ],
    ),
    "datasets_limit_range": (tables.datasets, NO_LIMITS),
    "datasets_ceiling_range": (
        tables.datasets,
        [
            {"ceiling_mu_sq_pico": None},
            {"ceiling_delta_atto": LIMIT_MAX + 1},
            {"ceiling_mu_sq_pico": LIMIT_MAX + 1},
        ],
    ),
    "projects_name": (tables.projects, [{"name": ""}]),
    "projects_limit_range": (
        tables.projects,
        [{f"limit_{quantity}": wrong} for quantity in QUANTITIES for wrong in (-1, LIMIT_MAX + 1)],
    ),
    "lineage_no_cycle": (tables.lineage, [{"dataset_id": MNIST, "ancestor_id": MNIST}]),
    "accounts_holder": (tables.accounts, [{"project": "ranking", "principal_id": NOWHERE}]),
    "alerts_kind": (tables.alerts, [{"kind": kind} for kind in ("", "heads", "Threshold")]),
    "alerts_state": (tables.alerts, [{"state": state, "next_us": None} for state in ("", "sent", "Pending")]),
    "alerts_attempts": (tables.alerts, [{"attempts": -1}]),
    "alerts_next": (tables.alerts, [{"next_us": None}, {"state": "none"}, {"state": "failed"}]),
    "alerts_delivered": (tables.alerts, [{"delivered_us": 1}, {"state": "delivered", "next_us": None}]),
    "datasets_head": (tables.datasets, [{"seq": -1}, *({"head": head} for head in LENGTHS)]),
    "entries_shape": (tables.entries, [{"hash": hash_} for hash_ in LENGTHS]),
    "runs_state": (tables.runs, [{"state": state, "due_us": None} for state in ("", "approved", "Settled")]),
    "runs_cost": (
        tables.runs,
        [
            {"mu_sq_pico": None},
            {"delta_atto": None},
            {"mu_sq_pico": None, "delta_atto": None},
            {"state": "settled", "due_us": None, "mu_sq_pico": None, "delta_atto": None},
            {"mu_sq_pico": -1},
            {"delta_atto": -1},
            {"state": "refused", "due_us": None},
            {"state": "refused", "due_us": None, "mu_sq_pico": None},
            {"state": "refused", "due_us": None, "delta_atto": None},
        ],
    ),
    "runs_due": (
        tables.runs,
        [
            {"due_us": None},
            {"state": "started", "due_us": None},
            {"state": "settled"},
            {"state": "voided"},
            {"state": "refused", "mu_sq_pico": None, "delta_atto": None},
        ],
    ),
    **{
        f"accounts_{quantity}_range": (tables.accounts, [{f"{part}_{quantity}": -1} for part in PARTS])
        for quantity in QUANTITIES
    },
    **{
        f"accounts_{quantity}_within_limit": (tables.accounts, [{f"held_{quantity}": 71}, {f"limit_{quantity}": 59}])
        for quantity in QUANTITIES
    },
}
"""For each CHECK of the schema, rows that break it and nothing else."""


def test_every_check_refuses_what_it_is_there_for(door: Door) -> None:
    """Goal: no row has a bad state, a length of no digest, a refused run's cost or a held run without a date.

    Method: for every CHECK that the schema declares, rows that break it alone.
    """
    declared = {check.name for table in TABLES for check in table.constraints if isinstance(check, CheckConstraint)}
    assert set(VIOLATIONS) == declared
    for name, (table, rows) in VIOLATIONS.items():
        for changes in rows:
            assert door.attempt(add(table, **changes)) == limited(door, table, f"check {name}"), changes


def test_a_run_of_every_state_is_accepted(door: Door) -> None:
    """Goal: the checks of a run refuse no run that is right. Method: insert one of each state."""
    for state in ("held", "started", "settled", "voided", "refused"):
        due_us = 2 if state in ("held", "started") else None
        cost = None if state == "refused" else INT64_MAX
        right = add(tables.runs, state=state, due_us=due_us, mu_sq_pico=cost, delta_atto=cost)
        assert door.attempt(right) == ACCEPTED, state


def test_no_column_that_must_be_there_is_missing(door: Door) -> None:
    """Goal: nothing is half there. Method: for every column that must not be NULL, a row where it is."""
    tried = 0
    for table in TABLES:
        for column in table.columns:
            if not column.nullable:
                missing: dict[str, Any] = {column.name: None}
                refused = door.attempt(add(table, **missing))
                # The entries of no dataset have no number 3, so that 4 is not the next.
                by_trigger = table is tables.entries and column.name in ("tenant_id", "dataset_id")
                by_trigger |= table is tables.tenant_entries and column.name == "tenant_id"
                assert refused == limited(door, table, "trigger" if by_trigger else "null"), column
                tried += 1
    assert tried > 40


@on_sqlite
def test_sqlite_keeps_no_value_of_another_type(door: Door) -> None:
    """Goal: SQLite holds a column to its type, as PostgreSQL does. Method: values of another type in every column."""
    for table in TABLES:
        names = ", ".join(f'"{column.name}"' for column in table.columns)
        marks = ", ".join(f":{column.name}" for column in table.columns)
        for column in table.columns:
            wrong: list[object] = [b"a blob"]
            if isinstance(column.type.dialect_impl(door.engine.dialect), Integer):
                wrong += ["many", 0.5, 1e300]
            elif isinstance(column.type, LargeBinary):
                wrong = ["x" * 32, 1]
            for value in wrong:
                made = {name: str(cell) if isinstance(cell, UUID) else cell for name, cell in row(table).items()}
                made[column.name] = value
                refused = door.attempt(f"INSERT INTO {table.name} ({names}) VALUES ({marks})", **made)
                assert refused == "type", (column, value)


def test_everything_belongs_to_something_that_is_there(door: Door) -> None:
    """Goal: no run without its entry, no entry or account without its dataset, nothing without its tenant.

    Method: for every foreign key, a row that refers to what is not there, and one that refers to another tenant's.
    Where foreign keys are not checked (see this module's head) both are accepted.
    """
    expected = "foreign key" if door.checks_references else ACCEPTED
    elsewhere: dict[str, dict[str, Any]] = {
        "keys_tenant_fkey": {"tenant_id": NOWHERE},
        "claims_tenant_fkey": {"tenant_id": NOWHERE},
        "certificates_tenant_fkey": {"tenant_id": NOWHERE},
        "datasets_tenant_fkey": {"tenant_id": NOWHERE},
        "accounts_dataset_fkey": {"dataset_id": NOWHERE},
        "entries_dataset_fkey": {"dataset_id": NOWHERE, "seq": 1},
        "tenant_entries_tenant_fkey": {"tenant_id": NOWHERE, "seq": 1},
        "proposals_dataset_fkey": {"dataset_id": NOWHERE},
        "alerts_tenant_fkey": {"tenant_id": NOWHERE, "dataset_id": None},
        "alerts_dataset_fkey": {"dataset_id": NOWHERE},
        "lineage_dataset_fkey": {"dataset_id": NOWHERE},
        "lineage_ancestor_fkey": {"ancestor_id": NOWHERE},
        "projects_dataset_fkey": {"dataset_id": NOWHERE},
        "runs_tenant_fkey": {"tenant_id": NOWHERE},
        "places_run_fkey": {"run_id": NOWHERE},
        "places_entry_fkey": {"seq": 4},
    }
    keys = {key.name: table for table in TABLES for key in table.constraints if isinstance(key, ForeignKeyConstraint)}
    assert set(elsewhere) == set(keys)
    for name, changes in elsewhere.items():
        assert door.attempt(add(keys[str(name)], **changes)) == expected, name
    # Acme's dataset `mnist` has entries 1 to 3; Beta's dataset of the same id has none.
    assert door.attempt(add(tables.places, dataset_id=MNIST, seq=3)) == ACCEPTED
    assert door.attempt(add(tables.places, tenant=BETA, dataset_id=MNIST, seq=3)) == expected
    if door.who != "server":
        assert door.attempt("DELETE FROM tenants") == expected
        assert door.attempt("DELETE FROM datasets") == expected


def test_what_is_unique_is_unique_within_its_tenant_alone(door: Door) -> None:
    """Goal: a tenant cannot use a key or a name twice, and does not learn that another tenant uses it.

    Method: for every unique key of every table of tenants, a row with Acme's values of it, for Acme and for Beta.
    """
    taken: dict[tuple[str, ...], dict[str, Any]] = {
        ("keys", "id"): {"id": MAIN_KEY},
        ("keys", "digest"): {"digest": bytes(32)},
        ("datasets", "id"): {"id": NOWHERE},
        ("datasets", "name"): {"name": "mnist"},
        ("lineage", "dataset_id", "ancestor_id"): {"dataset_id": MNIST, "ancestor_id": SPARE},
        ("projects", "dataset_id", "name"): {"name": "ranking"},
        ("accounts", "dataset_id", "project", "principal_id", "partition"): {"dataset_id": MNIST},
        ("places", "run_id", "dataset_id"): {"run_id": SPARE_RUN, "dataset_id": SPARE},
        ("entries", "dataset_id", "seq"): {"dataset_id": MNIST, "seq": 1},
        ("tenant_entries", "seq"): {"seq": 1},
        ("proposals", "id"): {"id": MAIN_RUN},
        ("runs", "id"): {"id": MAIN_RUN},
        ("claims", "key"): {"key": "once"},
        ("certificates", "digest"): {"digest": bytes(32)},
        ("alerts", "id"): {"id": MAIN_RUN},
    }
    declared = {
        (table.name, *(column.name for column in key.columns if column.name != "tenant_id")): table
        for table in TABLES
        for key in table.constraints
        if isinstance(key, UniqueConstraint | PrimaryKeyConstraint) and "tenant_id" in table.columns
        if table is not tables.tenants
    }
    assert set(taken) == set(declared)
    for name, changes in taken.items():
        table = declared[name]
        mine, theirs = add(table, **changes), add(table, tenant=BETA, **changes)
        refused = "trigger" if table in (tables.entries, tables.tenant_entries) else "unique"
        before = []
        if name == ("datasets", "id"):  # of one that Acme has and Beta has not
            before = [add(tables.datasets, id=NOWHERE)]
        elif table is tables.places:  # of an entry that both have
            before = [add(tables.entries, dataset_id=SPARE, seq=1), add(tables.places, dataset_id=SPARE)]
        assert door.attempt(*before, mine) == refused, name
        assert door.attempt(*before, theirs) == ACCEPTED, name
    assert door.attempt(add(tables.tenants, name=str(BETA))) == "unique"
    assert door.attempt(add(tables.operator_keys, digest=bytes(32))) == limited(door, tables.operator_keys, "unique")


# --- every key begins with the tenant --------------------------------------------------------------------------------

OF_NO_TENANT = {"tenants", "operator_keys", "alembic_version"}

POSTGRESQL_KEYS = """
    SELECT t.relname, c.conname,
           (SELECT attname FROM pg_attribute WHERE attrelid = c.conrelid AND attnum = c.conkey[1]),
           (SELECT attname FROM pg_attribute WHERE attrelid = c.confrelid AND attnum = c.confkey[1])
    FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid
    WHERE c.contype IN ('p', 'u', 'f', 'x') AND t.relnamespace = 'public'::regnamespace
    UNION ALL
    SELECT t.relname, i.indexrelid::regclass::text,
           (SELECT attname FROM pg_attribute WHERE attrelid = i.indrelid AND attnum = i.indkey[0]), NULL
    FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid
    WHERE i.indisunique AND t.relnamespace = 'public'::regnamespace
"""
SQLITE_KEYS = """
    SELECT t.name, i.name, (SELECT name FROM pragma_index_info(i.name) WHERE seqno = 0), NULL
    FROM sqlite_master t, pragma_index_list(t.name) i WHERE t.type = 'table' AND i."unique"
    UNION ALL
    SELECT t.name, 'foreign key ' || f.id, f."from", f."to"
    FROM sqlite_master t, pragma_foreign_key_list(t.name) f WHERE t.type = 'table' AND f.seq = 0
    UNION ALL
    SELECT t.name, 'primary key', (SELECT name FROM pragma_table_info(t.name) WHERE pk = 1), NULL
    FROM sqlite_master t WHERE t.type = 'table'
"""


def keys_of_tenants(connection: Connection) -> tuple[set[str], set[tuple[str, str]]]:
    """The tables of tenants that have keys, and those keys that do not begin with the tenant."""
    found = connection.exec_driver_sql(SQLITE_KEYS if connection.dialect.name == "sqlite" else POSTGRESQL_KEYS).all()
    of_tenants = [key for key in found if key[0] not in OF_NO_TENANT]
    bad = {(table, key) for table, key, mine, theirs in of_tenants if mine != "tenant_id" or theirs not in (None, mine)}
    return {table for table, *_ in of_tenants}, bad


def test_every_key_begins_with_the_tenant(database: Settings) -> None:
    """Goal: no key of any table, present or future, reaches across tenants.

    Method: read every primary, unique and foreign key from the catalogue, and the tables that have none. Then add a
    table with keys that do reach across, and see each of them found.
    """
    of_all = {"accounts", "alerts", "certificates", "claims", "datasets", "entries", "keys"}
    of_all |= {"lineage", "places", "projects", "proposals", "runs", "tenant_entries"}
    crossing = """CREATE TABLE crossing (
        id integer PRIMARY KEY, tenant_id integer, name text UNIQUE, of_key text REFERENCES tenants (name))"""
    engine = engine_for(database.owner_url)
    with engine.connect() as connection:
        found, bad = keys_of_tenants(connection)
        assert found >= of_all
        assert bad == set()
        listed = "SELECT name FROM sqlite_master WHERE type = 'table'"
        if connection.dialect.name == "postgresql":
            listed = (
                "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace"
            )
        assert set(connection.exec_driver_sql(listed).scalars()) - OF_NO_TENANT == found
        connection.exec_driver_sql(crossing)
        connection.exec_driver_sql("CREATE UNIQUE INDEX crossing_index ON crossing (name, tenant_id)")
        crossed = {key for table, key in keys_of_tenants(connection)[1] if table == "crossing"}
        connection.rollback()
    engine.dispose()
    assert "crossing_index" in crossed
    assert len(crossed) >= 4
