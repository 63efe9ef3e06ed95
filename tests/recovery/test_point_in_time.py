"""PostgreSQL restored from a base backup and archived WAL: to a point in time that is noticed, and to the end, which
loses nothing."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import make_url

from ledger.operate import deploy
from ledger.operate.check import check_journals
from ledger.settings import Settings
from tests.conftest import Templates
from tests.kit import postgres
from tests.kit.databases import connected
from tests.kit.driver import Ledger, application, first_keys
from tests.kit.inside import InsideClient
from tests.kit.scene import ok
from tests.recovery.test_restored import BIG

ARCHIVING = {"archive_mode": "on", "archive_command": "cp %p ../archive/%f", "wal_level": "replica"}
KINDS = [kind for kind in postgres.chosen() if kind in ("installed", "wheel")]


class Cluster:
    """A PostgreSQL server that archives its WAL, and servers that are restored from its base backup."""

    def __init__(self, server: postgres.Server) -> None:
        self.server, self.user = server, postgres.os_user()
        shown = server.session.execute("SHOW data_directory").fetchone()
        assert shown is not None
        self.home = Path(shown[0]).parent
        self.bin = self.home / "bin"
        if not (self.bin / "pg_basebackup").exists():
            pytest.skip("this PostgreSQL comes without pg_basebackup")
        (self.home / "archive").mkdir()
        self.user.own(self.home / "archive")

    def back_up(self) -> None:
        """Take the base backup."""
        url = self.server.admin_url.replace("postgresql+psycopg", "postgresql")
        self.user.run(
            *(self.bin / "pg_basebackup", f"--dbname={url}", f"--pgdata={self.home / 'base'}"),
            *("--wal-method=stream", "--checkpoint=fast"),
        )

    def mark(self, name: str) -> None:
        """Name this point in time."""
        self.server.session.execute("SELECT pg_create_restore_point(%s)", [name])

    def archive_all(self) -> None:
        """End the segment of WAL that is written, and wait until it is in the archive."""
        row = self.server.session.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchone()
        assert row is not None
        with contextlib.closing(connected(self.server.admin_url)) as session:
            while not (self.home / "archive" / row[0]).exists():
                session.execute("SELECT pg_stat_clear_snapshot(), pg_sleep(0.01)")

    @contextlib.contextmanager
    def restored(self, target: str | None) -> Iterator[int]:
        """A server on the base backup and the archived WAL, up to a named point, or all of it; its port."""
        data = self.home / f"restored-{target}"
        shutil.copytree(self.home / "base", data)
        lines = ["restore_command = 'cp ../archive/%f %p'", "archive_mode = 'off'"]
        lines += [f"recovery_target_name = '{target}'", "recovery_target_action = 'promote'"] if target else []
        with (data / "postgresql.auto.conf").open("a") as conf:
            conf.writelines(f"{line}\n" for line in lines)
        (data / "recovery.signal").touch()
        self.user.own(data)
        data.chmod(0o700)
        port = postgres.free_port()
        started = "-D", data, "-l", data / "log", "-o", f"-p {port}", "-w", "-t", "60"
        try:
            self.user.run(self.bin / "pg_ctl", *started, "start")
            self._wait_for_the_end_of_recovery(port)
            yield port
        finally:
            self.user.run(self.bin / "pg_ctl", "-D", data, "-m", "immediate", "stop")

    def _wait_for_the_end_of_recovery(self, port: int) -> None:
        url = make_url(self.server.admin_url).set(port=port).render_as_string(hide_password=False)
        with contextlib.closing(connected(url)) as session:
            while session.execute("SELECT pg_is_in_recovery()").fetchone() != (False,):
                session.execute("SELECT pg_sleep(0.01)")


@pytest.fixture(params=KINDS)
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A server of its own, because it is backed up as a whole."""
    with postgres.from_binaries(postgres.binaries(request.param), {**postgres.OPTIONS, **ARCHIVING}) as server:
        yield Cluster(server)


def at_port(settings: Settings, port: int) -> Settings:
    """The settings for the same database on another server."""
    urls = {
        name: SecretStr(make_url(secret.get_secret_value()).set(port=port).render_as_string(hide_password=False))
        for name in ("database_url", "owner_database_url")
        if (secret := getattr(settings, name)) is not None
    }
    return settings.model_copy(update=urls)


def test_a_point_in_time_is_noticed_and_the_end_loses_nothing(cluster: Cluster, tmp_path: Path) -> None:
    """Goal: as in the title. Method: an approval before the base backup, one after it, a named point, and one after
    that; the ledger served on both restored servers, next to the heads that the first one kept."""
    url = postgres.create_database(cluster.server, "ledger_in_time")
    settings = Templates.settings(url).model_copy(update={"kept_heads_file": tmp_path / "kept", "watch_seconds": 3600})
    deploy.migrate(settings)
    first = first_keys(settings)

    @contextlib.contextmanager
    def served(chosen: Settings) -> Iterator[Ledger]:
        with InsideClient(application(chosen)) as client:
            yield Ledger(client, first.admin_key)

    with served(settings) as ledger:
        for name in ("lost", "whole"):
            ledger.register(name=name)
        cluster.back_up()
        ok(ledger.ask(datasets=["whole"]))
        cluster.mark("before")
        ok(ledger.ask(BIG, datasets=["lost"]))
        head = ok(ledger.get("/v1/datasets/lost/head"))
    cluster.archive_all()
    with cluster.restored("before") as port, served(at_port(settings, port)) as ledger:
        refused = ledger.ask(BIG, datasets=["lost"]).json()
        assert (refused["code"], refused["kept_seq"], refused["stored_seq"]) == ("journal-contradicted", 2, 1)
        assert "entry 2 is missing" in refused["detail"]
        assert ledger.get("/v1/datasets/whole").json()["balance"]["held"]["mu"] > 0
        assert ok(ledger.get("/readyz"))["contradicted"][0]["missing"] == "entry 2 is missing"
    with cluster.restored(None) as port:
        whole = at_port(settings, port)
        assert [found["error"] for found in check_journals(whole)] == [None] * 3
        with served(whole) as ledger:
            assert ok(ledger.get("/v1/datasets/lost/head"))["hash"] == head["hash"]
            assert ledger.ask(BIG, datasets=["lost"]).json()["code"] == "budget-exceeded"
            assert "contradicted" not in ok(ledger.get("/readyz"))
