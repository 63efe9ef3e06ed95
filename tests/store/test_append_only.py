"""The database itself keeps journals: an entry is added at the end, and never changed, replaced or removed.

Every test comes in through each door of `tests.kit.doors`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import (
    select,
    text,
)

from ledger.store import tables
from tests.kit.doors import (
    ACCEPTED,
    ACME,
    BETA,
    INT64_MAX,
    MNIST,
    SPARE,
    Door,
    add,
    attempt,
    on_postgresql,
    refusal,
)

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
