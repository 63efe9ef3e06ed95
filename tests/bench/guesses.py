"""Guessing keys, beside somebody who has one: a part of `make bench`.

A client with a good key asks for runs, one after another, first alone, then beside as many requests to `/healthz` as
there will be guesses (what any load of that size does to it, on the same machine), then beside the guesses: with the
limits as they are, and with the limit of wrong keys from one address lifted, as if each came from another one. A third
of the guesses are well-formed and of the very tenant, a third of tenants that there are not, a third no keys at all.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

from pydantic import SecretStr

from ledger.access import keys
from ledger.operate import deploy
from ledger.settings import Settings
from tests.bench.sites import durable
from tests.kit import postgres
from tests.kit.driver import MNIST, RELEASE, WEAK, Ledger, Served, environment, first_keys, serve_command

GUESSES = int(os.environ.get("LEDGER_BENCH_GUESSES", "100000"))
CONNECTIONS = 16
QUIET_SECONDS = 10.0
UNANSWERED = frozenset({401, 429, 503})
"""What a guess can come to: not a key; too many of them from there; too many at once."""


def guesses(tenant: UUID, count: int) -> Iterator[str]:
    """Keys that nobody made."""
    dice = random.Random(20261125)
    letters = "abcdefghijklmnopqrstuvwxyz234567"
    broken = [
        lambda: "pbl_" + "".join(dice.choices(letters, k=64)),  # the checksum is wrong, but once in 2^32
        lambda: keys.mint(tenant)[:-1] + "!",
        lambda: "".join(dice.choices(letters, k=40)),
    ]
    for number in range(count):
        match number % 3:
            case 0:
                yield keys.mint(tenant)
            case 1:
                yield keys.mint(keys.OPERATOR if number % 10 == 1 else uuid4())
            case _:
                yield dice.choice(broken)()


@dataclass(slots=True)
class Client:
    """Bytes over a bare stream: a client library would be the slowest part, and be measured in its place."""

    host: str
    port: int
    _open: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, request: bytes) -> int:
        """The status of the answer."""
        if self._open is None:
            self._open = await asyncio.open_connection(self.host, self.port)
        reader, writer = self._open
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = next(line for line in head.splitlines() if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))
        if b"\r\nconnection: close" in head:
            await self.close()
        return int(head.split(b" ", 2)[1])

    async def close(self) -> None:
        """Ends the connection."""
        if self._open is not None:
            self._open[1].close()
            await self._open[1].wait_closed()
            self._open = None


@dataclass(slots=True)
class Outcome:
    """What came of a stretch of time: the guesses' statuses, the good client's, and its milliseconds."""

    guessed: Counter[int] = field(default_factory=Counter)
    served: Counter[int] = field(default_factory=Counter)
    times_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def shown(self) -> str:
        """For a table."""
        cuts = statistics.quantiles(self.times_ms, n=100)
        rate = sum(self.guessed.values()) / self.seconds
        return (
            f"{cuts[49]:>8.1f} ms {cuts[98]:>8.1f} ms {len(self.times_ms):>8,} {rate:>10,.0f}/s  {dict(self.guessed)}"
        )


@dataclass(frozen=True, slots=True)
class Site:
    """A running server, and a good key."""

    url: str
    key: str

    @property
    def place(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").partition(":")
        return host, int(port)

    def get(self, path: str, secret: str = "") -> bytes:
        """A GET."""
        return f"GET {path} HTTP/1.1\r\nHost: {self.url[7:]}\r\nAuthorization: Bearer {secret}\r\n\r\n".encode()

    def ask(self) -> bytes:
        """Asks for one more run."""
        body = json.dumps(RELEASE)
        return (
            f"POST /v1/runs HTTP/1.1\r\nHost: {self.url[7:]}\r\nAuthorization: Bearer {self.key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            f"Idempotency-Key: {uuid4().hex}\r\n\r\n{body}"
        ).encode()

    async def beside(self, requests: Iterator[bytes] | None, *, seconds: float = 0.0) -> Outcome:
        """The good client's time, while others send all of these; or for some seconds, alone."""
        outcome = Outcome()
        is_over = asyncio.Event()

        async def good() -> None:
            client = Client(*self.place)
            while not is_over.is_set():
                start = time.perf_counter()
                outcome.served[await client.send(self.ask())] += 1
                outcome.times_ms.append(1000 * (time.perf_counter() - start))
            await client.close()

        async def bad(shared: Iterator[bytes]) -> None:
            client = Client(*self.place)
            for request in shared:
                outcome.guessed[await client.send(request)] += 1
            await client.close()

        async def others() -> None:
            work: list[Awaitable[None]] = [asyncio.sleep(seconds)]
            if requests is not None:
                work += [bad(requests) for _ in range(CONNECTIONS)]
            await asyncio.gather(*work)
            is_over.set()

        begun = time.perf_counter()
        await asyncio.gather(good(), others())
        outcome.seconds = time.perf_counter() - begun
        return outcome

    def guessing(self, count: int) -> Outcome:
        """So many guesses."""
        secrets = guesses(keys.tenant_of(self.key), count)
        return asyncio.run(self.beside(self.get("/v1/datasets", secret) for secret in secrets))


def furnished(url: str, key: str, served: Served) -> Site:
    """A dataset with room for every run that is asked for."""
    with served.client() as client:
        made = Ledger(client, key).post("/v1/datasets", {**MNIST, "budget": {"mu": 1000}, **WEAK})
        if made.status_code != 201:
            raise SystemExit(made.text)
    return Site(url, key)


def compare(label: str, settings: Settings, folder: Path) -> None:
    """Prints the table for one database."""
    deploy.migrate(settings)
    key = first_keys(settings).admin_key
    command = [sys.executable, "-m", "uvicorn", "ledger.api.app:create_app", "--factory", "--no-access-log"]
    found: dict[str, Outcome] = {}
    lifted = {"LEDGER_FAILED_SIGN_INS": "1000000"}
    with serve_command(command, folder, environment(settings)) as served:
        site = furnished(served.url, key, served)
        found["alone"] = asyncio.run(site.beside(None, seconds=QUIET_SECONDS))
        found["beside /healthz"] = asyncio.run(site.beside(itertools.repeat(site.get("/healthz"), GUESSES)))
        found["beside guesses"] = site.guessing(GUESSES)
    with serve_command(command, folder, environment(settings) | lifted) as served:
        found["beside guesses, no limit"] = Site(served.url, key).guessing(GUESSES)
    print(f"\n{label}: one client asks for runs beside {GUESSES:,} guesses of a key, on {CONNECTIONS} connections")
    print(f"{'':26}{'p50':>11} {'p99':>11} {'requests':>8} {'others':>12}  what they came to")
    for name, outcome in found.items():
        print(f"{name:26}{outcome.shown()}")
        if set(outcome.served) != {201} or (outcome.guessed.keys() - UNANSWERED and "guesses" in name):
            raise SystemExit(f"{name}: {outcome.served} {outcome.guessed}")


def main() -> None:
    """Measures on SQLite and on every PostgreSQL that is found."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        compare("SQLite", Settings(database_url=SecretStr(f"sqlite:///{folder}/guesses.db")), Path(folder))
        for kind in postgres.available():
            with postgres.start(kind) as server, durable(server, "guesses") as settings:
                compare(server.label, settings, Path(folder))


if __name__ == "__main__":
    main()
