"""Compare a database with the heads that its servers kept outside of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

from ledger.errors import Misconfigured
from ledger.operate import deploy
from ledger.recovery.file import HeadsFile
from ledger.recovery.keeper import contradiction_of
from ledger.settings import Settings


def check_kept(settings: Settings) -> Iterator[dict[str, Any]]:
    """Yield one result for each journal that contradicts the kept head, in the form of `check_journals`. Raises
    Misconfigured if the file of kept heads cannot be read."""
    path = settings.kept_heads
    if path is None or not path.exists():
        return
    try:
        kept = list(HeadsFile(path).all())
    except (sqlite3.Error, ValueError) as error:
        raise Misconfigured(
            f"The file of kept heads {path} cannot be read: {error}. If it is damaged: rm {path}"
        ) from error
    with deploy.opened_by_owner(settings) as store:
        tenants = dict(deploy.tenants_of(store))
        for journal, end in kept:
            found = contradiction_of(store, journal, end)
            if found is not None:
                seq = min((found.stored or 0) + 1, end.seq)
                yield {
                    "tenant": tenants.get(journal[0], str(journal[0])),
                    "dataset": None if journal[1] is None else end.name or str(journal[1]),
                    "entries": found.stored or 0,
                    "seq": seq,
                    "error": f"entry {seq}: {found.missing}, by the head that was kept in {path}",
                }
