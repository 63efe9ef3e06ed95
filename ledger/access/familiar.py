"""Keys that were good before: in this process, or in one before or beside it, as the database remembers them.

Limits on strangers are there for guesses. A key that was good before is no guess, whoever else guesses from the same
address, and also just after a restart. So the database is asked for the keys that were used last, at most once in
`EVERY_SECONDS` and only while strangers come: what it tells is the beginning of each digest, of live keys alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Set
from typing import Final

from cachetools import LRUCache

from ledger.store import FAMILIAR_BYTES, Store

log = logging.getLogger(__name__)

FAMILIAR_MAX: Final = 10_000
"""Keys that are remembered from this process, and as many from the database."""
EVERY_SECONDS: Final = 60.0


class Familiar:
    """The digests of keys that were good before. It belongs to one event loop; `look` alone is for another thread."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._due = clock, clock()
        self._here = LRUCache[bytes, None](FAMILIAR_MAX)
        self._kept: set[bytes] = set()

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._here or digest[:FAMILIAR_BYTES] in self._kept

    def add(self, digest: bytes) -> None:
        """This key is good."""
        self._here[digest] = None

    def discard(self, digest: bytes) -> None:
        """This key is not good any more."""
        self._here.pop(digest, None)
        self._kept.discard(digest[:FAMILIAR_BYTES])

    @property
    def is_due(self) -> bool:
        """Whether it is time to ask the database."""
        return self._clock() >= self._due

    def take(self, kept: Set[bytes] | None) -> None:
        """What the database remembers; None where it could not be asked. It is not asked again for a while."""
        self._due = self._clock() + EVERY_SECONDS
        if kept is not None:
            self._kept = set(kept)


def look(store: Store) -> Set[bytes] | None:
    """Ask the database for the keys that were used last; None where it cannot be asked."""
    try:
        return store.familiar_keys(rows_max=FAMILIAR_MAX)
    except Exception as error:  # whatever it is: callers are strangers then, and told of it when they are looked up
        log.warning("the keys that were good before could not be looked up: %s", type(error).__name__)
        return None
