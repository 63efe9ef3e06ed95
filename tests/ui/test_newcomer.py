"""The tutorial `first-refusal`, in Chromium: from the link that `serve` prints to a run that was refused.

With WRITE_SCREENSHOTS=1 it writes the pictures of that page into docs/tutorial/pages.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from ledger.operate import deploy
from tests.conftest import Templates
from tests.kit.driver import Ledger, first_keys, serve_here
from tests.kit.scene import ok
from tests.ui.conftest import Opener

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "tutorial" / "first-refusal.md"
PICTURES = ROOT / "docs" / "tutorial" / "pages"
BYTES_MAX = 60_000
WIDTH = 1280
QUALITY = 80
SECONDS_OF_A_COST = 60


@pytest.fixture(scope="module")
def site(templates: Templates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """A ledger that has nothing but its first keys, with the address that signs in as its base."""
    with templates.clone("sqlite", tmp_path_factory.mktemp("empty"), is_begun=True) as settings:
        first = first_keys(settings)
        link = deploy.sign_in_link(settings)
        with serve_here(settings) as url, httpx.Client(base_url=url) as client:
            client.headers["x-link"] = f"/ui/sign-in/once/{link}"
            yield Ledger(client, first.admin_key, operator_key=first.operator_key, tenant=first.tenant)


def picture(page: Page, name: str, height: int) -> None:
    """Write what the page shows, if that is asked for."""
    if os.environ.get("WRITE_SCREENSHOTS") == "1":
        page.set_viewport_size({"width": WIDTH, "height": height})
        session = page.context.new_cdp_session(page)
        taken = session.send("Page.captureScreenshot", {"format": "webp", "quality": QUALITY})
        (PICTURES / f"{name}.webp").write_bytes(base64.b64decode(taken["data"]))


def test_from_the_link_to_a_refusal(open_page: Opener, site: Ledger) -> None:
    """Goal: a newcomer registers a dataset, gets a run approved and one refused, reads why, and gets what would fit,
    without a terminal and without a text but the pages'. Method: every step by what is written on a button."""
    page = open_page(site.client.headers["x-link"], color_scheme="light")
    page.set_default_timeout(SECONDS_OF_A_COST * 1000)
    assert page.get_by_role("heading", name="No dataset yet").is_visible()
    picture(page, "empty", 480)
    page.get_by_role("link", name="Register a dataset").click()
    page.get_by_label("Name").fill("mnist")
    page.get_by_label("Records").fill("60000")
    picture(page, "register", 620)
    page.get_by_role("button", name="Register").click()
    assert page.get_by_role("status").inner_text() == "Registered. Its journal has begun."
    page.get_by_role("link", name="Plan a run").first.click()
    page.get_by_label("Mechanism").select_option("dpsgd")
    page.get_by_label("Epochs").fill("60")
    page.get_by_label("Noise multiplier").fill("1.1")
    page.locator("#result").get_by_role("row", name="Left after it").get_by_text("33.39").wait_for()
    picture(page, "planned", 1200)
    page.get_by_label("Purpose").fill("baseline")
    page.get_by_role("button", name="Ask for this run").click()
    assert page.get_by_role("status").inner_text() == "Asked. The journal has the decision."
    assert page.get_by_text("approved").first.is_visible()
    page.get_by_role("link", name="Open in the planner").click()
    page.get_by_text("does not fit").wait_for()
    page.get_by_role("button", name="Ask all the same").click()
    assert page.get_by_role("heading", name="Why it was refused").is_visible()
    picture(page, "refused", 760)
    page.get_by_role("link", name="noise multiplier").click()
    page.get_by_role("row", name="Verdict").get_by_text("approved").wait_for()
    runs = ok(site.get("/v1/runs"))["items"]
    assert sorted(run["decision"] for run in runs) == ["approved", "refused"]
    assert {run["request"].get("purpose") for run in runs} == {"baseline", None}


def test_the_pictures_are_small_and_shown() -> None:
    """Goal: the tutorial shows each picture, and a clone stays small. Method: the files and the page."""
    files = sorted(PICTURES.iterdir())
    text = PAGE.read_text()
    assert [path.name for path in files if f"](pages/{path.name})" in text] == [path.name for path in files]
    assert files
    assert all(path.read_bytes()[8:12] == b"WEBP" and path.stat().st_size <= BYTES_MAX for path in files)
