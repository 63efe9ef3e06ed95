"""Calls about the policy of two people, and proposals."""

from __future__ import annotations

from ledger.client.calls import get, listed, send
from ledger.client.methods.kinds import Answer, Answers, Calls, Lists


class Proposals(Calls[Answer], Lists[Answers]):
    """Set the policy, approve and refuse proposals."""

    def policy(self) -> Answer:
        """Return the tenant's policy.

        >>> ledger.policy()
        {'second_steward': False}
        """
        return self._send(get("policy"))

    def set_policy(self, *, second_steward: bool, reason: str) -> Answer:
        """Set whether raising a budget, thawing an overdrawn dataset and voiding a started run need a second steward.

        If they do, such a call returns `{"proposal": …}`, and nothing changes until another steward or admin approves
        it within a day. An admin may change the policy alone.

        >>> ledger.set_policy(second_steward=True, reason="agreed with the data protection officer")
        {'second_steward': True}
        """
        return self._send(send("PUT", "policy", second_steward=second_steward, reason=reason))

    def proposals(self, *, state: str | None = None) -> Answers:
        """Iterate over proposals, newest first: open, approved, refused or expired.

        >>> proposed = ledger.set_budget("clicks", budget={"mu": 3, "delta": 1e-6}, reason="agreed in May")["proposal"]
        >>> [found["what"] for found in ledger.proposals(state="open")]
        ['budget']
        """
        return self._list(listed("proposals", state=state))

    def proposal(self, proposal: str) -> Answer:
        """Return a proposal: the change, who proposed it, and until when it can be approved.

        >>> ledger.proposal(proposed["id"])["proposes"]["budget"]["mu"]
        3
        """
        return self._send(get("proposals", proposal))

    def approve(self, proposal: str, *, reason: str | None = None) -> Answer:
        """Approve what another person proposed, do it, and return the changed dataset or run.

        A run that waited is decided against what is left now: its `decision` is approved or refused. Raises
        ProposalState if the proposal is not open any more, and Forbidden if it is your own.

        >>> second.approve(proposed["id"], reason="the board agreed")["balance"]["limit"]["mu"]
        3.0
        """
        return self._send(send("POST", "proposals", proposal, "approve", reason=reason))

    def refuse(self, proposal: str, *, reason: str) -> Answer:
        """Refuse what another steward proposed, permanently. Raises ProposalState and Forbidden as `approve` does.

        >>> proposed = ledger.set_budget("clicks", budget={"mu": 3.2, "delta": 1e-6}, reason="more")["proposal"]
        >>> second.refuse(proposed["id"], reason="the board has not agreed")["state"]
        'refused'
        """
        return self._send(send("POST", "proposals", proposal, "refuse", reason=reason))
