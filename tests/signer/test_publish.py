"""Heads that are published in a folder: added one by one, never over one another, and held against the database."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event

from ledger.access.keys import tenant_of
from ledger.operate.check import check_journals
from ledger.settings import Settings
from ledger.signer.heads import Heads
from ledger.signer.publish import Publisher
from ledger.verifier import jws
from ledger.verifier.jws import PublicKeys, SigningKey
from ledger.verifier.witness import Witnesses
from tests.kit.driver import Ledger
from tests.kit.scene import ok
from tests.signer.test_heads import changed


class Published:
    """A folder, and a publisher that makes a round when it is told."""

    def __init__(self, ledger: Ledger, folder: Path) -> None:
        self.ledger, self.folder = ledger, folder
        self.tenant_id = tenant_of(ledger.key)
        self.outcomes: Counter[str] = Counter()
        self.services = ledger.client.app.state.services
        self.restart()

    def restart(self) -> None:
        """What a server that is started again knows: nothing but the folder and the database."""
        self.publisher = Publisher(
            self.services.store,
            Heads(self.services.store, self.services.signer),
            self.folder,
            keys=self.services.signer.public_keys(),
            on_outcome=self.note,
            on_contradiction=lambda tenant_id, alert: self.services.writer.tell(tenant_id, [alert]).result(),
            gather_seconds=0,
            check_seconds=60,
        )

    def note(self, outcome: str) -> None:
        self.outcomes[outcome] += 1

    def round(self) -> dict[str, int]:
        """What became of the heads."""
        self.outcomes.clear()
        self.publisher.round([self.tenant_id])
        return dict(self.outcomes)

    def file(self, name: str = "mnist") -> Path:
        if name == "tenant":
            return self.folder / str(self.tenant_id) / "tenant.jws"
        with self.services.store.reading(self.tenant_id) as reading:
            return self.folder / str(self.tenant_id) / f"{reading.datasets.by_name(name).id}.jws"

    def seqs(self, name: str = "mnist") -> list[int]:
        keys = self.services.signer.public_keys()
        lines = self.file(name).read_text().splitlines()
        return [jws.read(line, keys=keys, typ=jws.HEAD)["seq"] for line in lines]


@pytest.fixture
def published(ledger: Ledger, tmp_path: Path) -> Published:
    """A ledger with a dataset, and a folder for its heads."""
    ledger.register()
    return Published(ledger, tmp_path / "heads")


def test_heads_are_added_as_journals_move(published: Published) -> None:
    """Goal: a line for each round in which a journal moved, the newest head as the server answers it, and what was
    there stays. Method: rounds with and without changes, one after a start anew."""
    assert published.round() == {"published": 2}
    before = published.file().read_bytes()
    assert published.round() == {}
    published.ledger.ask()
    published.restart()
    assert published.round() == {"published": 1}
    assert published.file().read_bytes().startswith(before)
    assert (published.seqs(), len(published.seqs("tenant"))) == ([1, 2], 1)
    head = ok(published.ledger.get("/v1/datasets/mnist/head"))
    assert published.file().read_text().splitlines()[-1] == head["signature"]


def test_a_line_that_was_not_finished(published: Published) -> None:
    """Goal: a process that was killed while it wrote leaves a file that goes on. Method: half a line at the end."""
    published.round()
    whole = published.file().read_bytes()
    published.file().write_bytes(whole + whole[:50])
    published.ledger.ask()
    published.restart()
    assert published.round() == {"published": 1}
    assert published.seqs() == [1, 2]
    published.file().write_bytes(whole[:30])
    published.restart()
    assert published.round() == {"published": 1}
    assert published.seqs() == [2]


REWRITTEN = "UPDATE entries SET hash = zeroblob(32) WHERE seq = 2"
TAMPERINGS = {
    "an entry is another": [REWRITTEN, "DELETE FROM places"],
    "the end is gone": ["DELETE FROM places", "DELETE FROM entries WHERE seq > 1", "UPDATE datasets SET seq = 1"],
    "the dataset is gone": [
        *(
            f"DELETE FROM {table}"
            for table in ("places", "accounts", "entries", "projects", "days", "tallies", "datasets")
        ),
    ],
    "an earlier entry is another": ["UPDATE entries SET hash = zeroblob(32) WHERE seq = 1"],
}


@pytest.mark.parametrize("how", TAMPERINGS)
def test_a_database_that_contradicts_what_was_published(
    published: Published, database: Settings, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Goal: it is logged, counted, told of once, and what was published stays as it is. Method: each way to rewrite
    history, found by a server that is started later; the command for auditors finds it too, and names the entry."""
    published.ledger.ask()
    published.round()
    published.ledger.ask()
    before = published.file().read_bytes()
    file = published.file()
    statements = [
        each if database.is_sqlite else each.replace("zeroblob(32)", r"decode(repeat('00', 32), 'hex')")
        for each in TAMPERINGS[how]
    ]
    changed(database, *statements)
    published.restart()
    for _ in range(2):
        with caplog.at_level(logging.CRITICAL, logger="ledger.signer.publish"):
            assert published.round()["contradicted"] == 1
        assert "CONTRADICTS" in caplog.text
    assert file.read_bytes() == before
    held = Witnesses()
    held.add_heads(before.decode(), keys=published.services.signer.public_keys(), source="published")
    first = 1 if how == "the dataset is gone" else 2
    told = ok(published.ledger.get("/v1/alerts", kind="mismatch"))["items"]
    assert [each["event"]["seq"] for each in told if "published" in each["event"]["reason"]] == [first]
    faults = {found["dataset"]: found["seq"] for found in check_journals(database, held) if found["error"] is not None}
    assert faults["mnist"] == {"an entry is another": 2, "the end is gone": 2}.get(how, 1), faults


def test_files_that_are_not_what_was_published(published: Published) -> None:
    """Goal: a file that somebody else wrote is reported, and nothing is added to it. Method: another key's head,
    another journal's, and no head at all; the other journal's goes on."""
    published.round()
    of_tenant = published.file("tenant").read_bytes()
    forged = jws.sign(json.dumps({"seq": 1}), key=SigningKey.generate(), typ=jws.HEAD).encode()
    for line in (forged, of_tenant.strip(), b"x" * 100_000, "\N{SNOWMAN}".encode()):
        published.file().write_bytes(line + b"\n")
        ok(published.ledger.post("/v1/keys", {"name": "another", "role": "auditor"}))
        published.ledger.ask()
        published.restart()
        found = published.round()
        assert found["contradicted"] >= 1, line[:20]
        assert found["published"] == 1
        assert published.file().read_bytes() == line + b"\n"


def test_a_folder_that_cannot_be_written(published: Published, tmp_path: Path) -> None:
    """Goal: a full or missing disk stops nothing, is counted, and is tried again. Method: a file where the folder is to
    be, and then not."""
    published.folder.write_text("in the way")
    assert published.round() == {"failed": 1}
    published.ledger.ask()
    published.folder.unlink()
    assert published.round() == {"published": 2}


def test_several_processes_publish_into_one_folder(published: Published) -> None:
    """Goal: two servers add no head twice, and take no other's for a contradiction. Method: two publishers, each of
    which knows of fewer entries than the other has published, in turn and at once."""
    first = published.publisher
    published.restart()
    second = published.publisher
    for publisher in (first, second, first, second, second, first):
        published.ledger.ask()
        publisher.round([published.tenant_id])
    published.ledger.ask()
    both = [threading.Thread(target=each.round, args=([published.tenant_id],)) for each in (first, second)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert published.seqs() == list(range(2, 9))
    assert set(published.outcomes) == {"published"}


@contextlib.contextmanager
def serving(settings: Settings, folder: Path) -> Iterator[Ledger]:
    """An application that publishes."""
    with Ledger.open(settings.model_copy(update={"heads_dir": folder})) as opened:
        yield opened


def test_a_server_publishes_by_itself(database: Settings, tmp_path: Path) -> None:
    """Goal: with LEDGER_HEADS_DIR set, what was decided is published at the latest when the server ends, and counted in
    /metrics. Method: an application that is opened and closed."""
    folder = tmp_path / "published"
    with serving(database, folder) as ledger:
        ledger.register()
        ledger.ask()
        assert 'ledger_heads_total{outcome="contradicted"} 0.0' in ledger.client.get("/metrics").text
        jwks: dict[str, Any] = ok(ledger.client.get("/.well-known/jwks.json"))
        head = ok(ledger.get("/v1/datasets/mnist/head"))
    (tenant,) = folder.iterdir()
    files = {file.name for file in tenant.iterdir()}
    assert len(files) == 2
    assert "tenant.jws" in files
    (mnist,) = (file for file in tenant.iterdir() if file.name != "tenant.jws")
    assert (str(UUID(tenant.name)), str(UUID(mnist.stem))) == (tenant.name, mnist.stem)
    newest = mnist.read_text().splitlines()[-1]
    assert newest == head["signature"]
    assert jws.read(newest, keys=PublicKeys.of(jwks), typ=jws.HEAD)["seq"] == 2


def test_what_did_not_move_is_compared_by_the_page(published: Published) -> None:
    """Goal: the regular check of everything that was published opens those tenants alone whose journals differ from it.
    Method: the statements of a check that finds all as it was, with one dataset and with nine; of one after a run, and
    of one whose newest head is of another history."""
    statements: list[str] = []
    event.listen(
        published.services.store.engine,
        "before_cursor_execute",
        lambda _c, _cu, statement, *_: statements.append(statement) if "SET LOCAL" not in statement else None,
    )

    def checked() -> list[str]:
        statements.clear()
        published.outcomes.clear()
        published.publisher._turn(True)
        return [statement for statement in statements if not statement.startswith("BEGIN")]

    published.round()
    assert len(checked()) == 1
    for number in range(8):
        published.ledger.register(name=f"more-{number}")
    assert len(checked()) > 1
    assert published.outcomes["published"] == 8
    assert len(checked()) == 1
    published.ledger.ask()
    checked()
    assert dict(published.outcomes) == {"published": 1}
    published.file().unlink()
    published.restart()
    checked()
    assert dict(published.outcomes) == {"published": 1}
