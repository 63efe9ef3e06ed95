"""A server that is told to stop breaks no answer: behind a balancer, and for clients that keep their connections."""

from __future__ import annotations

import http.client
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from ledger.settings import Settings
from tests.kit.driver import Served, environment, first_keys, serve_forked
from tests.kit.trials import trials

WAIT_SECONDS_MAX = 60.0


@contextmanager
def serving(settings: Settings, folder: Path, **more: str) -> Iterator[Served]:
    """A server process with settings of its own."""
    command = ["ledger", "serve"] if settings.is_sqlite else ["uvicorn", "ledger.api.app:create_app", "--factory"]
    if not settings.is_sqlite:
        command += ["--http", "ledger.api.protocol:Patient"]
    with serve_forked(command, folder, environment(settings) | more) as served:
        yield served


def until(condition: Callable[[], bool]) -> None:
    """Ask again until it is so."""
    due = time.monotonic() + WAIT_SECONDS_MAX
    while not condition():
        assert time.monotonic() < due


def is_ready(url: str) -> bool:
    """Whether a server says that it can work."""
    try:
        return httpx.get(f"{url}/readyz", timeout=10).status_code == 200
    except httpx.TransportError:
        return False


def test_what_a_stopping_server_answers(database: Settings, tmp_path: Path) -> None:
    """Goal: from the signal on /readyz is 503 and each answer says that its connection closes, as it then does;
    requests are still answered. Method: a connection that was kept, and new ones, while a server drains; a second
    signal ends it."""
    key = first_keys(database).admin_key
    with serving(database, tmp_path, LEDGER_DRAIN_SECONDS="600") as served:
        address = urlsplit(served.url)
        with closing(http.client.HTTPConnection(str(address.hostname), address.port, timeout=60)) as kept:

            def get(path: str) -> http.client.HTTPResponse:
                kept.request("GET", path, headers={"Authorization": f"Bearer {key}"})
                answer = kept.getresponse()
                answer.read()
                return answer

            before = get("/v1/me")
            assert (before.status, before.getheader("connection")) == (200, None)
            os.kill(served.pid, signal.SIGTERM)
            until(lambda: httpx.get(f"{served.url}/readyz").status_code == 503)
            after = get("/v1/me")
            assert (after.status, after.getheader("connection")) == (200, "close")
            assert kept.sock is None  # http.client has seen the end of the connection
        assert httpx.get(f"{served.url}/healthz").headers["connection"] == "close"
        os.kill(served.pid, signal.SIGTERM)
        until(lambda: not _listens(served.url))


def wait_for_more(balancer: Balancer, count: int) -> None:
    """Wait until this many answers were counted."""
    until(lambda: sum(balancer.counts.values()) > count)


def wait_for_end(url: str) -> None:
    """Wait until nobody listens there any more."""
    until(lambda: not _listens(url))


def _listens(url: str) -> bool:
    try:
        httpx.get(f"{url}/healthz", timeout=10)
    except httpx.TransportError:
        return False
    return True


class Balancer:
    """Sends each request to a server that is ready, as a proxy does that looks at /readyz and keeps connections."""

    def __init__(self, urls: list[str]) -> None:
        self.urls, self.ready = urls, list(urls)
        self.is_over = threading.Event()
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def look(self) -> None:
        while not self.is_over.is_set():
            self.ready = [url for url in list(self.urls) if is_ready(url)] or self.ready

    def pass_on(self, key: str) -> None:
        """Ask again and again over connections that are kept, and count what becomes of it."""
        with ExitStack() as stack:
            clients: dict[str, httpx.Client] = {}
            number = 0
            while not self.is_over.is_set():
                number += 1
                url = self.ready[number % len(self.ready)]
                if url not in clients:
                    clients[url] = stack.enter_context(httpx.Client(base_url=url, timeout=60))
                try:
                    answer = clients[url].get("/v1/me", headers={"Authorization": f"Bearer {key}"})
                    outcome = str(answer.status_code)
                except httpx.TransportError as error:
                    outcome = type(error).__name__
                with self._lock:
                    self.counts[outcome] += 1


def test_a_rolling_restart_breaks_no_answer(postgresql: Settings, tmp_path: Path) -> None:
    """Goal: servers that are replaced one after another, behind something that asks /readyz, break no answer. Method:
    four callers over kept connections; each server in turn gets the signal and drains, and a new one takes its port's
    place."""
    key = first_keys(postgresql).admin_key
    rounds = trials(2, 20)
    with ExitStack() as stack:
        folders = [tmp_path / str(number) for number in range(2 + rounds)]
        for folder in folders:
            folder.mkdir()

        def start(folder: Path) -> Served:
            return stack.enter_context(serving(postgresql, folder, LEDGER_DRAIN_SECONDS="3"))

        servers = [start(folder) for folder in folders[:2]]
        balancer = Balancer([served.url for served in servers])
        threads = [threading.Thread(target=balancer.look)]
        threads += [threading.Thread(target=balancer.pass_on, args=(key,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            for number in range(rounds):
                before = sum(balancer.counts.values())
                wait_for_more(balancer, before + 200)
                servers.append(start(folders[2 + number]))
                balancer.urls = [served.url for served in servers]
                old = servers.pop(0)
                until(lambda: servers[-1].url in balancer.ready)
                os.kill(old.pid, signal.SIGTERM)
                wait_for_end(old.url)
        finally:
            balancer.is_over.set()
            for thread in threads:
                thread.join()
    assert set(balancer.counts) == {"200"}, balancer.counts
