"""The share of delta that a run takes if it names none: of a few shares, the one that is cheapest beside what is left.

With less delta a run costs more mu². So the part of the remaining delta that a run takes falls from one share to the
next smaller one, and the part of mu² rises. The cheapest share is where they cross, or the one before. A run fits at a
share if both parts are at most 1: if it fits at any share, it fits at the cheapest one.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from fractions import Fraction
from typing import NamedTuple

from ledger.accounting import amounts
from ledger.accounting.beside import Offer
from ledger.core.amounts import Amount


class Room(NamedTuple):
    """What is left for a run. left: the least mu² in an account that carries a guarantee, in units of 1e-12; remaining:
    the least in any account."""

    left: int
    remaining: Amount


class Chosen(NamedTuple):
    """The cheapest offer, and its number."""

    number: int
    offer: Offer


def choosing(count: int, room: Room, first: int | None = None) -> Generator[int, Offer, Chosen]:
    """Yield the numbers of the offers that are needed to choose the cheapest, to be sent in; return that. count: of
    shares, from large to small. first: the number that probably is the cheapest, which saves offers if it is."""
    known: dict[int, Offer] = {}
    low, high = 0, count - 1
    near = first
    while low < high:
        middle = (low + high) // 2 if near is None else min(max(near, low), high - 1)
        known[middle] = yield middle
        is_dearer = is_mu_dearer(known[middle], room)
        low, high = (low, middle) if is_dearer else (middle + 1, high)
        near = None if near != first else middle - 1 if is_dearer else middle + 1
    for index in (low - 1, low):
        if index >= 0 and index not in known:
            known[index] = yield index
    beside_it = [index for index in (low - 1, low) if index >= 0]
    offers = [known[index] for index in beside_it]
    best = offers.index(cheapest(offers, room))
    return Chosen(beside_it[best], offers[best])


def choose(offer_at: Callable[[int], Offer], count: int, room: Room, *, first: int | None = None) -> Chosen:
    """Return the cheapest of this many offers. first: as for `choosing`."""
    search = choosing(count, room, first)
    index = next(search)
    while True:
        try:
            index = search.send(offer_at(index))
        except StopIteration as done:
            chosen: Chosen = done.value
            return chosen


def cheapest(offered: Sequence[Offer], room: Room) -> Offer:
    """Return the offer that takes the least part of what is left: of mu² or of delta, whichever is more. If none fits,
    that which comes nearest."""
    return min(offered, key=lambda offer: (max(_parts(offer, room)), offer.delta))


def is_mu_dearer(offer: Offer, room: Room) -> bool:
    """Return whether an offer takes at least as large a part of mu² as of delta."""
    mu, delta = _parts(offer, room)
    return mu >= delta


def _parts(offer: Offer, room: Room) -> tuple[Fraction, Fraction]:
    """Return the parts of mu² and of delta that a run takes. Both are at most 1 if and only if it fits."""
    amount, left = offer.cost.amount, room.remaining
    delta = _part(amount.delta_atto, left.delta_atto)
    if offer.table is None:
        return _part(amount.mu_sq_pico, left.mu_sq_pico), delta
    best = offer.table.best(room.left)
    if best is None:
        return _part(offer.table.least_needed, room.left), delta
    return _part(offer.table.costs[best], left.mu_sq_pico), delta


def _part(asked: int, left: int) -> Fraction:
    """Return the part of what is left; of nothing left, more than any part, and nothing of it is 0."""
    if left > 0 or asked <= left:
        return Fraction(asked, left) if left > 0 else Fraction(0)
    return Fraction(asked + 1) * amounts.ATTO
