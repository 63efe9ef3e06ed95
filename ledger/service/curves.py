"""Composed curves of each tenant, in memory: a request with another delta reuses what was composed before."""

from __future__ import annotations

import threading
from typing import Final
from uuid import UUID

from cachetools import LRUCache

from ledger.accounting.certificate import Certificate, Key

BYTES_MAX: Final = 72 * 2**20
"""The most bytes that the curves of all tenants may take; the largest curve takes 70 MB."""
OVERHEAD_BYTES: Final = 2048


class Curves:
    """Keeps the curves that were used last."""

    def __init__(self, bytes_max: int = BYTES_MAX) -> None:
        self._lock = threading.Lock()
        self._kept = LRUCache[tuple[UUID, Key], Certificate](bytes_max, getsizeof=_size)

    def of(self, tenant_id: UUID) -> Shelf:
        """Return a tenant's curves."""
        return Shelf(self, tenant_id)

    def get(self, key: tuple[UUID, Key]) -> Certificate | None:
        """Return a stored value, or None if it is gone."""
        with self._lock:
            kept: Certificate | None = self._kept.get(key)
            return kept

    def put(self, key: tuple[UUID, Key], certificate: Certificate) -> None:
        """Store a certificate with its current size; one that is larger than the limit is not stored."""
        with self._lock:
            self._kept.pop(key, None)
            if _size(certificate) <= self._kept.maxsize:
                self._kept[key] = certificate


class Shelf:
    """The curves of one tenant, for `certificate.keeping`."""

    def __init__(self, curves: Curves, tenant_id: UUID) -> None:
        self._curves, self._tenant_id = curves, tenant_id

    def get(self, key: Key) -> Certificate | None:
        """Return a stored certificate, or None if it is gone."""
        return self._curves.get((self._tenant_id, key))

    def put(self, key: Key, certificate: Certificate) -> None:
        """Store a certificate."""
        self._curves.put((self._tenant_id, key), certificate)


def _size(certificate: Certificate) -> int:
    return certificate.size + OVERHEAD_BYTES
