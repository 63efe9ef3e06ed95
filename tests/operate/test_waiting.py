"""`serve` waits for a PostgreSQL that does not answer yet, and not for one that rejects it for good."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable

import pytest
from pydantic import SecretStr
from sqlalchemy import make_url

from ledger.errors import DatabaseUnusable
from ledger.operate.deploy import wait_for
from ledger.settings import Settings


def at(settings: Settings, *, wait_seconds: int = 60, **parts: str | int) -> Settings:
    """The settings with another part of the database's URL."""
    url = make_url(settings.database_url.get_secret_value()).set(**parts)  # type: ignore[arg-type]
    shown = SecretStr(url.render_as_string(hide_password=False))
    return settings.model_copy(update={"database_url": shown, "database_wait_seconds": wait_seconds})


def never(_seconds: float) -> None:
    """Fail, where nobody should wait."""
    raise AssertionError("it waited")


def test_it_waits_until_the_database_answers(postgresql: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """Goal: it connects as soon as somebody listens, says why it waits, and waits for longer each time. Method: a port
    on which nobody listens, to which the database is connected while it waits for the third time."""
    real = make_url(postgresql.database_url.get_secret_value())
    waited: list[float] = []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = listener.getsockname()
        forwarding = threading.Thread(target=_forward, args=(listener, (real.host, real.port)))

        def sleep(seconds: float) -> None:
            waited.append(seconds)
            if len(waited) == 3:
                listener.listen()
                forwarding.start()

        with caplog.at_level(logging.WARNING, logger="ledger.operate.deploy"):
            wait_for(at(postgresql, host="127.0.0.1", port=address[1]), sleep=sleep)
        forwarding.join()
    assert waited == [0.5, 1.0, 2.0]
    assert caplog.text.count("waiting for the database") == 3


def _forward(listener: socket.socket, to: tuple[str, int]) -> None:
    """Connect the first who comes with another address, until both have closed."""
    client, _ = listener.accept()
    with client, socket.create_connection(to) as server:
        both = [threading.Thread(target=_copy, args=pair) for pair in ((client, server), (server, client))]
        for copying in both:
            copying.start()
        for copying in both:
            copying.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda settings: at(settings, password="another"),
        lambda settings: at(settings, database="nothing_of_this_name"),
        lambda settings: at(settings, username="nobody_of_this_name"),
    ],
    ids=["password", "database", "role"],
)
def test_it_does_not_wait_where_that_helps_nothing(postgresql: Settings, wrong: Callable[[Settings], Settings]) -> None:
    """Goal: a mistake in the URL is an error at once. Method: each part of it."""
    with pytest.raises(DatabaseUnusable):
        wait_for(wrong(postgresql), sleep=never)


def test_it_gives_up(postgresql: Settings) -> None:
    """Goal: the wait is bounded. Method: no time to wait, and a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nowhere = at(postgresql, wait_seconds=0, host="127.0.0.1", port=probe.getsockname()[1])
        with pytest.raises(DatabaseUnusable):
            wait_for(nowhere, sleep=never)
