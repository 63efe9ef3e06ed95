"""Sign-ins to the pages: their secrets, how long they last, and who acts in one.

The secret of a session is in a cookie, that of a link in its URL. Each is a prefix and base64url of the tenant's id and
32 random bytes: rows can be read only when the tenant is known. Only SHA-256 of it is stored. A session is of a key, or
of a person that an OpenID Connect issuer vouched for. Every request looks up both the session and its key, so a key
that is revoked or has expired ends its sessions at once; so does a change of the issuer's configuration.
"""

from __future__ import annotations

import base64
import json
import secrets
from dataclasses import dataclass
from typing import Final
from uuid import UUID, uuid4

from ledger.access.keys import actor_of, digest_of
from ledger.core.people import Actor
from ledger.errors import Unauthenticated
from ledger.store import Reading, Store, Writing
from ledger.store.sessions import KeptSession, Kind

PREFIX: Final[dict[Kind, str]] = {"session": "pbs_", "link": "pbo_"}
SECRET_BYTES: Final = 32
OF_PRINCIPAL_MAX: Final = 20
"""The most sessions and links of a principal; a new one ends the oldest."""
LINK_SECONDS: Final = 15 * 60
NOTED_AFTER_US: Final = 60_000_000
"""How much older a session's noted use may be than its last one, so that not every page writes."""
_ENDED: Final = "You are not signed in, or your session has ended. Sign in again."
_USED: Final = "This sign-in was used before. Begin it again on the sign-in page."
_LINK_ENDED: Final = (
    "This sign-in link was used before, or it is older than 15 minutes. Start the server again for a new one, or sign"
    " in with a key."
)


@dataclass(frozen=True, slots=True)
class Session:
    """A session, and who acts in it. csrf: what a form must send back. expires_us: its end if it is used until then."""

    id: UUID
    actor: Actor
    tenant: str
    csrf: str
    expires_us: int


@dataclass(frozen=True, slots=True)
class Once:
    """What a sign-in may use one time. digest: SHA-256 of what no link is. seconds: how long it could be used."""

    digest: bytes
    seconds: int


@dataclass(frozen=True, slots=True)
class Subject:
    """A person that an issuer vouched for. configured: a digest of the issuer's configuration at that time."""

    actor: Actor
    issuer: str
    configured: str

    def kept(self) -> str:
        """Return the form in the database."""
        actor = self.actor
        return json.dumps(
            {
                "issuer": self.issuer,
                "configured": self.configured,
                "name": actor.name,
                "role": actor.role,
                "datasets": None if actor.datasets is None else sorted(actor.datasets),
                "projects": None if actor.projects is None else sorted(actor.projects),
            }
        )


class Sessions:
    """Begins, recognises and ends sessions. Every method asks the database, so none is for an event loop.

    configured: by issuer, the digest of its configuration; sessions of other issuers or digests have ended.
    """

    def __init__(
        self, store: Store, *, idle_seconds: int, seconds_max: int, configured: dict[str, str] | None = None
    ) -> None:
        self._store = store
        self._idle_us, self._longest_us = idle_seconds * 1_000_000, seconds_max * 1_000_000
        self._configured = configured or {}

    @property
    def seconds_max(self) -> int:
        """Return the longest time that a session lasts."""
        return self._longest_us // 1_000_000

    def begin(self, actor: Actor, subject: Subject | None = None, *, once: Once | None = None) -> str:
        """Begin a session, and return its secret. It ends with what vouched for the actor, if that has an end.

        subject: if the actor has no key. once: what the sign-in uses up. Raises Unauthenticated if it was used before.
        """
        with self._store.writing(actor.tenant_id) as writing:
            now_us = writing.now_us()
            writing.sessions.remove_ended(now_us=now_us, idle_before_us=now_us - self._idle_us)
            if once is not None and subject is not None:
                self._use_up(writing, actor, subject, once, now_us=now_us)
            writing.sessions.keep_newest(actor.principal_id, limit=OF_PRINCIPAL_MAX - 1)
            secret = _secret("session", actor.tenant_id)
            kept = KeptSession(
                id=uuid4(),
                kind="session",
                principal_id=actor.principal_id,
                key_id=actor.key_id if subject is None else None,
                subject=None if subject is None else subject.kept(),
                csrf=secrets.token_bytes(SECRET_BYTES),
                created_us=now_us,
                used_us=now_us,
                expires_us=min(now_us + self._longest_us, actor.expires_us or now_us + self._longest_us),
            )
            writing.sessions.add(kept, digest_of(secret))
        return secret

    def _use_up(self, writing: Writing, actor: Actor, subject: Subject, once: Once, *, now_us: int) -> None:
        """Keep what a sign-in used up until it would have ended anyway, as a link that no secret opens."""
        used = KeptSession(
            id=uuid4(),
            kind="link",
            principal_id=actor.principal_id,
            key_id=None,
            subject=subject.kept(),
            csrf=secrets.token_bytes(SECRET_BYTES),
            created_us=now_us,
            used_us=now_us,
            expires_us=now_us + once.seconds * 1_000_000,
        )
        if not writing.sessions.claim(used, once.digest):
            raise Unauthenticated(_USED)

    def recognise(self, secret: str) -> Session:
        """Return the session of a secret, which counts as a use of it. Raises Unauthenticated."""
        tenant_id = _tenant_of("session", secret)
        with self._store.reading(tenant_id) as reading:
            kept = reading.sessions.by_digest(digest_of(secret), "session")
            now_us = reading.now_us()
            tenant = reading.tenants.current()
            actor = None if kept is None else self._actor(reading, kept, now_us=now_us)
        if kept is None or tenant is None or actor is None or not self._is_live(kept, now_us):
            raise Unauthenticated(_ENDED)
        if now_us - kept.used_us >= NOTED_AFTER_US:
            with self._store.writing(tenant_id) as writing:
                writing.sessions.note_use(kept.id, now_us=now_us)
        csrf = base64.urlsafe_b64encode(kept.csrf).decode().rstrip("=")
        return Session(kept.id, actor, tenant.name, csrf, kept.expires_us)

    def end(self, session: Session) -> None:
        """End a session."""
        with self._store.writing(session.actor.tenant_id) as writing:
            writing.sessions.remove(session.id)

    def _is_live(self, kept: KeptSession, now_us: int) -> bool:
        return now_us < kept.expires_us and now_us - kept.used_us < self._idle_us

    def _actor(self, reading: Reading, kept: KeptSession, *, now_us: int) -> Actor | None:
        """Return who acts in a session, as the key or the issuer's configuration is now; None if that has ended."""
        if kept.key_id is not None:
            key = reading.keys.by_id([kept.key_id]).get(kept.key_id)
            return actor_of(reading.tenant_id, key) if key is not None and key.is_live(now_us) else None
        facts = json.loads(kept.subject or "{}")
        if self._configured.get(facts.get("issuer"), "") != facts.get("configured"):
            return None
        return Actor(
            tenant_id=reading.tenant_id,
            key_id=kept.principal_id,
            principal_id=kept.principal_id,
            name=facts["name"],
            role=facts["role"],
            datasets=None if facts["datasets"] is None else frozenset(facts["datasets"]),
            projects=None if facts["projects"] is None else frozenset(facts["projects"]),
            expires_us=kept.expires_us,
        )

    # --- links that sign in once

    def redeem(self, secret: str) -> str:
        """Return the secret of a new session of whom a link is for. The link is used up. Raises Unauthenticated."""
        try:
            tenant_id = _tenant_of("link", secret)
        except Unauthenticated:
            raise Unauthenticated(_LINK_ENDED) from None
        with self._store.reading(tenant_id) as reading:  # who only guesses takes no lock
            if reading.sessions.by_digest(digest_of(secret), "link") is None:
                raise Unauthenticated(_LINK_ENDED)
        with self._store.writing(tenant_id) as writing:
            kept, now_us = writing.sessions.by_digest(digest_of(secret), "link"), writing.now_us()
            is_mine = kept is not None and writing.sessions.remove(kept.id)
            actor = None if kept is None else self._actor(writing, kept, now_us=now_us)
        if kept is None or actor is None or not is_mine or now_us >= kept.expires_us:
            raise Unauthenticated(_LINK_ENDED)
        return self.begin(actor)


def make_link(store: Store, tenant_id: UUID) -> str | None:
    """Return the secret of a new link that signs in as the tenant's oldest live admin key without limits; None if
    there is none. It is for who starts a server on this machine, and has its database anyway."""
    with store.writing(tenant_id) as writing:
        now_us = writing.now_us()
        key = writing.keys.oldest_admin()
        if key is None:
            return None
        secret = _secret("link", tenant_id)
        kept = KeptSession(
            id=uuid4(),
            kind="link",
            principal_id=key.principal_id,
            key_id=key.id,
            subject=None,
            csrf=secrets.token_bytes(SECRET_BYTES),
            created_us=now_us,
            used_us=now_us,
            expires_us=now_us + LINK_SECONDS * 1_000_000,
        )
        writing.sessions.keep_newest(key.principal_id, limit=OF_PRINCIPAL_MAX - 1)
        writing.sessions.add(kept, digest_of(secret))
    return secret


def _secret(kind: Kind, tenant_id: UUID) -> str:
    body = tenant_id.bytes + secrets.token_bytes(SECRET_BYTES)
    return PREFIX[kind] + base64.urlsafe_b64encode(body).decode()


def _tenant_of(kind: Kind, secret: str) -> UUID:
    """Return the tenant that a secret names. Raises Unauthenticated if it is not one."""
    encoded = secret.removeprefix(PREFIX[kind])
    if not secret.startswith(PREFIX[kind]) or len(encoded) != 64 or not encoded.isascii():
        raise Unauthenticated(_ENDED)
    try:
        raw = base64.b64decode(encoded, altchars=b"-_", validate=True)
    except ValueError:
        raise Unauthenticated(_ENDED) from None
    return UUID(bytes=raw[:16])
