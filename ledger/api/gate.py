"""What a recognised caller may do. `ledger.api.middleware` recognised the caller before."""

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
    description="A key of this ledger (`pbl_…`), or a token of an OpenID Connect issuer that the ledger trusts.",
    scheme_name="key",
)


# A coroutine although it never waits: FastAPI runs plain functions in a thread, which costs more than this does.
async def _caller(request: Request, _shown: Annotated[object, Depends(_bearer)]) -> Caller:
    caller: Caller = request.scope["state"]["caller"]
    return caller


class Allowed:
    """A dependency: the caller, who may do this in their tenant. It raises Forbidden."""

    def __init__(self, action: str) -> None:
        self.action = action

    async def __call__(self, caller: Annotated[Caller, Depends(_caller)]) -> Actor:
        return self.demand(caller)

    def demand(self, caller: Caller) -> Actor:
        """Return the caller if they may do this. Raises Forbidden."""
        return roles.demand(caller, self.action)


async def anyone(caller: Annotated[Caller, Depends(_caller)]) -> Caller:
    """Return the caller of the request (a dependency)."""
    return caller


async def operator(caller: Annotated[Caller, Depends(_caller)]) -> Operator:
    """Return the operator (a dependency). Raises Forbidden."""
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
