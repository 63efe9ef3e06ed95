"""Statements that are compiled once for all databases of a kind, since each test has an engine of its own.

SQLAlchemy keeps what it compiled, and what each type turns into, with the engine. A test asks most of its statements
once or twice, so that compiling them takes longer than all else that its engine does.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Hashable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import pytest
import sqlalchemy
from sqlalchemy import Engine
from sqlalchemy.engine.interfaces import Dialect

from ledger.store import engines


def _kind(dialect: Dialect) -> Hashable:
    """All that a statement's text depends on beside the statement."""
    return type(dialect), getattr(dialect, "server_version_info", None)


class _Compiled(dict[Hashable, Any]):
    """Statements by what they are, for a kind of database and not for an engine alone."""

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get((_kind(key[0]), *key[1:]), default)

    def __setitem__(self, key: Any, compiled: Any) -> None:
        super().__setitem__((_kind(key[0]), *key[1:]), compiled)


@contextmanager
def once() -> Iterator[None]:
    """Have every engine that the ledger makes share what was compiled."""
    statements = _Compiled()
    types: dict[type[Dialect], MutableMapping[Any, Any]] = defaultdict(WeakKeyDictionary)
    create = sqlalchemy.create_engine

    @functools.wraps(create)
    def sharing(*args: Any, **options: Any) -> Engine:
        engine = create(*args, **options)
        engine._compiled_cache = statements
        engine.dialect._type_memos = types[type(engine.dialect)]
        return engine

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(engines, "create_engine", sharing)
        yield
