"""Calls about tenants and keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from ledger.client.calls import Call, get, listed, path, send
from ledger.client.methods.kinds import Answer, Answers, Calls, Completes, Done, Lists


class Keys(Calls[Answer], Lists[Answers], Completes[Done]):
    """Create tenants and keys, rotate and revoke keys."""

    def make_tenant(self, *, name: str) -> Answer:
        """Create a tenant and its first admin key, whose secret is shown only once. Needs the operator's key.

        >>> operator.make_tenant(name="another")["key"]["role"]
        'admin'
        """
        return self._send(send("POST", "tenants", name=name))

    def me(self) -> Answer:
        """Return who you are to the ledger: tenant, role, limits of the key, and when it expires.

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
        """Create a key. Its secret is shown only once.

        role: admin, steward, requester or auditor. datasets: those that it may use; default: all. projects: for a
        requester, every run must name one of them. expires_at: default: never.

        >>> made = ledger.make_key(name="training-ci", role="requester", datasets=["mnist"], projects=["ranking"])
        >>> made["secret"][:4]
        'pbl_'
        """
        return self._send(
            send("POST", "keys", name=name, role=role, datasets=datasets, projects=projects, expires_at=expires_at)
        )

    def keys(self) -> Answers:
        """Iterate over the keys of the tenant, without their secrets.

        >>> any(key["name"] == "training-ci" for key in ledger.keys())
        True
        """
        return self._list(listed("keys"))

    def rotate_key(self, key: str, *, overlap: str | timedelta | None = None) -> Answer:
        """Replace a key, given by its id, by a new one for the same principal, role and limits.

        The old key still works for `overlap` (default: a day). The new secret is shown only once.

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
