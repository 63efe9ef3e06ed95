"""What paths name."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path

from ledger.mistakes import ID_PATTERN
from ledger.service.ids import PREFIX_LENGTH_MIN

AnyId = Annotated[
    str,
    Path(
        pattern=ID_PATTERN,
        description=(
            f"The id, or its first {PREFIX_LENGTH_MIN} characters or more. If several ids begin with them, nothing is"
            " done and the answer is 422 with `ids`, the first of those."
        ),
    ),
]
"""An id, or the beginning of one."""
