"""What a tenant's policy asked for when something was done: a dataset's journal against the tenant's own. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Final, NamedTuple

from ledger.core.journal.requested import after
from ledger.errors import JournalBroken

GUARDED_AT_FIRST: Final = frozenset({"budget", "thaw", "void"})
"""What a policy takes two people for whose entry does not say it."""


class Loosening(NamedTuple):
    """An entry that a policy decides about, of a journal that adds up.

    what: the kind of proposal that it is or would have been. is_proposal: a second person is waited for; otherwise it
    was done, by one person alone. version: the entry's.
    """

    seq: int
    at: str
    what: str
    is_proposal: bool
    version: int


class Policy(NamedTuple):
    """From when on a tenant takes two people, and for what; for nothing where it takes one for everything.

    is_older: the entry does not say for what; then what was not guarded at first may take one person or two.
    """

    at: str
    guards: frozenset[str]
    is_older: bool = False

    def allows(self, loosening: Loosening) -> bool:
        """Whether what takes two people is proposed, and what takes one is done."""
        is_guarded = loosening.what in self.guards
        return is_guarded == loosening.is_proposal or (self.is_older and not is_guarded)


_DECIDED_WITHIN: Final = timedelta(minutes=1)
"""How long a decision of an older version could take after it read the policy."""
_NO_POLICY: Final = Policy("", frozenset())


def demand_policy(policies: Sequence[Policy], loosenings: Iterable[Loosening]) -> None:
    """A journal's entries are by the policy of their time: what it took two people for, nobody did alone, and nothing
    else was proposed. policies: oldest first; before the first, and where there is none, one person is enough.

    An entry of the very moment at which a policy was set may have come before or after it; before version 3, which
    locks the policy while it decides, so may one of the minute after. Raises JournalBroken.
    """
    times = [policy.at for policy in policies]
    for loosening in loosenings:
        # Times are written so that their order as text is their order in time.
        since = loosening.at if loosening.version > 2 else after(loosening.at, -_DECIDED_WITHIN)
        first, last = bisect_left(times, since), bisect_right(times, loosening.at)
        before = policies[first - 1] if first else _NO_POLICY
        if any(policy.allows(loosening) for policy in (before, *policies[first:last])):
            continue
        told = "proposes what takes one person" if loosening.is_proposal else "is done by one person and takes two"
        raise JournalBroken(f"{told}, by the policy of its time", seq=loosening.seq)
