"""The books as the decision reads and writes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sqlalchemy import ColumnElement, and_

from ledger.core.books import ReadSet
from ledger.store.tables import NOBODY, accounts

NAMES_MAX: Final = 500
"""How many partitions are asked for by name; where a group names more, all are read."""


def held_by(wanted: Iterable[ReadSet]) -> ColumnElement[bool]:
    """Of nobody, of these projects, of these principals."""
    names, ids = {""}, {NOBODY}
    for asked in wanted:
        names |= asked.projects
        ids |= asked.principals
    # At most one of the two names somebody.
    return and_(accounts.c.project.in_(sorted(names)), accounts.c.principal_id.in_(sorted(ids)))
