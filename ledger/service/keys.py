"""Keys: make, rotate, revoke, list."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from ledger.access import keys
from ledger.access.keys import Keyring
from ledger.core.amounts import microseconds, timestamp
from ledger.core.people import Actor
from ledger.errors import InvalidRequest, NotFound, RunState
from ledger.service import ids, pages
from ledger.service.requests.tenants import NewKey, Rotation
from ledger.service.shapes.tenants import KeyPage, KeyShown, SecretShown
from ledger.service.transactions import change_as
from ledger.service.writer import Writer
from ledger.store import Key, Store, Writing


class Keys:
    """Makes, rotates and revokes a tenant's keys, and lists them."""

    def __init__(self, *, store: Store, writer: Writer, keyring: Keyring) -> None:
        self._store, self._writer, self._keyring = store, writer, keyring

    async def make(self, actor: Actor, body: NewKey) -> SecretShown:
        """Make a key for a new principal. Raises InvalidRequest."""
        secret = keys.mint(actor.tenant_id)

        def make(writing: Writing, now_us: int) -> Key:
            key = _new_key(writing, body, now_us)
            writing.keys.add(key, keys.digest_of(secret))
            writing.journals.note("key-made", actor.facts(), keys.facts_of(key), now_us=now_us)
            return key

        return _with_secret(await change_as(self._writer, actor, make), secret)

    async def rotate(self, actor: Actor, key_id: UUID, body: Rotation) -> SecretShown:
        """Make a new key for the same principal; the old one ends after the overlap. Raises NotFound and RunState."""
        secret = keys.mint(actor.tenant_id)
        overlap_us = body.overlap // timedelta(microseconds=1)

        def rotate(writing: Writing, now_us: int) -> Key:
            old = _key(writing, key_id)
            if not old.is_live(now_us):
                raise RunState("The key was revoked or has expired. POST /v1/keys makes a new one.", state="ended")
            key = replace(old, id=uuid4(), created_us=now_us, last_used_us=None)
            writing.keys.add(key, keys.digest_of(secret))
            writing.keys.expire(old.id, at_us=now_us + overlap_us)
            facts = {**keys.facts_of(key), "rotates": str(old.id), "old_ends_at": timestamp(now_us + overlap_us)}
            writing.journals.note("key-rotated", actor.facts(), facts, now_us=now_us)
            return key

        return _with_secret(await change_as(self._writer, actor, rotate), secret)

    async def revoke(self, actor: Actor, key_id: UUID) -> None:
        """Revoke a key: this process rejects it at once. Raises NotFound."""

        def revoke(writing: Writing, now_us: int) -> None:
            if _key(writing, key_id).revoked_us is None:
                writing.keys.revoke(key_id, now_us=now_us)
                writing.journals.note("key-revoked", actor.facts(), {"revokes": str(key_id)}, now_us=now_us)

        await change_as(self._writer, actor, revoke)
        self._keyring.forget()

    async def found(self, actor: Actor, text: str) -> UUID:
        """Return the id of a key: a whole one as it is, or the only one that begins with a text. Raises NotFound, and
        InvalidRequest if there are several."""
        whole = ids.whole(text)
        return await asyncio.to_thread(self._find, actor, text) if whole is None else whole

    def _find(self, actor: Actor, text: str) -> UUID:
        def between(first: UUID, last: UUID) -> Sequence[UUID]:
            with self._store.reading(actor.tenant_id) as reading:
                return reading.keys.ids_between(first, last, limit=ids.CANDIDATES_MAX + 1)

        return ids.sought(text, between, _no_key())

    def page(self, actor: Actor, *, limit: int, cursor: str | None) -> KeyPage:
        """Return the tenant's keys, without their secrets."""
        with self._store.reading(actor.tenant_id) as reading:
            rows = reading.keys.page(after=pages.after_id(cursor), limit=limit + 1)
        page, following = pages.cut(rows, limit=limit, position=lambda key: str(key.id))
        return KeyPage(items=[_key_shown(key) for key in page], next=following)


def add_admin(writing: Writing, *, by: Mapping[str, Any], now_us: int) -> tuple[Key, str]:
    """Add an admin's key for the tenant of this transaction. Return it and its secret. by: who makes it, for the
    journal."""
    secret = keys.mint(writing.tenant_id)
    key = Key(uuid4(), uuid4(), "admin", "admin", None, now_us, None, None)
    writing.keys.add(key, keys.digest_of(secret))
    writing.journals.note("key-made", by, keys.facts_of(key), now_us=now_us)
    return key, secret


def _key(writing: Writing, key_id: UUID) -> Key:
    key = writing.keys.by_id([key_id]).get(key_id)
    if key is None:
        raise _no_key()
    return key


def _no_key() -> NotFound:
    return NotFound("No key has this id. GET /v1/keys lists the keys of your tenant.")


def _new_key(writing: Writing, body: NewKey, now_us: int) -> Key:
    datasets = None if body.datasets is None else tuple(sorted(set(body.datasets)))
    if datasets is not None and (unknown := set(datasets) - writing.datasets.existing_names(datasets)):
        missing = min(unknown)
        raise InvalidRequest(f"datasets: no dataset is named {missing!r}.", field="datasets", dataset=missing)
    expires_us = None if body.expires_at is None else microseconds(body.expires_at)
    if expires_us is not None and expires_us <= now_us:
        raise InvalidRequest("expires_at: is in the past; give a later time", field="expires_at")
    projects = None if body.projects is None else tuple(sorted(set(body.projects)))
    return Key(uuid4(), uuid4(), body.name, body.role, datasets, now_us, expires_us, None, projects)


def _key_shown(key: Key) -> KeyShown:
    return KeyShown(
        id=str(key.id),
        name=key.name,
        role=key.role,
        datasets=None if key.datasets is None else list(key.datasets),
        projects=None if key.projects is None else list(key.projects),
        principal=str(key.principal_id),
        created_at=timestamp(key.created_us),
        expires_at=_timestamp(key.expires_us),
        revoked_at=_timestamp(key.revoked_us),
        last_used_at=_timestamp(key.last_used_us),
    )


def _with_secret(key: Key, secret: str) -> SecretShown:
    return {**_key_shown(key), "secret": secret}


def _timestamp(at_us: int | None) -> str | None:
    return None if at_us is None else timestamp(at_us)
