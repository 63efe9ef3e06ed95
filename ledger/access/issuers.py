"""The configuration of issuers: a JSON file of whose tokens the server accepts, and of rules from claims to callers."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from ledger import mistakes
from ledger.addresses import is_loopback
from ledger.core.people import Role
from ledger.errors import Misconfigured
from ledger.web import httpx

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Asymmetric algorithms only, so that nobody else can make what the issuer signs. No `none`, no HMAC."""


def checked_url(text: str) -> str:
    """Return the text of a URL that may be fetched from. Raises what Pydantic reports, which does not repeat it."""
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        raise PydanticCustomError("url", "is not a URL") from None
    if not url.host or url.userinfo or url.fragment:
        raise PydanticCustomError("url", "must have a host, and neither a user nor a fragment")
    if url.scheme != "https" and not (url.scheme == "http" and is_loopback(url.host)):
        raise PydanticCustomError("url", "must begin with https:// (http:// is allowed for loopback addresses only)")
    return text


def _issuer_url(text: str) -> str:
    if httpx.URL(text).query:
        raise PydanticCustomError("url", "must have no query")
    return text


def _claim_value(value: str | bool | int) -> str | bool | int:
    """Return the value that a rule requires of a claim. A `*` alone, or before the end, is rejected: it would be
    misread."""
    if isinstance(value, str) and (value == "*" or "*" in value[:-1]):
        raise PydanticCustomError(
            "wildcard", "may have one *, at its end, after the text that the claim must begin with"
        )
    return value


def _tenant(value: UUID) -> UUID:
    if value.int == 0:
        raise PydanticCustomError("tenant", "is not a tenant's id")
    return value


Text = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Url = Annotated[Text, AfterValidator(checked_url)]
SCOPES_MAX: Final = 20
Names = Annotated[list[Annotated[str, StringConstraints(min_length=1, max_length=63)]], Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Rule(_Strict):
    """A caller with these claims acts in this tenant, in this role, within these limits."""

    claims: Annotated[dict[Text, Annotated[Text | bool | int, AfterValidator(_claim_value)]], Field(min_length=1)]
    tenant: Annotated[UUID, AfterValidator(_tenant)]
    role: Role
    datasets: Names | None = None
    projects: Names | None = None

    def matches(self, claims: Mapping[str, Any]) -> bool:
        return not self.differing(claims)

    def differing(self, claims: Mapping[str, Any]) -> list[str]:
        """Return the names of the claims that are not as the rule requires."""
        return [name for name, expected in self.claims.items() if not _has(claims.get(name), expected)]


class Secret(_Strict):
    """Where a client's secret is kept: in a file, or in an environment variable."""

    file: Text | None = None
    variable: Text | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Secret:
        if (self.file is None) == (self.variable is None):
            raise PydanticCustomError("secret", "must have either `file` or `variable`, and not the secret itself")
        return self


_VISIBLE: Final = r"^[!-~]{1,255}$"


def _with_openid(scopes: list[str]) -> list[str]:
    if "openid" not in scopes or len(scopes) > SCOPES_MAX:
        raise PydanticCustomError(
            "scopes", f"must have `openid`, without which no ID token is sent, and at most {SCOPES_MAX}"
        )
    return scopes


class IssuerConfig(_Strict):
    """An issuer in the configuration. Without `jwks_uri` its keys are found by discovery. With `client_id` people sign
    in to the pages by it."""

    issuer: Annotated[Url, AfterValidator(_issuer_url)]
    audience: Text
    algorithms: Annotated[list[Algorithm], Field(min_length=1)]
    jwks_uri: Url | None = None
    leeway_seconds: Annotated[int, Field(ge=0, le=300)] = 60
    client_id: Annotated[str, StringConstraints(pattern=_VISIBLE)] | None = None
    client_secret: Secret | None = None
    scopes: Annotated[list[Annotated[str, StringConstraints(pattern=_VISIBLE)]], AfterValidator(_with_openid)] = [
        "openid",
        "profile",
        "email",
    ]
    rules: Annotated[list[Rule], Field(min_length=1)]

    @model_validator(mode="after")
    def _is_whole(self) -> IssuerConfig:
        if self.client_secret is not None and self.client_id is None:
            raise PydanticCustomError("client", "has a `client_secret` without a `client_id`: add `client_id`")
        return self

    @property
    def slug(self) -> str:
        """Return what the addresses of its sign-in have: its URL without the scheme, in letters, digits and `-`."""
        return re.sub(r"[^a-z0-9]+", "-", self.issuer.partition("://")[2].lower()).strip("-")

    def digest(self) -> str:
        """Return a digest of all that is configured: a session ends when it changes."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


SECRET_BYTES_MAX: Final = 4096
"""The longest file of a client's secret that is read."""


def secret_of(config: IssuerConfig) -> str | None:
    """Return the secret of the client at an issuer; None for a public client. Raises Misconfigured, which names where
    it was looked for."""
    kept = config.client_secret
    if kept is None:
        return None
    if kept.file is not None:
        try:
            with Path(kept.file).open("rb") as file:
                raw = file.read(SECRET_BYTES_MAX)
        except OSError as error:
            raise Misconfigured(f"the client_secret file {kept.file} cannot be read: {error.strerror}") from None
        secret, where = raw.decode("utf-8", "replace").strip(), f"the file {kept.file}"
    else:
        secret, where = os.environ.get(kept.variable or "", "").strip(), f"the environment variable {kept.variable}"
    if not secret or not secret.isascii() or not secret.isprintable():
        raise Misconfigured(f"{where} must have the client_secret of {config.issuer}: printable ASCII, and not empty")
    return secret


def _distinct(issuers: list[IssuerConfig]) -> list[IssuerConfig]:
    if len({one.issuer for one in issuers}) < len(issuers):
        raise PydanticCustomError("distinct", "must not name an issuer twice: list all rules of an issuer in one place")
    slugs = [one.slug for one in issuers if one.client_id is not None]
    if len(set(slugs)) < len(slugs):
        raise PydanticCustomError(
            "distinct", "has two issuers with a client_id whose URLs differ in punctuation alone: sign-in needs another"
        )
    return issuers


class Configuration(_Strict):
    """The contents of the file."""

    issuers: Annotated[list[IssuerConfig], Field(min_length=1, max_length=100), AfterValidator(_distinct)]


def _has(value: object, expected: str | bool | int) -> bool:
    """Return whether a claim is what a rule requires, or a list that contains it."""
    if isinstance(value, list):
        return any(not isinstance(item, list) and _has(item, expected) for item in value)
    if isinstance(value, str) and isinstance(expected, str) and expected.endswith("*"):
        return value.startswith(expected[:-1])
    return type(value) is type(expected) and value == expected  # in Python true is 1


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise Misconfigured("an object has the same member twice; remove one")
    return members


def configuration(path: Path) -> Configuration:
    """Return the contents of a file. Raises Misconfigured, which names the field and not its value."""
    try:
        text = path.read_text(encoding="utf-8")
        json.loads(text, object_pairs_hook=_no_duplicates)
        return Configuration.model_validate_json(text)
    except OSError as error:
        raise Misconfigured(f"{path} cannot be read: {error.strerror}") from None
    except Misconfigured as error:
        raise Misconfigured(f"{path}: {error.detail}") from None
    except ValidationError as error:
        found = mistakes.described(error.errors(include_url=False, include_input=False), Configuration)
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {mistakes.message(item)}" for item in found)
        raise Misconfigured(f"{path}: {wrong}") from None
    except (ValueError, RecursionError):
        raise Misconfigured(f"{path} is not JSON") from None
