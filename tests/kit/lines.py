"""A line to a server that can be cut: a TCP proxy on the loopback."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Line:
    """The way to a server. is_cut: connections are broken off, and new ones closed at once. loses_answers: requests
    arrive, and the line breaks before their answer."""

    target: tuple[str, int]
    url: str = ""
    is_cut: bool = False
    loses_answers: bool = False
    is_over: bool = False
    open: list[socket.socket] = field(default_factory=list)

    def cut(self) -> None:
        """Break every connection, and make no new one."""
        self.is_cut = True
        for connection in list(self.open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Let everything pass."""
        self.is_cut = self.loses_answers = False

    def carry(self, near: socket.socket) -> None:
        """Carry one connection, until one side ends it."""
        with near, contextlib.suppress(OSError), socket.create_connection(self.target) as far:
            self.open += [near, far]
            others = {near: far, far: near}
            while not self.is_cut:
                for side in select.select([near, far], [], [])[0]:
                    data = side.recv(65536)
                    if not data or (side is far and self.loses_answers):
                        return
                    others[side].sendall(data)


@contextlib.contextmanager
def line_to(url: str) -> Iterator[Line]:
    """Open a line to the server at a URL."""
    parts = urlsplit(url)
    line = Line((str(parts.hostname), parts.port or 80))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        line.url = f"http://127.0.0.1:{listening.getsockname()[1]}"

        def accept() -> None:
            while True:
                near, _ = listening.accept()
                if line.is_over:
                    near.close()
                    return
                if line.is_cut:
                    near.close()
                else:
                    threading.Thread(target=line.carry, args=(near,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield line
        finally:
            line.is_over = True
            line.cut()
            with contextlib.suppress(OSError):
                socket.create_connection(listening.getsockname()).close()
            thread.join()
