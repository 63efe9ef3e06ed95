"""Idempotency keys and names: claimed."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Claimed:
    """What an idempotency key already stands for."""

    principal_id: UUID
    digest: bytes
    run_id: UUID
