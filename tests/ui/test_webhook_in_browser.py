"""A test alert, from the button of a page to a webhook that listens for real."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from tests.alerting.test_courier import SECONDS, Receiver, verified
from tests.conftest import Templates
from tests.kit.driver import Ledger, first_keys, serve_here
from tests.kit.scene import ok
from tests.ui.conftest import Opener


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    """A webhook on the loopback."""
    made = Receiver()
    yield made
    made.close()


@pytest.fixture(scope="module")
def site(templates: Templates, tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Ledger]:
    """A server that may send to the webhook."""
    with templates.clone("sqlite", tmp_path_factory.mktemp("hooked"), is_begun=True) as settings:
        first = first_keys(settings)
        hooked = settings.model_copy(update={"webhook_hosts": (receiver.place,)})
        with serve_here(hooked) as url, httpx.Client(base_url=url) as client:
            yield Ledger(client, first.admin_key, operator_key=first.operator_key, tenant=first.tenant)


def test_a_test_alert_reaches_the_webhook(open_page: Opener, site: Ledger, receiver: Receiver) -> None:
    """Goal: the page sets a webhook, its button sends a signed alert there, and the page then shows that it arrived; no
    page shows the secret part of the address. Method: click; what arrives is verified by another library."""
    page = open_page("/ui/alerts", key=site.key)
    page.get_by_label("New webhook").fill(receiver.url)
    page.get_by_label("Reason").fill("The team's channel.")
    page.get_by_role("button", name="Set the alerts").click()
    assert page.get_by_role("status").inner_text() == "Set. The journal has it, with your reason."
    assert "secret-in-the-path" not in page.content()
    page.get_by_role("button", name="Raise a test alert").click()
    assert page.get_by_role("status").inner_text() == "A test alert was raised."
    path, headers, body = receiver.got.get(timeout=SECONDS)
    said = json.loads(body)
    assert verified(said, site.client.get("/.well-known/jwks.json").json()) == said["alert"]
    assert (said["alert"]["kind"], path) == ("test", "/hook/secret-in-the-path?token=secret")
    (kept,) = ok(site.get("/v1/alerts", kind="test"))["items"]
    assert headers["Idempotency-Key"] == said["alert"]["id"] == kept["id"]
    assert receiver.got.empty()
    page.goto("/ui/alerts?kind=test")
    while not page.get_by_text("delivered").first.is_visible():  # the answer of the webhook is being recorded
        page.reload()
    assert page.get_by_role("row").count() == 2
