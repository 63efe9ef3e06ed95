"""Turns of tenants: a bounded number at once, first come, first served, with separate places for slow tenants.

No turn waits for another tenant's while there are free places. Tenants whose last turn was slow may use only some of
the places, so that however many there are, the turns of the others come.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from cachetools import LRUCache

log = logging.getLogger(__name__)

WAITING_MAX: Final = 10_000
"""How many tenants may wait for a turn. Further ones are rejected, and must ask again."""
SLOW_MAX: Final = 10_000


@dataclass(slots=True)
class _Waiting:
    """A tenant that wants a turn. done: completes when it wants no more. again: it wanted another one meanwhile."""

    done: Future[None] = field(default_factory=Future)
    again: bool = False


class Turns:
    """Call `serve` with each tenant that wants a turn, in threads that end when no tenant does.

    serve: returns whether the tenant wants another turn; it gets it after those that wait. An error is logged, and ends
    only that tenant's turns.
    """

    def __init__(
        self,
        serve: Callable[[UUID], bool],
        *,
        at_once: int,
        slow_at_once: int,
        slow_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._serve, self._clock = serve, clock
        self._at_once, self._slow_at_once, self._slow_seconds = at_once, slow_at_once, slow_seconds
        self._lock = threading.Lock()
        self._waiting: dict[UUID, _Waiting] = {}
        self._served: dict[UUID, _Waiting] = {}
        self._slow = LRUCache[UUID, None](SLOW_MAX)
        self._slow_served: set[UUID] = set()
        self._threads: set[threading.Thread] = set()
        self._is_closing = False

    def want(self, tenant_id: UUID) -> Future[None]:
        """Ask for a turn of a tenant. Never waits. The returned future is done when the tenant wants no more."""
        with self._lock:
            if (served := self._served.get(tenant_id)) is not None:
                served.again = True
                return served.done
            known = self._waiting.get(tenant_id)
            if known is None:
                known = _Waiting()
                if self._is_closing or len(self._waiting) >= WAITING_MAX:
                    known.done.cancel()
                    return known.done
                self._waiting[tenant_id] = known
            self._start_thread()
        return known.done

    def close(self, *, seconds_max: float) -> None:
        """Give no more turns, and wait until the current ones have ended."""
        with self._lock:
            self._is_closing = True
            for waiting in self._waiting.values():
                waiting.done.cancel()
            self._waiting.clear()
            threads = list(self._threads)
        until = self._clock() + seconds_max
        for thread in threads:
            thread.join(max(0.0, until - self._clock()))

    def _start_thread(self) -> None:
        if len(self._threads) < self._at_once:
            thread = threading.Thread(target=self._work, name="ledger-delivery", daemon=True)
            self._threads.add(thread)
            thread.start()

    def _work(self) -> None:
        while (tenant_id := self._next()) is not None:
            begun = self._clock()
            has_more = False
            try:
                has_more = self._serve(tenant_id)
            except Exception as error:  # one tenant's trouble is not another's
                log.error("a turn of tenant %s failed", tenant_id, exc_info=error)
            self._end(tenant_id, is_slow=self._clock() - begun > self._slow_seconds, has_more=has_more)

    def _next(self) -> UUID | None:
        """Return whose turn it is; None ends the thread."""
        with self._lock:
            slow_are_full = len(self._slow_served) >= self._slow_at_once
            for tenant_id in self._waiting:
                if not (slow_are_full and tenant_id in self._slow):
                    self._served[tenant_id] = self._waiting.pop(tenant_id)
                    if tenant_id in self._slow:
                        self._slow_served.add(tenant_id)
                    return tenant_id
            self._threads.discard(threading.current_thread())
            return None

    def _end(self, tenant_id: UUID, *, is_slow: bool, has_more: bool) -> None:
        with self._lock:
            self._slow_served.discard(tenant_id)
            if is_slow:
                self._slow[tenant_id] = None
            else:
                self._slow.pop(tenant_id, None)
            served = self._served.pop(tenant_id)
            if (has_more or served.again) and not self._is_closing:
                served.again = False
                self._waiting[tenant_id] = served
                return
        if not served.done.cancelled():
            served.done.set_result(None)
