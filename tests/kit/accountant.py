"""A stand-in for the accountant where certificates are costed: it counts its calls, and can be held or told to fail."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

from ledger.accounting import amounts, mechanisms
from ledger.accounting.cost import Cost
from ledger.accounting.mechanisms import AnyMechanism
from ledger.accounting.terms import Terms

WAIT_SECONDS_MAX = 30.0
DPSGD = {"type": "dpsgd", "noise_multiplier": 1.1, "sampling": "poisson", "sample_rate": 0.01, "steps": 1000}
GAUSSIAN = {"type": "gaussian", "noise_multiplier": 5}
ANY_TERMS = Terms(bound="certified", adjacency="replace_one")


def dpsgd(**changes: Any) -> AnyMechanism:
    """A mechanism whose certified cost is a certificate."""
    return mechanisms.parse(DPSGD | changes)


class Accountant:
    """Stands in for `costs.cost`: counts its calls, can be held, and can be told to fail."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.segments: list[int] = []
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.go_on.set()
        self.error: Exception | None = None

    def __call__(self, _mechanism: AnyMechanism, terms: Terms) -> Cost:
        self.calls.append(threading.current_thread().name)
        self.segments.append(terms.segments)
        self.begun.release()
        assert self.go_on.wait(WAIT_SECONDS_MAX)
        if self.error is not None:
            raise self.error
        nats = amounts.nats(Fraction(terms.delta), towards="up")
        return Cost(0.3, Fraction(9, 100) + Fraction(1, 3), nats, "a stand-in", ("that", "“this”"))


@contextmanager
def held(accountant: Accountant) -> Iterator[None]:
    """While nothing that is computed comes to its end."""
    accountant.go_on.clear()
    try:
        yield
    finally:
        accountant.go_on.set()
