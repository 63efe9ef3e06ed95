"""What every request passes before its route: recognise the caller by the headers, then check the body's size."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ledger.access import familiar, keys
from ledger.access.familiar import Familiar
from ledger.access.keys import Keyring
from ledger.access.oidc import TOKEN_LENGTH_MAX, looks_like_token
from ledger.access.roles import Caller
from ledger.api.limits import Buckets, Lane, Shares, caller_of, neighbourhood, seconds
from ledger.api.metrics import Metrics
from ledger.api.observe import address_of, failed_sign_in
from ledger.api.problems import of_error
from ledger.errors import LedgerError, RateLimited, TooLarge, Unauthenticated

T = TypeVar("T")

KEY_LENGTH_MAX: Final = TOKEN_LENGTH_MAX
"""A key has 68 characters; the token of an issuer is longer."""
FAMILIAR_AT_ONCE_MAX: Final = 16
"""Parallel look-ups of keys that were valid before. Enough threads must stay free for the requests themselves."""


class Unread:
    """Announces that the connection will close if an answer begins before its request was read in full and the rest may
    be too much to discard. The server's protocol closes it."""

    def __init__(self, app: ASGIApp, *, bytes_max: int) -> None:
        self.app, self._bytes_max = app, bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._may_be_left(Headers(scope=scope)):
            await self.app(scope, receive, send)
            return
        is_whole = False

        async def read() -> Message:
            nonlocal is_whole
            message = await receive()
            is_whole = not message.get("more_body", False)
            return message

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start" and not is_whole:
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        await self.app(scope, read, answer)

    def _may_be_left(self, headers: Headers) -> bool:
        """Return whether the rest of an unread body may never arrive: it is large, has no length, or waits for `100
        Continue`."""
        if "transfer-encoding" in headers or "expect" in headers:
            return True
        stated = headers.get("content-length", "0")
        return len(stated) > 19 or not stated.isdecimal() or int(stated) > self._bytes_max


class Bodies:
    """Counts the bodies of recognised callers while they arrive. Answers 413 to a body larger than `bytes_max`, whether
    its length was announced or not, and 503 while too many bytes are held. Bodies of unknown callers are never read."""

    def __init__(self, app: ASGIApp, *, bytes_max: int, held: Shares) -> None:
        self.app, self._bytes_max, self._held = app, bytes_max, held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = caller_of(scope)
        if caller is None:
            await self.app(scope, receive, send)
            return
        stated = Headers(scope=scope).get("content-length", "0")
        if not stated.isdecimal() or len(stated) > 19 or int(stated) > self._bytes_max:
            await of_error(self._too_large())(scope, receive, send)
            return
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            arrived = len(message.get("body", b""))
            if size + arrived > self._bytes_max:
                raise self._too_large()
            self._held.take(caller, arrived)
            size += arrived
            return message

        try:
            await self.app(scope, counted, send)
        finally:
            self._held.give(caller, size)

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"The body has more than {self._bytes_max} bytes, the limit of this server. Send a smaller body.",
            bytes_max=self._bytes_max,
        )


class Recognise:
    """Recognises the caller of every path under /v1, and answers 401 to unknown callers."""

    def __init__(self, app: ASGIApp, *, recogniser: Recogniser) -> None:
        self.app, self._recogniser = app, recogniser

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (scope["path"] + "/").startswith("/v1/"):
            try:
                await self._recogniser.admit(scope, Headers(scope=scope).get("authorization", ""))
            except LedgerError as error:
                await of_error(error)(scope, receive, send)
                return
        await self.app(scope, receive, send)


class Recogniser:
    """Recognises callers by the header of their requests.

    Guessing is slow, and does not slow others. A text that cannot be a key fails its checksum without a query. A key
    that this or another process recognised before is looked up at once. Other callers wait for one of a few turns,
    separate for keys and tokens; an address that sent too many wrong ones of a kind gets no turn. The headers are
    enough: an unknown caller is answered before any of the body is read.
    """

    def __init__(
        self,
        *,
        keyring: Callable[[], Keyring],
        metrics: Metrics,
        rate: Buckets | None,
        failures: Buckets,
        requests_max: int,
    ) -> None:
        self.keyring, self.metrics = keyring, metrics
        self._rate, self._failures = rate, failures
        self._familiar, self._looking = Familiar(), asyncio.Lock()
        self._keys, self._tokens, self._sign_ins = Lane(), Lane(), Lane()
        self._look_ups: dict[bytes, asyncio.Task[Caller]] = {}
        self._known = Lane(at_once=FAMILIAR_AT_ONCE_MAX, waiting_max=requests_max)

    async def admit(self, scope: Scope, header: str) -> Caller:
        """Return the caller, whose state the request has from now on. header: of the name Authorization. Raises
        Unauthenticated, RateLimited and Overloaded."""
        caller = await self._caller(scope, header)
        scope.setdefault("state", {})["caller"] = caller
        self._demand_rate(caller)
        return caller

    def enter(self, scope: Scope, caller: Caller) -> None:
        """Let a caller in who was recognised by a session, and not by a header. Raises RateLimited."""
        scope.setdefault("state", {})["caller"] = caller
        self._demand_rate(caller)

    async def turn(self, scope: Scope, work: Callable[[], T]) -> T:
        """Return the result of a stranger's sign-in by an issuer, for which few wait at once. Raises RateLimited if too
        many failed from this address, Overloaded, and what the work raises."""
        where = (neighbourhood(address_of(scope)), "sign-in")
        if wait := self._failures.wait_of(where):
            failed_sign_in(self.metrics, scope, "limited")
            raise RateLimited(
                "Too many sign-ins failed from this address. Try again later.", retry_after_seconds=seconds(wait)
            )
        try:
            async with self._sign_ins.turn():
                return await run_in_threadpool(work)
        except Unauthenticated:
            self._failures.take(where)
            failed_sign_in(self.metrics, scope, "unknown")
            raise

    async def _caller(self, scope: Scope, header: str) -> Caller:
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
        # One look-up for all waiting requests of a key, so that no key takes the turns of others.
        look_up = self._look_ups.get(digest)
        if look_up is None:
            look_up = self._look_ups[digest] = asyncio.create_task(self._familiar_caller(keyring, secret))
            look_up.add_done_callback(lambda _: self._look_ups.pop(digest))
        try:
            return await asyncio.shield(look_up)
        except Unauthenticated:
            self._familiar.discard(digest)
            failed_sign_in(self.metrics, scope, "unknown")
            raise

    async def _was_good(self, keyring: Keyring, secret: str, digest: bytes) -> bool:
        """Return whether another process found this key valid, as the database remembers; it is asked now and then."""
        if not keys.is_well_formed(secret):
            return False
        if self._familiar.is_due:
            async with self._looking:
                if self._familiar.is_due:
                    self._familiar.take(await run_in_threadpool(familiar.look, keyring.store))
        return digest in self._familiar

    async def _familiar_caller(self, keyring: Keyring, secret: str) -> Caller:
        async with self._known.turn():
            return await run_in_threadpool(keyring.recognise, secret)

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
            raise RateLimited(
                "Too many wrong keys came from this address. Check your key, and try again later.",
                retry_after_seconds=seconds(wait),
            )
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
        """Take a token of the key's bucket. Raises RateLimited."""
        if self._rate is None:
            return
        if wait := self._rate.wait_of(caller.key_id):
            self.metrics.rate_limited()
            raise RateLimited(retry_after_seconds=seconds(wait))
        self._rate.take(caller.key_id)
