"""Back up an SQLite ledger while it serves, and check such a file before it is served."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from ledger.errors import DatabaseUnusable, InvalidRequest, JournalBroken, Misconfigured
from ledger.recovery.file import HeadsFile
from ledger.recovery.known import Contradiction, End, Journal
from ledger.settings import Settings

BUSY_SECONDS: Final = 60.0
CHECK_SECONDS_MAX: Final = 60.0
"""How long the check of a file may take before a server starts; a gigabyte takes a few seconds on a usual disk."""
_STEPS: Final = 100_000
"""After how many steps of SQLite's machine the time is looked at."""
_FAULT_SINCE: Final = (3, 7, 0)
_CORRECTED_IN: Final = (3, 51, 3)
_CORRECTED_TOO: Final = {(3, 44): 6, (3, 50): 7}
"""Older series with the correction: from which release on."""

log = logging.getLogger(__name__)


class BackedUp(NamedTuple):
    """A backup that was made and checked. bytes: its length; journals: how many it has; entries: in all of them."""

    bytes: int
    journals: int
    entries: int


def back_up(settings: Settings, target: Path) -> BackedUp:
    """Copy an SQLite ledger into a new file, as of one moment, while servers may use it, and check the copy.

    The file appears under its name when it is complete, checked and on disk, and only its owner may read it. Raises
    Misconfigured if the ledger is not on SQLite, InvalidRequest if the file exists, DatabaseUnusable and JournalBroken
    if the copy is not good.
    """
    source = settings.sqlite_file
    if source is None:
        raise Misconfigured(
            "`privacy-ledger backup` copies SQLite ledgers, and LEDGER_DATABASE_URL is another database. Use pg_dump,"
            " or base backups with archived WAL: the page Back up and restore of the guide shows both."
        )
    if not source.exists():
        raise DatabaseUnusable(f"There is no {source} to back up.")
    if target.exists():
        raise InvalidRequest(
            f"file: {target} exists already. Choose another name, or remove it: rm {target}", field="file"
        )
    kept = [] if settings.kept_heads is None else list(HeadsFile(settings.kept_heads).all())
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        os.close(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        _copy(source, partial)
        made = _checked(partial, kept)
        _sync(partial)
        os.link(partial, target)  # fails if somebody else has made it meanwhile
    except FileExistsError:
        raise InvalidRequest(f"file: {target} exists already. Choose another name", field="file") from None
    except (OSError, sqlite3.Error) as error:
        raise DatabaseUnusable(f"The backup {target} could not be made: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    _sync(target.parent)
    return made


def _copy(source: Path, target: Path) -> None:
    with _reading(source) as original, contextlib.closing(sqlite3.connect(target, isolation_level=None)) as copy:
        original.execute("BEGIN").close()  # one snapshot, whatever is written meanwhile
        original.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE").close()  # so that the file alone is the whole database


def _checked(file: Path, kept: list[tuple[Journal, End]]) -> BackedUp:
    with _reading(file) as copy:
        _demand_sound(copy, file, seconds_max=None)
        ends = {(tenant, dataset or None): (seq, head) for tenant, dataset, seq, head in copy.execute(_ENDS)}
        for (tenant, dataset), (seq, head) in ends.items():
            table, where = ("tenant_entries", "") if dataset is None else ("entries", " AND dataset_id = :dataset")
            query = f"SELECT hash FROM {table} WHERE tenant_id = :tenant AND seq = :seq{where}"  # noqa: S608 (our names)
            row = copy.execute(query, {"tenant": tenant, "dataset": dataset, "seq": seq}).fetchone()
            if seq and (row is None or row[0] != head):
                raise JournalBroken(f"of journal {dataset or tenant} is not the end that its row names", seq=seq)
        for (tenant_id, dataset_id), end in kept:
            stored = ends.get((str(tenant_id), None if dataset_id is None else str(dataset_id)))
            if stored is None or stored[0] < end.seq or (stored[0] == end.seq and stored[1] != end.hash):
                missing = Contradiction(end, None if stored is None else stored[0]).missing
                raise JournalBroken(
                    f"of journal {dataset_id or tenant_id} differs from the kept head: {missing}", seq=end.seq
                )
        return BackedUp(file.stat().st_size, len(ends), sum(seq for seq, _ in ends.values()))


_ENDS: Final = """SELECT tenant_id, '', seq, head FROM tenants
    UNION ALL SELECT tenant_id, id, seq, head FROM datasets"""


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[sqlite3.Connection]:
    """Open a file so that nothing writes into it: not even what is in a write-ahead log next to it."""
    url = f"{file.absolute().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(url, uri=True, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
        yield connection


# --- before a server starts ------------------------------------------------------------------------------------------


def demand_sound(settings: Settings, *, seconds_max: float = CHECK_SECONDS_MAX) -> None:
    """Check an SQLite file before it is served. Raises DatabaseUnusable if it is damaged. A file that takes longer than
    `seconds_max` to check is served after a warning."""
    file = settings.sqlite_file
    if file is None or not file.exists():
        return
    if has_wal_fault(sqlite3.sqlite_version_info):
        log.warning(
            "SQLite %s has a fault in its write-ahead log that can damage a database. Use 3.51.3 or later, or 3.50.7 or"
            " 3.44.6, which have the correction.",
            sqlite3.sqlite_version,
        )
    begun = time.monotonic()
    try:
        with _reading(file) as connection:
            is_whole = _demand_sound(connection, file, seconds_max=seconds_max)
    except sqlite3.OperationalError as error:
        raise DatabaseUnusable(f"The database {file} cannot be opened: {error}") from error
    if not is_whole:
        log.warning(
            "%s is so large that its check was stopped after %g seconds. Check a backup of it: sqlite3 BACKUP 'PRAGMA"
            " quick_check'",
            file,
            seconds_max,
        )
    elif (seconds := time.monotonic() - begun) > 1:
        log.info("the check of %s took %.1f seconds", file, seconds)


def has_wal_fault(version: tuple[int, int, int]) -> bool:
    """Return whether a release of SQLite has the fault of the write-ahead log that can damage a database."""
    since = _CORRECTED_TOO.get(version[:2])
    return _FAULT_SINCE <= version < _CORRECTED_IN and (since is None or version[2] < since)


def _demand_sound(connection: sqlite3.Connection, file: Path, *, seconds_max: float | None) -> bool:
    """Check a database's pages. Return whether all were. Raises DatabaseUnusable if one is damaged."""
    deadline = None if seconds_max is None else time.monotonic() + seconds_max
    is_late = False

    def look() -> bool:
        nonlocal is_late
        is_late = deadline is not None and time.monotonic() > deadline
        return is_late

    connection.set_progress_handler(look, _STEPS)
    try:
        found = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.DatabaseError as error:
        if is_late:
            return False
        if isinstance(error, sqlite3.OperationalError):
            raise
        found = str(error)
    finally:
        connection.set_progress_handler(None, 0)
    if found != "ok":
        raise DatabaseUnusable(damaged(file, found))
    return True


def damaged(file: Path, found: str) -> str:
    """Return the message about a damaged file."""
    return (
        f"The database {file} is damaged ({found}).\n"
        f"The files {file}, {file.name}-wal and {file.name}-shm are one database. If a copy was put back next to files"
        f" of another time: stop every server, move all three away, and put the copy back alone, or all three from one"
        " moment:\n"
        f"    mkdir aside && mv {file} {file}-wal {file}-shm aside/\n"
        f"    cp BACKUP {file}\n"
        "Otherwise restore the newest backup. The server notices what it lacks."
    )
