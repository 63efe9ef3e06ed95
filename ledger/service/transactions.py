"""Wait for the writer: for the outcome of a command, or for a change that is not a command."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from ledger.core.commands import Single
from ledger.core.people import Actor
from ledger.errors import Unauthenticated
from ledger.service.writer import Result, Writer
from ledger.store import Writing

T = TypeVar("T")


async def submit(writer: Writer, command: Single) -> Result:
    """Return the answer to a command, after the commit. Raises LedgerError."""
    return await writer.decide(command.actor.tenant_id, command)


async def change_as(writer: Writer, actor: Actor, change: Callable[[Writing, int], T]) -> T:
    """Make a change in a transaction of its own, which checks the actor's key again. Raises LedgerError."""

    def checked(writing: Writing) -> T:
        # Before the time is read, so that times in the tenant's own journal are in the order of its entries, and a new
        # policy is later than every decision under the old one.
        writing.tenants.lock()
        now_us = writing.now_us()
        if not writing.keys.is_live(actor, now_us=now_us):
            raise Unauthenticated("This key was revoked or has expired. Ask an admin of your tenant for a new one.")
        return change(writing, now_us)

    return await asyncio.wrap_future(writer.run(actor.tenant_id, checked))
