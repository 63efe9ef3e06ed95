"""Build what the first requests need before there are any: routes, and the validators of bodies.

FastAPI and Pydantic build these when a request needs them first. That takes a tenth of a second of the event loop, for
which everybody waits who asks meanwhile.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, Final, cast

from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from ledger.api.routing import adapter

_NOWHERE: Final[dict[str, Any]] = {"type": "http", "method": "GET", "path": "/-", "root_path": "", "headers": []}
"""A request that no route matches, so every route is built to find that out."""


def build(matched: Iterable[BaseRoute], declared: Iterable[BaseRoute]) -> None:
    """Build the routes that requests are matched with, and the validators of the bodies of the declared ones."""
    for route in matched:
        route.matches(dict(_NOWHERE))
    for route in declared:
        if isinstance(route, APIRoute) and route.body_field is not None:
            adapter(cast("Hashable", route.body_field.field_info.annotation))
