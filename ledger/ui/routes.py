"""Every page: its path, who may see it, and the function that answers."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from starlette.routing import compile_path

if TYPE_CHECKING:
    from starlette.responses import Response

    from ledger.ui.view import View


class Item(NamedTuple):
    """An entry of the menu. action: who may see it, by `ledger.access.roles`."""

    title: str
    path: str
    action: str


@dataclass(frozen=True, slots=True)
class Route:
    """A page. action: what the signed-in person must be allowed to do. function: its module in `pages`, and name."""

    method: Literal["GET", "POST"]
    path: str
    action: str
    function: str

    def match(self, path: str) -> dict[str, str] | None:
        """Return the parameters of a path; None if it is another page's."""
        found = _pattern(self.path).match(path)
        return None if found is None else found.groupdict()

    def load(self) -> Callable[[View], Awaitable[Response]]:
        """Return the function that answers."""
        module, _, name = self.function.partition(":")
        function: Callable[[View], Awaitable[Response]] = getattr(import_module(f"ledger.ui.pages.{module}"), name)
        return function


@cache
def _pattern(path: str) -> re.Pattern[str]:
    return compile_path(path)[0]


MENU: Final = (
    Item("Overview", "/ui", "read"),
    Item("Datasets", "/ui/datasets", "read"),
    Item("Approvals", "/ui/approvals", "read"),
    Item("Runs", "/ui/search", "read"),
    Item("Planner", "/ui/planner", "read"),
    Item("Report", "/ui/report", "read"),
    Item("Alerts", "/ui/alerts", "read"),
    Item("Keys", "/ui/keys", "manage keys"),
    Item("Policy", "/ui/policy", "read"),
)
PAGES: Final = (
    Route("GET", "/ui", "read", "overview:show"),
    Route("GET", "/ui/datasets", "read", "dataset:listed"),
    Route("GET", "/ui/datasets/{name}", "read", "dataset:show"),
    Route("GET", "/ui/register", "register datasets", "register:show"),
    Route("POST", "/ui/register", "register datasets", "register:register"),
    Route("POST", "/ui/runs", "ask for runs", "planner:ask"),
    Route("GET", "/ui/runs/{id}", "read", "run:show"),
    Route("GET", "/ui/runs/{id}/receipt", "read", "run:receipt"),
    Route("GET", "/ui/approvals", "read", "approvals:listed"),
    Route("GET", "/ui/approvals/{id}", "read", "approvals:show"),
    Route("POST", "/ui/approvals/{id}/approve", "manage datasets", "approvals:approve"),
    Route("POST", "/ui/approvals/{id}/refuse", "manage datasets", "approvals:refuse"),
    Route("GET", "/ui/search", "read", "search:show"),
    Route("GET", "/ui/planner", "read", "planner:show"),
    Route("GET", "/ui/report", "read", "report:show"),
    Route("GET", "/ui/report/{form}", "read the journal", "report:download"),
    Route("GET", "/ui/alerts", "read", "alerting:show"),
    Route("POST", "/ui/alerts", "set alerts", "alerting:change"),
    Route("POST", "/ui/alerts/test", "set alerts", "alerting:test"),
    Route("GET", "/ui/keys", "manage keys", "people:keys"),
    Route("POST", "/ui/keys", "manage keys", "people:make_key"),
    Route("POST", "/ui/keys/{id}/rotate", "manage keys", "people:rotate_key"),
    Route("POST", "/ui/keys/{id}/revoke", "manage keys", "people:revoke_key"),
    Route("GET", "/ui/policy", "read", "people:policy"),
    Route("POST", "/ui/policy", "manage keys", "people:set_policy"),
)
