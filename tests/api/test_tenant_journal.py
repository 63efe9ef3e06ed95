"""A tenant's own journal: every change of keys, roles and policies is an entry of one chain, and the rows agree."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, text

from ledger.access import keys
from ledger.access.keys import tenant_of
from ledger.core.entries import NO_HASH
from ledger.core.journal import chain
from ledger.core.journal.tenant import replay_tenant
from ledger.errors import JournalBroken
from ledger.operate import deploy
from ledger.operate.check import check_journals
from ledger.settings import Settings
from ledger.store import Store, engine_for
from ledger.verifier import verify
from ledger.verifier.verify import VerifiedTenant
from tests.kit.driver import Ledger, Served, first_keys
from tests.kit.scene import NOBODY, REASON, another_tenant, ok

Json = dict[str, Any]


def entries_of(by: Ledger) -> list[Json]:
    """The journal, each entry with the digits that were hashed."""
    return [item["entry"] for item in chain.parse(by.get("/v1/entries", limit=1000).text)["items"]]


def last(by: Ledger) -> Json:
    """The newest entry."""
    return entries_of(by)[-1]


def verified(by: Ledger) -> VerifiedTenant:
    """What the export says, checked as `privacy-ledger verify` does."""
    answer = by.get("/v1/export")
    assert answer.headers["content-type"].startswith("application/jsonl")
    found = verify.verify(iter(answer.text.splitlines(keepends=True)))
    assert isinstance(found, VerifiedTenant)
    return found


def faults(settings: Settings) -> list[Json]:
    """What `check` finds wrong."""
    return [result for result in check_journals(settings) if result["error"] is not None]


@contextmanager
def owner_of(settings: Settings, tenant: UUID) -> Iterator[Connection]:
    """The database as its owner opens it for a tenant, past the ledger."""
    with (
        closing(Store(engine_for(settings.owner_url))) as store,
        store.writing(tenant) as writing,
    ):
        yield writing.connection


def eventful(ledger: Ledger) -> dict[str, str]:
    """Every kind of change to keys and policy; the ids of the keys."""
    ledger.register()
    made: dict[str, str] = {}
    wanted: dict[str, Json] = {
        "plain": {"role": "auditor"},
        "limited": {"role": "steward", "datasets": ["mnist"]},
        "projects": {"role": "requester", "projects": ["b", "a"]},
        "expires": {"role": "requester", "expires_at": "2100-01-01T00:00:00Z"},
    }
    for name, more in wanted.items():
        made[name] = ok(ledger.post("/v1/keys", {"name": name, **more}))["id"]
    made["rotated"] = ok(ledger.post(f"/v1/keys/{made['limited']}/rotate", {"overlap": "PT1H"}))["id"]
    ok(ledger.delete(f"/v1/keys/{made['plain']}"))
    ok(ledger.put("/v1/policy", {"second_steward": True, **REASON}))
    return made


# --- what is an entry ------------------------------------------------------------------------------------------------


def test_every_change_is_an_entry(ledger: Ledger, database: Settings) -> None:
    """Goal: who has which rights, since when and by whom, can be read off the journal. Method: every kind of change,
    one after another; each leaves one entry that says all but the secret, in one chain that adds up to the rows."""
    me = ok(ledger.get("/v1/me"))
    first, second = entries_of(ledger)
    assert (first["kind"], first["name"], first["actor"]["name"]) == ("tenant-made", "acme", "at the database")
    assert (second["kind"], second["key_role"], second["principal"]) == ("key-made", "admin", me["principal"])
    made = eventful(ledger)
    new = entries_of(ledger)[2:]
    assert [entry["kind"] for entry in new] == [*["key-made"] * 4, "key-rotated", "key-revoked", "policy-set"]
    assert {entry["actor"]["principal"] for entry in new} == {me["principal"]}
    by_key = {entry["made"]: entry for entry in new if "made" in entry}
    shown = {key["id"]: key for key in ok(ledger.get("/v1/keys"))["items"]}
    for name in ("plain", "limited", "projects", "expires", "rotated"):
        key, entry = shown[made[name]], by_key[made[name]]
        for ours, theirs in {"name": "name", "role": "key_role", "principal": "principal"}.items():
            assert key[ours] == entry[theirs]
        for limits in ("datasets", "projects"):
            assert key[limits] == entry[limits]
    assert by_key[made["projects"]]["projects"] == ["a", "b"]
    assert by_key[made["expires"]]["expires_at"] == "2100-01-01T00:00:00.000000Z"
    assert by_key[made["rotated"]]["rotates"] == made["limited"]
    assert shown[made["limited"]]["expires_at"] == by_key[made["rotated"]]["old_ends_at"]
    assert new[-2]["revokes"] == made["plain"]
    assert (new[-1]["second_steward"], new[-1]["reason"]) == (True, REASON["reason"])
    assert [entry["seq"] for entry in entries_of(ledger)] == list(range(1, 10))
    assert faults(database) == []


def test_what_changes_nothing_is_no_entry(ledger: Ledger) -> None:
    """Goal: the chain holds changes, and nothing that a stranger could fill it with. Method: failed sign-ins of each
    kind, refused calls, readings, and revoking what was revoked; the head stays where it was."""
    made = eventful(ledger)
    before = ledger.get("/v1/head").text
    for secret in ("", "nonsense", keys.mint(tenant_of(ledger.key)), ledger.key[:-1], keys.mint(uuid.uuid4())):
        assert ledger.with_key(secret).get("/v1/datasets").status_code == 401
    limited = ledger.with_key(ledger.operator_key)
    for answer in (
        limited.post("/v1/keys", {"name": "k", "role": "admin"}),
        limited.put("/v1/policy", {"second_steward": False, **REASON}),
        ledger.post("/v1/keys", {"name": "k", "role": "auditor", "datasets": ["nothing"]}),
        ledger.post("/v1/keys", {"name": "k", "role": "auditor", "expires_at": "2020-01-01T00:00:00Z"}),
        ledger.post("/v1/keys", {"name": "k", "role": "emperor"}),
        ledger.put("/v1/policy", {"second_steward": "yes", **REASON}),
        ledger.delete(f"/v1/keys/{NOBODY}"),
        ledger.post(f"/v1/keys/{NOBODY}/rotate"),
        ledger.post(f"/v1/keys/{made['plain']}/rotate"),
    ):
        assert 400 <= answer.status_code < 500, answer.text
    assert ledger.delete(f"/v1/keys/{made['plain']}").status_code == 204
    for path in ("/v1/keys", "/v1/entries", "/v1/export", "/v1/me", "/v1/policy"):
        assert ledger.get(path).status_code == 200
    assert ledger.get("/v1/head").text == before


def test_a_tenant_that_the_operator_makes(ledger: Ledger, database: Settings) -> None:
    """Goal: a tenant's journal begins with its making, says by whom, and tells nobody else. Method: make one."""
    other = another_tenant(ledger)
    made, key = entries_of(other)
    assert (made["kind"], made["name"], made["actor"]["role"]) == ("tenant-made", "globex", "operator")
    assert (key["kind"], key["key_role"], key["actor"]) == ("key-made", "admin", made["actor"])
    assert {entry["tenant"] for entry in entries_of(other)} == {str(tenant_of(other.key))}
    assert len(entries_of(ledger)) == 2
    assert faults(database) == []


def test_the_way_back_in_is_an_entry(ledger: Ledger, database: Settings) -> None:
    """Goal: whoever uses the database to become an admin leaves a trace. Method: what `init --reset-admin` does; its
    key works, and the journal says where it comes from."""
    admin = ledger.with_key(deploy.reset_admin(database, tenant="acme"))
    entry = last(admin)
    assert (entry["kind"], entry["key_role"]) == ("key-made", "admin")
    assert entry["actor"] == deploy.AT_THE_DATABASE
    assert entry["principal"] == ok(admin.get("/v1/me"))["principal"]
    assert [each["kind"] for each in entries_of(admin)] == ["tenant-made", "key-made", "key-made"]
    assert faults(database) == []


# --- rotation --------------------------------------------------------------------------------------------------------


def test_rotation_overlaps_under_one_principal(ledger: Ledger, database: Settings) -> None:
    """Goal: a key is changed without a gap, and whose runs they are does not change. Method: rotate; the old key works
    until its time is up, the new one starts what the old one asked for and has the same limits, not more."""
    ledger.register()
    old_key = ok(ledger.post("/v1/keys", {"name": "ci", "role": "requester", "projects": ["ranking"]}))
    ok(ledger.put("/v1/datasets/mnist/projects/ranking", {"budget": {"mu": 1}}))
    old = ledger.with_key(old_key["secret"])
    run = ok(old.ask(project="ranking", key="before"))["id"]
    new_key = ok(ledger.post(f"/v1/keys/{old_key['id']}/rotate", {"overlap": "PT1H"}))
    assert (new_key["principal"], new_key["role"]) == (old_key["principal"], "requester")
    assert new_key["id"] != old_key["id"]
    new = ledger.with_key(new_key["secret"])
    assert ok(new.post(f"/v1/runs/{run}/start"))["state"] == "started"
    assert new.ask(project="ranking", key="before").headers["idempotent-replayed"] == "true"
    assert new.ask(key="none").status_code == 403
    ok(old.ask(project="ranking", key="meanwhile"))
    with owner_of(database, tenant_of(ledger.key)) as owner:
        ended = owner.execute(
            text("UPDATE keys SET expires_us = created_us + 1 WHERE id = :id AND expires_us IS NOT NULL"),
            {"id": old_key["id"]},
        )
        assert ended.rowcount == 1
    ledger.client.app.state.services.keyring.forget()
    assert old.get("/v1/me").status_code == 401
    ok(new.get("/v1/me"))
    again = ledger.post(f"/v1/keys/{old_key['id']}/rotate")
    assert (again.status_code, again.json()["code"]) == (409, "run-state")
    assert [fault["dataset"] for fault in faults(database)] == [None]  # who moved the key's end left it so


def test_rotation_gives_no_more_time(ledger: Ledger) -> None:
    """Goal: a key that was to end still does. Method: rotate one that expires soon, and a rotated one once more: an
    overlap never makes a key live longer."""
    soon = "2100-01-01T00:00:00.000000Z"
    first = ok(ledger.post("/v1/keys", {"name": "k", "role": "auditor", "expires_at": soon}))
    second = ok(ledger.post(f"/v1/keys/{first['id']}/rotate", {"overlap": "P1D"}))
    assert second["expires_at"] == soon
    ends = {key["id"]: key["expires_at"] for key in ok(ledger.get("/v1/keys"))["items"]}[first["id"]]
    assert ends < soon
    third = ok(ledger.post(f"/v1/keys/{first['id']}/rotate", {"overlap": "P366D"}))
    assert third["expires_at"] == ends
    after = {key["id"]: key["expires_at"] for key in ok(ledger.get("/v1/keys"))["items"]}
    assert after[first["id"]] == ends
    assert verified(ledger).journal.keys[UUID(third["id"])].expires_at == ends


def test_a_revoked_key_is_not_rotated(ledger: Ledger) -> None:
    """Goal: what was taken away does not come back. Method: revoke, then rotate; its secret goes on opening nothing."""
    made = ok(ledger.post("/v1/keys", {"name": "k", "role": "admin"}))
    ok(ledger.delete(f"/v1/keys/{made['id']}"))
    before = ledger.get("/v1/head").text
    for body in (None, {"overlap": "PT1S"}):
        answer = ledger.post(f"/v1/keys/{made['id']}/rotate", body)
        assert (answer.status_code, answer.json()["code"]) == (409, "run-state")
    assert ledger.get("/v1/head").text == before
    assert ledger.with_key(made["secret"]).get("/v1/me").status_code == 401


# --- export, verify, check -------------------------------------------------------------------------------------------


def test_export_and_verify(ledger: Ledger) -> None:
    """Goal: whoever has the export knows every key and the policy, with no database. Method: verify it, and hold what
    it adds up to against what the API shows."""
    eventful(ledger)
    found = verified(ledger)
    head = ok(ledger.get("/v1/head"))
    assert found.tenant == head["tenant"] == "acme"
    assert (found.journal.seq, found.journal.head.hex()) == (head["seq"], head["hash"])
    assert found.journal.is_whole
    assert found.journal.second_steward is True
    for key in ok(ledger.get("/v1/keys"))["items"]:
        known = found.journal.keys[UUID(key["id"])]
        assert (known.name, known.role, str(known.principal_id)) == (key["name"], key["role"], key["principal"])
        assert known.datasets == (None if key["datasets"] is None else tuple(key["datasets"]))
        assert known.projects == (None if key["projects"] is None else tuple(key["projects"]))
        assert (known.expires_at, known.is_revoked) == (key["expires_at"], key["revoked_at"] is not None)
    assert len(found.journal.keys) == 6


def test_pages_of_the_journal(ledger: Ledger) -> None:
    """Goal: a long journal is read in pieces, byte for byte. Method: pages of two against the whole."""
    eventful(ledger)
    whole = ledger.get("/v1/entries", limit=1000).json()["items"]
    seen: list[Json] = []
    cursor: Json = {}
    while True:
        page = ok(ledger.get("/v1/entries", limit=2, **cursor))
        seen += page["items"]
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert seen == whole
    assert [item["seq"] for item in seen] == list(range(1, 10))


@pytest.mark.parametrize("how", ["changed", "removed", "swapped", "added", "cut short"])
def test_an_export_that_was_tampered_with(ledger: Ledger, how: str) -> None:
    """Goal: nobody hands on another history. Method: each way to change the lines; the first wrong entry is named."""
    eventful(ledger)
    lines = ledger.get("/v1/export").text.splitlines(keepends=True)
    at = 4
    match how:
        case "changed":
            lines[at] = lines[at].replace('"key_role":"steward"', '"key_role":"admin"')
        case "removed":
            del lines[at]
        case "swapped":
            lines[at], lines[at + 1] = lines[at + 1], lines[at]
        case "added":
            lines.insert(at, lines[at])
        case _:
            del lines[-2]
    assert lines != ledger.get("/v1/export").text.splitlines(keepends=True)
    with pytest.raises(JournalBroken) as broken:
        verify.verify(iter(lines))
    assert broken.value.seq == {"cut short": 9, "added": at + 1}.get(how, at)


def resealed(entries: list[Json]) -> list[tuple[str, bytes]]:
    """A journal as a forger would leave it: numbered and chained anew, every hash right."""
    prev, sealed = NO_HASH, []
    for seq, entry in enumerate(entries, start=1):
        body = chain.canonical({**entry, "seq": seq, "prev": prev.hex()})
        prev = chain.digest(body)
        sealed.append((body, prev))
    return sealed


def test_forged_journals_are_found(ledger: Ledger) -> None:
    """Goal: a journal that was written anew has to make sense. Method: histories that cannot have been."""
    eventful(ledger)
    good = entries_of(ledger)
    place = {entry["name"] if entry["kind"] == "key-made" else entry["kind"]: n for n, entry in enumerate(good)}
    tenant = UUID(good[0]["tenant"])
    assert replay_tenant(resealed(good), tenant_id=tenant).seq == len(good)

    def changed(name: str, **changes: Any) -> list[Json]:
        entries = copy.deepcopy(good)
        entries[place[name]] |= changes
        return entries

    last = {"at": good[-1]["at"]}
    rotated, revoked = good[place["key-rotated"]], good[place["key-revoked"]]
    forgeries = {
        "rights other than": changed("key-rotated", key_role="admin"),
        "rights other": changed("key-rotated", datasets=None),
        "other rights": changed("key-rotated", expires_at="2200-01-01T00:00:00.000000Z"),
        "rotates a key that was never made": changed("key-rotated", rotates=NOBODY),
        "rotates a key that was revoked": [*good, {**rotated, **last, "made": NOBODY, "rotates": revoked["revokes"]}],
        "rotates a key that had expired": [
            *good,
            {**rotated, "made": NOBODY, "at": rotated["old_ends_at"], "expires_at": rotated["old_ends_at"]},
        ],
        "revokes a key that was never made": changed("key-revoked", revokes=NOBODY),
        "revokes a key a second time": [*good, revoked | last],
        "makes a key a second time": [*good, good[place["plain"]] | last],
        "makes the tenant a second time": [*good, good[0] | last],
        "unknown kind": changed("policy-set", kind="policy-forgotten"),
        "another tenant": changed("policy-set", tenant=NOBODY),
        "cannot be read": changed("plain", made="nobody"),
    }
    for told, entries in forgeries.items():
        with pytest.raises(JournalBroken) as broken:
            replay_tenant(resealed(entries), tenant_id=tenant)
        wanted = "gives a key other rights" if "rights" in told else told
        assert wanted in broken.value.detail, told


TAMPERINGS = {
    "another role": ("UPDATE keys SET role = 'admin' WHERE name = 'expires'", "other than its row"),
    "no limit": ("UPDATE keys SET datasets = NULL WHERE name = 'limited' AND expires_us IS NULL", "other than its row"),
    "another project": ("UPDATE keys SET projects = '[\"c\"]' WHERE name = 'projects'", "other than its row"),
    "more time": ("UPDATE keys SET expires_us = NULL WHERE name = 'expires'", "other than its row"),
    "revived": ("UPDATE keys SET revoked_us = NULL WHERE name = 'plain'", "other than its row"),
    "revoked": ("UPDATE keys SET revoked_us = created_us WHERE name = 'expires'", "other than its row"),
    "another principal": ("UPDATE keys SET principal_id = id WHERE name = 'expires'", "other than its row"),
    "a key of nobody's": (
        "INSERT INTO keys (tenant_id, id, principal_id, name, role, digest, created_us)"
        f" SELECT tenant_id, '{NOBODY}', '{NOBODY}', 'ghost', 'admin', head, created_us FROM tenants",
        "tells of no key",
    ),
    "a key that is gone": ("DELETE FROM keys WHERE name = 'plain'", "there is no row"),
    "the policy": ("UPDATE tenants SET second_steward = 0", "another policy"),
    "the head": ("UPDATE tenants SET seq = seq - 1", "is not the end that the tenant's row names"),
}


@pytest.mark.parametrize("how", TAMPERINGS)
def test_rows_that_say_otherwise_are_found(ledger: Ledger, database: Settings, how: str) -> None:
    """Goal: who has the database cannot give themselves rights unseen. Method: each change of a row; `check` tells."""
    eventful(ledger)
    statement, told = TAMPERINGS[how]
    assert faults(database) == []
    with owner_of(database, tenant_of(ledger.key)) as owner:
        assert owner.execute(text(statement)).rowcount == 1
    (fault,) = faults(database)
    assert (fault["tenant"], fault["dataset"]) == ("acme", None)
    assert told in fault["error"]


def test_entries_cannot_be_changed_in_the_database(ledger: Ledger, database: Settings) -> None:
    """Goal: not by the owner either, short of taking the triggers away. Method: each way to change one."""
    before = ledger.get("/v1/export").text
    for statement in (
        "UPDATE tenant_entries SET kind = 'x'",
        "UPDATE tenant_entries SET body = body",
        "DELETE FROM tenant_entries",
        "INSERT INTO tenant_entries SELECT tenant_id, seq + 7, kind, at_us, body, hash FROM tenant_entries",
    ):
        with pytest.raises(Exception, match="an entry is"), owner_of(database, tenant_of(ledger.key)) as owner:
            owner.execute(text(statement))
    assert ledger.get("/v1/export").text == before


# --- many at once ----------------------------------------------------------------------------------------------------


def test_changes_of_keys_at_once(database: Settings, start_server: Callable[[Settings], Served]) -> None:
    """Goal: no gap, no lost entry, no deadlock. Method: two server processes; threads make, rotate and revoke keys, set
    the policy and ask for runs all at once; every change has its entry, and all of it adds up."""
    admin_key = first_keys(database).admin_key
    threads, turns = 6, 4
    with start_server(database).client() as here, start_server(database).client() as there:
        admin = Ledger(here, admin_key)
        admin.register()
        doomed = ok(admin.post("/v1/keys", {"name": "doomed", "role": "auditor"}))["id"]

        def work(number: int) -> list[int]:
            by = Ledger(here if number % 2 else there, admin_key)
            statuses = []
            for turn in range(turns):
                made = by.post("/v1/keys", {"name": f"{number}-{turn}", "role": "auditor"})
                rotated = by.post(f"/v1/keys/{made.json()['id']}/rotate")
                answers = [
                    made,
                    rotated,
                    by.delete(f"/v1/keys/{rotated.json()['id']}"),
                    by.delete(f"/v1/keys/{doomed}"),
                    by.put("/v1/policy", {"second_steward": bool(turn % 2), **REASON}),
                    by.ask({"type": "gaussian", "noise_multiplier": 50}, key=f"{number}-{turn}"),
                ]
                statuses += [answer.status_code for answer in answers]
            return statuses

        with ThreadPoolExecutor(threads) as pool:
            found = list(pool.map(work, range(threads)))
        assert found == [[201, 201, 204, 204, 200, 201] * turns] * threads
        kinds = [str(entry["kind"]) for entry in entries_of(admin)]
        each = threads * turns
        assert {kind: kinds.count(kind) for kind in set(kinds)} == {
            "tenant-made": 1,
            "key-made": 2 + each,
            "key-rotated": each,
            "key-revoked": 1 + each,
            "policy-set": each,
        }
        assert verified(admin).journal.seq == len(kinds)
    assert faults(database) == []
