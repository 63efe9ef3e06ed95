"""What the recognised caller of a request may do. Who it is was found out before, by `ledger.api.middleware`."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from ledger.access import roles
from ledger.access.roles import Caller, Operator
from ledger.core.people import Actor
from ledger.errors import Forbidden

_bearer = HTTPBearer(
    auto_error=False,
    description="A key of this ledger: `pbl_…`, or a token of an OpenID Connect issuer that it trusts.",
    scheme_name="key",
)


# A coroutine, though it waits for nothing: FastAPI takes plain functions to a thread, which costs more than this does.
async def _caller(request: Request, _shown: Annotated[object, Depends(_bearer)]) -> Caller:
    caller: Caller = request.scope["state"]["caller"]
    return caller


class Allowed:
    """A dependency: the caller, who may do this in their tenant. Raises Forbidden."""

    def __init__(self, action: str) -> None:
        self.action = action

    async def __call__(self, caller: Annotated[Caller, Depends(_caller)]) -> Actor:
        if isinstance(caller, Operator):
            raise Forbidden("The operator's key makes tenants; it opens nothing that belongs to one.")
        if not roles.may(caller, self.action):
            who = (
                f"The role {caller.role}"
                if caller.role not in roles.ALLOWED[self.action]
                else "A key limited to datasets or projects"
            )
            raise Forbidden(f"{who} may not {self.action}.", role=caller.role)
        return caller


async def anyone(caller: Annotated[Caller, Depends(_caller)]) -> Caller:
    """A dependency: whoever was recognised."""
    return caller


async def operator(caller: Annotated[Caller, Depends(_caller)]) -> Operator:
    """A dependency: the operator. Raises Forbidden."""
    if not isinstance(caller, Operator):
        raise Forbidden("Only the operator's key makes tenants.")
    return caller


Reader = Annotated[Actor, Depends(Allowed("read"))]
Requester = Annotated[Actor, Depends(Allowed("ask for runs"))]
Ender = Annotated[Actor, Depends(Allowed("end runs"))]
Registrar = Annotated[Actor, Depends(Allowed("register datasets"))]
Steward = Annotated[Actor, Depends(Allowed("manage datasets"))]
Auditor = Annotated[Actor, Depends(Allowed("read the journal"))]
Admin = Annotated[Actor, Depends(Allowed("manage keys"))]
Alarmist = Annotated[Actor, Depends(Allowed("set alerts"))]
Anyone = Annotated[Caller, Depends(anyone)]
TheOperator = Annotated[Operator, Depends(operator)]
