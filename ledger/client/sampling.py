"""The assumption that a mechanism makes about how batches are drawn, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

POISSON: Final = "assumes Poisson sampling: each unit is in a batch independently of all others"
_SAMPLED: Final = frozenset({"dpsgd", "dpsgd_schedule"})


def is_poisson(declared: Mapping[str, Any]) -> bool:
    """Return whether a mechanism, as the JSON object that is sent, declares Poisson batches."""
    if declared.get("type") == "composed":
        parts = declared.get("parts")
        return isinstance(parts, list) and any(isinstance(part, Mapping) and is_poisson(part) for part in parts)
    return declared.get("type") in _SAMPLED and declared.get("sampling") == "poisson"
