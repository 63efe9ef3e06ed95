"""Exports of journals that were made without a server, signed by a key of the tests."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ledger.core.journal import chain
from ledger.verifier import jws
from ledger.verifier.export import entry_line, head_line, header, request_line
from ledger.verifier.heads import Head
from tests.kit import trees
from tests.kit.books import TENANT
from tests.kit.journals import requested_in


def key_of(seed: int) -> jws.SigningKey:
    """The same key for the same seed: good for nothing but tests."""
    private = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
    return jws.SigningKey.from_pem(
        private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")
    )


KEY: Final = key_of(1)
OTHER_KEY: Final = key_of(2)
NO_REQUESTS: Final[Mapping[str, str]] = MappingProxyType({})


def jwks_of(*keys: jws.SigningKey) -> dict[str, Any]:
    """The public keys, as a JWK set."""
    return {"keys": [key.public_jwk() for key in keys]}


def exported(
    dataset_id: UUID | None,
    entries: Sequence[tuple[str, bytes]],
    *,
    tenant_id: UUID = TENANT,
    key: jws.SigningKey = KEY,
    name: str | None = None,
    requests: Mapping[str, str] = NO_REQUESTS,
) -> list[str]:
    """The lines of an export of a dataset's journal, or of the tenant's own where there is no id. name: the dataset's,
    if the first entry does not tell. requests: those that stand in other journals, by their digests."""
    name = name or ("" if dataset_id is None else chain.parse(entries[0][0])["dataset"])
    keys = jwks_of(key)
    about = header(tenant_id=tenant_id, tenant="acme", dataset_id=dataset_id, dataset=name, keys=keys)
    lines: list[str] = []
    for seq, (body, hash_) in enumerate(entries, start=1):
        if (request := requested_in(body, requests)) is not None:
            lines.append(request_line(request))
        lines.append(entry_line(seq=seq, hash_=hash_, body=body))
    newest, hash_ = entries[-1]
    root = trees.root_of(each for _, each in entries)
    # Members stand in order, and none before this one has a time of that name in it; a forged entry may be no JSON.
    at = match[1] if (match := re.search('"at":"([^"]*)"', newest)) else None
    dataset = None if dataset_id is None else (dataset_id, name)
    head = Head.of((tenant_id, "acme"), dataset, seq=len(entries), hash_=hash_, root=root, at=at)
    signature = jws.sign(chain.canonical(head.payload()), key=key, typ=jws.HEAD)
    return [about, *lines, head_line(seq=len(entries), hash_=hash_, root=root, signature=signature)]
