"""One run: a database, servers, clients and a proxy, faults for a while, and the count of what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sqlite3
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from tests.torture.faults.clients import Plan, send
from tests.torture.faults.counters import Count, acknowledged
from tests.torture.faults.databases import Cluster, Volume, server_user, volume
from tests.torture.faults.proxy import Manners
from tests.torture.faults.records import UNKNOWN, Book, Intent, now, read_answers, read_intents
from tests.torture.faults.replay import Findings, read_exports
from tests.torture.faults.schedule import Faults
from tests.torture.faults.servers import Servers, closing, command, environment
from tests.torture.wire import Wire, request

SERVERS: Final = 4
CLIENTS: Final = 2
VOLUME_MB: Final = 6000
REPEATED: Final = 300
"""How many acknowledged requests are sent again at the end, to compare the answers."""
RESOLVERS: Final = 4
RESOLVE_SECONDS_MAX: Final = 30.0
RESOLVE_ATTEMPTS_MAX: Final = 40
MANNERS: Final = Manners(drop_request=0.01, drop_answer=0.01, delay=0.05, delay_seconds_max=0.5, duplicate=0.02)
LARGE: Final = {"budget": {"mu": 50}, "accepts_weak_protection": True}
TIGHT: Final = {"budget": {"mu": 0.7}}
DATASETS: Final[Mapping[str, Any]] = {
    **{f"large-{number}": LARGE for number in range(5)},
    "parts-0": {**LARGE, "partitions": ["a", "b", "c"]},
    "parts-1": {"budget": {"mu": 1.2}, "partitions": ["a", "b", "c"]},
    **{f"tight-{number}": TIGHT for number in range(4)},
}
FORM: Final = {"privacy_unit": "record", "adjacency": "add_or_remove_one", "bound": "clt"}


@dataclass(frozen=True, slots=True)
class Setup:
    """What to run."""

    database: str
    """`sqlite` or `postgresql`."""
    seed: int
    seconds: float
    folder: Path
    pause_seconds: float = 0.0
    servers: int = SERVERS
    clients: int = CLIENTS
    sessions: int = 4
    has_volume: bool = True
    """Whether the database gets a file system of its own, if this process may mount one."""


@dataclass(slots=True)
class Result:
    """What came of it."""

    database: str
    seed: int
    seconds: float
    findings: Findings = field(default_factory=Findings)
    figures: dict[str, int] = field(default_factory=dict)
    version: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Site:
    """What runs."""

    setup: Setup
    servers: Servers
    cluster: Cluster | None
    disk: Volume | None
    keys: dict[str, str]
    proxy: Process
    url: str
    clients: list[Process] = field(default_factory=list)
    backups: list[tuple[int, dict[str, int]]] = field(default_factory=list)
    """When each began, and how many entries of each dataset it has."""
    ends_at: float = 0.0

    def direct(self, number: int) -> Wire:
        """A connection to a server, past the proxy."""
        slots = self.servers.slots
        return Wire(f"http://127.0.0.1:{slots[number % len(slots)].port}")

    async def tell(self, manners: Manners | None = None) -> dict[str, int]:
        """Change the proxy's manners: what it has done so far."""
        if self.proxy.stdin is None or self.proxy.stdout is None:
            raise RuntimeError("the proxy has no pipes")
        self.proxy.stdin.write(json.dumps(asdict(manners) if manners else {}).encode() + b"\n")
        done: dict[str, int] = json.loads(await self.proxy.stdout.readline())
        return done

    async def begin_client(self, name: str) -> None:
        """Start a client process that ends when the faults do."""
        plan = Plan(
            name=name,
            url=self.url,
            seed=self.setup.seed,
            seconds=max(0.0, self.ends_at - time.monotonic()),
            folder=str(self.setup.folder),
            keys=self.keys,
            datasets=list(DATASETS),
            partitioned=[name for name in DATASETS if name.startswith("parts")],
            tight=[name for name, form in DATASETS.items() if form["budget"]["mu"] < 2],
            sessions=self.setup.sessions,
            pause_seconds=self.setup.pause_seconds,
        )
        words = [sys.executable, "-m", "tests.torture.faults.clients"]
        client = await asyncio.create_subprocess_exec(*words, stdin=PIPE)
        if client.stdin is None:
            raise RuntimeError("the client has no input")
        client.stdin.write(json.dumps(asdict(plan)).encode())
        client.stdin.close()
        self.clients.append(client)

    async def kill_client(self) -> None:
        """SIGKILL to a client process, and a new one."""
        running = [client for client in self.clients if client.returncode is None]
        if running:
            client = running[0]
            client.kill()
            await client.wait()
            await self.begin_client(f"c{len(self.clients)}")

    async def back_up(self) -> None:
        """Copy an SQLite ledger while it is served, and count the entries of the copy."""
        copy, begun = self.setup.folder / f"copy-{len(self.backups)}.db", now()
        env = self.servers.env
        await asyncio.to_thread(command, ["backup", str(copy), "--json"], env, self.setup.folder)
        of_copy = {**env, "LEDGER_DATABASE_URL": f"sqlite:///{copy}"}
        checked = await asyncio.to_thread(command, ["check", "--json"], of_copy, self.setup.folder)
        counts = {one["dataset"]: one["entries"] for one in checked["datasets"] if one["dataset"]}
        self.backups.append((begun, counts))
        copy.unlink()


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A new folder that PostgreSQL's user can reach."""
    with tempfile.TemporaryDirectory(prefix="ledger-torture-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


async def torture(setup: Setup) -> Result:
    """Run it."""
    async with opened(setup) as site:
        return await _run(site)


@contextlib.asynccontextmanager
async def opened(setup: Setup, **settings: str) -> AsyncIterator[Site]:
    """A database with servers, keys and datasets, and a proxy before it. settings: the servers' own."""
    with contextlib.ExitStack() as stack:
        disk = stack.enter_context(volume(setup.folder, VOLUME_MB)) if setup.has_volume else None
        cluster, env = await asyncio.to_thread(_database, setup, disk, stack)
        env |= environment(**settings)
        first = await asyncio.to_thread(command, ["init", "--tenant", "torture", "--json"], env, setup.folder)
        servers = stack.enter_context(closing(Servers.of(setup.folder, env, setup.servers)))
        for slot in servers.slots:
            servers.start(slot)
        await servers.ready()
        async with _site(setup, servers, cluster, disk, first["admin_key"]) as site:
            yield site


def _database(setup: Setup, disk: Volume | None, stack: contextlib.ExitStack) -> tuple[Cluster | None, dict[str, str]]:
    """Make the database: the cluster, if it is one, and what the commands and servers are to know."""
    place = disk.path if disk is not None else setup.folder
    known = {"refusals_per_hour": "100000", "watch_seconds": "3600", "signing_key_file": str(setup.folder / "key.pem")}
    if setup.database == "sqlite":
        heads = {"kept_heads_file": str(setup.folder / "kept-heads.db")}
        return None, environment(database_url=f"sqlite:///{place / 'ledger.db'}", **known, **heads)
    cluster = Cluster(setup.folder / "postgresql", place / "data", server_user())
    cluster.folder.mkdir()
    stack.callback(cluster.close)
    cluster.make()
    urls = {"database_url": cluster.url("ledger_server"), "owner_database_url": cluster.url("ledger_owner")}
    env = environment(**known, **urls)
    command(["migrate", "--json"], env, setup.folder)
    return cluster, env


@contextlib.asynccontextmanager
async def _site(
    setup: Setup, servers: Servers, cluster: Cluster | None, disk: Volume | None, admin_key: str
) -> AsyncIterator[Site]:
    """The proxy, the keys and the datasets."""
    words = [sys.executable, "-m", "tests.torture.faults.proxy", str(setup.seed)]
    proxy = await asyncio.create_subprocess_exec(*words, stdin=PIPE, stdout=PIPE)
    if proxy.stdout is None:
        raise RuntimeError("the proxy has no output")
    url = f"http://127.0.0.1:{int(await proxy.stdout.readline())}"
    site = Site(setup, servers, cluster, disk, {"admin": admin_key}, proxy, url)
    keeping = asyncio.create_task(servers.keep())
    try:
        await _prepare(site)
        yield site
    finally:
        keeping.cancel()
        for process in [proxy, *site.clients]:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _prepare(site: Site) -> None:
    """Make the keys and the datasets, past the proxy."""
    with contextlib.closing(site.direct(0)) as wire:
        for who, role in (("requester", "requester"), ("steward", "steward"), ("second", "steward")):
            made = await _done(site, wire, "POST", "/v1/keys", {"name": who, "role": role})
            site.keys[who] = made["secret"]
        await _done(site, wire, "PUT", "/v1/policy", {"second_steward": True, "reason": "a test"})
        for name, form in DATASETS.items():
            await _done(site, wire, "POST", "/v1/datasets", {"name": name, **FORM, **form})


async def _done(site: Site, wire: Wire, method: str, path: str, body: Any) -> Any:
    status, answer = await wire.ask(request(method, path, key=site.keys["admin"], body=body))
    if status not in (200, 201):
        raise RuntimeError(f"{method} {path}: {status} {answer.decode()}")
    return json.loads(answer)


async def _run(site: Site) -> Result:
    setup = site.setup
    faults = Faults(
        random.Random(f"{setup.seed}/faults"), site.servers, site.cluster, site.disk, site.kill_client, site.back_up
    )
    ports = [slot.port for slot in site.servers.slots]
    await site.tell(replace(MANNERS, upstreams=ports))
    site.ends_at = time.monotonic() + setup.seconds
    for _ in range(setup.clients):
        await site.begin_client(f"c{len(site.clients)}")
    await faults.run(setup.seconds)
    await faults.heal()
    proxied = await site.tell(Manners(ports))
    await site.servers.ready()
    await asyncio.gather(*(client.wait() for client in site.clients))
    result = Result(setup.database, setup.seed, setup.seconds)
    result.figures.update(faults.done)
    result.figures.update(proxied)
    result.figures["starts of servers"] = sum(slot.starts for slot in site.servers.slots)
    result.figures |= await _resolved(site)
    await _exported(site)
    result.version = await asyncio.to_thread(site.cluster.version) if site.cluster else sqlite_version()
    await asyncio.to_thread(_count, site, result)
    if site.cluster is None:
        checked = await asyncio.to_thread(command, ["check", "--json"], site.servers.env, setup.folder)
        result.notes += [] if checked["holds"] else ["`check` reports that the database does not hold"]
    return result


def sqlite_version() -> str:
    """The version that Python has."""
    return f"SQLite {sqlite3.sqlite_version}"


async def _resolved(site: Site) -> dict[str, int]:
    """Learn every outcome that is not known, and compare some that are with what a repetition is answered."""
    intents, answers = read_intents(site.setup.folder), read_answers(site.setup.folder)
    answered = {answer.intent for answer in answers}
    unknown = [one for one in intents.values() if one.id not in answered and not one.is_once]
    decided = [one.intent for one in answers if one.outcomes and intents[one.intent].kind in ("ask", "batch")]
    dice = random.Random(f"{site.setup.seed}/repeated")
    again = [intents[one] for one in dice.sample(decided, min(REPEATED, len(decided)))]
    waiting: Iterator[Intent] = iter([*unknown, *again])
    with contextlib.closing(Book(site.setup.folder, "resolved")) as book:
        found = await asyncio.gather(*(_resolve(site, book, waiting, number) for number in range(RESOLVERS)))
    return {"resolved": len(unknown), "repeated": len(again), "unresolved": sum(found)}


async def _resolve(site: Site, book: Book, waiting: Iterator[Intent], number: int) -> int:
    """Send each again until it has an outcome: how many have none."""
    unresolved = 0
    with contextlib.closing(site.direct(number)) as wire:
        for intent in waiting:
            for _ in range(RESOLVE_ATTEMPTS_MAX):
                status, body = await send(wire, intent, site.keys, seconds=RESOLVE_SECONDS_MAX)
                if status not in UNKNOWN:
                    book.answered(intent, status, body)
                    break
                await asyncio.sleep(0.25)
            else:
                unresolved += 1
    return unresolved


async def _exported(site: Site) -> None:
    """Export every journal."""
    folder = site.setup.folder / "exports"
    folder.mkdir()
    for number, name in enumerate(DATASETS):
        with contextlib.closing(site.direct(number)) as wire:
            status, body = await wire.ask(request("GET", f"/v1/datasets/{name}/export", key=site.keys["admin"]))
        if status != 200:
            raise RuntimeError(f"the export of {name}: {status} {body[:300].decode()}")
        (folder / f"{name}.jsonl").write_bytes(body)


def _count(site: Site, result: Result) -> None:
    """Count from the exports and what the clients wrote down."""
    folder = site.setup.folder
    journals = read_exports(folder / "exports", result.findings)
    answers = read_answers(folder)
    intents = read_intents(folder)
    Count(intents, answers, journals, result.findings).run()
    result.figures |= {f"acknowledged {name}": count for name, count in acknowledged(answers).items()}
    result.figures["entries"] = sum(len(journal.steps) for journal in journals.values())
    for begun, counts in site.backups:
        for answer in answers:
            for outcome in answer.outcomes if answer.at < begun else ():
                for name, seq in outcome.seqs.items():
                    if seq > counts[name]:
                        result.findings.note("lost", f"{name}, seq {seq} is not in a backup that began later")
