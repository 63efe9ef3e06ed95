"""The two clients, which execute flows: `Ledger`, which blocks, and `AsyncLedger`, which is awaited."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Any, Final, TypedDict, TypeVar

from ledger import __version__
from ledger.addresses import is_loopback
from ledger.client.beats import Send
from ledger.client.calls import Call, Label
from ledger.client.entering import Plan
from ledger.client.errors import Unreachable
from ledger.client.flows import RETRIES, Flow, Pause, Server, answered, carry_out, without_secrets
from ledger.client.mechanisms import AnyMechanism, Number
from ledger.client.methods import Methods
from ledger.client.methods.kinds import BinaryFile
from ledger.client.scopes import AsyncRunScope, RunScope
from ledger.client.sweeps.sweep import VALID_FOR, Sweep, ask
from ledger.errors import Misconfigured, Unauthenticated
from ledger.web import httpx

URL: Final = "http://127.0.0.1:8000"
TIMEOUT_SECONDS: Final = 30.0
SLOW_SECONDS: Final = 1800.0
"""How long the server may take until it begins to send a report of millions of runs."""
CONNECT_SECONDS: Final = 3.0
"""How long a connection may take by default: a machine that is not there is noticed in time."""
BEAT_SECONDS: Final = 10.0
"""How long each step of a heartbeat may take."""

T = TypeVar("T")
SyncLedger = TypeVar("SyncLedger", bound="Ledger")
AnyAsyncLedger = TypeVar("AnyAsyncLedger", bound="AsyncLedger")


class Ledger(Methods[dict[str, Any], Iterator[dict[str, Any]], None, RunScope, int]):
    """A client of the ledger.

    url, key: default LEDGER_URL (or http://127.0.0.1:8000) and LEDGER_KEY; without a key, the profile that
    `privacy-ledger login` stored (LEDGER_PROFILE, else the one named "default").
    allow_http: whether to allow http:// to another machine, although anyone on the way can read the key; default
    LEDGER_ALLOW_HTTP, else False.
    timeout: seconds for each step of an exchange, or an httpx.Timeout. By default a connection may take 3 seconds.
    retries: how often a call is retried if the ledger cannot be reached or is overloaded. All retries end after two
    minutes, and a call is repeated only if that has no second effect.
    transport: an httpx transport. sleep: a function that waits for seconds.

    Raises Unauthenticated if there is no key, and Misconfigured if the URL cannot be used.

    >>> with Ledger(url, key) as client:
    ...     client.dataset("mnist")["state"]
    'active'
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        allow_http: bool | None = None,
        timeout: float | httpx.Timeout = TIMEOUT_SECONDS,
        retries: int = RETRIES,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        options = _options(url, key, timeout, allow_http=allow_http)
        self._server = Server(str(options["base_url"]), retries, is_offline=_flag("LEDGER_OFFLINE"))
        self._client = httpx.Client(**options, transport=transport)
        self._sleep = sleep

    def __enter__(self: SyncLedger) -> SyncLedger:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __repr__(self) -> str:
        return f"<Ledger at {self._server.url}>"

    def sweep(
        self,
        name: str,
        *,
        datasets: Sequence[str | Mapping[str, Any]],
        mechanism: AnyMechanism | Sequence[AnyMechanism],
        trials: int | None = None,
        failures: int = 0,
        as_many_as_fit: bool = False,
        segments: int | None = None,
        delta: Number | None = None,
        project: str | None = None,
        purpose: str | None = None,
        labels: Mapping[str, Label] | None = None,
        valid_for: str | timedelta = VALID_FOR,
        size_differs: str | None = None,
    ) -> Sweep:
        """Ask for many trials at once, and return the approved ones, each of which trains under a run of its own.

        name: of the sweep; a restarted job that asks for the same sweep gets the same trials. mechanism: of each
        training, or a list with one for each trial. trials: how many. failures: how many trainings of a trial may fail
        and be made again; each trial asks for that many runs more. as_many_as_fit: approve the first trials that fit
        together; default: all or none. segments: into how many parts each training can be stopped, so that a pruned one
        is charged for the parts that it began. valid_for: until when each may start; default 30 days. Others: `ask`.

        Raises BatchRefused if not all trials fit, with `trials_fitting` in its facts; or if none fits. Raises
        InvalidRequest for more than 1000 trainings, or if the name was used for other trials.

        >>> with client.sweep("lr", datasets=["mnist"], mechanism=Gaussian(noise_multiplier=90), trials=2) as sweep:
        ...     for number in sweep.approved:
        ...         with sweep.trial(number) as run:
        ...             run.step()
        """
        request = {
            "datasets": datasets,
            "segments": segments,
            "delta": delta,
            "project": project,
            "purpose": purpose,
            "valid_for": valid_for,
            "size_differs": size_differs,
        }
        return ask(
            self,
            name,
            mechanism=mechanism,
            trials=trials,
            failures=failures,
            as_many_as_fit=as_many_as_fit,
            labels=labels,
            request=request,
        )

    def _stream(self, call: Call, file: BinaryFile) -> int:
        response = self._drive(carry_out(call, self._server))
        size = 0
        try:
            for chunk in response.iter_bytes():
                file.write(chunk)
                size += len(chunk)
        except httpx.RequestError as error:
            raise _broken_off(size, self._server) from without_secrets(error)
        finally:
            response.close()
        return size

    def _drive(self, flow: Flow[T], /) -> T:
        try:
            effect = next(flow)
            while True:
                try:
                    result = self._perform(effect)
                except Exception as error:
                    effect = flow.throw(error)
                else:
                    effect = flow.send(result)
        except StopIteration as end:
            done: T = end.value
            return done

    def _perform(self, effect: Call | Pause) -> httpx.Response | None:
        if isinstance(effect, Pause):
            self._sleep(effect.seconds)
            return None
        response = self._client.send(_request(self._client, effect), stream=effect.is_streamed)
        if not response.is_success:
            response.read()
        return response

    def _list(self, call: Call) -> Iterator[dict[str, Any]]:
        page: dict[str, Any] = {"next": None}
        while True:
            page = self._drive(answered(_next_page(call, page), self._server))
            yield from page["items"]
            if page["next"] is None:
                return

    def _answer_soon(self, call: Call) -> dict[str, Any]:
        """Send a call of a job that waits: each wait is logged, and a ledger that does not answer is given up soon."""
        return self._drive(answered(call, self._server.in_a_hurry()))

    def _scope(self, plan: Plan) -> RunScope:
        return RunScope(self._drive, plan, self._server, self._beat)

    def _beat(self) -> Send:
        return lambda call: self._client.send(_request(self._client, call, timeout=BEAT_SECONDS))


class AsyncLedger(
    Methods[
        Coroutine[Any, Any, dict[str, Any]],
        AsyncIterator[dict[str, Any]],
        Coroutine[Any, Any, None],
        AsyncRunScope,
        Coroutine[Any, Any, int],
    ]
):
    """The same client for an event loop: await what Ledger returns, and use `async for` on its lists.

    sleep: default asyncio.sleep; `trio.sleep` works too.

        async with AsyncLedger() as ledger:
            asked = await ledger.ask(datasets=["mnist"], mechanism=Gaussian(noise_multiplier=5))
            async for run in ledger.runs(dataset="mnist"): ...
            async with ledger.run(datasets=["mnist"], mechanism=Gaussian(noise_multiplier=5)) as run: ...
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        allow_http: bool | None = None,
        timeout: float | httpx.Timeout = TIMEOUT_SECONDS,
        retries: int = RETRIES,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        options = _options(url, key, timeout, allow_http=allow_http)
        self._server = Server(str(options["base_url"]), retries, is_offline=_flag("LEDGER_OFFLINE"))
        self._client = httpx.AsyncClient(**options, transport=transport)
        # Heartbeats are sent by a thread, which no event loop disturbs, and which cannot use the caller's transport.
        self._of_thread = None if transport is not None else partial(httpx.Client, **options)
        self._sleep = sleep

    async def __aenter__(self: AnyAsyncLedger) -> AnyAsyncLedger:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def __repr__(self) -> str:
        return f"<AsyncLedger at {self._server.url}>"

    async def _stream(self, call: Call, file: BinaryFile) -> int:
        response = await self._drive(carry_out(call, self._server))
        size = 0
        try:
            async for chunk in response.aiter_bytes():
                file.write(chunk)
                size += len(chunk)
        except httpx.RequestError as error:
            raise _broken_off(size, self._server) from without_secrets(error)
        finally:
            await response.aclose()
        return size

    async def _drive(self, flow: Flow[T], /) -> T:
        try:
            effect = next(flow)
            while True:
                try:
                    result = await self._perform(effect)
                except Exception as error:
                    effect = flow.throw(error)
                else:
                    effect = flow.send(result)
        except StopIteration as end:
            done: T = end.value
            return done

    async def _perform(self, effect: Call | Pause) -> httpx.Response | None:
        if isinstance(effect, Pause):
            await self._sleep(effect.seconds)
            return None
        response = await self._client.send(_request(self._client, effect), stream=effect.is_streamed)
        if not response.is_success:
            await response.aread()
        return response

    async def _list(self, call: Call) -> AsyncIterator[dict[str, Any]]:
        page: dict[str, Any] = {"next": None}
        while True:
            page = await self._drive(answered(_next_page(call, page), self._server))
            for item in page["items"]:
                yield item
            if page["next"] is None:
                return

    def _scope(self, plan: Plan) -> AsyncRunScope:
        return AsyncRunScope(self._drive, plan, self._server, self._beat)

    def _beat(self) -> Send | None:
        if self._of_thread is None:
            return None
        client = self._of_thread()
        return lambda call: client.send(_request(client, call, timeout=BEAT_SECONDS))


class _Key:
    """Put the key into every request. The key is not in any printable attribute of the client."""

    def __init__(self, key: str) -> None:
        self._header = f"Bearer {key}"

    def __call__(self, request: httpx.Request) -> httpx.Request:
        request.headers["Authorization"] = self._header
        return request


class _Options(TypedDict):
    base_url: httpx.URL
    auth: Callable[[httpx.Request], httpx.Request]
    timeout: float | httpx.Timeout
    headers: dict[str, str]
    trust_env: bool


def _options(url: str | None, key: str | None, timeout: float | httpx.Timeout, *, allow_http: bool | None) -> _Options:
    """Return the arguments of both httpx clients. Raises Misconfigured and Unauthenticated, without the key."""
    key = (os.environ.get("LEDGER_KEY", "") if key is None else key).strip()
    if not key:
        url, key = _of_profile(url)
    if not key.isascii() or not key.isprintable() or " " in key:
        raise Unauthenticated("The key has characters that keys never have. Check LEDGER_KEY: keys begin with pbl_.")
    base_url = _base_url(url or os.environ.get("LEDGER_URL") or URL)
    is_local = is_loopback(base_url.host)
    if (
        base_url.scheme == "http"
        and not is_local
        and not (_flag("LEDGER_ALLOW_HTTP") if allow_http is None else allow_http)
    ):
        raise Misconfigured(
            f"The ledger's URL is http://{base_url.netloc.decode()}, on another machine: anyone on the way could read"
            " the key. Use https://. If only you use the network between: LEDGER_ALLOW_HTTP=1, or allow_http=True in"
            " Python."
        )
    return {
        "base_url": base_url,
        "auth": _Key(key),
        "timeout": httpx.Timeout(timeout, connect=CONNECT_SECONDS) if timeout == TIMEOUT_SECONDS else timeout,
        "headers": {"User-Agent": f"privacy-ledger/{__version__}"},
        # A proxy could not reach this machine, and would get the key.
        "trust_env": base_url.scheme == "https" or not is_local,
    }


def _of_profile(url: str | None) -> tuple[str, str]:
    """Return the server and the key that `privacy-ledger login` stored, for nothing but that server. Raises
    Unauthenticated if there is no key, and Misconfigured if it is for another server."""
    from ledger import profiles  # only now: most jobs have LEDGER_KEY

    name = os.environ.get("LEDGER_PROFILE", "").strip() or profiles.DEFAULT
    profile = profiles.read(name)
    if profile is None:
        raise Unauthenticated(
            "The key is missing. Log in with `privacy-ledger login`, set LEDGER_KEY, or pass it: Ledger(url, key=…)."
        )
    stated = url or os.environ.get("LEDGER_URL", "").strip() or profile.url
    if profiles.normal(stated) != profile.url:
        raise Misconfigured(f"The key of the profile {name} is for {profile.url}. Pass a key for the other server.")
    return profile.url, profile.key


def _flag(name: str) -> bool:
    """Return whether a variable of the environment is set to yes. Raises Misconfigured."""
    said = os.environ.get(name, "").strip().lower()
    if said in ("1", "true", "yes", "on"):
        return True
    if said in ("", "0", "false", "no", "off"):
        return False
    raise Misconfigured(f"{name} is {said[:20]!r}. Set it to 1 or 0.")


def _base_url(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text.rstrip("/"))
    except httpx.InvalidURL:
        # The message does not show the URL: a part of it may be a password.
        raise Misconfigured("LEDGER_URL is not a URL. Write https://HOST or https://HOST:PORT.") from None
    if url.scheme not in ("http", "https") or not url.host or "%" in url.host:
        raise Misconfigured(
            "LEDGER_URL must begin with http:// or https:// and name a host. Write https://HOST or https://HOST:PORT."
        )
    return url.copy_with(userinfo=b"", query=None, fragment=None)


def _request(client: httpx.Client | httpx.AsyncClient, call: Call, *, timeout: float | None = None) -> httpx.Request:
    request = client.build_request(
        call.method, call.path, params=call.params or None, headers=call.headers, content=call.content
    )
    if timeout is not None:
        request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), timeout)
    if call.is_slow:
        waits = request.extensions["timeout"]
        if waits["read"] is not None:
            waits["read"] = max(waits["read"], SLOW_SECONDS)
    return request


def _next_page(call: Call, page: dict[str, Any]) -> Call:
    return call if page["next"] is None else replace(call, params={**call.params, "cursor": page["next"]})


def _broken_off(size: int, server: Server) -> Unreachable:
    return Unreachable(f"The answer broke off after {size} bytes. Empty the file, and call again.", url=server.url)
