"""dp-accounting's events in and out: a `DpEvent` as a mechanism that the ledger costs, and the other way.

    from ledger.client.dp_events import from_dp_event, to_dp_event

    mechanism = from_dp_event(plan.dp_event, adjacency="replace_one")
    event = to_dp_event(mechanism, adjacency="replace_one")

The neighbouring relation is no part of an event, and decides its cost. So it is an argument of both functions, and has
no default: a name of the ledger's adjacencies, or a member of dp_accounting.NeighboringRelation.

    relations    the neighbouring relations
    events       read the members of an event: of an object, its named tuple, or its JSON
    reading      from an event to a mechanism
    writing      from a mechanism to an event

Only `to_dp_event` imports dp-accounting. Events that one side has no counterpart for are refused by name.
"""

from ledger.client.dp_events.events import to_json
from ledger.client.dp_events.reading import from_dp_event
from ledger.client.dp_events.writing import to_dp_event

__all__ = ["from_dp_event", "to_dp_event", "to_json"]
