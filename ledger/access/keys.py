"""Keys: how they look, how they are recognised, and what a role may do.

A key is `pbl_` and 64 characters of lower-case base32: the tenant's id (16 bytes), 20 random bytes, and a CRC-32 of
those 36. The tenant's id is in it because nothing of a tenant can be looked up before the tenant is known; the checksum
finds a typo without asking the database. Only the SHA-256 digest of a key is kept: with 160 random bits there is
nothing to guess, and no pepper to lose.

A caller can show a token of an OpenID Connect issuer instead; what it stands for is decided in `ledger.access.oidc`.
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
"""Stands where a tenant's id would, in the key of the operator."""

CACHE_SECONDS: Final = 0.5
CACHE_MAX: Final = 10_000


def mint(tenant_id: UUID) -> str:
    """A new key's secret."""
    body = tenant_id.bytes + secrets.token_bytes(20)
    return PREFIX + base64.b32encode(body + zlib.crc32(body).to_bytes(4)).decode().lower()


def digest_of(secret: str) -> bytes:
    """What is kept of a key: 32 bytes.

    Digests are looked up by index and in a dictionary, and nothing secret is ever compared character by character. How
    long a look-up takes may tell how much of a digest was right; who cannot invert SHA-256 learns no key from that, nor
    how to choose the next guess. That is what comparing in constant time would be for.
    """
    return hashlib.sha256(secret.encode()).digest()


def tenant_of(secret: str) -> UUID:
    """The tenant that a key names. Raises Unauthenticated when it is not a key at all."""
    encoded = secret.removeprefix(PREFIX)
    if not secret.startswith(PREFIX) or len(encoded) != 64 or encoded != encoded.lower():
        raise Unauthenticated("That is not a key of this ledger: a key is pbl_ and 64 characters.")
    try:
        raw = base64.b32decode(encoded.upper())
    except ValueError:  # binascii.Error is one, and so is what a character beyond ASCII raises
        raise Unauthenticated("That is not a key of this ledger: it has characters that no key has.") from None
    if zlib.crc32(raw[:36]).to_bytes(4) != raw[36:]:
        raise Unauthenticated("That key has a typo: its checksum is wrong.")
    return UUID(bytes=raw[:16])


def is_well_formed(secret: str) -> bool:
    """Whether this can be a key: it asks no database, and finds a typo."""
    try:
        tenant_of(secret)
    except Unauthenticated:
        return False
    return True


class _Known(NamedTuple):
    """Who was recognised, and for how long that is remembered."""

    caller: Caller
    seconds: float


class Keyring:
    """Recognises callers by their keys and tokens. Remembers a good one for half a second, and no bad one at all.

    issuers: those whose tokens are taken; None is that no tokens are. clock: seconds that never go back.
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
        """The database that it asks."""
        return self._store

    def remembered(self, secret: str) -> Caller | None:
        """The caller, if this key or token was recognised just now. Never waits, so that an event loop may ask."""
        with self._lock:
            known = self._known.get(digest_of(secret))
        return None if known is None else known.caller

    def recognise(self, secret: str) -> Caller:
        """The caller whose key or token this is. Asks the database, and at times an issuer. Raises Unauthenticated."""
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

    def uses(self) -> dict[UUID, dict[UUID, int]]:
        """When keys were used last, by tenant and key, as far as that was not told before."""
        with self._lock:
            uses, self._used, self._used_count = self._used, {}, 0
        return uses

    def _note_use(self, tenant_id: UUID, key_id: UUID, at_us: int) -> None:
        with self._lock:
            of_tenant = self._used.setdefault(tenant_id, {})
            if key_id not in of_tenant and self._used_count >= CACHE_MAX:
                return  # a time that is not noted now is noted at the next use
            self._used_count += key_id not in of_tenant
            of_tenant[key_id] = at_us

    def forget(self) -> None:
        """Forgets everything it remembers: a key was revoked in this process."""
        with self._lock:
            self._known.clear()

    def _operator(self, digest: bytes) -> Operator | None:
        key_id = self._store.operator_key(digest)
        return None if key_id is None else Operator(key_id)

    def _bearer(self, actor: Actor) -> tuple[Actor | None, float]:
        """Who shows a good token, and for how many seconds more it is good by the database's clock."""
        with self._store.reading(actor.tenant_id) as reading:
            if reading.tenants.current() is None:
                log.warning("a rule for tokens names the tenant %s, which does not exist", actor.tenant_id)
                return None, 0
            left_us = 0 if actor.expires_us is None else actor.expires_us - reading.now_us()
        return (actor if left_us > 0 else None), left_us / 1_000_000

    def _actor(self, tenant_id: UUID, digest: bytes) -> Actor | None:
        with self._store.reading(tenant_id) as reading:
            key, now_us = reading.keys.by_digest(digest), reading.now_us()
            if key is None or not key.is_live(now_us):
                return None
        self._note_use(tenant_id, key.id, now_us)
        datasets = None if key.datasets is None else frozenset(key.datasets)
        projects = None if key.projects is None else frozenset(key.projects)
        return Actor(tenant_id, key.id, key.principal_id, key.name, key.role, datasets, projects)


def facts_of(key: Key) -> dict[str, Any]:
    """What the tenant's journal says of a new key: everything but its secret."""
    return {
        "made": str(key.id),
        "principal": str(key.principal_id),
        "name": key.name,
        "key_role": key.role,
        "datasets": None if key.datasets is None else list(key.datasets),
        "projects": None if key.projects is None else list(key.projects),
        "expires_at": None if key.expires_us is None else timestamp(key.expires_us),
    }
