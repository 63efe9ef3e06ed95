"""Answers that are HTTP's alone: problems, whether the process is well, and its public keys."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict


# PEP 728, which Pydantic knows and mypy does not yet.
class Problem(TypedDict, extra_items=Any):  # type: ignore[call-arg]
    """RFC 9457. Facts that belong to the code stand beside these members."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    field: NotRequired[str | None]
    request_id: NotRequired[Annotated[str | None, Field(description="Of a fault: what the log knows the request by.")]]


class Health(TypedDict):
    status: Literal["ok"]


class PublicKey(TypedDict):
    kty: Literal["OKP"]
    crv: Literal["Ed25519"]
    x: str
    kid: Annotated[str, Field(description="The key's thumbprint by RFC 7638.")]
    use: Literal["sig"]
    alg: Literal["EdDSA"]


class KeySet(TypedDict):
    """A JWK set: the key that is signed with now, then those before it."""

    keys: list[PublicKey]
