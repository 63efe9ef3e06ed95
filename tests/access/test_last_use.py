"""When a key was used last: known to who manages keys, and not written at every request."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from queue import SimpleQueue
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import event
from starlette.testclient import TestClient

from ledger.access.keys import Keyring
from ledger.api.app import create_app
from ledger.service.last_uses import LastUses
from ledger.service.writer import Writer
from ledger.settings import Settings
from ledger.store import Store, Writing
from tests.kit.driver import Ledger, first_keys


def test_last_use_is_there_after_the_process_ends(database: Settings) -> None:
    """Goal: an admin sees which keys nobody uses. Method: one of two keys is used, the application ends, which writes
    what it knows, and the next one shows it."""
    first = first_keys(database)
    with TestClient(create_app(database)) as client:
        admin = Ledger(client, first.admin_key)
        used, unused = admin.as_("auditor"), admin.as_("auditor")
        assert used.get("/v1/datasets").status_code == 200
        assert {key["last_used_at"] for key in admin.get("/v1/keys").json()["items"]} == {None}
    with TestClient(create_app(database)) as client:
        admin = Ledger(client, first.admin_key)
        shown = {key["id"]: key for key in admin.get("/v1/keys").json()["items"]}
        times = [key["last_used_at"] for key in shown.values() if key["name"] == "a auditor"]
        assert sorted(time is None for time in times) == [False, True]
        assert unused.key != used.key


def test_no_request_writes_when_a_key_was_used(store: Store, database: Settings) -> None:
    """Goal: reading stays reading. Method: recognise a key many times, and count the statements that write."""
    first = first_keys(database)
    written: list[str] = []

    def seen(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.lstrip().upper().startswith(("UPDATE", "INSERT")):
            written.append(statement)

    event.listen(store.engine, "before_cursor_execute", seen)
    keyring = Keyring(store)
    for _ in range(20):
        keyring.forget()
        keyring.recognise(first.admin_key)
    assert written == []
    ((used,),) = (list(of_tenant.values()) for of_tenant in keyring.uses().values())
    assert used > 0
    assert keyring.uses() == {}


T = TypeVar("T")


class Noticed(Writer):
    """The writer, which passes on what it is given to do."""

    def __init__(self, store: Store) -> None:
        super().__init__(store, threads=1, queue_max=100, group_max=10)
        self.given: SimpleQueue[tuple[UUID, Future[Any]]] = SimpleQueue()

    def run(self, tenant_id: UUID, work: Callable[[Writing], T]) -> Future[T]:
        job = super().run(tenant_id, work)
        self.given.put((tenant_id, job))
        return job


def test_last_use_is_written_while_the_process_serves(store: Store, database: Settings) -> None:
    """Goal: who looks at keys need not wait until a server ends. Method: a keyring that recognised a key, and a loop
    that is due after a hundredth of a second; the key's row has the time after the write that this makes."""
    first = first_keys(database)
    keyring, writer = Keyring(store), Noticed(store)
    caller = keyring.recognise(first.admin_key)
    writer.start()
    uses = LastUses(keyring, writer, every_seconds=0.01)
    uses.start()
    with closing(writer), closing(uses):
        tenant_id, job = writer.given.get(timeout=30)
        job.result(30)
        with store.reading(tenant_id) as reading:
            key = reading.keys.by_id([caller.key_id])[caller.key_id]
    assert key.last_used_us is not None
    assert writer.given.empty()
