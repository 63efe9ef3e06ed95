"""Settings from the environment, or from a file `.env` in the working directory. Every name begins with `LEDGER_`."""

from __future__ import annotations

import os
import re
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
    """Every setting, with its default."""

    model_config = SettingsConfigDict(env_prefix="LEDGER_", env_file=".env", extra="ignore", frozen=True)

    database_url: SecretStr = Field(
        SecretStr("sqlite:///privacy-ledger.db"),
        description="The database: a PostgreSQL URL, or an SQLite URL; default: a file in the working directory.",
    )
    owner_database_url: SecretStr | None = Field(
        None, description="The same PostgreSQL database as the owner of the tables; only migrate and init use it."
    )
    prepared_statements: bool | None = Field(
        None,
        description=(
            "Whether a server prepares statements on PostgreSQL; default: unless a pooler stands before it. PgBouncer"
            " from 1.21 can be given `true` if its `max_prepared_statements` is not 0."
        ),
    )
    oidc_file: Path | None = Field(
        None, description="A JSON file: the OpenID Connect issuers whose tokens are accepted, and the rules for them."
    )
    signing_key: SecretStr | None = Field(
        None, description="The Ed25519 private key that signs receipts, as PEM text, for example from a secret store."
    )
    signing_key_file: Path | None = Field(
        None, description="The file of that key instead; default with SQLite: a file next to the database."
    )
    retired_keys_file: Path | None = Field(
        None, description="A JWK set of the public keys that signed before; default: a file next to the key's file."
    )
    heads_dir: Path | None = Field(
        None, description="A folder in which to publish signed heads, so that others can keep them; default: none."
    )
    kept_heads_file: Path | None = Field(
        None,
        description=(
            "The file in which a server keeps the newest head of each journal, to notice a restored backup; better on"
            " another disk; default: next to the SQLite file, or in the user's state folder."
        ),
    )
    host: str = Field("127.0.0.1", description="The address to listen on.")
    port: Port = Field(8000, description="The port to listen on.")
    workers: Annotated[int, Field(ge=1, le=64)] = Field(1, description="The number of server processes.")
    writer_threads: Annotated[int, Field(ge=1, le=16)] = Field(
        3, description="Writer threads in each process on PostgreSQL; SQLite always has one."
    )
    queue_max: Annotated[int, Field(ge=1, le=100_000)] = Field(
        8000, description="How many runs of one tenant may wait for a decision; beyond it the answer is 503."
    )
    group_max: Annotated[int, Field(ge=1, le=1000)] = Field(
        128, description="The largest number of requests decided in one transaction."
    )
    certificate_seconds_max: Annotated[int, Field(ge=1, le=600)] = Field(
        30, description="The longest that a request waits for a certificate, in seconds; beyond it the answer is 413."
    )
    computing_processes: Annotated[int, Field(ge=0, le=16)] = Field(
        2,
        description=(
            "How many certificates a server process computes at once, each in a process that is started on demand; half"
            " as many more while some take long; 0: in threads, which takes less memory and slows all callers down."
        ),
    )
    begin_within_seconds: Annotated[int, Field(ge=1, le=30 * 86_400)] = Field(
        3600,
        description=(
            "How long, in seconds, a job may begin with a receipt after the start or the last renewal of the receipt."
        ),
    )
    body_bytes_max: Annotated[int, Field(ge=1024, le=64 * 1024 * 1024)] = Field(
        1024 * 1024, description="The largest request body, in bytes."
    )
    body_bytes_held_max: Annotated[int, Field(ge=1024, le=16 * 1024**3)] = Field(
        64 * 1024 * 1024,
        description="The largest number of body bytes that a process holds at once; beyond it the answer is 503.",
    )
    body_bytes_held_per_tenant_max: Annotated[int, Field(ge=1024, le=16 * 1024**3)] = Field(
        16 * 1024 * 1024, description="The largest number of these bytes for one tenant."
    )
    requests_max: Annotated[int, Field(ge=1, le=100_000)] = Field(
        1000,
        description=(
            "The largest number of requests of recognised callers in a process at once; beyond it the answer is 503."
        ),
    )
    requests_per_tenant_max: Annotated[int, Field(ge=1, le=100_000)] = Field(
        500, description="The largest number of these requests for one tenant."
    )
    streams_max: Annotated[int, Field(ge=1, le=1000)] = Field(
        16,
        description="The most reports and exports that a process sends at once; beyond it the answer is 503.",
    )
    streams_per_tenant_max: Annotated[int, Field(ge=1, le=1000)] = Field(
        4, description="The largest number of these reports and exports for one tenant."
    )
    streams_per_key_max: Annotated[int, Field(ge=1, le=1000)] = Field(
        2, description="The largest number of these reports and exports for one key."
    )
    connections_max: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        4000,
        description="The most connections of a process; beyond it the oldest one without a valid key is cut.",
    )
    head_seconds_max: Seconds = Field(
        10,
        description=(
            "The longest time, in seconds, for the request line and headers to arrive, by which a caller is recognised."
        ),
    )
    body_seconds_max: Seconds = Field(
        30, description="The longest time, in seconds, for the body of a request to arrive."
    )
    discard_seconds_max: Seconds = Field(
        5,
        description="The longest time, in seconds, to read and discard the rest of a request that was answered early.",
    )
    discard_bytes_max: Annotated[int, Field(ge=1024, le=1024**3)] = Field(
        16 * 1024 * 1024, description="The largest number of bytes to discard before the connection is cut."
    )
    keep_alive_seconds: Seconds = Field(
        75,
        description=(
            "How long, in seconds, an idle connection stays open; longer than your balancer keeps one, which is often"
            " 60."
        ),
    )
    drain_seconds: Annotated[int, Field(ge=0, le=3600)] = Field(
        0,
        description=(
            "How long, in seconds, a server still serves after a signal to stop, with /readyz false and `Connection:"
            " close`, so that a balancer sends it nothing more; then it answers what is in flight, and ends."
        ),
    )
    database_wait_seconds: Annotated[int, Field(ge=0, le=86_400)] = Field(
        600, description="How long, in seconds, `serve` waits at its start for a PostgreSQL that does not answer."
    )
    send_seconds_max: Seconds = Field(
        30, description="How long, in seconds, a client may read its answer too slowly before the connection is cut."
    )
    send_bytes_per_second_min: Annotated[int, Field(ge=1, le=1024 * 1024)] = Field(
        1024,
        description="The least bytes a second of a waiting answer that a client must read to count as fast enough.",
    )
    reports_at_once: Annotated[int, Field(ge=1, le=64)] = Field(
        2,
        description=(
            "The largest number of reports that a process makes at once; a few more wait 5 seconds at most for a place,"
            " then the answer is 503."
        ),
    )
    rate_per_second: Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False)] | None = Field(
        None,
        description="The most requests a second of one key in a process; beyond it the answer is 429; default: any.",
    )
    rate_burst: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="The most of these requests at once; default: as many as in one second."
    )
    failed_sign_ins: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        600,
        description="The most wrong keys a minute from one address; beyond it new keys from there are rejected unread.",
    )
    session_idle_seconds: Annotated[int, Field(ge=60, le=7 * 86_400)] = Field(
        3600, description="After how many seconds without a page a sign-in to the pages under /ui ends."
    )
    session_seconds_max: Annotated[int, Field(ge=60, le=30 * 86_400)] = Field(
        12 * 3600, description="The longest time, in seconds, that a sign-in to these pages lasts."
    )
    refusals_per_hour: Annotated[int, Field(ge=1, le=100_000)] = Field(
        600,
        description="The most refused runs an hour of one principal that are recorded; beyond it the answer is 429.",
    )
    cors_origins: Annotated[tuple[Origin, ...], NoDecode] = Field(
        (), description="Origins whose pages may call the ledger from a browser, separated by commas; default: none."
    )
    trusted_proxies: str = Field(
        "127.0.0.1,::1",
        description="The proxies whose X-Forwarded-For and X-Forwarded-Proto are trusted: addresses or networks.",
    )
    webhook_hosts: Annotated[tuple[HostAndPort, ...], NoDecode] = Field(
        (),
        description="Hosts, or host:port, that webhooks may use, separated by commas; default: none (no webhooks).",
    )
    watch_seconds: Annotated[int, Field(ge=1, le=3600)] = Field(
        30,
        description="How often, in seconds, one process looks for time-based alerts and for deliveries to repeat.",
    )
    log_format: Literal["text", "json"] = Field("text", description="The format of the log: text or json.")

    @field_validator("cors_origins", "webhook_hosts", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _bodies_fit(self) -> Self:
        held = min(self.body_bytes_held_max, self.body_bytes_held_per_tenant_max)
        if held < self.body_bytes_max:
            raise ValueError(
                f"LEDGER_BODY_BYTES_MAX is {self.body_bytes_max}, but bodies may hold only {held} bytes at"
                " once: raise LEDGER_BODY_BYTES_HELD_MAX and LEDGER_BODY_BYTES_HELD_PER_TENANT_MAX, or lower"
                " LEDGER_BODY_BYTES_MAX"
            )
        return self

    @property
    def is_sqlite(self) -> bool:
        return self.database_url.get_secret_value().startswith("sqlite")

    @property
    def sqlite_file(self) -> Path | None:
        """Return the SQLite database's file; None with PostgreSQL, and if the URL names no plain file."""
        _, _, rest = self.database_url.get_secret_value().partition(":///")
        path, _, query = rest.partition("?")
        is_plain = path not in ("", ":memory:") and not path.startswith("file:") and "uri=" not in query
        return Path(path) if self.is_sqlite and is_plain else None

    @property
    def kept_heads(self) -> Path | None:
        """Return the file of kept heads; None if there is no place for one. Its name does not begin as the database's
        does, so that a copy of `NAME*` does not take it along."""
        if self.kept_heads_file is not None:
            return self.kept_heads_file
        if self.is_sqlite:
            file = self.sqlite_file
            return None if file is None else file.with_name(f"kept-heads-of-{file.name}")
        given = os.environ.get("STATE_DIRECTORY") or os.environ.get("XDG_STATE_HOME")
        home = Path(given.split(":")[0]) if given else Path.home() / ".local" / "state"
        name = self.database_url.get_secret_value().partition("?")[0].rpartition("/")[2]
        return home / "privacy-ledger" / f"kept-heads-of-{re.sub('[^A-Za-z0-9_.-]', '_', name)}.db"

    @property
    def owner_url(self) -> str:
        """Return the URL that changes the schema."""
        return (self.owner_database_url or self.database_url).get_secret_value()


def load() -> Settings:
    """Return the settings of this process. Raises Misconfigured, which names the variable and never shows a value."""
    try:
        return Settings()
    except ValidationError as error:
        problems = "; ".join(
            f"LEDGER_{str(item['loc'][0]).upper()}: {item['msg']}" if item["loc"] else str(item["ctx"]["error"])
            for item in error.errors()
        )
        raise Misconfigured(problems) from None
