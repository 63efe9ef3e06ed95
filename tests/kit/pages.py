"""Somebody at the pages: through the HTTP client, as a browser sends it, without one."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from html import unescape
from typing import Any
from urllib.parse import urlencode

from sqlalchemy import Connection

from ledger.settings import Settings
from tests.kit.driver import Ledger, past_the_ledger

HOST = "127.0.0.1:8000"
ORIGIN = f"http://{HOST}"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class Visitor:
    """A browser without a window: it keeps the cookie, and states where its forms come from."""

    def __init__(self, ledger: Ledger, *, scheme: str = "http", host: str | None = None) -> None:
        """host: default that of a server of its own, and HOST for an application in this process."""
        served = ledger.client.base_url
        here = served.netloc.decode() if served.host == "127.0.0.1" else HOST
        self._client, self.origin = ledger.client, f"{scheme}://{host or here}"
        self.cookies: dict[str, str] = {}

    @classmethod
    def signed_in(cls, ledger: Ledger) -> Visitor:
        """Somebody who has signed in with the key of this client."""
        visitor = cls(ledger)
        answer = visitor.send("/ui/sign-in", key=ledger.key)
        assert answer.status_code == 303, answer.text
        return visitor

    def get(self, path: str, *, method: str = "GET", **headers: str) -> Any:
        return self._ask(method, path, headers)

    def page(self, path: str) -> str:
        """The text of a page that has to be there."""
        answer = self.get(path)
        assert answer.status_code == 200, (answer.status_code, answer.text)
        return str(answer.text)

    def send(self, path: str, *, headers: dict[str, str] | None = None, **fields: str) -> Any:
        """Send a form."""
        stated = {"origin": self.origin, "sec-fetch-site": "same-origin", **FORM, **(headers or {})}
        stated = {name: value for name, value in stated.items() if value}
        return self._ask("POST", path, stated, content=urlencode(fields))

    def token(self, path: str = "/ui") -> str:
        """The token that the forms of a page have."""
        found = re.search(r'name="csrf" value="([^"]+)"', self.page(path))
        assert found is not None
        return found[1]

    def _ask(self, method: str, path: str, headers: dict[str, str], **rest: Any) -> Any:
        cookie = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        given = {**({"cookie": cookie} if cookie else {}), **headers}
        answer = self._client.request(method, f"{self.origin}{path}", headers=given, follow_redirects=False, **rest)
        self._client.cookies.clear()  # it is kept here, whatever else the client's other users do
        for header in answer.headers.get_list("set-cookie"):
            name, _, rest_of_it = header.partition("=")
            value = rest_of_it.partition(";")[0].strip('"')
            if value and "Max-Age=0" not in header:
                self.cookies[name] = value
            else:
                self.cookies.pop(name, None)
        return answer


def words_of(page: str) -> str:
    """What a page says, without its tags, in one line."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", page)).split())


@contextlib.contextmanager
def behind(settings: Settings) -> Iterator[Connection]:
    """A transaction of the owner's, behind the ledger's back, that commits."""
    engine = past_the_ledger(settings)
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()
