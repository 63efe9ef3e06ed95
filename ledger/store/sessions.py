"""Who is signed in to the pages, and links that sign in once."""

from __future__ import annotations

from typing import Literal, NamedTuple
from uuid import UUID

from sqlalchemy import delete, insert, or_, select, update

from ledger.store.repository import Repository
from ledger.store.tables import sessions

Kind = Literal["session", "link"]


class KeptSession(NamedTuple):
    """A session or a link: everything but its secret. It is of a key, or of a subject that an issuer vouched for."""

    id: UUID
    kind: Kind
    principal_id: UUID
    key_id: UUID | None
    subject: str | None
    csrf: bytes
    created_us: int
    used_us: int
    expires_us: int


class SessionReader(Repository):
    """Reads sessions."""

    def by_digest(self, digest: bytes, kind: Kind) -> KeptSession | None:
        query = select(*(sessions.c[name] for name in KeptSession._fields)).where(
            sessions.c.tenant_id == self.tenant_id, sessions.c.digest == digest, sessions.c.kind == kind
        )
        row = self.connection.execute(query).one_or_none()
        return None if row is None else KeptSession(*row)


class SessionWriter(SessionReader):
    """Begins and ends sessions."""

    def add(self, session: KeptSession, digest: bytes) -> None:
        self.connection.execute(insert(sessions), {"tenant_id": self.tenant_id, "digest": digest, **session._asdict()})

    def claim(self, session: KeptSession, digest: bytes) -> bool:
        """Add one unless its digest is there. Return whether it was added: of several that do it at once, one adds."""
        row = {"tenant_id": self.tenant_id, "digest": digest, **session._asdict()}
        return bool(self.connection.execute(self._insert_new(sessions).returning(sessions.c.id), [row]).all())

    def note_use(self, session_id: UUID, *, now_us: int) -> None:
        """Write that a session is used now."""
        mine = (sessions.c.tenant_id == self.tenant_id, sessions.c.id == session_id)
        self.connection.execute(update(sessions).where(*mine), {"used_us": now_us})

    def remove(self, session_id: UUID) -> bool:
        """Remove a session or a link. Return whether it was there: of several that redeem a link, one removes it."""
        mine = delete(sessions).where(sessions.c.tenant_id == self.tenant_id, sessions.c.id == session_id)
        return self.connection.execute(mine).rowcount == 1

    def remove_ended(self, *, now_us: int, idle_before_us: int) -> None:
        """Remove what has ended, or was not used since then."""
        ended = or_(sessions.c.expires_us <= now_us, sessions.c.used_us <= idle_before_us)
        self.connection.execute(delete(sessions).where(sessions.c.tenant_id == self.tenant_id, ended))

    def keep_newest(self, principal_id: UUID, *, limit: int) -> None:
        """Remove all sessions and links of a principal but the newest."""
        mine = (sessions.c.tenant_id == self.tenant_id, sessions.c.principal_id == principal_id)
        newest = select(sessions.c.id).where(*mine).order_by(sessions.c.created_us.desc(), sessions.c.id).limit(limit)
        self.connection.execute(delete(sessions).where(*mine, sessions.c.id.not_in(newest.scalar_subquery())))
