"""API keys."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Select, bindparam, insert, or_, select, update

from ledger.core.people import Actor, Key
from ledger.store.repository import Repository
from ledger.store.rows import key_of
from ledger.store.tables import keys, operator_keys

_BY_ID: Final = select(keys).where(
    keys.c.tenant_id == bindparam("tenant"), keys.c.id.in_(bindparam("ids", expanding=True))
)


class KeyReader(Repository):
    """Reads keys."""

    def by_digest(self, digest: bytes) -> Key | None:
        row = self.connection.execute(self._all().where(keys.c.digest == digest)).one_or_none()
        return None if row is None else key_of(row)

    def by_id(self, ids: Sequence[UUID]) -> dict[UUID, Key]:
        rows = self.connection.execute(_BY_ID, {"tenant": self.tenant_id, "ids": ids})
        return {row.id: key_of(row) for row in rows}

    def ids_between(self, first: UUID, last: UUID, *, limit: int) -> list[UUID]:
        """Return the ids of keys from the first to the last."""
        return self._ids_between(keys, first, last, limit=limit)

    def page(self, *, after: UUID | None, limit: int) -> list[Key]:
        query = self._all().order_by(keys.c.id).limit(limit)
        if after is not None:
            query = query.where(keys.c.id > after)
        return [key_of(row) for row in self.connection.execute(query)]

    def oldest_admin(self) -> Key | None:
        """Return the admin's live key that was made first, among those without limits and without an end."""
        is_whole = (keys.c.datasets.is_(None), keys.c.projects.is_(None), keys.c.expires_us.is_(None))
        query = self._all().where(keys.c.role == "admin", keys.c.revoked_us.is_(None), *is_whole)
        row = self.connection.execute(query.order_by(keys.c.created_us, keys.c.id).limit(1)).one_or_none()
        return None if row is None else key_of(row)

    def _all(self) -> Select[Any]:
        return select(keys).where(keys.c.tenant_id == self.tenant_id)


class KeyWriter(KeyReader):
    """Makes, ends and revokes keys."""

    def is_live(self, actor: Actor, *, now_us: int) -> bool:
        """Return whether an actor's key is still valid: it may have been revoked while a request waited."""
        if actor.expires_us is not None:
            return actor.expires_us > now_us
        key = self.by_id([actor.key_id]).get(actor.key_id)
        return key is not None and key.is_live(now_us)

    def add(self, key: Key, digest: bytes) -> None:
        names = None if key.datasets is None else json.dumps(key.datasets)
        self.connection.execute(
            insert(keys),
            {
                "tenant_id": self.tenant_id,
                "id": key.id,
                "principal_id": key.principal_id,
                "name": key.name,
                "role": key.role,
                "digest": digest,
                "datasets": names,
                "projects": None if key.projects is None else json.dumps(key.projects),
                "created_us": key.created_us,
                "expires_us": key.expires_us,
            },
        )

    def expire(self, key_id: UUID, *, at_us: int) -> None:
        """Let a key expire at this time, unless it expires earlier."""
        earlier = or_(keys.c.expires_us.is_(None), keys.c.expires_us > at_us)
        mine = (keys.c.tenant_id == self.tenant_id, keys.c.id == key_id)
        self.connection.execute(update(keys).where(*mine, earlier), {"expires_us": at_us})

    def revoke(self, key_id: UUID, *, now_us: int) -> bool:
        """Revoke a key, once. Return whether the key exists."""
        mine = (keys.c.tenant_id == self.tenant_id, keys.c.id == key_id)
        self.connection.execute(update(keys).where(*mine, keys.c.revoked_us.is_(None)), {"revoked_us": now_us})
        return self.connection.execute(select(keys.c.id).where(*mine)).scalar() is not None

    def note_use(self, used: Mapping[UUID, int]) -> None:
        """Write when keys were used last, by id; a time before the known one changes nothing."""
        statement = update(keys).where(
            keys.c.tenant_id == self.tenant_id,
            keys.c.id == bindparam("key"),
            or_(keys.c.last_used_us.is_(None), keys.c.last_used_us < bindparam("at")),
        )
        rows = [{"key": id_, "at": at_us, "last_used_us": at_us} for id_, at_us in sorted(used.items())]
        if rows:
            self.connection.execute(statement, rows)

    def add_operator(self, key_id: UUID, digest: bytes, *, now_us: int) -> None:
        """Add a key of the operator, who belongs to no tenant."""
        self.connection.execute(insert(operator_keys), {"id": key_id, "digest": digest, "created_us": now_us})
