"""Calls about tenants and keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from ledger.client.calls import Call, get, listed, path, send
from ledger.client.methods.kinds import Answer, Answers, Calls, Completes, Done, Lists


class Keys(Calls[Answer], Lists[Answers], Completes[Done]):
    """Make tenants and keys, rotate and revoke keys."""

    def make_tenant(self, *, name: str) -> Answer:
        """Make a tenant and its first admin key, whose secret is shown once. The operator's key does that.

        >>> operator.make_tenant(name="another")["key"]["role"]
        'admin'
        """
        return self._send(send("POST", "tenants", name=name))

    def me(self) -> Answer:
        """Whom the ledger takes you for: tenant, role, the limits of the key, and when it ends.

        >>> ledger.me()["role"], operator.me()
        ('admin', {'role': 'operator'})
        """
        return self._send(get("me"))

    def make_key(
        self,
        *,
        name: str,
        role: str,
        datasets: Sequence[str] | None = None,
        projects: Sequence[str] | None = None,
        expires_at: str | datetime | None = None,
    ) -> Answer:
        """Make a key. Its secret is shown this once.

        datasets: those that it sees, all when left out. projects: those of which a requester's every run has to name
        one.

        >>> made = ledger.make_key(name="training-ci", role="requester", datasets=["mnist"], projects=["ranking"])
        >>> made["secret"][:4]
        'pbl_'
        """
        return self._send(
            send("POST", "keys", name=name, role=role, datasets=datasets, projects=projects, expires_at=expires_at)
        )

    def keys(self) -> Answers:
        """Every key of the tenant, without its secret.

        >>> any(key["name"] == "training-ci" for key in ledger.keys())
        True
        """
        return self._list(listed("keys"))

    def rotate_key(self, key: str, *, overlap: str | timedelta | None = None) -> Answer:
        """Make a new key for the same principal, with the same role and limits. Its secret is shown this once.

        The old one, given by its id, works beside it for the overlap, a day when left out, and then ends.

        >>> rotated = ledger.rotate_key(made["id"], overlap="PT1H")
        >>> rotated["principal"] == made["principal"], rotated["projects"]
        (True, ['ranking'])
        """
        return self._send(send("POST", "keys", key, "rotate", overlap=overlap))

    def revoke_key(self, key: str) -> Done:
        """Revoke a key, by its id.

        >>> ledger.revoke_key(made["id"])
        """
        return self._complete(Call("DELETE", path("keys", key), is_repeatable=True))
