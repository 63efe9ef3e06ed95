"""Guesses of a key open nothing, and whoever has one is served meanwhile. `tests.bench.guesses` measures how well."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from ledger.access import keys
from ledger.errors import Unauthenticated
from ledger.settings import Settings
from tests.bench.guesses import UNANSWERED, furnished, guesses
from tests.kit.driver import Ledger, Served, first_keys


def test_guesses_open_nothing(
    database: Settings, start_server: Callable[[Settings], Served], tries: Callable[[int, int], int]
) -> None:
    """Goal: no guess is answered with anything but a refusal, and every request of a good key is done. Method: both at
    once at a real server; the counters tell every guess, and no journal any of them."""
    key = first_keys(database).admin_key
    served = start_server(database)
    count = tries(600, 100_000)
    with served.client() as client:
        admin = Ledger(client, key)
        site = furnished(served.url, key, served)
        before = admin.get("/v1/head").text
        outcome = site.guessing(count)
        assert sum(outcome.guessed.values()) == count
        assert set(outcome.guessed) <= UNANSWERED
        assert outcome.guessed[401] > 0
        assert set(outcome.served) == {201}
        shown = admin.get("/v1/datasets/mnist").json()
        assert shown["seq"] == 1 + outcome.served[201]
        assert admin.get("/v1/head").text == before
        counted = [line for line in client.get("/metrics").text.splitlines() if "failed_sign_ins_total{" in line]
        refused = {line.partition('"')[2].partition('"')[0]: float(line.rpartition(" ")[2]) for line in counted}
        assert refused["malformed"] >= count // 3
        # One that was turned away since too many waited was not looked at.
        assert sum(refused.values()) == outcome.guessed[401] + outcome.guessed[429]


def test_guesses_are_what_they_say() -> None:
    """Goal: the measurement is of what it claims. Method: a third of the guesses are of the tenant, a third of others,
    and of the rest none is a key; no guess is there twice."""
    tenant = keys.tenant_of(keys.mint(keys.OPERATOR))
    made = list(islice(guesses(tenant, 3000), 3000))
    assert len(set(made)) == 3000
    assert all(keys.tenant_of(secret) == tenant for secret in made[::3])
    assert all(keys.tenant_of(secret) is not None for secret in made[1::3])
    malformed = 0
    for secret in made[2::3]:
        try:
            keys.tenant_of(secret)
        except Unauthenticated:
            malformed += 1
    assert malformed == 1000
