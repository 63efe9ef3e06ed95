"""Costs beside what is left, from memory and from the database."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient

from ledger.accounting.beside import Offer
from ledger.accounting.cost import Cost
from ledger.accounting.terms import Terms
from ledger.core.residual import LEVELS, Residual
from ledger.service.certificates import Certificates, read, read_offer, written, written_offer
from ledger.settings import Settings
from ledger.store import Store
from tests.kit.accountant import WAIT_SECONDS_MAX, dpsgd
from tests.kit.driver import Ledger, application, first_keys
from tests.service.test_certificates import ACME, BETA, Caches, together

FEW = dpsgd(steps=20)
TERMS = Terms(bound="certified", adjacency="add_or_remove_one")
BASE = 10**12


@pytest.fixture
def caches(store: Store) -> Iterator[Caches]:
    """A maker of caches on a fresh database of each kind."""
    made = Caches(store)
    yield made
    made.close()


def opened(caches: Caches, computed: list[float]) -> Certificates:
    """A cache that counts what it computes."""
    made = Certificates(caches.store, seconds_max=WAIT_SECONDS_MAX, on_computed=computed.append)
    caches._opened.append(made)
    return made


def offer(cache: Certificates, *, tenant: UUID = ACME, share: str = "1e-8", base: int = BASE, **changes: Any) -> Any:
    """The coroutine that asks a cache."""
    return cache.offer(tenant, dpsgd(steps=20, **changes), TERMS, Decimal(share), base)


def test_an_offer_survives_being_written(tries: Callable[[int, int], int]) -> None:
    """Goal: an offer that was read is the one that was written, table included. Method: random offers."""
    rng = random.Random(2)
    for trial in range(tries(300, 10_000)):
        cost = Cost(rng.random(), Fraction(rng.getrandbits(300), 1 + rng.getrandbits(200)), Fraction(1, 7), "m", ("a",))
        costs = sorted((rng.randrange(1, 10**15) for _ in range(rng.randrange(1, len(LEVELS) + 1))), reverse=True)
        table = None if trial % 4 == 0 else Residual(rng.randrange(1, 10**15), tuple(costs))
        made = Offer(Decimal(rng.randrange(1, 10**6)).scaleb(-rng.randrange(6, 20)).normalize(), cost, table)
        assert read_offer(written_offer(made)) == made


def test_what_is_no_offer_is_not_read_as_one() -> None:
    """Goal: half a row, a plain cost, or a table that rises never becomes an offer, and an offer no cost."""
    cost = Cost(0.3, Fraction(1, 9), Fraction(0), "m", ())
    good = written_offer(Offer(Decimal("1e-8"), cost, Residual(64, (5, 3))))
    wrong = [
        "",
        "null",
        "{}",
        written(cost),
        good.replace("5 3", "3 5"),
        good.replace("5 3", "5 0"),
        good.replace('"base":"64"', '"base":"0"'),
        good.replace('"mu":0.3', '"mu":-0.3'),
        good.replace('"table":', '"more":1,"table":'),
        good.replace("0.00000001", "1e-8"),
        good.replace("0.00000001", '"0.00000001"'),
    ]
    for body in wrong:
        assert body != good
        with pytest.raises((ValueError, KeyError, TypeError, ArithmeticError)):
            read_offer(body)
    with pytest.raises((ValueError, KeyError, TypeError)):
        read(good)


def test_an_offer_is_composed_once(caches: Caches) -> None:
    """Goal: for this process, for others and for the next start; each tenant for itself; a share, a limit and a
    mechanism each have their own. Method: count what is computed."""
    computed: list[float] = []
    first = opened(caches, computed)
    (found,) = together(offer(first))
    assert found.table is not None
    assert together(offer(first), offer(first, noise_multiplier=Decimal("1.10"))) == [found, found]
    first.close()
    assert [read_offer(body) for _, body in caches.rows()] == [found]
    second = opened(caches, computed)
    assert together(offer(second)) == [found]
    assert len(computed) == 1
    assert together(offer(second, tenant=BETA)) == [found]
    together(offer(second, share="1e-9"), offer(second, base=2 * BASE), offer(second, noise_multiplier=1.2))
    assert len(computed) == 5


def test_a_row_that_cannot_be_read_is_computed_anew(caches: Caches) -> None:
    """Goal: a broken row costs time and nothing else. Method: the row of a plain cost under the offer's key."""
    computed: list[float] = []
    first = opened(caches, computed)
    (found,) = together(offer(first))
    first.close()
    ((digest, _),) = caches.rows()
    with caches.store.writing(ACME) as writing:
        writing.certificates.keep(digest, written(found.cost), now_us=1, rows_max=10)
    second = opened(caches, computed)
    assert together(offer(second)) == [found]
    second.close()
    assert len(computed) == 2
    assert [read_offer(body) for _, body in caches.rows()] == [found]


def test_after_a_restart_a_known_run_is_not_composed_again(database: Settings) -> None:
    """Goal: a server that was started again approves a known run without a composition. Method: the same run asked for
    by an application, and by a second one on its database, whose processes never begin to compute."""
    rounds = {"type": "dpsgd", "noise_multiplier": 0.7, "sampling": "poisson", "sample_rate": 0.0043, "steps": 20}
    key = first_keys(database).admin_key
    with TestClient(application(database)) as client:
        first = Ledger(client, key)
        first.register(name="rounds", bound="certified", budget={"epsilon": 8, "at_delta": 1e-5})
        asked = first.ask(rounds, datasets=["rounds"])
        assert asked.status_code == 201, asked.text
        void = first.post(f"/v1/runs/{asked.json()['id']}/void", {"reason": "r"})
        assert void.status_code == 200
        assert computed(first) > 0
    with TestClient(application(database)) as client:
        second = Ledger(client, key)
        again = second.ask(rounds, datasets=["rounds"])
        assert (again.status_code, again.json()["cost"]) == (201, asked.json()["cost"])
        assert computed(second) == 0
        other = second.ask({**rounds, "steps": 21}, datasets=["rounds"])
        assert other.status_code == 201
        assert computed(second) > 0


def computed(ledger: Ledger) -> float:
    """How many certificates an application computed."""
    app: Any = ledger.client.app
    (count,) = [
        sample.value
        for metric in app.state.metrics.registry.collect()
        for sample in metric.samples
        if sample.name == "ledger_certificate_seconds_count"
    ]
    return float(count)
