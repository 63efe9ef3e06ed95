"""Keys: their form, and how callers are recognised.

A key is `pbl_` and 64 characters of lower-case base32: the tenant's id (16 bytes), 20 random bytes, and a CRC-32 of
those 36. The tenant's id is in it because a tenant's rows can be read only when the tenant is known; the checksum finds
a typo without a query. Only the SHA-256 digest of a key is stored: 160 random bits cannot be guessed, so no pepper is
needed.

A caller can send a token of an OpenID Connect issuer instead, see `ledger.access.oidc`.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import secrets
import threading
import time
import zlib
from collections.abc import Callable
from typing import Any, Final, NamedTuple
from uuid import UUID

from cachetools import TLRUCache

from ledger.access.oidc import Issuers, looks_like_token
from ledger.access.roles import Caller, Operator
from ledger.core.amounts import timestamp
from ledger.core.people import Actor
from ledger.errors import UNKNOWN_KEY, Unauthenticated
from ledger.store import Key, Store

log = logging.getLogger(__name__)

PREFIX: Final = "pbl_"
OPERATOR: Final = UUID(int=0)
"""Takes the place of a tenant's id in the key of the operator."""

CACHE_SECONDS: Final = 0.5
CACHE_MAX: Final = 10_000


def mint(tenant_id: UUID) -> str:
    """Return the secret of a new key."""
    body = tenant_id.bytes + secrets.token_bytes(20)
    return PREFIX + base64.b32encode(body + zlib.crc32(body).to_bytes(4)).decode().lower()


def digest_of(secret: str) -> bytes:
    """Return the digest that is stored of a key: 32 bytes.

    Digests are looked up by index and in a dictionary; no secret is compared character by character. The duration of a
    look-up may reveal how much of a digest matched, but without inverting SHA-256 that helps nobody to guess a key. So
    no comparison in constant time is needed.
    """
    return hashlib.sha256(secret.encode()).digest()


def tenant_of(secret: str) -> UUID:
    """Return the tenant that a key names. Raises Unauthenticated if it is not a key."""
    encoded = secret.removeprefix(PREFIX)
    if not secret.startswith(PREFIX) or len(encoded) != 64 or encoded != encoded.lower():
        raise Unauthenticated(
            "This is not a key of the ledger: a key is `pbl_` and 64 characters. Check that you copied all of it."
        )
    try:
        raw = base64.b32decode(encoded.upper())
    except ValueError:  # binascii.Error is one; so is what a non-ASCII character raises
        raise Unauthenticated(
            "This is not a key of the ledger: it has characters that no key has. Check that you copied it exactly."
        ) from None
    if zlib.crc32(raw[:36]).to_bytes(4) != raw[36:]:
        raise Unauthenticated("The checksum of this key is wrong, so it has a typo. Copy the key again.")
    return UUID(bytes=raw[:16])


def is_well_formed(secret: str) -> bool:
    """Return whether this can be a key. It finds a typo without a query."""
    try:
        tenant_of(secret)
    except Unauthenticated:
        return False
    return True


class _Known(NamedTuple):
    """A recognised caller, and until when the result is remembered."""

    caller: Caller
    seconds: float


class Keyring:
    """Recognises callers by keys and tokens. Remembers a valid one for half a second, and never an invalid one.

    issuers: whose tokens are accepted; None accepts no tokens. clock: seconds that never go back.
    """

    def __init__(
        self, store: Store, issuers: Issuers | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store, self._issuers = store, issuers
        self._lock = threading.Lock()
        self._known = TLRUCache[bytes, _Known](CACHE_MAX, lambda _digest, known, now: now + known.seconds, clock)
        self._used: dict[UUID, dict[UUID, int]] = {}
        self._used_count = 0

    @property
    def store(self) -> Store:
        """Return the database that it asks."""
        return self._store

    def remembered(self, secret: str) -> Caller | None:
        """Return the caller if this key or token was recognised just now. Never waits, so an event loop may call it."""
        with self._lock:
            known = self._known.get(digest_of(secret))
        return None if known is None else known.caller

    def recognise(self, secret: str) -> Caller:
        """Return the caller of this key or token. Asks the database, and maybe an issuer. Raises Unauthenticated."""
        digest = digest_of(secret)
        seconds = CACHE_SECONDS
        caller: Caller | None
        if self._issuers is not None and looks_like_token(secret):
            caller, left = self._bearer(self._issuers.recognise(secret))
            seconds = min(seconds, left)
        else:
            tenant_id = tenant_of(secret)
            caller = self._operator(digest) if tenant_id == OPERATOR else self._actor(tenant_id, digest)
        if caller is None:
            raise Unauthenticated(UNKNOWN_KEY)
        with self._lock:
            self._known[digest] = _Known(caller, seconds)
        return caller

    def demand_vouched(self, actor: Actor) -> None:
        """Raise Unauthenticated unless an issuer's rule names a tenant that exists, and the token has time left."""
        if self._bearer(actor)[0] is None:
            raise Unauthenticated(
                "The issuer's ID token has expired, or the rule that admits you names a tenant that does not exist. Ask"
                " the operator of the ledger, whose log has the second."
            )

    def uses(self) -> dict[UUID, dict[UUID, int]]:
        """Return when keys were used last, by tenant and key; only what was not returned before."""
        with self._lock:
            uses, self._used, self._used_count = self._used, {}, 0
        return uses

    def _note_use(self, tenant_id: UUID, key_id: UUID, at_us: int) -> None:
        with self._lock:
            of_tenant = self._used.setdefault(tenant_id, {})
            if key_id not in of_tenant and self._used_count >= CACHE_MAX:
                return  # a time that is lost here is noted at the next use
            self._used_count += key_id not in of_tenant
            of_tenant[key_id] = at_us

    def forget(self) -> None:
        """Forget everything: a key was revoked in this process."""
        with self._lock:
            self._known.clear()

    def _operator(self, digest: bytes) -> Operator | None:
        key_id = self._store.operator_key(digest)
        return None if key_id is None else Operator(key_id)

    def _bearer(self, actor: Actor) -> tuple[Actor | None, float]:
        """Return the holder of a valid token, and for how many seconds it stays valid by the database's clock."""
        with self._store.reading(actor.tenant_id) as reading:
            if reading.tenants.current() is None:
                log.warning("a rule for tokens names the tenant %s, which does not exist", actor.tenant_id)
                return None, 0
            left_us = 0 if actor.expires_us is None else actor.expires_us - reading.now_us()
        return (actor if left_us > 0 else None), left_us / 1_000_000

    def _actor(self, tenant_id: UUID, digest: bytes) -> Actor | None:
        with self._store.reading(tenant_id) as reading:
            key, now_us = reading.keys.by_digest(digest), reading.now_us()
        if key is None:
            return None
        if not key.is_live(now_us):
            raise _ended(key)
        self._note_use(tenant_id, key.id, now_us)
        return actor_of(tenant_id, key)


def actor_of(tenant_id: UUID, key: Key) -> Actor:
    """Return who acts with a key."""
    datasets = None if key.datasets is None else frozenset(key.datasets)
    projects = None if key.projects is None else frozenset(key.projects)
    return Actor(tenant_id, key.id, key.principal_id, key.name, key.role, datasets, projects)


def _ended(key: Key) -> Unauthenticated:
    """Return the error for a key that was valid once. Only the holder of its secret gets it: nobody else knows a text
    with its digest, and the same query finds that a key is unknown."""
    reason, at_us = ("expired", key.expires_us) if key.revoked_us is None else ("revoked", key.revoked_us)
    at = "" if at_us is None else timestamp(at_us)
    verb = "expired" if reason == "expired" else "was revoked"
    return Unauthenticated(
        f"This key {verb} at {at}. Ask an admin of your tenant for a new one. Its id is {key.id}.",
        reason=reason,
        at=at,
        key=str(key.id),
    )


def facts_of(key: Key) -> dict[str, Any]:
    """Return what the tenant's journal records of a new key: everything but its secret."""
    return {
        "made": str(key.id),
        "principal": str(key.principal_id),
        "name": key.name,
        "key_role": key.role,
        "datasets": None if key.datasets is None else list(key.datasets),
        "projects": None if key.projects is None else list(key.projects),
        "expires_at": None if key.expires_us is None else timestamp(key.expires_us),
    }
