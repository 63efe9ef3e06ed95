"""Entries, heads and proofs as they are answered."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field


class EntryShown(BaseModel):
    seq: int
    hash: str
    entry: Annotated[
        dict[str, Any], Field(description="The entry, byte for byte in its canonical form: `hash` is its SHA-256.")
    ]


class SignedHead(BaseModel):
    seq: int
    hash: str
    root: str = Field(description="The Merkle root over the hashes of all entries, RFC 9162.")
    signature: str = Field(description="All of that as a compact JWS, by a key of /.well-known/jwks.json.")


class TenantHead(SignedHead):
    tenant: str


class Head(SignedHead):
    dataset: str


class _Inclusion(BaseModel):
    kind: Literal["inclusion"]
    seq: int
    hash: str = Field(description="The entry's hash, the data of the leaf `seq - 1`.")
    size: int
    root: str = Field(description="Over the first `size` entries.")
    path: list[str] = Field(description="The inclusion proof of RFC 9162, 2.1.3.")
    head: SignedHead


class InclusionProof(_Inclusion):
    dataset: str


class TenantInclusionProof(_Inclusion):
    tenant: str


class _Consistency(BaseModel):
    kind: Literal["consistency"]
    from_: int = Field(alias="from")
    from_root: str = Field(description="Over the first `from` entries.")
    to: int
    root: str = Field(description="Over the first `to` entries.")
    path: list[str] = Field(description="The consistency proof of RFC 9162, 2.1.4.")
    head: SignedHead


class ConsistencyProof(_Consistency):
    dataset: str


class TenantConsistencyProof(_Consistency):
    tenant: str


class EntryPage(BaseModel):
    items: list[EntryShown]
    next: str | None
