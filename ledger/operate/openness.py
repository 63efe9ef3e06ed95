"""Find files of a ledger that other users of the machine can read or change."""

from __future__ import annotations

import itertools
import logging
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from ledger.access.issuers import configuration
from ledger.errors import Misconfigured
from ledger.settings import Settings

log = logging.getLogger(__name__)

LOOKED_AT_MAX: Final = 10_000
"""How many names in the database's folder are checked."""
WARNED_OF_MAX: Final = 20
PUBLIC: Final = ".signing-key.retired.json"
"""The ending of the file next to a database that has only public keys."""


class OpenFile(NamedTuple):
    """A file that is open to others, and the command that closes it."""

    path: Path
    mode: int
    is_secret: bool

    @property
    def remedy(self) -> str:
        """Return the command to paste."""
        return f"chmod {'600' if self.is_secret else 'go-w'} {shlex.quote(str(self.path))}"


def warn(settings: Settings) -> None:
    """Log each file that is open to others, with the command that closes it."""
    for found in itertools.islice(open_files(settings), WARNED_OF_MAX):
        what = "read" if found.is_secret else "change"
        log.warning("others can %s %s (mode %04o); close it: %s", what, found.path, found.mode, found.remedy)


def open_files(settings: Settings) -> Iterator[OpenFile]:
    """Yield the files that others can read: an SQLite database with its side files, backups and keys; the signing key;
    `.env`; the secrets of clients at issuers; and the file of trusted issuers, if others can change it."""
    secret = [*_of_database(settings.sqlite_file), Path(".env")]
    if settings.signing_key_file is not None:
        secret.append(settings.signing_key_file)
    for path in dict.fromkeys(secret):
        if (mode := _mode(path)) is not None and mode & 0o077:
            yield OpenFile(path, mode, is_secret=True)
    rules = settings.oidc_file
    for path in () if rules is None else _of_clients(rules):
        if (mode := _mode(path)) is not None and mode & 0o077:
            yield OpenFile(path, mode, is_secret=True)
    if rules is not None and (mode := _mode(rules)) is not None and mode & 0o022:
        yield OpenFile(rules, mode, is_secret=False)


def _of_clients(rules: Path) -> list[Path]:
    """Return the files of the secrets of clients, which the file of issuers names."""
    try:
        issuers = configuration(rules).issuers
    except Misconfigured:  # which the server reports
        return []
    secrets = (one.client_secret for one in issuers)
    return [Path(kept.file) for kept in secrets if kept is not None and kept.file is not None]


def _of_database(database: Path | None) -> list[Path]:
    """Yield the database's files, and those in its folder whose names begin with its name, as backups do."""
    if database is None:
        return []
    try:
        names = itertools.islice(database.parent.iterdir(), LOOKED_AT_MAX)
        beside = sorted(path for path in names if path.name.startswith(database.stem))
    except OSError:
        beside = []
    return [database, *(path for path in beside if not path.name.endswith(PUBLIC))]


def _mode(path: Path) -> int | None:
    """Return the permissions of a file; None if the file does not exist."""
    try:
        status = path.stat()
    except OSError:
        return None
    return stat.S_IMODE(status.st_mode) if stat.S_ISREG(status.st_mode) else None
