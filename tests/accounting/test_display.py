"""Epsilons of a whole page, in one computation and remembered."""

from __future__ import annotations

import random
from typing import Any

import pytest
from cachetools import LRUCache

from ledger.accounting import amounts, disclosure, display
from ledger.core.amounts import Amount

DELTAS = (1e-5, 1e-6)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many epsilons each computation had."""
    sizes: list[int] = []

    def counted(spent: Any, *, at_delta: float) -> list[float | None]:
        sizes.append(len(spent))
        return compute(spent, at_delta=at_delta)

    compute = disclosure.epsilons
    monkeypatch.setattr(disclosure, "epsilons", counted)
    monkeypatch.setattr(display, "_remembered", LRUCache[display.Point, float | None](display.EPSILONS_MAX))
    return sizes


def _points(count: int) -> list[display.Point]:
    drawn = random.Random(18)
    return [(Amount(drawn.randrange(10**12), drawn.randrange(10**13)), delta) for _ in range(count) for delta in DELTAS]


def test_a_page_is_computed_once_for_each_delta(calls: list[int]) -> None:
    """Two deltas, two computations; asked for again, none."""
    points = _points(100)
    shown = display.show_epsilons(points)
    assert calls == [100, 100]
    assert display.show_epsilons(points) == shown
    assert calls == [100, 100]


def test_together_they_are_what_each_is_alone(calls: list[int]) -> None:
    """A page shows the digits that one balance shows."""
    for (amount, at_delta), epsilon in display.show_epsilons(_points(50)).items():
        mu, delta = amounts.mu_of(amount), amounts.delta_of(amount)
        assert epsilon == display.show_epsilon(mu=mu, delta=delta, at_delta=at_delta)


def test_what_is_remembered_is_bounded(calls: list[int]) -> None:
    """Past the bound the least recently used are computed again."""
    points = [(Amount(number, 0), 1e-5) for number in range(display.EPSILONS_MAX + 10)]
    display.show_epsilons(points)
    display.show_epsilons(points)
    assert calls == [len(points), 10], "ten were forgotten"
