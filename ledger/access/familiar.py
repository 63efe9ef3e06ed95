"""Keys that were valid before, in this process or another one, as the database remembers them.

Limits on unknown callers are there against guessing. A key that was valid before is no guess, even if others guess from
the same address, and also just after a restart. So the database is asked for the keys used last, at most once in
`EVERY_SECONDS` and only while unknown callers come. It returns the beginning of each digest, of live keys only.
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
"""The number of keys remembered from this process; the same number comes from the database."""
EVERY_SECONDS: Final = 60.0


class Familiar:
    """The digests of keys that were valid before. Belongs to one event loop; only `look` is for another thread."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._due = clock, clock()
        self._here = LRUCache[bytes, None](FAMILIAR_MAX)
        self._kept: set[bytes] = set()

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._here or digest[:FAMILIAR_BYTES] in self._kept

    def add(self, digest: bytes) -> None:
        """Add a valid key."""
        self._here[digest] = None

    def discard(self, digest: bytes) -> None:
        """Remove a key that is not valid any more."""
        self._here.pop(digest, None)
        self._kept.discard(digest[:FAMILIAR_BYTES])

    @property
    def is_due(self) -> bool:
        """Return whether it is time to ask the database."""
        return self._clock() >= self._due

    def take(self, kept: Set[bytes] | None) -> None:
        """Take over what the database remembers; None if it could not be asked. It is not asked again for a while."""
        self._due = self._clock() + EVERY_SECONDS
        if kept is not None:
            self._kept = set(kept)


def look(store: Store) -> Set[bytes] | None:
    """Ask the database for the keys used last. Return None if it cannot be asked."""
    try:
        return store.familiar_keys(rows_max=FAMILIAR_MAX)
    except (
        Exception
    ) as error:  # any error: the callers then count as unknown, and get the error when they are looked up
        log.warning("the keys that were valid before could not be looked up: %s", type(error).__name__)
        return None
