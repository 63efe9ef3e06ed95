"""Backups of SQLite ledgers, and files that are not whole."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
from pathlib import Path

import pytest
from sqlalchemy import event

from ledger.errors import DatabaseUnusable, InvalidRequest, JournalBroken, Misconfigured
from ledger.operate import backup
from ledger.operate.backup import back_up, demand_sound, has_wal_fault
from ledger.operate.check import check_journals
from ledger.recovery.file import HeadsFile
from ledger.settings import Settings
from tests.kit.databases import file_of
from tests.kit.driver import WEAK, Ledger, Terminal
from tests.kit.scene import ok


@pytest.fixture
def on_sqlite(database: Settings) -> Settings:
    """The database, if it is a file."""
    if not database.is_sqlite:
        pytest.skip("PostgreSQL has no file to copy")
    return database


def test_a_backup_while_it_serves(on_sqlite: Settings, tmp_path: Path) -> None:
    """Goal: a backup has everything that was acknowledged before it began, verifies, stands alone, and is its owner's.
    Method: callers ask all the while; each backup is checked as a database, against the answers before it."""
    with Ledger.open(on_sqlite) as ledger:
        ledger.register(budget={"mu": 900}, **WEAK)
        is_over = threading.Event()
        answered: list[int] = []

        def ask() -> None:
            while not is_over.is_set():
                answered.append(ok(ledger.ask())["datasets"][0]["seq"])

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            for number in range(5):
                before = max(answered, default=1)
                file = tmp_path / f"backup-{number}.db"
                made = back_up(on_sqlite, file)
                assert (made.bytes, file.stat().st_mode & 0o777) == (file.stat().st_size, 0o600)
                copied = on_sqlite.model_copy(
                    update={"database_url": type(on_sqlite.database_url)(f"sqlite:///{file}")}
                )
                found = {result["dataset"]: result for result in check_journals(copied)}
                assert [result["error"] for result in found.values()] == [None, None]
                assert found["mnist"]["entries"] >= before
                assert sum(result["entries"] for result in found.values()) == made.entries
        finally:
            is_over.set()
            asking.join()
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_the_command(terminal: Terminal, database: Settings, tmp_path: Path) -> None:
    """Goal: the command makes a backup, refuses to overwrite, and shows what to use on PostgreSQL. Method: type it."""
    target = tmp_path / "copy.db"
    if database.is_sqlite:
        assert "checked" in terminal(f"backup {target}").out
        assert "exists already" in terminal(f"backup {target}").err
    else:
        assert "pg_dump" in terminal(f"backup {target}").err


def test_a_backup_that_cannot_be_made(on_sqlite: Settings, tmp_path: Path) -> None:
    """Goal: an error names what is wrong, and nothing is left behind. Method: a target that exists, a folder that does
    not, a copy that lacks what a server kept a head of."""
    with Ledger.open(on_sqlite) as ledger:
        ledger.register()
    there = tmp_path / "there.db"
    there.write_text("mine")
    with pytest.raises(InvalidRequest, match="exists already"):
        back_up(on_sqlite, there)
    assert there.read_text() == "mine"
    with pytest.raises(DatabaseUnusable, match="could not be made"):
        back_up(on_sqlite, tmp_path / "nowhere" / "copy.db")
    assert on_sqlite.kept_heads is not None
    kept = HeadsFile(on_sqlite.kept_heads)
    kept.keep([(journal, end._replace(seq=end.seq + 2)) for journal, end in kept.all() if journal[1] is not None])
    with pytest.raises(JournalBroken, match="entries 2 to 3 are missing"):
        back_up(on_sqlite, tmp_path / "behind.db")
    assert not list(tmp_path.glob("*behind*"))
    with pytest.raises(Misconfigured, match="pg_dump"):
        back_up(on_sqlite.model_copy(update={"database_url": type(on_sqlite.database_url)("postgresql://x/y")}), there)


def damage(file: str) -> None:
    """Overwrite the pages of a database but the first few, with what no page of SQLite's looks like."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
    with Path(file).open("r+b", buffering=0) as raw:
        size = os.fstat(raw.fileno()).st_size
        raw.seek(4096)
        raw.write(b"\xa5" * (size - 4096))
        os.fsync(raw.fileno())


def test_a_damaged_file_is_not_served(on_sqlite: Settings) -> None:
    """Goal: the start finds damage, and names the files that belong together. Method: pages overwritten; a file that is
    no database; then, for a file that would take long, a check that stops in time."""
    with Ledger.open(on_sqlite) as ledger:
        ledger.register()
    demand_sound(on_sqlite)
    damage(file_of(on_sqlite))
    with pytest.raises(DatabaseUnusable, match=r"-wal and ledger[.]db-shm are one database"):
        demand_sound(on_sqlite)
    Path(file_of(on_sqlite)).write_bytes(b"not a database, " * 1000)
    with pytest.raises(DatabaseUnusable, match="is damaged"):
        demand_sound(on_sqlite)


def test_a_large_file_is_checked_for_a_bounded_time(
    on_sqlite: Settings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: a check that takes too long ends, with a warning. Method: no time at all, looked at after each step."""
    monkeypatch.setattr(backup, "_STEPS", 1)
    with caplog.at_level(logging.WARNING, logger="ledger.operate.backup"):
        demand_sound(on_sqlite, seconds_max=0)
    assert "its check was stopped" in caplog.text


def test_damage_that_is_found_later(on_sqlite: Settings) -> None:
    """Goal: from the first damaged page that a decision meets, nothing more is decided, and /readyz is false. Method:
    pages overwritten under a running server."""
    with Ledger.open(on_sqlite) as ledger:
        ledger.register()
        ok(ledger.ask())
        ledger.client.app.state.services.store.engine.dispose()
        damage(file_of(on_sqlite))
        ledger.client.app.state.services.store.engine.dispose()
        answers = [ledger.ask(), ledger.ask(), ledger.get("/readyz")]
        assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(503, "overloaded")] * 3
        assert all("-wal and -shm are one database" in answer.json()["detail"] for answer in answers)


@pytest.mark.parametrize(
    ("version", "has_it"),
    [
        *(((3, 51, 3), False), ((3, 52, 0), False), ((3, 50, 7), False), ((3, 50, 8), False), ((3, 44, 6), False)),
        *(((3, 51, 2), True), ((3, 50, 6), True), ((3, 44, 5), True), ((3, 45, 9), True), ((3, 40, 1), True)),
    ],
)
def test_releases_with_the_fault(version: tuple[int, int, int], has_it: bool) -> None:
    """Goal: exactly the releases without the correction are warned of. Method: those around each bound."""
    assert has_wal_fault(version) == has_it


def test_a_full_disk_and_room_again(on_sqlite: Settings) -> None:
    """Goal: while no commit can happen every approval is 503 and /readyz too; with room again both are good, with no
    restart. Method: SQLite's own limit on the number of pages, set on each connection, and lifted."""
    with Ledger.open(on_sqlite) as ledger:
        ledger.register(budget={"mu": 900}, **WEAK)
        engine = ledger.client.app.state.services.store.engine
        pages = {"max": 0}

        def limit(connection: sqlite3.Connection, _record: object, _proxy: object) -> None:
            connection.execute(f"PRAGMA max_page_count={pages['max'] or 2**31 - 2}").close()

        event.listen(engine, "checkout", limit)
        assert ok(ledger.get("/readyz"))["status"] == "ok"
        pages["max"] = 1  # SQLite takes that as the number of pages that there are
        refused = [answer for _ in range(300) if (answer := ledger.ask()).status_code != 200]
        assert {(answer.status_code, answer.json()["code"]) for answer in refused} == {(503, "overloaded")}
        for _ in range(3):
            assert ledger.get("/readyz").status_code == 503
        pages["max"] = 0
        assert ok(ledger.get("/readyz"))["status"] == "ok"
        assert ok(ledger.ask())["state"] == "held"
    assert [result["error"] for result in check_journals(on_sqlite)] == [None, None]
