"""The database itself refuses what a faulty program would do to it, whichever way the program comes in.

Every test comes in through each door of `tests.kit.doors`.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    Connection,
    ForeignKeyConstraint,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    UniqueConstraint,
    text,
)

from ledger.settings import Settings
from ledger.store import engine_for, tables
from tests.kit.doors import (
    ACCEPTED,
    BETA,
    INT64_MAX,
    LIMIT_MAX,
    MAIN_KEY,
    MAIN_RUN,
    MNIST,
    NOWHERE,
    PARTS,
    QUANTITIES,
    ROWS,
    SPARE,
    SPARE_RUN,
    TABLES,
    Door,
    add,
    limited,
    on_sqlite,
    row,
)


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
    "sessions_kind": (tables.sessions, [{"kind": kind} for kind in ("", "Session", "cookie")]),
    "sessions_lengths": (tables.sessions, [{part: wrong} for part in ("digest", "csrf") for wrong in LENGTHS]),
    "sessions_holder": (tables.sessions, [{"key_id": None}, {"subject": "{}"}]),
    "tallies_seq": (tables.tallies, [{"seq": -1}, {"forecast_seq": -1}]),
    "days_counts": (tables.days, [{"day": -1}, {"seq": 0}, {"approvals": -1}, {"refusals": -1}]),
    "progress_steps": (tables.progress, [{"steps": -1}]),
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
        "sessions_tenant_fkey": {"tenant_id": NOWHERE, "key_id": None, "subject": "{}"},
        "sessions_key_fkey": {"key_id": NOWHERE},
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
        "tallies_dataset_fkey": {"dataset_id": NOWHERE},
        "days_dataset_fkey": {"dataset_id": NOWHERE},
        "progress_run_fkey": {"run_id": NOWHERE},
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
        ("sessions", "id"): {"id": MAIN_KEY},
        ("sessions", "digest"): {"digest": bytes(32)},
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
        ("tallies", "dataset_id"): {"dataset_id": MNIST},
        ("days", "dataset_id", "project", "partition", "day"): {"day": 0},
        ("progress", "run_id"): {"run_id": SPARE_RUN},
        ("claims", "principal_id", "key"): {"key": "once"},
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

OF_NO_TENANT = {"tenants", "operator_keys", "leases", "alembic_version"}

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
    FROM sqlite_master t WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%'
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
        listed = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
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
