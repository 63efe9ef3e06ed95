"""Modules that are imported when something of them is first needed: what takes long to import or much memory, and is
not needed by everything that imports what needs it."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class Deferred(ModuleType):
    """Stands for a module until then."""

    def __getattr__(self, name: str) -> Any:
        value = getattr(importlib.import_module(self.__name__), name)
        setattr(self, name, value)  # from now on it is found without this
        return value


def is_imported(name: str) -> bool:
    """Return whether a module was imported, by any code."""
    return name in sys.modules
