"""A key that was revoked in one process opens nothing in another: what writes at once, what reads within a second."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from ledger.settings import Settings
from tests.kit.driver import MNIST, RELEASE, Ledger, Served, first_keys
from tests.kit.scene import REASON, ok

SECONDS_MAX = 1.0
"""After the answer to the revocation; a reading process remembers a key for half of it."""
READS = ("/v1/me", "/v1/datasets", "/v1/datasets/mnist/entries", "/v1/runs", "/v1/keys", "/v1/export")


@dataclass(frozen=True, slots=True)
class Site:
    """Two server processes on one database; `here` is an admin's client at the first one."""

    here: Ledger
    there: Any

    def key(self) -> tuple[str, Ledger]:
        """A new admin's key, as its id and a client at the other process, which knows it by now."""
        made = ok(self.here.post("/v1/keys", {"name": "k", "role": "admin"}))
        elsewhere = Ledger(self.there, made["secret"])
        ok(elsewhere.get("/v1/me"))
        return str(made["id"]), elsewhere


@pytest.fixture
def site(database: Settings, start_server: Callable[[Settings], Served]) -> Iterator[Site]:
    """On every database, with a dataset."""
    key = first_keys(database).admin_key
    with start_server(database).client() as here, start_server(database).client() as there:
        admin = Ledger(here, key)
        admin.register()
        yield Site(admin, there)


def ask_until_refused(by: Ledger, path: str) -> None:
    """Asks again and again; what is asked later than it may be has to be refused."""
    since = time.monotonic()
    while True:
        asked = time.monotonic()
        answer = by.get(path)
        if answer.status_code == 401:
            assert answer.json()["code"] == "unauthenticated"
            return
        assert answer.status_code == 200
        assert asked - since < SECONDS_MAX, f"{path} was still answered {asked - since:.2f} s after the revocation"


def writes() -> list[tuple[str, str, Any]]:
    """Something of every kind that writes, which nothing but the key keeps from being done."""
    return [
        ("POST", "/v1/runs", RELEASE),
        ("POST", "/v1/runs/batch", {"runs": [{**RELEASE, "idempotency_key": uuid.uuid4().hex}]}),
        ("POST", "/v1/datasets", {**MNIST, "name": "adult"}),
        ("PATCH", "/v1/datasets/mnist", {"title": "t"}),
        ("PUT", "/v1/datasets/mnist/budget", {"budget": {"mu": 2}, **REASON}),
        ("PUT", "/v1/datasets/mnist/projects/ranking", {"budget": {"mu": 0.5}}),
        ("PUT", "/v1/datasets/mnist/fair-use", {"runs_per_hour": 1, **REASON}),
        ("POST", "/v1/keys", {"name": "k", "role": "admin"}),
        ("PUT", "/v1/policy", {"second_steward": True, **REASON}),
    ]


def test_reads_end_within_a_second(site: Site) -> None:
    """Goal: half a second's memory is all that another process has. Method: use a key there, end it here, by revoking
    or by rotating it, and ask until it is refused; for each reading call with a key of its own."""
    for path, ended in itertools.product(READS, ("revoked", "rotated out")):
        key, elsewhere = site.key()
        assert elsewhere.get(path).status_code == 200
        if ended == "revoked":
            ok(site.here.delete(f"/v1/keys/{key}"))
        else:
            ok(site.here.post(f"/v1/keys/{key}/rotate", {"overlap": "PT0.000001S"}))
        ask_until_refused(elsewhere, path)
        assert elsewhere.get(path).status_code == 401, "refused once, refused for ever"


def test_writes_end_at_once(site: Site) -> None:
    """Goal: nothing is written by a key after its revocation was answered, however recently another process saw it.
    Method: each call that writes, as the first one after the revocation, at a process that remembers the key; the
    journals stay as they were. A key that is good does all of the same."""
    journals = ("/v1/head", "/v1/datasets/mnist/head")
    for method, path, body in writes():
        key, elsewhere = site.key()
        ok(site.here.delete(f"/v1/keys/{key}"))
        before = [site.here.get(of).text for of in journals]
        answer = elsewhere.request(method, path, json=body, headers={"Idempotency-Key": uuid.uuid4().hex})
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), (method, path)
        assert [site.here.get(of).text for of in journals] == before, (method, path)
    key, elsewhere = site.key()
    for method, path, body in writes():
        answer = elsewhere.request(method, path, json=body, headers={"Idempotency-Key": uuid.uuid4().hex})
        assert answer.is_success, (method, path, answer.text)


def test_a_run_in_progress_is_not_ended_by_a_revoked_key(site: Site) -> None:
    """Goal: nor can it end what it began. Method: start a run there, revoke here, then settle, void and start it there;
    with a key that is good it is settled."""
    key, elsewhere = site.key()
    run = ok(elsewhere.ask())["id"]
    ok(elsewhere.post(f"/v1/runs/{run}/start"))
    ok(site.here.delete(f"/v1/keys/{key}"))
    for verb, body in (("settle", None), ("void", REASON), ("start", None)):
        assert elsewhere.post(f"/v1/runs/{run}/{verb}", body).status_code == 401
    assert ok(site.here.get(f"/v1/runs/{run}"))["state"] == "started"
    assert ok(site.here.post(f"/v1/runs/{run}/settle"))["state"] == "settled"
