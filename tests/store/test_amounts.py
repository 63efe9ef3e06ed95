"""The database itself refuses amounts that break the invariant, near 2^63 too.

Every test comes in through each door of `tests.kit.doors`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from sqlalchemy import (
    Executable,
    insert,
    select,
    update,
)

from ledger.store import tables
from tests.kit.doors import (
    ACCEPTED,
    AMOUNTS,
    INT64_MAX,
    LIMIT_MAX,
    MNIST,
    PARTS,
    QUANTITIES,
    ROWS,
    Door,
    attempt,
    row,
)


def holds(amounts: Mapping[str, int]) -> bool:
    """The invariant of an account, in Python's integers."""
    return all(
        min(limit, spent, held, overdrawn) >= 0
        and limit <= LIMIT_MAX
        and overdrawn <= spent
        and spent + held <= limit + overdrawn
        for limit, spent, held, overdrawn in ([amounts[f"{part}_{q}"] for part in PARTS] for q in QUANTITIES)
    )


def holds_in_floats(amounts: Mapping[str, int]) -> bool:
    """The same in floats, which is what a database must not do."""
    return all(
        float(amounts[f"spent_{q}"]) + float(amounts[f"held_{q}"])
        <= float(amounts[f"limit_{q}"]) + float(amounts[f"overdrawn_{q}"])
        for q in QUANTITIES
    )


def set_amounts(amounts: Mapping[str, int]) -> Executable:
    """An UPDATE of amounts of Acme's account."""
    return update(tables.accounts).where(tables.accounts.c.dataset_id == MNIST).values(dict(amounts))


def test_an_amount_outside_its_range_is_refused(door: Door) -> None:
    """Goal: no amount is negative, no limit is above 10^18, no more is overdrawn than spent, no more held than is left.

    Method: from an account with 30 held of the 70 left, change one amount to its last valid and its first invalid
    value, by UPDATE and by INSERT, and see which check refuses it.
    """
    still_valid = {"limit": [60, LIMIT_MAX], "spent": [10, 80], "held": [0, 70], "overdrawn": [0, 40]}
    too_far = {
        "limit": [(59, "within_limit"), (-1, "range"), (LIMIT_MAX + 1, "range")],
        "spent": [(81, "within_limit"), (9, "range"), (-1, "range")],
        "held": [(71, "within_limit"), (-1, "range")],
        "overdrawn": [(41, "range"), (-1, "range")],
    }
    for quantity in QUANTITIES:
        expected = [
            *(({f"{part}_{quantity}": value}, ACCEPTED) for part in PARTS for value in still_valid[part]),
            *(
                ({f"{part}_{quantity}": value}, f"check accounts_{quantity}_{check}")
                for part in PARTS
                for value, check in too_far[part]
            ),
        ]
        for changed, outcome in expected:
            assert door.attempt(set_amounts(changed)) == outcome, changed
            assert door.attempt(insert(tables.accounts).values(row(tables.accounts) | changed)) == outcome, changed


def test_the_invariant_is_exact_near_two_to_the_63(door: Door) -> None:
    """Goal: no sum is made in floats, where one unit too many is lost.

    Method: put accounts at the end of 64 bits, exactly at their limit and one unit past it, and compare the answer with
    Python's integers; floats must give other answers for these accounts, or they would show nothing.
    """
    top, cap = INT64_MAX, LIMIT_MAX
    exactly_full = [
        (cap, 0, cap, 0),
        (cap, top, 0, top - cap),
        (cap, top - 1, 1, top - cap),
        (cap, top, cap, top),
        (cap, 2**62, cap, 2**62),
        (cap, 2**53 + 1, cap, 2**53 + 1),
        (cap - 1, 2**62 + 1, cap // 2, 2**62 + 1 - cap // 2 + 1),
        (0, top, 0, top),
    ]
    floats_disagree = 0
    for limit, spent, held, overdrawn in exactly_full:
        for more_held, less_overdrawn, less_limit in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (top - held, 0, 0)):
            for quantity in QUANTITIES:
                values = (limit - less_limit, spent, held + more_held, overdrawn - less_overdrawn)
                amounts = dict.fromkeys(AMOUNTS, 0) | {
                    f"{part}_{quantity}": value for part, value in zip(PARTS, values, strict=True)
                }
                accepted = door.attempt(set_amounts(amounts)) == ACCEPTED
                assert accepted == holds(amounts), amounts
                floats_disagree += holds_in_floats(amounts) != holds(amounts)
    assert floats_disagree >= 10


def test_amounts_past_two_to_the_63_are_refused(door: Door) -> None:
    """Goal: what does not fit 64 bits is refused, and not kept as a float. Method: as a number, and as a sum."""
    too_large = "type" if door.is_sqlite else "number"
    for column in AMOUNTS:
        assert door.attempt(f"UPDATE accounts SET {column} = 9223372036854775808") == too_large, column
    for quantity in QUANTITIES:
        spent, overdrawn = f"spent_{quantity}", f"overdrawn_{quantity}"
        full = set_amounts({spent: INT64_MAX, overdrawn: INT64_MAX})
        assert door.attempt(full) == ACCEPTED
        assert door.attempt(full, f"UPDATE accounts SET {spent} = {spent} + 1, {overdrawn} = {spent}") == too_large


def test_random_updates_are_accepted_exactly_when_the_invariant_holds(
    door: Door, tries: Callable[[int, int], int]
) -> None:
    """Goal: the database's invariant is Python's, whatever the amounts.

    Method: a random walk. Each step changes some of the account's amounts, mostly to values at the edge of what holds;
    what the database accepts is where the next step begins. In the end its row is the walker's.
    """
    chance = random.Random(f"walk {door.who}")
    steps = tries(150, 5_000)
    amounts = {name: value for name, value in ROWS[tables.accounts][0].items() if name in AMOUNTS}
    accepted = 0
    with door.engine.connect().execution_options(writing=True) as connection, connection.begin():
        for _ in range(steps):
            wanted = amounts | random_change(chance, amounts)
            changed = {name: value for name, value in wanted.items() if value != amounts[name]}
            if not changed:
                continue
            savepoint = connection.begin_nested()
            refused = attempt(connection, set_amounts(changed))
            assert (refused == ACCEPTED) == holds(wanted), (refused, amounts, changed)
            assert refused.startswith((ACCEPTED, "check", "number"))
            if refused == ACCEPTED:
                savepoint.commit()
                amounts = wanted
                accepted += 1
            else:
                savepoint.rollback()
        kept = connection.execute(select(tables.accounts).where(tables.accounts.c.dataset_id == MNIST)).one()
    assert {name: getattr(kept, name) for name in AMOUNTS} == amounts
    assert steps // 5 < accepted < steps - steps // 5


def random_change(chance: random.Random, amounts: Mapping[str, int]) -> dict[str, int]:
    """New amounts for one quantity: sometimes anything, mostly an account that is full, or one unit off being so."""
    quantity = chance.choice(QUANTITIES)
    size = chance.choice((10, 2**32, 2**53, LIMIT_MAX, INT64_MAX))
    if chance.random() < 0.2:
        return {f"{chance.choice(PARTS)}_{quantity}": chance.choice((-1, 0, LIMIT_MAX, LIMIT_MAX + 1, INT64_MAX, size))}
    limit, spent = chance.randint(0, min(size, LIMIT_MAX)), chance.randint(0, size)
    overdrawn = chance.randint(max(0, spent - limit), spent)
    held = limit + overdrawn - spent
    made = dict(zip(PARTS, (limit, spent, held, overdrawn), strict=True))
    made[chance.choice(PARTS)] += chance.choice((-1, 0, 0, 0, 1))
    return {f"{part}_{quantity}": min(value, INT64_MAX) for part, value in made.items()}
