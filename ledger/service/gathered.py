"""Reads that are made together: what is asked for while a tenant's transaction runs is read in its next one.

As the writer does with decisions: sixty-four callers who wait for a thread and a transaction each take sixty-four times
as long as one transaction that reads for all of them. A question is never answered from a transaction that began before
it, so a caller reads what was committed before it asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Final, Generic, TypeVar
from uuid import UUID

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

TOGETHER_MAX: Final = 64
"""How many questions are answered from one transaction."""


class Gathered(Generic[K, V]):
    """Asks for one thing by its key. Its coroutines belong to one event loop.

    read: returns what a tenant has under these keys, without those under which it has nothing; it runs in a thread.
    """

    def __init__(self, read: Callable[[UUID, Sequence[K]], Mapping[K, V]]) -> None:
        self._read = read
        self._waiting: dict[UUID, dict[K, asyncio.Future[V | None]]] = {}
        self._serving: dict[UUID, asyncio.Task[None]] = {}

    async def ask(self, tenant_id: UUID, key: K) -> V | None:
        """Return what the tenant has under this key, None if nothing. Raises what reading it raises."""
        waiting = self._waiting.setdefault(tenant_id, {})
        answer = waiting.get(key)
        if answer is None:
            answer = waiting[key] = asyncio.get_running_loop().create_future()
        if tenant_id not in self._serving:
            self._serving[tenant_id] = asyncio.create_task(self._serve(tenant_id))
        return await asyncio.shield(answer)  # others may wait for it too

    async def _serve(self, tenant_id: UUID) -> None:
        """Answer one tenant's questions until nobody asks any more."""
        try:
            while waiting := self._waiting.pop(tenant_id, None):
                now = dict(list(waiting.items())[:TOGETHER_MAX])
                if later := {key: answer for key, answer in waiting.items() if key not in now}:
                    self._waiting[tenant_id] = later
                await self._answer(tenant_id, now)
        finally:
            del self._serving[tenant_id]

    async def _answer(self, tenant_id: UUID, asked: Mapping[K, asyncio.Future[V | None]]) -> None:
        try:
            values = await asyncio.to_thread(self._read, tenant_id, list(asked))
        except Exception as error:  # for everyone who asked
            for answer in asked.values():
                answer.set_exception(error)
                answer.exception()  # it counts as heard, even if all who asked have gone
        else:
            for key, answer in asked.items():
                answer.set_result(values.get(key))
