"""Keys: how they look, how they are recognised, and what a role may do.

A key is `pbl_` and 64 characters of lower-case base32: the tenant's id (16 bytes), 20 random bytes, and a CRC-32 of
those 36. The tenant's id is in it because nothing of a tenant can be looked up before the tenant is known; the checksum
finds a typo without asking the database. Only the SHA-256 digest of a key is kept: with 160 random bits there is
nothing to guess, and no pepper to lose.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import threading
import time
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from ledger.errors import Unauthenticated
from ledger.model import Actor, Role
from ledger.store import Store

PREFIX: Final = "pbl_"
OPERATOR: Final = UUID(int=0)
"""Stands where a tenant's id would, in the key of the operator."""

CACHE_SECONDS: Final = 0.5
CACHE_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class Operator:
    """Who runs the service: makes tenants, and sees nothing of theirs."""

    key_id: UUID


Caller = Actor | Operator


def mint(tenant_id: UUID) -> str:
    """A new key's secret."""
    body = tenant_id.bytes + secrets.token_bytes(20)
    return PREFIX + base64.b32encode(body + zlib.crc32(body).to_bytes(4)).decode().lower()


def digest_of(secret: str) -> bytes:
    """What is kept of a key: 32 bytes."""
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


class Keyring:
    """Recognises callers by their keys. Remembers a good one for half a second, and no bad one at all."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, tuple[float, Caller]] = OrderedDict()

    def remembered(self, secret: str) -> Caller | None:
        """The caller, if this key was recognised just now. Never waits, so that an event loop may ask."""
        with self._lock:
            until, caller = self._known.get(digest_of(secret), (0.0, None))
        return caller if time.monotonic() < until else None

    def recognise(self, secret: str) -> Caller:
        """The caller whose key this is. Asks the database. Raises Unauthenticated."""
        tenant_id, digest = tenant_of(secret), digest_of(secret)
        caller = self._operator(digest) if tenant_id == OPERATOR else self._actor(tenant_id, digest)
        if caller is None:
            raise Unauthenticated("That key is unknown, was revoked or has expired.")
        with self._lock:
            self._known[digest] = (time.monotonic() + CACHE_SECONDS, caller)
            self._known.move_to_end(digest)
            if len(self._known) > CACHE_MAX:
                self._known.popitem(last=False)
        return caller

    def forget(self) -> None:
        """Forgets everything it remembers: a key was revoked in this process."""
        with self._lock:
            self._known.clear()

    def _operator(self, digest: bytes) -> Operator | None:
        key_id = self._store.operator_key(digest)
        return None if key_id is None else Operator(key_id)

    def _actor(self, tenant_id: UUID, digest: bytes) -> Actor | None:
        with self._store.reading(tenant_id) as reading:
            key = reading.key_by_digest(digest)
            if key is None or not key.is_live(reading.now_us()):
                return None
        limited = None if key.datasets is None else frozenset(key.datasets)
        return Actor(tenant_id, key.id, key.principal_id, key.name, key.role, limited)


ALLOWED: Final[dict[str, frozenset[Role]]] = {
    "manage keys": frozenset({"admin"}),
    "register datasets": frozenset({"admin", "steward"}),
    "manage datasets": frozenset({"admin", "steward"}),
    "read the journal": frozenset({"admin", "steward", "auditor"}),
    "ask for runs": frozenset({"admin", "requester"}),
    "end runs": frozenset({"admin", "steward", "requester"}),
    "read": frozenset({"admin", "steward", "requester", "auditor"}),
}
"""Which roles may do what. Whose run it is, and which datasets a key sees, is decided where these are looked up."""


TENANT_WIDE: Final = frozenset({"manage keys", "register datasets"})
"""What reaches beyond any list of datasets: a key that is limited to some may not do it, or it could free itself."""


def may(actor: Actor, action: str) -> bool:
    """Whether the actor's role, and the limits of its key, allow this at all."""
    return actor.role in ALLOWED[action] and (actor.datasets is None or action not in TENANT_WIDE)
