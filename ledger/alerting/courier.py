"""The courier: raise periodic alerts, and deliver alerts from the outbox to webhooks.

In each server process one thread looks for alerts, and others deliver them, one tenant's turn each
(`ledger.alerting.turns`), so that a slow receiver does not delay other tenants. A decision puts its alerts into the
outbox in its own transaction (`ledger.service.writer`), and wakes the courier after the commit. Periodically, one
process looks for what no decision raises (`ledger.alerting.lookout`), and each for deliveries to retry.

An alert is leased before it is sent: for a while no other process gets it, and no transaction stays open. If this
process ends, the alert becomes due again. So it arrives at least once, and its `id` identifies a repetition. A failed
delivery is retried after growing pauses, a bounded number of times. Every write goes through the writer.

The tenant chooses the URL, within the hosts that the operator allows. Redirections are not followed, and only a bounded
part of an answer is read. The log and the alert's row have only the host of a URL: its path may be a secret.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal, Protocol
from urllib.parse import urlsplit
from uuid import UUID

from ledger.addresses import is_loopback
from ledger.alerting import watch
from ledger.alerting.lookout import WRITE_SECONDS_MAX, Lookout
from ledger.alerting.turns import Turns
from ledger.background import CLOSE_SECONDS_MAX, Background
from ledger.core.alerting import KeptAlert
from ledger.service.writer import Writer
from ledger.store import Snapshot, Store, Writing
from ledger.verifier.jws import ALERT
from ledger.web import httpx

log = logging.getLogger(__name__)

TRIES: Final = 12
FIRST_WAIT_US: Final = 90 * 1_000_000
"""The pause after the first failure. It doubles after each further one; the last try is after two days."""
POST_SECONDS_MAX: Final = 10.0
"""The time limit of a delivery, from the look-up of the name to the end of the answer."""
ANSWER_BYTES_MAX: Final = 64 * 1024
BATCH: Final = 8
"""How many alerts of a tenant are leased at once. They are sent one by one, up to the first failure."""
AT_ONCE: Final = 16
"""How many tenants have a turn at the same time. A turn is one batch."""
SLOW_AT_ONCE: Final = 8
"""How many of these may be tenants whose receiver was slow the last time."""
SLOW_SECONDS: Final = 1.0
TURN_SECONDS_MAX: Final = 10.0
"""After this time a turn sends nothing more; a delivery that has begun is completed."""
LEASE_US: Final = 300 * 1_000_000
"""How long an alert is leased: longer than a turn can take."""
URL_LENGTH_MAX: Final = 2000

Outcome = Literal["delivered", "retried", "failed"]


class Signs(Protocol):
    """Something that signs events."""

    def sign(self, payload: str, typ: str) -> str:
        """Return the compact JWS of a payload."""
        ...


# --- where alerts may go ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hosts:
    """The hosts that webhooks may use, as `host` or `host:port`; if there are none, webhooks are off.

    The names are resolved as usual: a host that the operator allows is trusted, whatever address it has.
    """

    allowed: tuple[str, ...] = ()

    def objection(self, url: str) -> str | None:
        """Return why a webhook may not use this URL; None if it may."""
        if not self.allowed:
            return "webhooks are off: the operator allows no hosts"
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, ValueError):
            return "is not a URL"
        if len(url) > URL_LENGTH_MAX or not url.isascii() or not url.isprintable() or " " in url:
            return f"is a URL of ASCII characters without spaces, at most {URL_LENGTH_MAX}"
        if not parsed.host or parsed.userinfo or parsed.fragment:
            return "must have a host, and neither a user nor a fragment"
        if parsed.scheme != "https" and not (parsed.scheme == "http" and is_loopback(parsed.host)):
            return "must begin with https:// (http:// is for loopback addresses alone)"
        allowed = (httpx.URL(f"{parsed.scheme}://{host}") for host in self.allowed)
        if _host_and_port(parsed) not in map(_host_and_port, allowed):
            return "its host is not among those that the operator allows"
        return None


def _host_and_port(url: httpx.URL) -> tuple[str, int | None]:
    return url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)


# --- one delivery ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Bag:
    """The alerts for one tenant's receiver, and their outcomes: None if delivered, else why not."""

    tenant_id: UUID
    url: str
    alerts: Sequence[KeptAlert]
    failures: dict[UUID, str | None] = field(default_factory=dict)

    @property
    def has_failed(self) -> bool:
        return any(failure is not None for failure in self.failures.values())


def _request_body(body: str, signature: str) -> bytes:
    """Return a request's body. It has the event twice: in plain JSON, and signed; receivers trust the signed one."""
    return f'{{"alert":{body},"signature":"{signature}"}}'.encode()


async def _post(client: httpx.AsyncClient, url: str, alert: KeptAlert, signature: str) -> str | None:
    """Send one alert. Return None if the receiver accepted it, else why not, without any of the URL or the answer."""
    headers = {
        "Content-Type": "application/json",
        "Idempotency-Key": str(alert.id),
        "User-Agent": "privacy-ledger",
        "Accept-Encoding": "identity",
    }
    try:
        async with (
            asyncio.timeout(POST_SECONDS_MAX),
            client.stream(
                "POST", url, content=_request_body(alert.body, signature), headers=headers, follow_redirects=False
            ) as response,
        ):
            size = 0
            async for chunk in response.aiter_raw():
                size += len(chunk)
                if size > ANSWER_BYTES_MAX:
                    break
    except (TimeoutError, httpx.TimeoutException):
        return "timeout"
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        return f"unreachable ({type(error).__name__})"
    return None if response.is_success else f"status {response.status_code}"


# --- the thread ------------------------------------------------------------------------------------------------------


class Courier:
    """Raise the alerts that no decision raises, and deliver alerts."""

    def __init__(
        self,
        store: Store,
        writer: Writer,
        signer: Signs,
        *,
        hosts: Hosts,
        every_seconds: float,
        signed_head: watch.SignedHead,
        clock: Callable[[Snapshot], int] = Snapshot.now_us,
        on_delivery: Callable[[Outcome], None] = lambda _outcome: None,
    ) -> None:
        """signed_head: returns the facts of a journal's head, for tenants that want heads. clock: returns the
        database's time in microseconds. on_delivery: called with the outcome of each try."""
        self._store, self._writer, self._signer = store, writer, signer
        self._hosts, self._clock, self._on_delivery = hosts, clock, on_delivery
        self._lookout = Lookout(store, writer, every_seconds=every_seconds, signed_head=signed_head, clock=clock)
        self._lock = threading.Lock()
        self._woken_for: set[UUID] = set()
        self._added_to: set[UUID] = set()
        self._interrupts: set[Callable[[], object]] = set()
        self._turns = Turns(self._deliver_some, at_once=AT_ONCE, slow_at_once=SLOW_AT_ONCE, slow_seconds=SLOW_SECONDS)
        self._background = Background("courier", self._turn, every_seconds=every_seconds)

    def start(self) -> None:
        self._background.start()

    def close(self) -> None:
        """Cancel what is being sent, give it back, and end the threads. Call it before closing the writer."""
        self._background.stop()
        with self._lock:
            interrupts = list(self._interrupts)
        for interrupt in interrupts:
            with suppress(RuntimeError):  # the loop may have ended already
                interrupt()
        has_ended = self._background.close()
        self._turns.close(seconds_max=CLOSE_SECONDS_MAX)
        if has_ended:
            self._lookout.close()

    def added(self, tenant_id: UUID) -> None:
        """Note that this tenant's outbox has something new. Never waits."""
        with self._lock:
            self._woken_for.add(tenant_id)
            self._added_to.add(tenant_id)
        if self._hosts.allowed:
            self._background.wake()

    def objection(self, url: str) -> str | None:
        """Return why a webhook may not use this URL; None if it may."""
        return self._hosts.objection(url)

    @property
    def pending(self) -> int:
        """Return the number of undelivered alerts when this process last looked."""
        return self._lookout.pending

    def _turn(self, is_due: bool) -> None:
        if is_due:
            self.round()
            return
        with self._lock:
            woken, self._woken_for = self._woken_for, set()
        self.deliver(woken)

    def round(self) -> list[Future[None]]:
        """Look at all tenants, unless another process does; start the delivery of what is due; and trim the outboxes to
        which this process added something."""
        with self._lock:
            self._woken_for.clear()
            added, self._added_to = self._added_to, set()
        due = self._lookout.tick(is_closing=lambda: self._background.is_closing)
        for tenant_id in added:
            with self._store.reading(tenant_id) as reading:
                is_full = reading.outbox.has_more_than(watch.ALERTS_MAX)
            if is_full:
                self._write(tenant_id, lambda writing: writing.outbox.prune(rows_max=watch.ALERTS_MAX))
        return self.deliver(due)

    # --- delivering

    def _write(self, tenant_id: UUID, write: Callable[[Writing], Any]) -> Any:
        return self._writer.run(tenant_id, write).result(WRITE_SECONDS_MAX)

    def deliver(self, tenants: Iterable[UUID]) -> list[Future[None]]:
        """Start the delivery of what is due for these tenants. Never waits. Each future is done when nothing more is
        due for that tenant, or its receiver fails."""
        return [self._turns.want(tenant_id) for tenant_id in tenants] if self._hosts.allowed else []

    def _deliver_some(self, tenant_id: UUID) -> bool:
        """Serve one turn of a tenant. Return whether more is due."""
        if self._background.is_closing or (bag := self._leased(tenant_id)) is None:
            return False
        with suppress(asyncio.CancelledError):
            asyncio.run(self._send(bag))
        self._record(bag)
        return not bag.has_failed and (len(bag.alerts) == BATCH or len(bag.failures) < len(bag.alerts))

    def _leased(self, tenant_id: UUID) -> _Bag | None:
        """Lease the alerts that are due for a tenant."""
        with self._store.reading(tenant_id) as reading:
            tenant = reading.tenants.current()
            if tenant is None or tenant.alerting.webhook is None or not reading.outbox.has_due(self._clock(reading)):
                return None

        def lease(writing: Writing) -> list[KeptAlert]:
            now_us = self._clock(writing)
            return writing.outbox.lease(now_us=now_us, until_us=now_us + LEASE_US, limit=BATCH)

        alerts: list[KeptAlert] = self._write(tenant_id, lease)
        return _Bag(tenant_id, tenant.alerting.webhook, alerts) if alerts else None

    async def _send(self, bag: _Bag) -> None:
        """Send a batch, one by one, up to the first failure or the end of the turn."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        until = loop.time() + TURN_SECONDS_MAX
        # A proxy could not reach a loopback address.
        is_local = is_loopback(urlsplit(bag.url).hostname or "")
        with self._interruptible(partial(loop.call_soon_threadsafe, task.cancel if task is not None else loop.stop)):
            async with httpx.AsyncClient(timeout=POST_SECONDS_MAX, trust_env=not is_local) as client:
                for alert in bag.alerts:
                    bag.failures[alert.id] = failure = await self._try(client, bag.url, alert)
                    if failure is not None or loop.time() >= until:
                        return

    @contextmanager
    def _interruptible(self, interrupt: Callable[[], object]) -> Iterator[None]:
        """Register the event that cancels this when the process ends."""
        with self._lock:
            self._interrupts.add(interrupt)
        if self._background.is_closing:
            interrupt()
        try:
            yield
        finally:
            with self._lock:
                self._interrupts.discard(interrupt)

    async def _try(self, client: httpx.AsyncClient, url: str, alert: KeptAlert) -> str | None:
        if self._hosts.objection(url) is not None:
            return "its host is not allowed"
        if alert.attempts > TRIES:
            return "given up: the process ended during the last try"
        return await _post(client, url, alert, self._signer.sign(alert.body, ALERT))

    def _record(self, bag: _Bag) -> None:
        """Record the outcomes of a batch: delivered, to be retried, given up, or given back untried."""
        outcomes: list[Outcome] = []

        def work(writing: Writing) -> None:
            now_us = self._clock(writing)
            outcomes.clear()
            for alert in bag.alerts:
                outcomes.extend(_record_outcome(writing, alert, bag, now_us=now_us))

        self._write(bag.tenant_id, work)
        for outcome in outcomes:
            self._on_delivery(outcome)
        for alert in bag.alerts:
            failure = bag.failures.get(alert.id)
            if failure is not None:
                host = urlsplit(bag.url).netloc
                log.warning("alert %s of tenant %s not taken by %s: %s", alert.id, bag.tenant_id, host, failure)


def _record_outcome(writing: Writing, alert: KeptAlert, bag: _Bag, *, now_us: int) -> list[Outcome]:
    if alert.id not in bag.failures:
        # Not tried, because an earlier alert failed or the process ends: it becomes due together with that one.
        next_us = now_us + (_wait_us(1) if bag.has_failed else 0)
        attempts = alert.attempts - 1
        writing.outbox.record(alert, state="pending", attempts=attempts, next_us=next_us, failure=alert.failure)
        return []
    failure = bag.failures[alert.id]
    if failure is None:
        is_recorded = writing.outbox.record(alert, state="delivered", attempts=alert.attempts, delivered_us=now_us)
        return ["delivered"] if is_recorded else []
    if alert.attempts >= TRIES:
        is_recorded = writing.outbox.record(alert, state="failed", attempts=min(alert.attempts, TRIES), failure=failure)
        return ["failed"] if is_recorded else []
    next_us = now_us + _wait_us(alert.attempts)
    is_recorded = writing.outbox.record(
        alert, state="pending", attempts=alert.attempts, next_us=next_us, failure=failure
    )
    return ["retried"] if is_recorded else []


def _wait_us(attempts: int) -> int:
    """Return the pause after some failures: doubled after each, and varied by a fifth so that alerts that failed
    together are not retried together."""
    spread = random.uniform(0.8, 1.2)  # noqa: S311 (no secret: it spreads retries)
    return int(FIRST_WAIT_US * 2 ** (attempts - 1) * spread)
