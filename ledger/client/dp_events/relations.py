"""The neighbouring relations of dp-accounting, by the names of the ledger's adjacencies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, get_args

from ledger.errors import InvalidRequest

Adjacency = Literal["add_or_remove_one", "replace_one", "zero_out"]
RELATIONS: Final[Mapping[Adjacency, str]] = {
    "add_or_remove_one": "ADD_OR_REMOVE_ONE",
    "replace_one": "REPLACE_ONE",
    "zero_out": "REPLACE_SPECIAL",
}


def adjacency_of(relation: Any) -> Adjacency:
    """Return the adjacency with this name, or that of a member of NeighboringRelation. Raises InvalidRequest."""
    name = str(getattr(relation, "name", relation))
    for adjacency in get_args(Adjacency):
        if name in (adjacency, RELATIONS[adjacency]):
            known: Adjacency = adjacency
            return known
    raise InvalidRequest(
        f"adjacency: {name[:40]!r} is no neighbouring relation. Write add_or_remove_one, replace_one or zero_out "
        "(REPLACE_SPECIAL), as the dataset is registered.",
        field="adjacency",
    )
