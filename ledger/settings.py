"""What the environment says, or a file `.env` in the working directory. Every name begins with `LEDGER_`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, StringConstraints, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from ledger.errors import Misconfigured

Port = Annotated[int, Field(ge=1, le=65535)]
HostAndPort = Annotated[str, StringConstraints(pattern=r"^(\[[0-9a-f:]+\]|[a-z0-9.-]+)(:[0-9]{1,5})?$")]
Origin = Annotated[str, StringConstraints(pattern=r"^https?://[a-z0-9.-]+(:[0-9]{1,5})?$")]
Seconds = Annotated[int, Field(ge=1, le=3600)]


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
    body_bytes_held_max: Annotated[int, Field(ge=1024, le=16 * 1024**3)] = Field(
        64 * 1024 * 1024,
        description="How many bytes of bodies a process holds at the same time before the answer is 503.",
    )
    body_bytes_held_per_tenant_max: Annotated[int, Field(ge=1024, le=16 * 1024**3)] = Field(
        16 * 1024 * 1024, description="How many of these bytes are one tenant's at most."
    )
    requests_max: Annotated[int, Field(ge=1, le=100_000)] = Field(
        1000, description="How many requests of recognised callers a process serves at once before the answer is 503."
    )
    requests_per_tenant_max: Annotated[int, Field(ge=1, le=100_000)] = Field(
        500, description="How many of these requests are one tenant's at most."
    )
    streams_max: Annotated[int, Field(ge=1, le=1000)] = Field(
        16, description="How many reports and exports a process sends at the same time before the answer is 503."
    )
    streams_per_tenant_max: Annotated[int, Field(ge=1, le=1000)] = Field(
        4, description="How many of these reports and exports are one tenant's at most."
    )
    streams_per_key_max: Annotated[int, Field(ge=1, le=1000)] = Field(
        2, description="How many of these reports and exports are for one key at most."
    )
    connections_max: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        4000, description="How many connections a process has before it cuts the oldest one of a stranger."
    )
    head_seconds_max: Seconds = Field(
        10, description="How long the line and headers of a request, by which a caller is recognised, may take to come."
    )
    body_seconds_max: Seconds = Field(30, description="How long the body of a request may take to come.")
    discard_seconds_max: Seconds = Field(
        5, description="How long what is left of a request that was answered early is read and thrown away."
    )
    discard_bytes_max: Annotated[int, Field(ge=1024, le=1024**3)] = Field(
        16 * 1024 * 1024, description="How many bytes of it are thrown away before the connection is cut."
    )
    send_seconds_max: Seconds = Field(
        30, description="How long a client may be too slow to take its answer before the connection is cut."
    )
    send_bytes_per_second_min: Annotated[int, Field(ge=1, le=1024 * 1024)] = Field(
        1024,
        description="How many bytes a second of a waiting answer a client takes at least to count as not too slow.",
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
    refusals_per_hour: Annotated[int, Field(ge=1, le=100_000)] = Field(
        600, description="How many runs of one principal are refused on record in an hour before the answer is 429."
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

    @model_validator(mode="after")
    def _bodies_fit(self) -> Self:
        held = min(self.body_bytes_held_max, self.body_bytes_held_per_tenant_max)
        if held < self.body_bytes_max:
            raise ValueError(
                f"LEDGER_BODY_BYTES_MAX is {self.body_bytes_max}, and no such body fits into {held} bytes: raise"
                " LEDGER_BODY_BYTES_HELD_MAX and LEDGER_BODY_BYTES_HELD_PER_TENANT_MAX, or lower it"
            )
        return self

    @property
    def is_sqlite(self) -> bool:
        return self.database_url.get_secret_value().startswith("sqlite")

    @property
    def sqlite_file(self) -> Path | None:
        """The SQLite database's file; None on PostgreSQL, and where the URL names no plain file."""
        _, _, rest = self.database_url.get_secret_value().partition(":///")
        path, _, query = rest.partition("?")
        is_plain = path not in ("", ":memory:") and not path.startswith("file:") and "uri=" not in query
        return Path(path) if self.is_sqlite and is_plain else None

    @property
    def owner_url(self) -> str:
        """The URL that changes the schema."""
        return (self.owner_database_url or self.database_url).get_secret_value()


def load() -> Settings:
    """The settings of this process. Raises Misconfigured, naming the variable, and never showing a value."""
    try:
        return Settings()
    except ValidationError as error:
        problems = "; ".join(
            f"LEDGER_{str(item['loc'][0]).upper()}: {item['msg']}" if item["loc"] else str(item["ctx"]["error"])
            for item in error.errors()
        )
        raise Misconfigured(problems) from None
