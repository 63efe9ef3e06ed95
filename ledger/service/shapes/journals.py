"""Entries, heads and proofs, as answers show them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from ledger.signer.heads import SignedHead

__all__ = [
    "Consistency",
    "ConsistencyProof",
    "EntryPage",
    "EntryShown",
    "Head",
    "Inclusion",
    "InclusionProof",
    "SignedHead",
    "TenantConsistencyProof",
    "TenantHead",
    "TenantInclusionProof",
]


# No docstrings here: OpenAPI would show them as descriptions.
class EntryShown(TypedDict):
    seq: int
    hash: str
    entry: Annotated[
        dict[str, Any], Field(description="The entry, byte for byte in its canonical form: `hash` is its SHA-256.")
    ]
    request: NotRequired[
        Annotated[
            dict[str, Any] | None,
            Field(description="The request, if another journal has it: the entry then has its SHA-256."),
        ]
    ]


class TenantHead(SignedHead):
    tenant: str


class Head(SignedHead):
    dataset: str


class Inclusion(TypedDict):
    kind: Literal["inclusion"]
    seq: int
    hash: Annotated[str, Field(description="The hash of the entry, which is the data of the leaf `seq - 1`.")]
    size: int
    root: Annotated[str, Field(description="The root over the first `size` entries.")]
    path: Annotated[list[str], Field(description="The inclusion proof of RFC 9162, 2.1.3.")]
    head: SignedHead


class InclusionProof(Inclusion):
    dataset: str


class TenantInclusionProof(Inclusion):
    tenant: str


# `from` is a keyword of Python, so these members cannot be written as a class.
_From = TypedDict("_From", {"kind": Literal["consistency"], "from": int})


class Consistency(_From):
    from_root: Annotated[str, Field(description="The root over the first `from` entries.")]
    to: int
    root: Annotated[str, Field(description="The root over the first `to` entries.")]
    path: Annotated[list[str], Field(description="The consistency proof of RFC 9162, 2.1.4.")]
    head: SignedHead


class ConsistencyProof(Consistency):
    dataset: str


class TenantConsistencyProof(Consistency):
    tenant: str


class EntryPage(TypedDict):
    items: list[EntryShown]
    next: str | None
