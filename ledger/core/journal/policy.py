"""A dataset's journal against the tenant's own: what the tenant's policy required when each change was made. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Final, NamedTuple

from ledger.core.journal.requested import after
from ledger.errors import JournalBroken

GUARDED_AT_FIRST: Final = frozenset({"budget", "thaw", "void"})
"""What a policy requires two people for if its entry does not list it."""


class Loosening(NamedTuple):
    """An entry that a policy decides about, of a consistent journal.

    what: the kind of proposal that it is or would have been. is_proposal: it waits for a second person; otherwise one
    person alone made the change. version: the entry's.
    """

    seq: int
    at: str
    what: str
    is_proposal: bool
    version: int


class Policy(NamedTuple):
    """From when on a tenant requires two people, and for what; an empty set means never.

    is_older: the entry does not list for what; then changes that were not guarded at first may be made by one person or
    two.
    """

    at: str
    guards: frozenset[str]
    is_older: bool = False

    def allows(self, loosening: Loosening) -> bool:
        """Return whether a change that needs two people was proposed, and one that needs one person was made."""
        is_guarded = loosening.what in self.guards
        return is_guarded == loosening.is_proposal or (self.is_older and not is_guarded)


_DECIDED_WITHIN: Final = timedelta(minutes=1)
"""How long a decision of an older version could take after it read the policy."""
_NO_POLICY: Final = Policy("", frozenset())


def demand_policy(policies: Sequence[Policy], loosenings: Iterable[Loosening]) -> None:
    """Check that a journal's entries follow the policy of their time: nobody made alone what needed two people, and
    nothing else was proposed. policies: oldest first; before the first, and without any, one person is enough.

    An entry of the very moment at which a policy was set may have come before or after it. Before version 3, which
    locks the policy while it decides, the same holds for the minute after. Raises JournalBroken.
    """
    times = [policy.at for policy in policies]
    for loosening in loosenings:
        # Times are written so that text order is time order.
        since = loosening.at if loosening.version > 2 else after(loosening.at, -_DECIDED_WITHIN)
        first, last = bisect_left(times, since), bisect_right(times, loosening.at)
        before = policies[first - 1] if first else _NO_POLICY
        if any(policy.allows(loosening) for policy in (before, *policies[first:last])):
            continue
        kind = (
            "proposes a change that needs one person only"
            if loosening.is_proposal
            else "was made by one person and needs two"
        )
        raise JournalBroken(f"{kind}, by the policy of its time", seq=loosening.seq)
