"""Ledgers by the dozen, for random sequences that want a tenant of their own each."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from pathlib import Path
from types import TracebackType

from ledger.settings import Settings
from tests.conftest import Templates
from tests.kit.driver import Ledger

EXAMPLES_PER_DATABASE = 3
"""An audit goes through all tenants of a database; each example has a tenant of its own."""


class Sites:
    """Ledgers of one kind, a fresh one every few examples, and a fresh tenant for each."""

    def __init__(self, kind: str, templates: Templates, folder: Path) -> None:
        self.kind, self._templates, self._folder = kind, templates, folder
        self._stack = contextlib.ExitStack()
        self._left = 0
        self._numbers = itertools.count()
        self.did: Counter[str] = Counter()

    def __enter__(self) -> Sites:
        return self

    def __exit__(self, *raised: tuple[type[BaseException], BaseException, TracebackType]) -> None:
        self._stack.close()

    def tenant(self) -> tuple[Ledger, Settings]:
        """An admin of a new tenant, and the settings that lead to its database."""
        if self._left == 0:
            self._stack.close()
            folder = self._folder / f"site-{next(self._numbers)}"
            folder.mkdir()
            self._settings = self._stack.enter_context(self._templates.clone(self.kind, folder))
            self._opened = self._stack.enter_context(Ledger.open(self._settings))
            self._left = EXAMPLES_PER_DATABASE
        self._left -= 1
        operator = self._opened.with_key(self._opened.operator_key)
        made = operator.post("/v1/tenants", {"name": f"tenant-{next(self._numbers)}"})
        assert made.status_code == 201, made.text
        return self._opened.with_key(made.json()["key"]["secret"]), self._settings
