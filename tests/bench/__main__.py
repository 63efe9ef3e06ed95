"""`make bench`: what a decision costs, beside what it is compared with, in one run.

Approvals and refusals are timed one at a time on a dataset with a short journal and on one with a long journal, in
turns, so that a noisy machine disturbs both alike. Every request goes through the real writer to a real database with
its durability on; only HTTP is left out. Figures are for reading, never a test.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
from pydantic import SecretStr
from sqlalchemy import make_url

from ledger.access import keys
from ledger.accounting import ACCOUNTANT
from ledger.core.amounts import Amount
from ledger.core.commands import Ask, Claim, Register
from ledger.core.datasets import Definition
from ledger.core.people import Actor
from ledger.core.runs import Use
from ledger.operate import deploy
from ledger.service.writer import Writer
from ledger.settings import Settings
from ledger.store import Store, engine_for
from tests.kit import postgres
from tests.kit.driver import SIGNING_KEY

SHORT = 10
LONG = int(os.environ.get("LEDGER_BENCH_ENTRIES", "100000"))
ROUNDS = 400
GROUP = 200
LIMIT = Amount(10**12, 0)


class Bench:
    """A writer over one database, with two datasets to compare."""

    def __init__(self, settings: Settings) -> None:
        deploy.migrate(settings)
        first = deploy.initialise(settings, tenant="bench")
        if first is None:
            raise SystemExit("the database is not empty")
        self.store = Store(engine_for(settings.database_url.get_secret_value()))
        self.writer = Writer(self.store, threads=1, queue_max=10_000, group_max=GROUP)
        self.writer.start()
        caller = keys.Keyring(self.store).recognise(first.admin_key)
        if not isinstance(caller, Actor):
            raise SystemExit("the first key is no tenant's")
        self.actor = caller

    def dataset(self, name: str) -> UUID:
        definition = Definition(uuid4(), name, "record", "add_or_remove_one", "clt", None)
        command = Register(self.actor, definition, "", "", {"mu": 1}, LIMIT)
        self.writer.submit(self.actor.tenant_id, command).result()
        return definition.id

    def ask(self, dataset: UUID, cost: Amount) -> Ask:
        request = {"datasets": ["data"], "mechanism": {"type": "gaussian", "noise_multiplier": 5}}
        costing = {"bound": "clt", "adjacency": "add_or_remove_one", "method": "gaussian", "accountant": ACCOUNTANT}
        claim, use = Claim(str(uuid4()), bytes(32)), Use(dataset, (), ("data",))
        return Ask(self.actor, uuid4(), claim, (use,), None, cost, request, costing, 10**12)

    def fill(self, dataset: UUID, entries: int) -> float:
        """Adds entries, a group at a time, and returns how many a second."""
        start = time.perf_counter()
        for done in range(0, entries, GROUP):
            commands = [self.ask(dataset, Amount(1, 0)) for _ in range(min(GROUP, entries - done))]
            futures = [self.writer.submit(self.actor.tenant_id, command) for command in commands]
            for future in futures:
                future.result()
        return entries / (time.perf_counter() - start)

    def once(self, dataset: UUID, cost: Amount) -> float:
        """Milliseconds of one decision, from submitting it to its answer after the commit."""
        command = self.ask(dataset, cost)
        start = time.perf_counter()
        self.writer.submit(self.actor.tenant_id, command).result()
        return 1000 * (time.perf_counter() - start)

    def close(self) -> None:
        self.writer.close()
        self.store.close()


def compare(label: str, settings: Settings) -> None:
    """Prints the table for one database."""
    bench = Bench(settings)
    short, long = bench.dataset("short"), bench.dataset("long")
    bench.fill(short, SHORT)
    rate = bench.fill(long, LONG)
    kinds = {"approve": Amount(1, 0), "refuse": Amount(2 * LIMIT.mu_sq_pico, 0)}
    times: dict[tuple[str, str], list[float]] = {(kind, size): [] for kind in kinds for size in ("short", "long")}
    for _ in range(ROUNDS):
        for kind, cost in kinds.items():
            times[kind, "short"].append(bench.once(short, cost))
            times[kind, "long"].append(bench.once(long, cost))
    bench.close()
    print(
        f"\n{label}: {rate:,.0f} decisions/s in groups of {GROUP}; one at a time, ms (median, 10th to 90th percentile)"
    )
    print(f"{'':10}{f'{SHORT:,} entries behind':>30}{f'{LONG:,} entries behind':>30}{'ratio of medians':>20}")
    for kind in kinds:
        few, many = times[kind, "short"], times[kind, "long"]
        ratio = statistics.median(many) / statistics.median(few)
        print(f"{kind:10}{_spread(few):>30}{_spread(many):>30}{ratio:>20.2f}")


def _spread(times: list[float]) -> str:
    deciles = statistics.quantiles(times, n=10)
    return f"{statistics.median(times):.2f} ({deciles[0]:.2f} to {deciles[-1]:.2f})"


@contextlib.contextmanager
def durable(server: postgres.Server, name: str) -> Iterator[Settings]:
    """A database on a server whose durability, which tests turn off, is on."""
    with psycopg.connect(make_url(server.admin_url).set(drivername="postgresql").render_as_string(False)) as admin:
        admin.autocommit = True
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            admin.execute(f"ALTER SYSTEM SET {setting} = on")
        admin.execute("SELECT pg_reload_conf()")
    url = SecretStr(postgres.create_database(server, name))
    yield Settings(database_url=url, signing_key=SecretStr(SIGNING_KEY))


def main() -> None:
    """Measures on SQLite and on every PostgreSQL that is found."""
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} processors")
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        compare("SQLite", Settings(database_url=SecretStr(f"sqlite:///{folder}/bench.db")))
    for kind in postgres.available():
        with postgres.start(kind) as server, durable(server, "bench") as settings:
            compare(server.label, settings)


if __name__ == "__main__":
    from tests.bench import certificates, guesses, http, recipes

    main()
    http.main()
    certificates.main()
    recipes.main()
    guesses.main()
