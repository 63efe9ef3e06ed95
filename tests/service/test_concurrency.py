"""Several server processes, many clients, and a server that is killed. Everything here is real and over HTTP."""

from __future__ import annotations

import itertools
import socket
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx

from ledger.access import keys
from ledger.core.amounts import Amount
from ledger.core.datasets import Account
from ledger.core.journal.replay import Replayed, replay
from ledger.settings import Settings
from ledger.store import Store, engine_for
from tests.kit.driver import MNIST, RELEASE, Served, first_keys

Start = Callable[[Settings], Served]
COST = 40_000_000_000


class Site:
    """Two servers on one database, a tenant, and clients that choose a server each."""

    def __init__(self, settings: Settings, start: Start, servers: int = 2) -> None:
        self.settings = settings
        self.key = first_keys(settings).admin_key
        self.urls = itertools.cycle([start(settings).url for _ in range(servers)])

    def client(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=next(self.urls), headers=headers, timeout=60)

    def register(self, name: str) -> None:
        with self.client() as client:
            assert client.post("/v1/datasets", json={**MNIST, "name": name}).status_code == 201

    def replay(self, name: str) -> Replayed:
        """What the journal in the database adds up to, and that the rows say the same."""
        store = Store(engine_for(self.settings.database_url.get_secret_value()))
        tenant_id = keys.tenant_of(self.key)
        with store.reading(tenant_id) as reading:
            dataset = reading.datasets.by_name(name)
            assert dataset is not None
            accounts = reading.accounts.page(dataset.id, after=None, limit=1000)
            entries = [(entry.body, entry.hash) for entry in reading.journals.page(dataset.id, after=0, limit=100_000)]
        store.close()
        replayed = replay(entries, tenant_id=tenant_id, dataset_id=dataset.id)
        assert list(replayed.accounts.values()) == accounts
        assert (replayed.seq, replayed.head) == (dataset.seq, dataset.head)
        return replayed


def account_of(replayed: Replayed) -> Account:
    """The one account of a dataset."""
    (account,) = replayed.accounts.values()
    return account


def at_once(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """Makes all calls at the same moment, each in a thread of its own, and returns what they returned."""
    barrier = threading.Barrier(len(calls))

    def call(one: Callable[[], Any]) -> Any:
        barrier.wait()
        return one()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(call, calls))


def ask(client: httpx.Client, dataset: str, key: str, **changes: Any) -> httpx.Response:
    """Asks for one release with noise multiplier 5."""
    body = {**RELEASE, "datasets": [dataset], **changes}
    return client.post("/v1/runs", json=body, headers={"Idempotency-Key": key})


def test_exactly_25_of_64_clients_are_approved(database: Settings, start_server: Start) -> None:
    """Goal: no race lets a 26th run in. Method: 64 clients at once over two processes, on three datasets in turn."""
    site = Site(database, start_server)
    for name in ("one", "two", "three"):
        site.register(name)
        clients = [site.client() for _ in range(64)]
        answers = at_once([partial(ask, client, name, f"{name}-{at}") for at, client in enumerate(clients)])
        assert Counter(answer.status_code for answer in answers) == {201: 25, 409: 39}
        left = [int(a.json()["datasets"][0]["remaining"]["mu_sq_pico"]) for a in answers if a.status_code == 201]
        assert sorted(left) == [COST * number for number in range(25)], "every remainder was told once"
        replayed = site.replay(name)
        assert account_of(replayed).held == Amount(10**12, 0)
        assert replayed.seq == 1 + 64
        for client in clients:
            client.close()


def test_of_processes_that_start_a_run_at_once_one_may_train(database: Settings, start_server: Start) -> None:
    """Goal: each of eight processes that found a run held starts it, and exactly one gets the receipt; it alone gets it
    again. Method: over two servers, five times; each sends its token twice, as after a lost answer."""
    site = Site(database, start_server)
    site.register("one")
    clients = [site.client() for _ in range(8)]
    for turn in range(5):
        run = ask(clients[0], "one", f"turn-{turn}").json()["id"]

        def start(at: int, run: str) -> list[httpx.Response]:
            return [clients[at].post(f"/v1/runs/{run}/start", json={"token": f"of-{at}"}) for _ in range(2)]

        pairs = at_once([partial(start, at, run) for at in range(8)])
        assert Counter(first.status_code for first, _ in pairs) == {200: 1, 409: 7}
        for first, again in pairs:
            assert again.status_code == first.status_code
            if first.is_success:
                assert (again.json(), again.headers["idempotent-replayed"]) == (first.json(), "true")
            else:
                assert (again.json()["code"], again.json()["state"]) == ("run-state", "started")
    for client in clients:
        client.close()
    assert site.replay("one").seq == 1 + 2 * 5


def test_one_key_sent_at_once_has_one_outcome(database: Settings, start_server: Start) -> None:
    """Goal: a key sent at once with one body to two processes is one run; sent to two datasets, one of them gets it and
    the other is told so; two keys in opposite orders do not wait for each other. No 5xx in any of it."""
    site = Site(database, start_server)
    for name in ("left", "right"):
        site.register(name)
    clients = [site.client() for _ in range(16)]
    for turn in range(5):
        same = at_once([partial(ask, client, "left", f"same-{turn}") for client in clients])
        assert {answer.status_code for answer in same} == {201}
        assert len({answer.json()["id"] for answer in same}) == 1
        assert sum("idempotent-replayed" not in answer.headers for answer in same) == 1

        names = itertools.cycle(["left", "right"])
        split = at_once([partial(ask, client, next(names), f"split-{turn}") for client in clients])
        assert Counter(answer.status_code for answer in split) == {201: 8, 422: 8}
        assert len({answer.json()["id"] for answer in split if answer.status_code == 201}) == 1
        assert {a.json()["code"] for a in split if a.status_code == 422} == {"idempotency-key-reused"}

        def both(client: httpx.Client, pairs: list[tuple[str, str]]) -> list[httpx.Response]:
            return [ask(client, name, key) for name, key in pairs]

        pairs = [("left", f"a-{turn}"), ("right", f"b-{turn}")]
        crossed = at_once([partial(both, c, pairs if at % 2 else pairs[::-1]) for at, c in enumerate(clients)])
        found = [answer for answers in crossed for answer in answers]
        assert {answer.status_code for answer in found} == {201}
        assert len({answer.json()["id"] for answer in found}) == 2
    for client in clients:
        client.close()
    held = [account_of(site.replay(name)).held for name in ("left", "right")]
    assert sum(amount.mu_sq_pico for amount in held) == COST * 5 * 4


def test_names_and_budgets_hold_up_against_runs(database: Settings, start_server: Start) -> None:
    """Goal: registering one name at once makes one dataset; lowering the budget while runs are asked for never leaves
    more held than the limit. Method: 8 registrations, then 24 requests beside 8 attempts to lower the budget."""
    site = Site(database, start_server)
    clients = [site.client() for _ in range(32)]
    made = at_once([partial(c.post, "/v1/datasets", json={**MNIST, "name": "new"}) for c in clients[:8]])
    assert Counter(answer.status_code for answer in made) == {201: 1, 409: 7}
    lower = {"budget": {"mu": 0.6}, "reason": "less"}
    answers = at_once(
        [partial(ask, client, "new", f"k-{at}") for at, client in enumerate(clients[:24])]
        + [partial(client.put, "/v1/datasets/new/budget", json=lower) for client in clients[24:]]
    )
    assert {answer.status_code for answer in answers} <= {200, 201, 409}
    approved = sum(answer.status_code == 201 for answer in answers[:24])
    lowered = sum(answer.status_code == 200 for answer in answers[24:])
    account = account_of(site.replay("new"))
    assert account.held.mu_sq_pico == COST * approved
    assert account.limit.mu_sq_pico == (360_000_000_000 if lowered else 10**12)
    assert account.held.mu_sq_pico <= account.limit.mu_sq_pico
    for client in clients:
        client.close()


def test_a_killed_server_loses_nothing_that_it_acknowledged(database: Settings, start_server: Start) -> None:
    """Goal: SIGKILL in the middle of requests loses no approval that a client was told, and doubles none. Method: 16
    clients ask without pause, the server is killed, another is started, and every key is asked for again."""
    site = Site(database, start_server, servers=0)
    victim = start_server(database)
    site.urls = itertools.cycle([victim.url])
    site.register("data")
    with site.client() as client:
        client.put(
            "/v1/datasets/data/budget",
            json={"budget": {"mu": 100}, "reason": "room for all", "accepts_weak_protection": True},
        )
    told: dict[str, Any] = {}
    sent: list[str] = []
    enough = threading.Event()

    def work(number: int) -> None:
        with site.client() as client:
            for turn in itertools.count():
                key = f"{number}-{turn}"
                sent.append(key)
                try:
                    answer = ask(client, "data", key)
                except httpx.TransportError:
                    return
                told[key] = answer.json()
                if len(told) >= 150:
                    enough.set()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    assert enough.wait(60)
    victim.kill()
    for thread in threads:
        thread.join(60)
    assert len(told) >= 150
    assert len(sent) > len(told), "the kill came in the middle of requests"

    site.urls = itertools.cycle([start_server(database).url])
    with site.client() as client:
        again = {key: ask(client, "data", key) for key in sent}
    assert {answer.status_code for answer in again.values()} == {201}
    for key, body in told.items():
        assert again[key].json() == body
        assert again[key].headers["idempotent-replayed"] == "true"
    replayed = site.replay("data")
    assert account_of(replayed).held == Amount(COST * len(sent), 0)
    assert len(replayed.runs) == len(sent)


def test_a_client_that_disconnects_harms_nobody(database: Settings, start_server: Start) -> None:
    """Goal: requests whose clients hang up are decided or dropped, later ones are answered, nothing is counted twice.
    Method: bare sockets that send a request and close at once, between ordinary requests."""
    site = Site(database, start_server, servers=1)
    site.register("data")
    with site.client() as client:
        host, port = client.base_url.host, client.base_url.port or 80
        for number in range(40):
            request = client.build_request(
                "POST",
                "/v1/runs",
                json={**RELEASE, "datasets": ["data"]},
                headers={"Idempotency-Key": f"gone-{number}"},
            )
            head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
            with socket.create_connection((host, port), timeout=10) as raw:
                raw.sendall(f"POST /v1/runs HTTP/1.1\r\n{head}\r\n".encode() + request.content)
        answers = [ask(client, "data", f"stays-{number}") for number in range(5)]
        assert {answer.status_code for answer in answers} <= {201, 409}
        assert client.get("/readyz").status_code == 200
        again = [ask(client, "data", f"gone-{number}") for number in range(40)]
        assert {answer.status_code for answer in again} <= {201, 409}
    replayed = site.replay("data")
    assert len(replayed.runs) == 45
    assert account_of(replayed).held == Amount(10**12, 0)
