"""Datasets, partitions and projects: read."""

from __future__ import annotations

from sqlalchemy import ColumnElement, and_

from ledger.store.tables import NOBODY, accounts


def is_base() -> ColumnElement[bool]:
    """The condition for the account of a whole dataset."""
    return and_(accounts.c.project == "", accounts.c.principal_id == NOBODY)
