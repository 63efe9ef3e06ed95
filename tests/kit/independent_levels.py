"""Costs beside what is left, for independent_verifier.py: tables, and what later entries leave to late charges."""

import re
from typing import Any

LEVELS = (0, 2, 4, 6, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 60, 62)  # of 64 parts of a table's base
ITEMS = 16  # the most rooms that an account keeps


class Table:
    """What a run costs beside what is left: its members, or a cost by itself."""

    def __init__(self, cost: list[int], facts: dict[str, Any] | None) -> None:
        self.facts, self.level, self.costs, self.base = facts or {}, 0, [cost[0]], 1
        if facts is None:
            return
        self.level = facts.get("level", -1)
        self.base, self.costs = count_of(facts["base"]), [count_of(one) for one in facts["costs"].split(" ")]
        if not 0 < len(self.costs) <= len(LEVELS) or self.costs != sorted(self.costs, reverse=True):
            raise ValueError("a table that is none")
        has_level = "level" in facts
        if has_level and (type(self.level) is not int or not 0 <= self.level < len(self.costs)):
            raise ValueError("a level that is none")
        if cost[0] != self.costs[max(self.level, 0)]:
            raise ValueError("another cost than the table's")

    @property
    def r(self) -> int:
        """What stays unspent behind it."""
        return -(-self.base * LEVELS[self.level] // 64) if self.level > 0 else 0

    def fitting(self, rest: int) -> list[int]:
        """The levels at which a new run fits in so much."""
        return [at for at, cost in enumerate(self.costs) if cost + self.rest(at) <= rest]

    def best(self, rest: int) -> int:
        """The level with the least cost, and the lowest of those; none is -1."""
        fitting = self.fitting(rest)
        return min(fitting, key=lambda at: (self.costs[at], at)) if fitting else -1

    def rest(self, level: int) -> int:
        """What must be left behind a new run there."""
        return -(-self.base * LEVELS[level] // 64) + self.base // 50 if level else 0


class Batch:
    """Runs that were approved as a whole: their tables, and what each account has left behind them."""

    def __init__(self, stated: dict[str, Any]) -> None:
        self.stated, self.runs = stated, list[tuple[Table, dict[Any, int]]]()

    def goes_on(self, table: Table, rests: dict[Any, int]) -> bool:
        """Whether there are more runs behind this one. With the last, all stand at the highest step at which all have
        room, or say that others decide."""
        self.runs.append((table, rests))
        if len(self.runs) < self.stated["runs"]:
            return True
        good = [levels for levels in map(self.levels, range(16)) if self.has_room(levels)]
        stand, says = (
            [max(table.level, 0) for table, _ in self.runs],
            {"by" in t.facts for t, _ in self.runs if t.facts},
        )
        if stand not in good or not says <= {stand != good[-1]}:
            raise ValueError("a batch at other levels than it must be")
        return False

    def levels(self, step: int) -> list[int]:
        """The lowest level of each run that costs what it does at a step; its last one, where there are fewer."""
        return [t.costs.index(t.costs[min(step, len(t.costs) - 1)]) for t, _ in self.runs]

    def has_room(self, levels: list[int]) -> bool:
        """Whether what is left behind all of them is what each rests on. The third of a key is a principal."""
        for key in {key for _, rests in self.runs for key in rests}:
            users = [(t, at, rests[key]) for (t, rests), at in zip(self.runs, levels, strict=True) if key in rests]
            behind = users[-1][2] + sum(table.costs[max(table.level, 0)] - table.costs[at] for table, at, _ in users)
            if behind < max(0 if key[2] else table.rest(at) for table, at, _ in users):
                return False
        return True


def in_batch(batch: Batch | None, entry: dict[str, Any], table: Table, rests: dict[Any, int]) -> Batch | None:
    """The batch that goes on behind an approval, if one does."""
    if "together" not in entry:
        return None
    batch = batch or Batch(entry["together"])
    return batch if batch.goes_on(table, rests) else None


def count_of(text: str) -> int:
    """A number that is not zero, as a table has it."""
    if len(text) > 4300 or not re.fullmatch("[1-9][0-9]*", text, re.ASCII):
        raise ValueError("a number of a table in another form")
    return int(text)


class Rooms:
    """What later entries of one account leave to what is recorded late. Of each entry: its number, and what was left
    behind it less what it rests on."""

    def __init__(self) -> None:
        self.rooms: list[tuple[int, int]] = []
        self.highest, self.raised = 0, (0, 0, 0)

    def note(self, seq: int, room: int, limit: int) -> None:
        """One entry more."""
        self.highest = max(self.highest, limit) if self.rooms else limit
        self.rooms.append((seq, room))
        self.tidy()
        self.bound()

    def bound(self) -> None:
        """Where there are too many, two become one, with the number of the later and the room of the earlier."""
        while len(self.rooms) > ITEMS:
            gaps = [self.rooms[at + 1][1] - self.rooms[at][1] for at in range(len(self.rooms) - 1)]
            at = gaps.index(min(gaps))
            self.rooms[at : at + 2] = [(self.rooms[at + 1][0], self.rooms[at][1])]

    def tidy(self) -> None:
        """Without those that a later one makes needless."""
        self.rooms = [
            (seq, room)
            for at, (seq, room) in enumerate(self.rooms)
            if all(room < later for _, later in self.rooms[at + 1 :])
        ]

    def rest_at(self, place: int, rest: int) -> int:
        """What is left now, and was at each raise since a place."""
        return min(rest, self.raised[1]) if self.raised[0] > place else rest

    def slack(self, place: int, rest: int) -> int:
        """How much can be charged at a place."""
        return min([self.rest_at(place, rest)] + [room for seq, room in self.rooms if seq > place])

    def delta_at(self, place: int, rest: int) -> int:
        """The same of delta."""
        return min(rest, self.raised[2]) if self.raised[0] > place else rest

    def charge(self, place: int, cost: list[int], r: int) -> None:
        """A charge at a place: everything behind it had so much less, a raise of the limit too, with r beside it."""
        self.rooms = [(seq, room - cost[0] if seq > place else room) for seq, room in self.rooms]
        self.tidy()
        if self.raised[0] > place:
            self.raised = self.raised[0], self.raised[1] - cost[0] - r, self.raised[2] - cost[1]

    def missing(self, limit: int) -> int:
        """How much is missing behind some entry, by another limit."""
        return self.highest - limit - self.rooms[0][1] if self.rooms else 0
