"""People and keys: who has which key, with new, rotated and revoked ones; and the tenant's policy."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from ledger.service.requests.tenants import NewKey, NewPolicy, Rotation
from ledger.ui import forms
from ledger.ui.view import View

KEYS_SHOWN: Final = 100
ROLES: Final = ("requester", "steward", "auditor", "admin")
OVERLAPS: Final = {"PT0S": "ends now", "PT1H": "ends in an hour", "P1D": "ends in a day", "P7D": "ends in a week"}


async def keys(view: View) -> Response:
    """List the tenant's keys."""
    cursor = view.query("cursor")
    page = await view.run(view.services.keys.page, view.actor, limit=KEYS_SHOWN, cursor=cursor)
    return await view.page("keys.html", page=page, cursor=cursor, roles=ROLES, overlaps=OVERLAPS)


async def make_key(view: View) -> Response:
    """Make a key. Its secret is in this answer alone."""
    form = view.form
    members = forms.given(
        [
            ("name", form.get("name", "").strip()),
            ("role", form.get("role")),
            ("datasets", forms.listed(form.get("datasets"))),
            ("projects", forms.listed(form.get("projects"))),
        ]
    )
    if (ends := forms.moment(form.get("expires_at"), field="expires_at")) is not None:
        members["expires_at"] = forms.time_of(ends)
    made = await view.services.keys.make(view.actor, forms.read(NewKey, members))
    return await view.page("key_made.html", made=made, before=None)


async def rotate_key(view: View) -> Response:
    """Make a key in place of another, which works for a while."""
    key_id = await view.services.keys.found(view.actor, view.params["id"])
    body = forms.read(Rotation, {"overlap": view.form.get("overlap", "P1D")})
    made = await view.services.keys.rotate(view.actor, key_id, body)
    return await view.page("key_made.html", made=made, before=str(key_id))


async def revoke_key(view: View) -> Response:
    """Revoke a key, at once."""
    key_id = await view.services.keys.found(view.actor, view.params["id"])
    await view.services.keys.revoke(view.actor, key_id)
    return view.redirect("/ui/keys", done="revoked")


async def policy(view: View) -> Response:
    """Show the tenant's policy."""
    return await view.page("policy.html", policy=await view.run(view.services.tenants.policy, view.actor))


async def set_policy(view: View) -> Response:
    """Set the tenant's policy."""
    members = {"second_steward": view.form.get("second_steward") == "yes", "reason": view.form.get("reason", "")}
    await view.services.tenants.set_policy(view.actor, forms.read(NewPolicy, members))
    return view.redirect("/ui/policy", done="set")
