"""What the environment says, or a file `.env` in the working directory. Every name begins with `LEDGER_`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, StringConstraints, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from ledger.errors import Misconfigured

Port = Annotated[int, Field(ge=1, le=65535)]
HostAndPort = Annotated[str, StringConstraints(pattern=r"^(\[[0-9a-f:]+\]|[a-z0-9.-]+)(:[0-9]{1,5})?$")]
Origin = Annotated[str, StringConstraints(pattern=r"^https?://[a-z0-9.-]+(:[0-9]{1,5})?$")]


class Settings(BaseSettings):
    """Every setting, with what it is when nothing is said."""

    model_config = SettingsConfigDict(env_prefix="LEDGER_", env_file=".env", extra="ignore", frozen=True)

    database_url: SecretStr = Field(
        SecretStr("sqlite:///privacy-ledger.db"),
        description="The database: a PostgreSQL URL, or an SQLite file in the working directory when left out.",
    )
    owner_database_url: SecretStr | None = Field(
        None, description="The same PostgreSQL as the owner of the tables; used by migrate and init alone."
    )
    oidc_file: Path | None = Field(
        None, description="A JSON file that says which OpenID Connect issuers' tokens are taken, and for whom."
    )
    signing_key: SecretStr | None = Field(
        None, description="The Ed25519 private key that receipts are signed with, as PEM text from a secret store."
    )
    signing_key_file: Path | None = Field(
        None, description="Or the file that it is in; for SQLite one beside the database when left out."
    )
    retired_keys_file: Path | None = Field(
        None, description="A JWK set of the public keys that were signed with before; beside the key's file otherwise."
    )
    heads_dir: Path | None = Field(
        None, description="A folder to publish signed heads in, for somebody else to keep; none when left out."
    )
    host: str = Field("127.0.0.1", description="The address to listen on.")
    port: Port = Field(8000, description="The port to listen on.")
    workers: Annotated[int, Field(ge=1, le=64)] = Field(1, description="How many server processes to run.")
    writer_threads: Annotated[int, Field(ge=1, le=16)] = Field(
        3, description="Writer threads in each process on PostgreSQL; SQLite always has one."
    )
    queue_max: Annotated[int, Field(ge=1, le=100_000)] = Field(
        1000, description="How many of one tenant's requests may wait to be decided before the answer is 503."
    )
    group_max: Annotated[int, Field(ge=1, le=1000)] = Field(
        128, description="How many requests are decided in one transaction at most."
    )
    certificate_seconds_max: Annotated[int, Field(ge=1, le=600)] = Field(
        30, description="How long a request waits for a certificate to be computed before the answer is 413."
    )
    begin_within_seconds: Annotated[int, Field(ge=1, le=30 * 86_400)] = Field(
        3600, description="How long after a start, or after its receipt was renewed, a job may begin by the receipt."
    )
    body_bytes_max: Annotated[int, Field(ge=1024, le=64 * 1024 * 1024)] = Field(
        1024 * 1024, description="The largest request body, in bytes."
    )
    requests_max: Annotated[int, Field(ge=1, le=100_000)] = Field(
        1000, description="How many requests a process serves at the same time before the answer is 503."
    )
    reports_at_once: Annotated[int, Field(ge=1, le=64)] = Field(
        2, description="How many reports a process has made at the same time before the answer is 503."
    )
    rate_per_second: Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False)] | None = Field(
        None, description="How many requests a second one key may make of a process before the answer is 429."
    )
    rate_burst: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="How many of them at once; a second's worth when left out."
    )
    failed_sign_ins: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        600, description="How many wrong keys a minute one address may bring before new ones are refused unread."
    )
    cors_origins: Annotated[tuple[Origin, ...], NoDecode] = Field(
        (), description="Origins whose pages may call from a browser, separated by commas; none when left out."
    )
    trusted_proxies: str = Field(
        "127.0.0.1,::1", description="Whose X-Forwarded-For and X-Forwarded-Proto are believed: addresses or networks."
    )
    webhook_hosts: Annotated[tuple[HostAndPort, ...], NoDecode] = Field(
        (), description="Hosts, or host:port, that webhooks may lead to, separated by commas; webhooks are off without."
    )
    watch_seconds: Annotated[int, Field(ge=1, le=3600)] = Field(
        30,
        description="How often one of the processes looks for alerts that no decision raises, and for what to resend.",
    )
    log_format: Literal["text", "json"] = Field("text", description="How the log is written: text or json.")

    @field_validator("cors_origins", "webhook_hosts", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @property
    def is_sqlite(self) -> bool:
        return self.database_url.get_secret_value().startswith("sqlite")

    @property
    def owner_url(self) -> str:
        """The URL that changes the schema."""
        return (self.owner_database_url or self.database_url).get_secret_value()


def load() -> Settings:
    """The settings of this process. Raises Misconfigured, naming the variable, and never showing a value."""
    try:
        return Settings()
    except ValidationError as error:
        problems = "; ".join(f"LEDGER_{str(item['loc'][0]).upper()}: {item['msg']}" for item in error.errors())
        raise Misconfigured(problems) from None
