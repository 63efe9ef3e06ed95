"""Who may do what: keys, roles, limits, tenants."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection, MetaData, event, select, text

from ledger.access import keys
from ledger.access.keys import PREFIX, tenant_of
from ledger.errors import UNKNOWN_KEY
from ledger.settings import Settings
from tests.kit.driver import MNIST, RELEASE, WEAK, Ledger, past_the_ledger

NOBODY = str(uuid.UUID(int=1))


@contextmanager
def owner_of(database: Settings) -> Iterator[Connection]:
    """The database as its owner opens it, past the ledger."""
    engine = past_the_ledger(database)
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def code_of(answer: Any) -> str:
    """The code of a refusal."""
    return str(answer.json()["code"])


# --- roles -----------------------------------------------------------------------------------------------------------

ROLES = ("admin", "steward", "requester", "auditor", "operator")
MATRIX = """
    call                    admin steward requester auditor operator
    make a tenant             -      -        -        -       x
    make a key                x      -        -        -       -
    list keys                 x      -        -        -       -
    revoke a key              x      -        -        -       -
    register a dataset        x      x        -        -       -
    list datasets             x      x        x        x       -
    show a dataset            x      x        x        x       -
    freeze a dataset          x      x        -        -       -
    set a budget              x      x        -        -       -
    read entries              x      x        -        x       -
    read the head             x      x        -        x       -
    export the journal        x      x        -        x       -
    ask                       x      -        x        -       -
    list runs                 x      x        x        x       -
    show a run                x      x        x        x       -
    start its own             x      -        x        -       -
    start another's           x      -        -        -       -
    settle its own            x      -        x        -       -
    settle another's          x      -        -        -       -
    void its own, held        x      x        x        -       -
    void another's, held      x      x        -        -       -
    void its own, started     x      x        -        -       -
    void another's, started   x      x        -        -       -
    evaluate                  x      x        x        x       -
    plan                      x      x        x        x       -
"""
"""`-` is forbidden. A role that cannot ask has no run of its own, and tries another's in its place."""


class Scene:
    """A dataset with plenty of budget, a key of each role, and as many new things as anyone asks for."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        ledger.register(budget={"mu": 1000})
        self.clients = {role: ledger.as_(role) for role in ROLES[:4]}
        self.clients["operator"] = ledger.with_key(ledger.operator_key)
        self.other = ledger.as_("requester")

    def run(self, by: Ledger, *, is_started: bool = False) -> str:
        """A new run of someone's, or of another where that one cannot ask."""
        asked = by.ask(key=uuid.uuid4().hex)
        if asked.status_code != 201:
            return self.run(self.other, is_started=is_started)
        made = str(asked.json()["id"])
        if is_started:
            assert by.post(f"/v1/runs/{made}/start").status_code == 200
        return made

    def calls(self) -> dict[str, Callable[[Ledger], Any]]:
        """Every call of the matrix."""
        reason = {"reason": "never used"}

        def new() -> str:
            return f"x{uuid.uuid4().hex}"

        return {
            "make a tenant": lambda by: by.post("/v1/tenants", {"name": new()}),
            "make a key": lambda by: by.post("/v1/keys", {"name": "k", "role": "auditor"}),
            "list keys": lambda by: by.get("/v1/keys"),
            "revoke a key": lambda by: by.delete(f"/v1/keys/{self.key()}"),
            "register a dataset": lambda by: by.post("/v1/datasets", {**MNIST, "name": new()}),
            "list datasets": lambda by: by.get("/v1/datasets"),
            "show a dataset": lambda by: by.get("/v1/datasets/mnist"),
            "freeze a dataset": lambda by: by.patch("/v1/datasets/mnist", {"state": "active", "reason": "thaw"}),
            "set a budget": lambda by: by.put("/v1/datasets/mnist/budget", {"budget": {"mu": 999}, "reason": "less"}),
            "read entries": lambda by: by.get("/v1/datasets/mnist/entries"),
            "read the head": lambda by: by.get("/v1/datasets/mnist/head"),
            "export the journal": lambda by: by.get("/v1/datasets/mnist/export"),
            "ask": lambda by: by.ask(key=uuid.uuid4().hex),
            "list runs": lambda by: by.get("/v1/runs"),
            "show a run": lambda by: by.get(f"/v1/runs/{self.run(self.other)}"),
            "start its own": lambda by: by.post(f"/v1/runs/{self.run(by)}/start"),
            "start another's": lambda by: by.post(f"/v1/runs/{self.run(self.other)}/start"),
            "settle its own": lambda by: by.post(f"/v1/runs/{self.run(by, is_started=True)}/settle"),
            "settle another's": lambda by: by.post(f"/v1/runs/{self.run(self.other, is_started=True)}/settle"),
            "void its own, held": lambda by: by.post(f"/v1/runs/{self.run(by)}/void", reason),
            "void another's, held": lambda by: by.post(f"/v1/runs/{self.run(self.other)}/void", reason),
            "void its own, started": lambda by: by.post(f"/v1/runs/{self.run(by, is_started=True)}/void", reason),
            "void another's, started": lambda by: by.post(
                f"/v1/runs/{self.run(self.other, is_started=True)}/void", reason
            ),
            "evaluate": lambda by: by.post("/v1/evaluate", {"mechanism": RELEASE["mechanism"]}),
            "plan": lambda by: by.post("/v1/plan", RELEASE),
        }

    def key(self) -> str:
        """A new key's id."""
        return str(self.ledger.post("/v1/keys", {"name": "k", "role": "auditor"}).json()["id"])


def test_every_role_and_every_call(ledger: Ledger) -> None:
    """Goal: a role opens what the contract gives it, and nothing else. Method: the matrix, cell by cell, over HTTP."""
    scene = Scene(ledger)
    calls = scene.calls()
    _, *rows = [re.split(r"\s{2,}", line.strip()) for line in MATRIX.strip().splitlines()]
    assert {name for name, *_ in rows} == set(calls)
    wrong = []
    for name, *cells in rows:
        for role, cell in zip(ROLES, cells, strict=True):
            answer = calls[name](scene.clients[role])
            status, code = answer.status_code, answer.json()["code"] if answer.is_error else None
            if not (answer.is_success if cell == "x" else (status, code) == (403, "forbidden")):
                wrong.append((role, name, cell, status, answer.text[:200]))
    assert not wrong


def test_only_the_operator_makes_tenants(ledger: Ledger) -> None:
    """Goal: tenants are the operator's, and their names are theirs. Method: make one, and again; use its first key."""
    operator = ledger.with_key(ledger.operator_key)
    made = operator.post("/v1/tenants", {"name": "globex"})
    assert made.status_code == 201
    assert made.json()["key"]["role"] == "admin"
    assert str(tenant_of(made.json()["key"]["secret"])) == made.json()["tenant"]["id"]
    again = operator.post("/v1/tenants", {"name": "globex"})
    assert (again.status_code, again.json()["code"], again.json()["name"]) == (409, "name-taken", "globex")
    first = ledger.with_key(made.json()["key"]["secret"])
    assert first.get("/v1/datasets").json() == {"items": [], "next": None}
    assert [key["id"] for key in first.get("/v1/keys").json()["items"]] == [made.json()["key"]["id"]]


# --- keys limited to datasets ----------------------------------------------------------------------------------------


def same_words(hidden: Any, nothing: Any, *, name: str) -> bool:
    """Whether what is hidden is answered exactly as what does not exist."""
    return (hidden.status_code, hidden.text.replace(name, "nothing")) == (nothing.status_code, nothing.text)


def reach(by: Ledger, role: str, name: str) -> list[Any]:
    """The answers to everything that a role can do with a dataset."""
    answers = [by.get(f"/v1/datasets/{name}"), by.get("/v1/runs", dataset=name)]
    answers.append(by.post("/v1/plan", {**RELEASE, "datasets": [name]}))
    if role != "requester":
        answers += [by.get(f"/v1/datasets/{name}/{part}") for part in ("entries", "head", "export")]
    if role in ("admin", "requester"):
        answers.append(by.ask(datasets=[name], key=f"reach-{by.key[-8:]}"))
    if role in ("admin", "steward"):
        answers.append(by.patch(f"/v1/datasets/{name}", {"title": "mine"}))
        answers.append(by.put(f"/v1/datasets/{name}/budget", {"budget": {"mu": 9}, "reason": "more", **WEAK}))
    return answers


def test_limited_keys_see_their_datasets_alone(ledger: Ledger) -> None:
    """Goal: for a key limited to datasets others do not exist. Method: compare the answers with those for nothing."""
    ledger.register()
    ledger.register(name="adult")
    ledger.ask(datasets=["adult"])  # so that the process knows it
    for role in ("admin", "steward", "requester", "auditor"):
        by = ledger.as_(role, datasets=["mnist"])
        assert [item["name"] for item in by.get("/v1/datasets").json()["items"]] == ["mnist"]
        assert by.get("/v1/datasets/mnist").status_code == 200
        for hidden, nothing in zip(reach(by, role, "adult"), reach(by, role, "nothing"), strict=True):
            # Raw journals are closed to every limited key, whatever the name.
            assert hidden.status_code == (403 if hidden.url.path.endswith(("/entries", "/export")) else 404)
            assert same_words(hidden, nothing, name="adult")
    assert ledger.get("/v1/datasets/adult").json()["title"] == ""


def test_limited_keys_see_their_own_runs_alone(ledger: Ledger) -> None:
    """Goal: two organisations that train on one dataset learn nothing of each other. Method: try the other's runs."""
    ledger.register()
    mine, theirs = (ledger.as_("requester", datasets=["mnist"]) for _ in range(2))
    ours = ledger.as_("requester")
    runs = {by: by.ask(key=by.key[-20:]).json()["id"] for by in (mine, theirs, ours)}
    assert [run["id"] for run in mine.get("/v1/runs").json()["items"]] == [runs[mine]]
    assert [run["id"] for run in mine.get("/v1/runs", dataset="mnist").json()["items"]] == [runs[mine]]
    assert {run["id"] for run in ours.get("/v1/runs").json()["items"]} == set(runs.values())
    for other in (theirs, ours):
        for verb, body in (("start", None), ("settle", {}), ("void", {"reason": "r"})):
            hidden = mine.post(f"/v1/runs/{runs[other]}/{verb}", body)
            assert same_words(hidden, mine.post(f"/v1/runs/{NOBODY}/{verb}", body), name=runs[other])
        assert same_words(mine.get(f"/v1/runs/{runs[other]}"), mine.get(f"/v1/runs/{NOBODY}"), name=runs[other])
    assert mine.post(f"/v1/runs/{runs[mine]}/start").status_code == 200
    assert mine.get(f"/v1/runs/{runs[mine]}").json()["state"] == "started"
    assert ledger.get(f"/v1/runs/{runs[theirs]}").json()["state"] == "held"


def test_limited_keys_cannot_free_themselves(ledger: Ledger) -> None:
    """Goal: a limit holds whatever the role. Method: limited keys make keys and datasets, and nothing comes of it."""
    ledger.register()
    admin, steward = (ledger.as_(role, datasets=["mnist"]) for role in ("admin", "steward"))
    before = ledger.get("/v1/keys").json()
    for answer in (
        admin.post("/v1/keys", {"name": "free", "role": "admin"}),
        admin.get("/v1/keys"),
        admin.delete(f"/v1/keys/{before['items'][0]['id']}"),
        admin.post("/v1/datasets", {**MNIST, "name": "adult"}),
        steward.post("/v1/datasets", {**MNIST, "name": "adult"}),
        steward.post("/v1/datasets", MNIST),
    ):
        assert (answer.status_code, code_of(answer)) == (403, "forbidden")
        assert "limited to datasets" in answer.json()["detail"]
    assert ledger.get("/v1/keys").json() == before
    assert ledger.get("/v1/datasets/adult").status_code == 404
    assert steward.patch("/v1/datasets/mnist", {"state": "frozen", "reason": "review"}).status_code == 200
    assert admin.patch("/v1/datasets/mnist", {"state": "active", "reason": "done"}).status_code == 200


def test_what_a_key_is_limited_to_exists(ledger: Ledger) -> None:
    """Goal: a misspelt limit is noticed when the key is made. Method: name a dataset that is none; repeat one."""
    ledger.register()
    ledger.register(name="adult")
    wrong = ledger.post("/v1/keys", {"name": "k", "role": "requester", "datasets": ["mnist", "minst"]})
    assert (wrong.status_code, wrong.json()["field"], wrong.json()["dataset"]) == (422, "datasets", "minst")
    made = ledger.post("/v1/keys", {"name": "k", "role": "requester", "datasets": ["mnist", "adult", "mnist"]})
    assert made.json()["datasets"] == ["adult", "mnist"]
    assert ledger.post("/v1/keys", {"name": "k", "role": "requester", "datasets": []}).status_code == 422


# --- the life of a key -----------------------------------------------------------------------------------------------


def test_expiry(ledger: Ledger, database: Settings) -> None:
    """Goal: a key ends when it says. Method: make one for the past; let one's time pass in the database, in use."""
    past = ledger.post("/v1/keys", {"name": "k", "role": "auditor", "expires_at": "2020-01-01T00:00:00Z"})
    assert (past.status_code, past.json()["field"]) == (422, "expires_at")
    body = {"name": "k", "role": "auditor", "expires_at": "2100-01-01T01:00:00.5+01:00"}
    made = ledger.post("/v1/keys", body).json()
    assert made["expires_at"] == "2100-01-01T00:00:00.500000Z"
    by = ledger.with_key(made["secret"])
    assert by.get("/v1/datasets").status_code == 200
    with owner_of(database) as owner:
        changed = owner.execute(text("UPDATE keys SET expires_us = created_us + 1 WHERE expires_us IS NOT NULL"))
        assert changed.rowcount == 1
    ledger.client.app.state.services.keyring.forget()
    answer = by.get("/v1/datasets")
    assert (answer.status_code, code_of(answer)) == (401, "unauthenticated")


def test_revocation(ledger: Ledger) -> None:
    """Goal: a revoked key is refused at once, and for ever. Method: use it, revoke it, use it; revoke it once more."""
    made = ledger.post("/v1/keys", {"name": "k", "role": "auditor"}).json()
    by = ledger.with_key(made["secret"])
    assert by.get("/v1/datasets").status_code == 200
    assert ledger.delete(f"/v1/keys/{made['id']}").status_code == 204
    assert by.get("/v1/datasets").status_code == 401
    (shown,) = [key for key in ledger.get("/v1/keys").json()["items"] if key["id"] == made["id"]]
    assert shown["revoked_at"] >= shown["created_at"]
    assert ledger.delete(f"/v1/keys/{made['id']}").status_code == 204
    (again,) = [key for key in ledger.get("/v1/keys").json()["items"] if key["id"] == made["id"]]
    assert again == shown
    assert code_of(ledger.delete(f"/v1/keys/{NOBODY}")) == "not-found"


def test_only_the_holder_of_a_secret_learns_why_it_is_refused(ledger: Ledger, database: Settings) -> None:
    """Goal: an ended key is answered with the reason, to the holder of its secret alone. Method: a revoked key, an
    expired one, one that was never made in this tenant or another; and the queries of each, which are the same."""
    made = {end: ledger.post("/v1/keys", {"name": end, "role": "auditor"}).json() for end in ("revoked", "expired")}
    assert ledger.delete(f"/v1/keys/{made['revoked']['id']}").status_code == 204
    with owner_of(database) as owner:
        owner.execute(text("UPDATE keys SET expires_us = created_us + 1 WHERE name = 'expired'"))
    unknown = ledger.with_key(keys.mint(tenant_of(ledger.key))).get("/v1/me")
    elsewhere = ledger.with_key(keys.mint(uuid.uuid4())).get("/v1/me")
    assert unknown.json() == elsewhere.json()
    assert unknown.json()["detail"] == UNKNOWN_KEY
    assert "reason" not in unknown.json()
    for reason, key in made.items():
        answer = ledger.with_key(key["secret"]).get("/v1/me")
        problem = answer.json()
        assert (answer.status_code, problem["code"], problem["reason"]) == (401, "unauthenticated", reason)
        assert (problem["key"], problem["at"] > key["created_at"]) == (key["id"], True)
        assert answer.headers["www-authenticate"] == unknown.headers["www-authenticate"]
        statements: list[str] = []
        engine = ledger.client.app.state.services.store.engine
        counted: list[int] = []
        for secret in (key["secret"], keys.mint(tenant_of(ledger.key))):
            statements.clear()
            listener = partial(_note, statements)
            event.listen(engine, "before_cursor_execute", listener)
            assert ledger.with_key(secret).get("/v1/me").status_code == 401
            event.remove(engine, "before_cursor_execute", listener)
            counted.append(len([statement for statement in statements if "keys" in statement]))
        assert counted[0] == counted[1] > 0


def _note(statements: list[str], _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
    statements.append(statement)


@pytest.mark.parametrize("ended", ["revoked_us = created_us", "expires_us = created_us"])
def test_keys_that_end_while_a_request_waits(
    ledger: Ledger, database: Settings, monkeypatch: pytest.MonkeyPatch, ended: str
) -> None:
    """Goal: nothing is written for a key that ended elsewhere after it was looked up.

    Method: let this process remember keys for an hour, end one in the database, and write by it in every way.
    """
    monkeypatch.setattr(keys, "CACHE_SECONDS", 3600)
    ledger.register()
    by = ledger.as_("admin")
    held = by.ask(key="held").json()["id"]
    started = by.ask(key="started").json()["id"]
    by.post(f"/v1/runs/{started}/start")
    before = ledger.get("/v1/datasets/mnist").json(), ledger.get("/v1/keys").json()["items"][0]["id"]
    with owner_of(database) as owner:
        names = owner.execute(text(f"UPDATE keys SET {ended} WHERE name = 'a admin'"))
        assert names.rowcount == 1
    assert by.get("/v1/datasets").status_code == 200  # as remembered
    for answer in (
        by.ask(key="new"),
        by.post(f"/v1/runs/{held}/start"),
        by.post(f"/v1/runs/{held}/void", {"reason": "r"}),
        by.post(f"/v1/runs/{started}/settle"),
        by.post("/v1/datasets", {**MNIST, "name": "adult"}),
        by.patch("/v1/datasets/mnist", {"title": "t"}),
        by.put("/v1/datasets/mnist/budget", {"budget": {"mu": 2}, "reason": "more"}),
        by.post("/v1/keys", {"name": "k", "role": "admin"}),
        by.delete(f"/v1/keys/{before[1]}"),
    ):
        assert (answer.status_code, code_of(answer)) == (401, "unauthenticated")
        assert answer.headers["www-authenticate"].startswith("Bearer")
    assert ledger.get("/v1/datasets/mnist").json() == before[0]
    assert ledger.get("/v1/datasets/adult").status_code == 404
    assert ledger.ask(key="new").status_code == 201  # the idempotency key was let go


def test_typos(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a typo is found without asking the database.

    Method: take the database away; change each character, and swap each pair of neighbours.
    """
    letters = "abcdefghijklmnopqrstuvwxyz234567"
    encoded = ledger.key.removeprefix(PREFIX)
    typos = {
        encoded[:place] + letters[(letters.index(encoded[place]) + 7) % 32] + encoded[place + 1 :]
        for place in range(len(encoded))
    }
    typos |= {
        encoded[:place] + encoded[place + 1] + encoded[place] + encoded[place + 2 :]
        for place in range(len(encoded) - 1)
    }
    typos.discard(encoded)
    assert len(typos) > 110
    monkeypatch.setattr(ledger.client.app.state.services.keyring, "_store", None)
    for typo in typos:
        answer = ledger.with_key(PREFIX + typo).get("/v1/datasets")
        assert (answer.status_code, code_of(answer)) == (401, "unauthenticated")
        assert "typo" in answer.json()["detail"]


def test_unknown_keys(ledger: Ledger) -> None:
    """Goal: a well-formed key that nobody made opens nothing. Method: mint them for several owners."""
    for tenant in (tenant_of(ledger.key), uuid.uuid4(), keys.OPERATOR):
        answer = ledger.with_key(keys.mint(tenant)).get("/v1/datasets")
        assert (answer.status_code, code_of(answer)) == (401, "unauthenticated")


def test_secrets_are_shown_once_and_kept_nowhere(ledger: Ledger, database: Settings) -> None:
    """Goal: whoever reads the database or the list of keys cannot act by them.

    Method: make a key; look for its secret in the list, and in every value of every table, where only its digest is.
    """
    made = ledger.post("/v1/keys", {"name": "k", "role": "auditor"}).json()
    secret = made["secret"]
    assert secret.startswith("pbl_")
    assert secret not in ledger.get("/v1/keys").text
    assert "secret" not in ledger.get("/v1/keys").text
    digests = set()
    with owner_of(database) as owner:
        metadata = MetaData()
        metadata.reflect(owner)
        for table in metadata.tables.values():
            for row in owner.execute(select(table)):
                for value in row:
                    kept = bytes(value) if isinstance(value, bytes | memoryview) else str(value).encode()
                    assert secret.removeprefix(PREFIX).encode() not in kept.lower(), table.name
                    digests.add(kept)
    assert {"keys", "operator_keys"} <= set(metadata.tables)
    for known in (secret, ledger.key, ledger.operator_key):
        assert hashlib.sha256(known.encode()).digest() in digests


# --- tenants ---------------------------------------------------------------------------------------------------------


def test_tenants_do_not_meet(ledger: Ledger) -> None:
    """Goal: two tenants can do the same without noticing each other.

    Method: the same names and idempotency keys for both; one reaches for the other's ids, as if there were nothing.
    """
    operator = ledger.with_key(ledger.operator_key)
    other = ledger.with_key(operator.post("/v1/tenants", {"name": "globex"}).json()["key"]["secret"])
    ledger.register()
    other.register(budget={"mu": 2}, title="theirs")
    mine, theirs = ledger.ask(key="same"), other.ask(key="same")
    assert (mine.status_code, theirs.status_code) == (201, 201)
    assert "idempotent-replayed" not in theirs.headers
    assert mine.json()["id"] != theirs.json()["id"]
    assert ledger.balance()["limit"] == (10**12, 0)
    assert other.balance()["limit"] == (4 * 10**12, 0)
    assert other.get("/v1/datasets/mnist").json()["title"] == "theirs"
    run = mine.json()["id"]
    for verb, body in (("start", None), ("settle", {}), ("void", {"reason": "r"})):
        hidden = other.post(f"/v1/runs/{run}/{verb}", body)
        assert same_words(hidden, other.post(f"/v1/runs/{NOBODY}/{verb}", body), name=run)
    assert same_words(other.get(f"/v1/runs/{run}"), other.get(f"/v1/runs/{NOBODY}"), name=run)
    key = ledger.post("/v1/keys", {"name": "k", "role": "auditor"}).json()["id"]
    assert same_words(other.delete(f"/v1/keys/{key}"), other.delete(f"/v1/keys/{NOBODY}"), name=key)
    ledger.register(name="adult")
    assert same_words(other.get("/v1/datasets/adult"), other.get("/v1/datasets/nothing"), name="adult")
    assert same_words(other.ask(datasets=["adult"]), other.ask(datasets=["nothing"]), name="adult")
    assert other.post("/v1/keys", {"name": "k", "role": "auditor", "datasets": ["adult"]}).status_code == 422
    assert [item["name"] for item in other.get("/v1/datasets").json()["items"]] == ["mnist"]
    assert [item["id"] for item in other.get("/v1/runs").json()["items"]] == [theirs.json()["id"]]
    assert len(other.get("/v1/keys").json()["items"]) == 1
    assert ledger.get(f"/v1/runs/{run}").json()["state"] == "held"
    entries = other.get("/v1/datasets/mnist/entries").json()["items"]
    assert {entry["entry"]["tenant"] for entry in entries} == {str(tenant_of(other.key))}
    cursor = ledger.get("/v1/datasets", limit=1).json()["next"]
    assert other.get("/v1/datasets", cursor=cursor).json()["items"] == other.get("/v1/datasets").json()["items"]


def test_another_principals_idempotency_key(ledger: Ledger) -> None:
    """Goal: nobody gets another's answer by guessing a key, nor takes it first. Method: the same key and body by two
    principals of one tenant."""
    ledger.register()
    first, second = ledger.as_("requester"), ledger.as_("requester")
    theirs = first.ask(key="same")
    other = second.ask(key="same")
    assert (theirs.status_code, other.status_code) == (201, 201)
    assert theirs.json()["id"] != other.json()["id"]
    assert first.ask(key="same").headers["idempotent-replayed"] == "true"
