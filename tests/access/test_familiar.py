"""Limits on strangers touch no key that was good before, by whichever process, and go on bounding guesses."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event
from starlette.testclient import TestClient

from ledger.access import keys
from ledger.access.familiar import EVERY_SECONDS, FAMILIAR_MAX, Familiar, look
from ledger.api.app import create_app
from ledger.api.limits import RECOGNISED_AT_ONCE_MAX, WAITING_MAX
from ledger.settings import Settings
from ledger.store import FAMILIAR_BYTES, Store, engine_for
from tests.kit.driver import Ledger, first_keys

WRONG_MAX = 5


@contextmanager
def process(settings: Settings, key: str) -> Iterator[Ledger]:
    """The application, as another process has it. All its callers come from one address."""
    with TestClient(create_app(settings.model_copy(update={"failed_sign_ins": WRONG_MAX}))) as client:
        yield Ledger(client, key)


def wrong(ledger: Ledger) -> Ledger:
    """A caller with a well-formed key of this tenant that is none."""
    return ledger.with_key(keys.mint(keys.tenant_of(ledger.key)))


def statuses(ledger: Ledger, count: int) -> list[int]:
    """What so many wrong keys are answered with."""
    return [wrong(ledger).get("/v1/me").status_code for _ in range(count)]


def test_a_key_that_was_good_is_served_after_a_restart(database: Settings) -> None:
    """Goal: wrong keys lock no good key of the same address out, also in a process that never saw it; keys that were
    never used, revoked or expired are guesses like others.

    Method: keys are used and the process ends; in the next one their address is first brought to its limit. Every
    look-up is counted.
    """
    first = first_keys(database)
    with process(database, first.admin_key) as before:
        used, revoked, unused = (before.as_("auditor") for _ in range(3))
        operator = before.with_key(first.operator_key)
        for by in (used, revoked):
            assert by.get("/v1/me").status_code == 200
    with process(database, first.admin_key) as between:
        principal = between.with_key(revoked.key).get("/v1/me").json()["principal"]
        (gone,) = [item["id"] for item in between.get("/v1/keys").json()["items"] if item["principal"] == principal]
        assert between.delete(f"/v1/keys/{gone}").status_code == 204
    with process(database, first.admin_key) as ledger:
        looked_up: list[str] = []
        keyring = ledger.client.app.state.services.keyring
        recognise = keyring.recognise

        def counted(secret: str) -> Any:
            looked_up.append(secret)
            return recognise(secret)

        keyring.recognise = counted
        assert statuses(ledger, 20) == [401] * WRONG_MAX + [429] * 15
        for by in (ledger, used, operator):
            assert ledger.with_key(by.key).get("/v1/me").status_code == 200
        for by in (unused, revoked):
            assert ledger.with_key(by.key).get("/v1/me").status_code == 429
        assert statuses(ledger, 5) == [429] * 5
        assert len(looked_up) == WRONG_MAX + 3


def test_strangers_that_wait_keep_no_good_key_waiting(database: Settings) -> None:
    """Goal: a full line of strangers, whose look-ups hang, is nothing to a key that was good before this process began.
    Method: as many as may wait, and one more, which is turned away at once; then the key."""
    first = first_keys(database)
    with process(database, first.admin_key) as before:
        assert before.get("/v1/me").status_code == 200
    with process(database, first.admin_key) as ledger:
        keyring, release = ledger.client.app.state.services.keyring, threading.Event()
        recognise, arrived = keyring.recognise, threading.Semaphore(0)

        def slowly(secret: str) -> Any:
            if secret != first.admin_key:
                arrived.release()
                release.wait(60)
            return recognise(secret)

        keyring.recognise = slowly
        count = RECOGNISED_AT_ONCE_MAX + WAITING_MAX
        with ThreadPoolExecutor(count + 1) as pool:
            asked = [pool.submit(wrong(ledger).get, "/v1/me") for _ in range(count + 1)]
            assert all(arrived.acquire(timeout=30) for _ in range(RECOGNISED_AT_ONCE_MAX))
            assert ledger.get("/v1/me").status_code == 200
            release.set()
            assert [each.result().status_code for each in asked].count(503) <= 1


def test_the_database_is_asked_once_a_minute(database: Settings) -> None:
    """Goal: strangers cost one statement a minute more than their look-ups, and nobody pays for them without strangers.
    Method: statements are counted."""
    first = first_keys(database)
    with process(database, first.admin_key) as ledger:
        store = ledger.client.app.state.services.store
        asked: list[str] = []
        event.listen(
            store.engine,
            "before_cursor_execute",
            lambda _c, _cursor, statement, *_: asked.append(statement) if is_of_familiar(statement) else None,
        )
        for nothing in ("pbl_typo", ledger.key[:-1] + ("a" if ledger.key[-1] != "a" else "b"), "a.b.c"):
            assert ledger.with_key(nothing).get("/v1/me").status_code == 401
        assert asked == [], "what cannot be a key asks nobody"
        assert ledger.get("/v1/me").status_code == 200
        assert len(asked) == 1, "the first caller of all is a stranger"
        statuses(ledger, 20)
        for _ in range(5):
            ledger.get("/v1/me")
        assert len(asked) == 1


def is_of_familiar(statement: str) -> bool:
    """Whether this asks for the keys that were good before."""
    return "familiar_keys" in statement or "ORDER BY keys.last_used_us DESC" in statement


def test_what_is_remembered_is_bounded_and_forgotten() -> None:
    """Goal: as many keys as the bound, the newest; what turned out wrong is a stranger again; the time to ask again."""
    now = 0.0
    remembered = Familiar(clock=lambda: now)
    assert remembered.is_due
    digests = [number.to_bytes(32, "big") for number in range(1, FAMILIAR_MAX + 2)]
    for digest in digests:
        remembered.add(digest)
    assert (digests[0] in remembered, digests[1] in remembered) == (False, True)
    elsewhere = bytes(range(32))
    remembered.take({elsewhere[:FAMILIAR_BYTES]})
    assert (elsewhere in remembered, remembered.is_due) == (True, False)
    for digest in (elsewhere, digests[1]):
        remembered.discard(digest)
        assert digest not in remembered
    now = EVERY_SECONDS
    assert remembered.is_due
    remembered.take({elsewhere[:FAMILIAR_BYTES]})
    remembered.take(None)
    assert (elsewhere in remembered, remembered.is_due) == (True, False)


def test_what_the_database_tells_of_keys(database: Settings, store: Store) -> None:
    """Goal: the beginnings of digests, of as many keys as are asked for, and nothing where it cannot be asked."""
    first = first_keys(database)
    with process(database, first.admin_key) as before:
        others = [before.as_("auditor") for _ in range(3)]
        for by in others:
            assert by.get("/v1/me").status_code == 200
    wanted = {keys.digest_of(key)[:FAMILIAR_BYTES] for key in (first.admin_key, first.operator_key)}
    wanted |= {keys.digest_of(by.key)[:FAMILIAR_BYTES] for by in others}
    assert look(store) == wanted
    assert len(store.familiar_keys(rows_max=2)) == 2 + 1  # the operator's stand apart
    nowhere = Store(engine_for("sqlite:////nowhere/at/all.db"))
    assert look(nowhere) is None
