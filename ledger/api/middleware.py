"""What every request passes before a route: its size, and who is calling."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ledger.access import familiar, keys
from ledger.access.familiar import Familiar
from ledger.access.keys import Keyring
from ledger.access.oidc import TOKEN_LENGTH_MAX, looks_like_token
from ledger.access.roles import Caller
from ledger.api.limits import Buckets, Lane, neighbourhood, seconds
from ledger.api.metrics import Metrics
from ledger.api.observe import address_of, failed_sign_in
from ledger.api.problems import of_error
from ledger.errors import LedgerError, RateLimited, TooLarge, Unauthenticated

KEY_LENGTH_MAX: Final = TOKEN_LENGTH_MAX
"""A key has 68 characters; the token of an issuer is longer."""


class SizeLimit:
    """Answers 413 to a body larger than `bytes_max`, whether or not it says beforehand how large it is."""

    def __init__(self, app: ASGIApp, *, bytes_max: int) -> None:
        self.app, self.bytes_max = app, bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        stated = Headers(scope=scope).get("content-length", "0")
        if stated.isdecimal() and len(stated) < 20 and int(stated) <= self.bytes_max:
            await self._counted(scope, receive, send)
        else:
            await self._refuse(scope, receive, send)

    async def _counted(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reads the body first when its size was not said: an answer must not begin before it is known to be small."""
        if "chunked" not in Headers(scope=scope).get("transfer-encoding", "").lower():
            await self.app(scope, receive, send)
            return
        messages: list[Message] = []
        size = 0
        while not messages or messages[-1].get("more_body", False):
            messages.append(await receive())
            size += len(messages[-1].get("body", b""))
            if size > self.bytes_max:
                await self._refuse(scope, receive, send)
                return
        replay = iter(messages)

        async def again() -> Message:
            return next(replay, None) or await receive()

        await self.app(scope, again, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = TooLarge(f"The body is larger than {self.bytes_max} bytes.", bytes_max=self.bytes_max)
        await of_error(error, headers={"Connection": "close"})(scope, receive, send)


class Recognise:
    """Finds out who calls, for every path under /v1, and answers 401 where that cannot be.

    Guessing is made slow without slowing others. What cannot be a key is refused by its checksum, and asks no database.
    Whoever was recognised before, by this process or another, is looked up at once, beside all other work; a stranger
    gets in line for one of a few turns, keys and tokens apart, and from an address that brought too many wrong ones, of
    its kind, is not looked up at all.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keyring: Callable[[], Keyring],
        metrics: Metrics,
        rate: Buckets | None,
        failures: Buckets,
    ) -> None:
        self.app, self.keyring, self.metrics = app, keyring, metrics
        self._rate, self._failures = rate, failures
        self._familiar, self._looking = Familiar(), asyncio.Lock()
        self._keys, self._tokens = Lane(), Lane()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (scope["path"] + "/").startswith("/v1/"):
            try:
                caller = await self._caller(scope)
                scope.setdefault("state", {})["caller"] = caller
                self._demand_rate(caller)
            except LedgerError as error:
                await of_error(error)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    async def _caller(self, scope: Scope) -> Caller:
        header = Headers(scope=scope).get("authorization", "")
        scheme, _, secret = header.partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer" or not secret or len(secret) > KEY_LENGTH_MAX:
            failed_sign_in(self.metrics, scope, "malformed" if header else "missing")
            raise Unauthenticated()
        keyring = self.keyring()
        known = keyring.remembered(secret)
        if known is not None:
            return known
        digest = keys.digest_of(secret)
        if digest not in self._familiar and not await self._was_good(keyring, secret, digest):
            return await self._stranger(scope, keyring, secret, digest)
        try:
            return await run_in_threadpool(keyring.recognise, secret)
        except Unauthenticated:
            self._familiar.discard(digest)
            failed_sign_in(self.metrics, scope, "unknown")
            raise

    async def _was_good(self, keyring: Keyring, secret: str, digest: bytes) -> bool:
        """Whether another process found this key good; the database knows, and is asked now and then."""
        if not keys.is_well_formed(secret):
            return False
        if self._familiar.is_due:
            async with self._looking:
                if self._familiar.is_due:
                    self._familiar.take(await run_in_threadpool(familiar.look, keyring.store))
        return digest in self._familiar

    async def _stranger(self, scope: Scope, keyring: Keyring, secret: str, digest: bytes) -> Caller:
        is_token = looks_like_token(secret)
        if not is_token:
            try:
                keys.tenant_of(secret)
            except Unauthenticated:
                failed_sign_in(self.metrics, scope, "malformed")
                raise
        where = (neighbourhood(address_of(scope)), is_token)
        if wait := self._failures.wait_of(where):
            failed_sign_in(self.metrics, scope, "limited")
            raise RateLimited("Too many wrong keys came from this address.", retry_after_seconds=seconds(wait))
        try:
            async with (self._tokens if is_token else self._keys).turn():
                caller = await run_in_threadpool(keyring.recognise, secret)
        except Unauthenticated:
            self._failures.take(where)
            failed_sign_in(self.metrics, scope, "unknown")
            raise
        self._familiar.add(digest)
        return caller

    def _demand_rate(self, caller: Caller) -> None:
        """Takes a token of the key's. Raises RateLimited."""
        if self._rate is None:
            return
        if wait := self._rate.wait_of(caller.key_id):
            self.metrics.rate_limited()
            raise RateLimited(retry_after_seconds=seconds(wait))
        self._rate.take(caller.key_id)
