"""When a key was used last: known to who manages keys, and not written at every request."""

from __future__ import annotations

from typing import Any

from sqlalchemy import event
from starlette.testclient import TestClient

from ledger.access.keys import Keyring
from ledger.api.app import create_app
from ledger.settings import Settings
from ledger.store import Store
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
