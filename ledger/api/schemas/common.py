"""Shapes of answers that only HTTP has: problems, the state of the process, and its public keys."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict


# PEP 728, which Pydantic knows and mypy does not yet.
class Problem(TypedDict, extra_items=Any):  # type: ignore[call-arg]
    """RFC 9457. Facts of a code are further members."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    field: NotRequired[str | None]
    request_id: NotRequired[
        Annotated[str | None, Field(description="For a fault of the server: the id of the request in the log.")]
    ]


class Health(TypedDict):
    status: Literal["ok"]


class ContradictedShown(TypedDict):
    """A journal on which nothing is decided, because the database lost entries of it."""

    journal: Annotated[str, Field(description="The id of the dataset; or `tenant`, for a tenant's own journal.")]
    missing: str


class Readiness(TypedDict):
    status: Literal["ok"]
    contradicted: NotRequired[Annotated[list[ContradictedShown], Field(description="At most 20 of them.")]]
    warnings: NotRequired[Annotated[list[str], Field(description="What an operator should look at.")]]


class PublicKey(TypedDict):
    kty: Literal["OKP"]
    crv: Literal["Ed25519"]
    x: str
    kid: Annotated[str, Field(description="The thumbprint of the key, by RFC 7638.")]
    use: Literal["sig"]
    alg: Literal["EdDSA"]


class KeySet(TypedDict):
    """A JWK set: the key that signs now, then the earlier ones."""

    keys: list[PublicKey]
