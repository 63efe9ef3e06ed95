"""Whatever is done to an export or to the database behind the ledger's back is found, and located."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr
from sqlalchemy import Column, Connection, Engine, Table, delete, insert, select, update
from sqlalchemy.exc import DBAPIError

from ledger.core.journal import chain
from ledger.errors import JournalBroken
from ledger.operate.check import check_journals
from ledger.settings import Settings
from ledger.store import tables
from ledger.verifier import export, jws, verify
from ledger.verifier.heads import Head
from ledger.verifier.jws import PublicKeys, SigningKey
from ledger.verifier.witness import Witnesses
from tests.conftest import Templates
from tests.kit import trees
from tests.kit.driver import SIGNING_KEY, Ledger, past_the_ledger
from tests.kit.scene import ok
from tests.verifier.test_independent_auditor import lived
from tests.verifier.test_verify import bit, doubled, forge, nudge, removed, swapped, truncated

Rng = random.Random
Expected = Callable[[JournalBroken], bool]
SIGNER = SigningKey.from_pem(SIGNING_KEY)
WATCHED = ("mnist", "parts", "copy")


# --- a history, and what an auditor held of it ------------------------------------------------------------------------


@dataclass
class History:
    """A ledger that some things happened in, and what an auditor got of it meanwhile."""

    settings: Settings
    tenant_id: UUID
    jwks: dict[str, Any]
    lines: list[str]
    receipts: list[str] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    earlier: Path | None = None
    earlier_lines: list[str] = field(default_factory=list)

    @property
    def keys(self) -> PublicKeys:
        return PublicKeys.of(self.jwks)

    def held(self, *, of: UUID | None = None) -> Witnesses:
        """All receipts and heads; `of` one dataset, those alone that speak of it."""
        found = Witnesses()
        for receipt in self.receipts:
            found.add_receipts(receipt, keys=self.keys, source="a receipt")
        for head in self.heads:
            found.add_heads(head, keys=self.keys, source="a head")
        if of is not None:
            found.held = {place: held for place, held in found.held.items() if place[1] == of}
        return found

    def hold(self, ledger: Ledger) -> None:
        for name in WATCHED:
            self.heads.append(ok(ledger.get(f"/v1/datasets/{name}/head"))["signature"])
        self.heads.append(ok(ledger.get("/v1/head"))["signature"])


def history_of(settings: Settings, folder: Path) -> History:
    """Runs of every state, projects, partitions, proposals, keys; heads kept now and then, receipts of every run."""
    with Ledger.open(settings) as ledger:
        lived(ledger)
        ok(ledger.post("/v1/datasets", {"name": "copy", "derived_from": [{"name": "mnist", "unit_preserving": True}]}))
        tenant_id = UUID(ok(ledger.get("/v1/me"))["tenant"]["id"])
        found = History(settings, tenant_id, ok(ledger.client.get("/.well-known/jwks.json")), [])
        found.hold(ledger)
        if settings.is_sqlite:
            found.earlier = folder / "earlier.db"
            with closing(sqlite3.connect(folder / "ledger.db")) as now, closing(sqlite3.connect(found.earlier)) as then:
                now.backup(then)
        found.earlier_lines = ledger.get("/v1/datasets/mnist/export").text.split("\n")[:-1]
        for turn in range(3):
            ok(ledger.ask(datasets=["copy"]))
            ok(ledger.ask(datasets=[{"name": "parts", "partitions": ["a"]}]))
            found.hold(ledger) if turn == 1 else None
        ok(ledger.post("/v1/keys", {"name": "somebody", "role": "auditor"}))
        ok(ledger.put("/v1/policy", {"second_steward": True, "reason": "so that two look"}))
        ok(ledger.put("/v1/datasets/mnist/budget", {"budget": {"mu": 2, "delta": 1e-6}, "reason": "more"}))
        found.hold(ledger)
        for run in ok(ledger.get("/v1/runs", limit=1000))["items"]:
            answer = ledger.get(f"/v1/runs/{run['id']}/receipt")
            found.receipts += [answer.json()["receipt"]] if answer.is_success else []
        # Without the requests that stand in others' journals, so that line and number are one.
        whole = ledger.get("/v1/datasets/mnist/export").text.split("\n")[:-1]
        found.lines = [line for line in whole if export.request_of(line) is None]
    return found


@pytest.fixture(scope="module")
def history(templates: Templates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    """One on SQLite, made once: what is tampered with are copies."""
    folder = tmp_path_factory.mktemp("history")
    with templates.clone("sqlite", folder) as settings:
        made = history_of(settings, folder)
        with (
            closing(sqlite3.connect(folder / "ledger.db")) as now,
            closing(sqlite3.connect(folder / "whole.db")) as then,
        ):
            now.backup(then)
        yield made


# --- exports ---------------------------------------------------------------------------------------------------------


def resigned(lines: list[str], key: SigningKey) -> list[str]:
    """The export with a head, a root and a signature that are right for its entries, by this key."""
    header, entries = json.loads(lines[0]), [json.loads(line) for line in lines[1:-1]]
    newest = entries[-1]
    tenant, dataset = ((UUID(header[of]["id"]), header[of]["name"]) for of in ("tenant", "dataset"))
    root, hash_ = trees.root_of(bytes.fromhex(e["hash"]) for e in entries), bytes.fromhex(newest["hash"])
    said = Head.of(tenant, dataset, seq=len(entries), hash_=hash_, root=root, at=newest["entry"]["at"]).payload()
    signature = jws.sign(chain.canonical(said), key=key, typ=jws.HEAD)
    header["keys"] = {"keys": [key.public_jwk()]}
    head = export.head_line(seq=len(entries), hash_=hash_, root=root, signature=signature)
    return [json.dumps(header, ensure_ascii=False, separators=(",", ":")), *lines[1:-1], head]


def rechained(lines: list[str], at: int, change: Callable[[dict[str, Any]], object]) -> list[str]:
    """One entry changed, and every hash from there on made anew."""
    changed = [*lines[:at], forge(lines[at], change), *lines[at + 1 :]]
    for place in range(at + 1, len(lines) - 1):
        prev = json.loads(changed[place - 1])["hash"]
        changed[place] = forge(lines[place], partial(dict.update, prev=prev))
    return changed


def renamed(entry: dict[str, Any]) -> None:
    """Another actor: nothing that any arithmetic would show."""
    entry["actor"] = {**entry["actor"], "name": "somebody else"}


def between(changed_at: int) -> Expected:
    """The history parts where it says: after `after`, and not after `seq`."""
    return lambda error: error.after is not None and error.after < changed_at <= error.seq


def at(*seqs: int) -> Expected:
    """One of these is named."""
    return lambda error: error.seq in seqs


def an_outsider(rng: Rng, lines: list[str]) -> tuple[list[str], Expected]:
    """Who has an export and no key changes some of it."""
    place = rng.randint(1, len(lines) - 2)
    how = rng.choice((bit, removed, swapped, doubled, truncated))
    changed, expected = how(rng, lines, place)
    # A line that is gone before its own check: what is held may name the same place first.
    return changed, at(*expected)


def a_forger(rng: Rng, lines: list[str]) -> tuple[list[str], Expected]:
    """Who knows the format changes any value, makes every hash anew, and signs with a key of his own."""
    place = rng.randint(1, len(lines) - 2)
    changed = resigned(rechained(lines, place, nudge(rng)), SigningKey.generate())
    return changed, lambda error: error.seq == 0 or error.seq >= place - 1


def the_ledger_itself(rng: Rng, lines: list[str]) -> tuple[list[str], Expected]:
    """Who has the server and its key writes history anew from some entry on, so that all of it adds up."""
    place = rng.randint(1, len(lines) - 2)
    return resigned(rechained(lines, place, renamed), SIGNER), between(place)


def a_shorter_one(rng: Rng, lines: list[str]) -> tuple[list[str], Expected]:
    """Who has the server and its key forgets the end."""
    count = rng.randint(1, len(lines) - 3)
    return resigned([*lines[: count + 1], lines[-1]], SIGNER), at(count + 1)


def test_every_tampering_with_an_export_is_found(history: History, tries: Callable[[int, int], int]) -> None:
    """Goal: whoever changes an export, with or without the ledger's own key, is found by an auditor who has the public
    keys, receipts and earlier heads; and the place is named: the entry, or between which two things held it lies.
    Method: seeded random tampering with a real export."""
    lines = history.lines
    dataset_id = UUID(json.loads(lines[0])["dataset"]["id"])
    whole = verify.verify(
        lines, keys=history.keys, witnesses=history.held(of=dataset_id), earlier=history.earlier_lines
    )
    assert (whole.vouched.heads, whole.vouched.earlier) == (3, len(history.earlier_lines) - 2)
    assert whole.vouched.receipts >= 5
    rng, found = random.Random(77), Counter[str]()
    for _ in range(tries(60, 6000)):
        who = rng.choice((an_outsider, a_forger, the_ledger_itself, a_shorter_one))
        changed, expected = who(rng, lines)
        with pytest.raises(JournalBroken) as caught:
            verify.verify(changed, keys=history.keys, witnesses=history.held(of=dataset_id))
        assert expected(caught.value), f"{who.__name__}: {caught.value} after {caught.value.after}"
        found[who.__name__] += 1
    print(f"found and located: {dict(found)}")


def test_an_earlier_export_names_the_very_first(history: History, tries: Callable[[int, int], int]) -> None:
    """Goal: where somebody kept an export, the first entry that differs is named exactly, though everything adds up and
    is signed with the ledger's own key. Method: every entry that the earlier export has, changed in turn."""
    known = len(history.earlier_lines) - 2
    places = range(1, known + 1)
    for place in random.Random(1).sample(places, min(tries(6, known), known)):
        changed = resigned(rechained(history.lines, place, renamed), SIGNER)
        with pytest.raises(JournalBroken) as caught:
            verify.verify(changed, keys=history.keys, earlier=history.earlier_lines)
        assert (caught.value.seq, caught.value.after) == (place, place - 1)
    shorter = resigned([*history.lines[:known], history.lines[-1]], SIGNER)
    with pytest.raises(JournalBroken) as caught:
        verify.verify(shorter, keys=history.keys, earlier=history.earlier_lines)
    assert caught.value.seq == known


# --- rows ------------------------------------------------------------------------------------------------------------

COLUMNS: dict[Table, frozenset[str]] = {
    tables.entries: frozenset({"tenant_id"}),
    tables.tenant_entries: frozenset({"tenant_id"}),
    tables.runs: frozenset({"tenant_id"}),
    tables.places: frozenset({"tenant_id"}),
    tables.accounts: frozenset({"tenant_id"}),
    # A least limit is kept for information, and computed again: a test of its own finds a wrong one.
    tables.datasets: frozenset({"tenant_id", "least_seq", "least_mu_sq_pico", "least_delta_atto"}),
    tables.projects: frozenset({"tenant_id"}),
    tables.proposals: frozenset({"tenant_id"}),
    # Where a parent stands in the list is a number of which the order alone counts.
    tables.lineage: frozenset({"tenant_id", "position"}),
    # A key's secret is in no journal, and when it was made and used last decides nothing.
    tables.keys: frozenset({"tenant_id", "digest", "created_us", "last_used_us"}),
    tables.tenants: frozenset({"tenant_id", "name", "created_us"}),
}
"""The tables that make a record, and the columns of which the journal says nothing."""


class Owner:
    """Who has the database: no trigger, no row security and no foreign key stands in the way."""

    def __init__(self, settings: Settings) -> None:
        self.engine: Engine = past_the_ledger(settings)
        if settings.is_sqlite:
            with closing(sqlite3.connect(str(self.engine.url.database))) as raw:
                for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                    raw.execute(f"DROP TRIGGER {name}")
                raw.commit()
        else:
            with self.engine.begin() as connection:
                for table in ("entries", "tenant_entries"):
                    connection.exec_driver_sql(f"ALTER TABLE {table} DISABLE TRIGGER USER")

    def rows(self, table: Table) -> list[Any]:
        with self.engine.begin() as connection:
            return list(connection.execute(select(table)).all())

    def do(self, work: Callable[[Connection], object]) -> bool:
        """Whether the database let it."""
        try:
            with self.engine.connect() as connection:
                if connection.dialect.name == "sqlite":
                    connection.connection.driver_connection.execute("PRAGMA foreign_keys=OFF")  # type: ignore[union-attr]
                with connection.begin():
                    work(connection)
        except DBAPIError:
            return False
        return True

    def close(self) -> None:
        self.engine.dispose()


def where(table: Table, row: Any) -> list[Any]:
    """Which row it is."""
    return [column == getattr(row, column.name) for column in table.primary_key]


def another(rng: Rng, value: Any, column: Column[Any]) -> Any:
    """Another value of the same kind."""
    match value:
        case None:
            kinds = {UUID: UUID(int=rng.getrandbits(128)), int: 1}
            return kinds.get(column.type.python_type, "x")
        case UUID():
            return UUID(int=rng.getrandbits(128))
        case int():
            return max(0, value + rng.choice((-1, 1, 1000)))
        case bytes():
            place = rng.randrange(len(value))
            return value[:place] + bytes([value[place] ^ (1 << rng.randrange(8))]) + value[place + 1 :]
        case _:
            return rng.choice((f"{value}x", value[:-1], value.replace("1", "2") if "1" in value else "?"))


Tampered = tuple[str, Mapping[str | None, Callable[[int], bool]]]
"""What was done; by dataset (None for the tenant), the numbers that may be named."""


def one_value(rng: Rng, owner: Owner) -> Tampered | None:
    """A value in a row becomes another."""
    table = rng.choice(list(COLUMNS))
    if not (rows := owner.rows(table)):
        return None
    row = rng.choice(rows)
    column = rng.choice([column for column in table.columns if column.name not in COLUMNS[table]])
    name, old = column.name, getattr(row, column.name)
    new = another(rng, old, column)
    if new == old or not owner.do(
        lambda connection: connection.execute(update(table).where(*where(table, row)), {name: new})
    ):
        return None
    return f"{table.name}.{name} of {row}", located(owner, table, row)


def one_row(rng: Rng, owner: Owner) -> Tampered | None:
    """A row is gone."""
    table = rng.choice([each for each in COLUMNS if each is not tables.tenants])
    if not (rows := owner.rows(table)):
        return None
    row = rng.choice(rows)
    if not owner.do(lambda connection: connection.execute(delete(table).where(*where(table, row)))):
        return None
    return f"a row of {table.name} is gone", located(owner, table, row)


def two_swapped(rng: Rng, owner: Owner) -> Tampered | None:
    """Two entries change places, with or without their numbers."""
    rows = owner.rows(tables.entries)
    one = rng.choice(rows)
    other = rng.choice([row for row in rows if row.dataset_id == one.dataset_id and row.seq != one.seq])

    def work(connection: Connection) -> None:
        for into, from_ in ((one, other), (other, one)):
            values = {name: getattr(from_, name) for name in ("kind", "at_us", "run_id", "body", "hash")}
            connection.execute(update(tables.entries).where(*where(tables.entries, into)), values)

    owner.do(work)
    first = min(one.seq, other.seq)
    return "two entries swapped", {chain.parse(one.body)["dataset"]: lambda seq: seq == first}


def moved_run(rng: Rng, owner: Owner) -> Tampered | None:
    """A run's place is in another dataset."""
    place, dataset = rng.choice(owner.rows(tables.places)), rng.choice(owner.rows(tables.datasets))
    values = {"dataset_id": dataset.id}
    if dataset.id == place.dataset_id or not owner.do(
        lambda connection: connection.execute(update(tables.places).where(*where(tables.places, place)), values)
    ):
        return None
    return "a run moved", {name: lambda seq: seq >= 1 for name in (*WATCHED, None)}


def located(owner: Owner, table: Table, row: Any) -> Mapping[str | None, Callable[[int], bool]]:
    """Where a change of this row may be found."""
    if table is tables.entries:
        return {chain.parse(row.body)["dataset"]: lambda seq: seq == row.seq}
    if table is tables.tenant_entries:
        return {None: lambda seq: seq == row.seq}
    return {name: lambda seq: seq >= 0 for name in (*WATCHED, None, "")}


def rewritten(rng: Rng, owner: Owner) -> Tampered | None:
    """An entry says something else, every hash after it is made anew, and the head with it."""
    rows = owner.rows(tables.entries)
    one = rng.choice(rows)
    mine = sorted((row for row in rows if row.dataset_id == one.dataset_id), key=lambda row: row.seq)

    def work(connection: Connection) -> None:
        prev = None
        for row in mine[one.seq - 1 :]:
            entry = chain.parse(row.body)
            renamed(entry) if prev is None else entry.update(prev=prev)
            body = chain.canonical(entry)
            prev = chain.digest(body).hex()
            values = {"body": body, "hash": bytes.fromhex(prev)}
            connection.execute(update(tables.entries).where(*where(tables.entries, row)), values)
        of_it = (tables.datasets.c.tenant_id == one.tenant_id, tables.datasets.c.id == one.dataset_id)
        connection.execute(update(tables.datasets).where(*of_it), {"head": bytes.fromhex(str(prev))})

    owner.do(work)
    return f"rewritten from {one.seq} on", {chain.parse(one.body)["dataset"]: lambda seq: seq >= one.seq}


HOWS = (one_value, one_value, one_value, one_row, two_swapped, moved_run, rewritten)


def demand_found(settings: Settings, held: Witnesses, done: Tampered) -> None:
    """The audit finds it, in a journal and at an entry where it may be found."""
    what, expected = done
    faults = [found for found in check_journals(settings, held) if found["error"] is not None]
    assert faults, what
    first = {fault["dataset"]: fault["seq"] for fault in faults}
    places = {name if name in expected else "" for name in first}
    assert any(name in expected and expected[name](first.get(name, 0)) for name in places | set(first)), (what, faults)


def copied(history: History, folder: Path, file: Path | None = None) -> Settings:
    """A copy of the database."""
    whole = Path(history.settings.database_url.get_secret_value().removeprefix("sqlite:///")).with_name("whole.db")
    shutil.copyfile(file or whole, folder / "copy.db")
    return history.settings.model_copy(update={"database_url": SecretStr(f"sqlite:///{folder / 'copy.db'}")})


def test_every_tampering_with_rows_is_found(history: History, tmp_path: Path, tries: Callable[[int, int], int]) -> None:
    """Goal: who owns the database, triggers and all, changes nothing that makes the record without being found by an
    auditor who kept receipts and heads. Method: seeded random changes of copies of a database, each checked."""
    settings = copied(history, tmp_path)
    assert [found for found in check_journals(settings, history.held()) if found["error"] is not None] == []
    rng, found = random.Random(78), Counter[str]()
    wanted = tries(30, 4000)
    while found.total() < wanted:
        settings = copied(history, tmp_path)
        how = rng.choice(HOWS)
        owner = Owner(settings)
        try:
            done = how(rng, owner)
        finally:
            owner.close()
        if done is not None:
            demand_found(settings, history.held(), done)
            found[how.__name__] += 1
    print(f"found and located: {dict(found)}")


def test_a_backup_that_was_put_back(history: History, tmp_path: Path) -> None:
    """Goal: a database that was set back, in which everything adds up, is told by what was kept since, and where it
    ends is named. Method: an earlier copy of the whole file; the check without receipts and heads finds nothing."""
    settings = copied(history, tmp_path, history.earlier)
    assert {found["error"] for found in check_journals(settings)} == {None}
    faults = {
        found["dataset"]: found for found in check_journals(settings, history.held()) if found["error"] is not None
    }
    assert set(faults) == {None, *WATCHED}
    for fault in faults.values():
        assert (fault["seq"], "is missing" in fault["error"]) == (fault["entries"] + 1, True) or fault["entries"] == 0


def test_tampering_on_postgresql(postgresql: Settings, tmp_path: Path, tries: Callable[[int, int], int]) -> None:
    """Goal: the same on PostgreSQL. Method: a few changes, after each of which the rows are put back."""
    history = history_of(postgresql, tmp_path)
    owner = Owner(postgresql)
    whole = {table: [row._asdict() for row in owner.rows(table)] for table in tables.metadata.sorted_tables}
    rng, found = random.Random(79), Counter[str]()
    wanted = tries(6, 200)
    while found.total() < wanted:
        how = rng.choice(HOWS)
        if (done := how(rng, owner)) is None:
            continue
        demand_found(postgresql, history.held(), done)
        found[how.__name__] += 1
        with owner.engine.begin() as connection:
            for table in reversed(tables.metadata.sorted_tables):
                connection.execute(delete(table))
            for table, rows in whole.items():
                if rows:
                    connection.execute(insert(table), rows)
    owner.close()
    assert {each["error"] for each in check_journals(postgresql, history.held())} == {None}
