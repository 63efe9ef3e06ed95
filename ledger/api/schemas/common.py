"""Answers that are HTTP's alone: problems, whether the process is well, and its public keys."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
)


class Problem(BaseModel):
    """RFC 9457. Facts that belong to the code stand beside these members."""

    model_config = ConfigDict(extra="allow")
    type: str
    title: str
    status: int
    code: str
    detail: str
    field: str | None = None
    request_id: Annotated[str | None, Field(description="Of a fault: what the log knows the request by.")] = None


class Health(BaseModel):
    status: Literal["ok"]


class PublicKey(BaseModel):
    kty: Literal["OKP"]
    crv: Literal["Ed25519"]
    x: str
    kid: Annotated[str, Field(description="The key's thumbprint by RFC 7638.")]
    use: Literal["sig"]
    alg: Literal["EdDSA"]


class KeySet(BaseModel):
    """A JWK set: the key that is signed with now, then those before it."""

    keys: list[PublicKey]
