"""The parameters of lists."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import Query

LIMIT_MAX: Final = 1000
CURSOR_LENGTH_MAX: Final = 500

Limit = Annotated[int, Query(ge=1, le=LIMIT_MAX, description="The largest number of items in the answer.")]
Cursor = Annotated[str | None, Query(max_length=CURSOR_LENGTH_MAX, description="The `next` of the page before.")]
