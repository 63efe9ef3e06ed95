"""A browser for the tests of pages: one Chromium for each module, and for each test a context of its own.

While Playwright runs, its event loop is the running one of the thread that tests are in. So it ends with the module,
and the server is in a thread of its own.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.conftest import Templates
from tests.kit.driver import Ledger, first_keys, serve_here

if TYPE_CHECKING:
    from playwright.sync_api import Page

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
Opener = Callable[..., "Page"]
"""Opens a page of the server in a new context, signed in with a key if one is given."""


@pytest.fixture(scope="module")
def site(templates: Templates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """A server on the loopback, on SQLite, as its admin calls it; the tests of a module share it."""
    with templates.clone("sqlite", tmp_path_factory.mktemp("site"), is_begun=True) as settings:
        first = first_keys(settings)
        with (
            serve_here(settings.model_copy(update={"watch_seconds": 3600})) as url,
            httpx.Client(base_url=url) as client,
        ):
            yield Ledger(client, first.admin_key, operator_key=first.operator_key, tenant=first.tenant)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Chromium, without a window."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("Chromium is not installed: apt-get install -y --no-install-recommends chromium fonts-dejavu-core")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: make install")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=program, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any, site: Ledger) -> Iterator[Opener]:
    """Opens pages. A page that breaks its policy, or whose script fails, fails the test."""
    with contextlib.ExitStack() as stack:
        complaints: list[str] = []

        def open_page(path: str = "/ui", *, key: str | None = None, **context: Any) -> Page:
            given = {"viewport": {"width": 1280, "height": 900}, "timezone_id": "Asia/Tokyo", "locale": "en-GB"}
            made = chromium.new_context(base_url=str(site.client.base_url), **{**given, **context})
            stack.callback(made.close)
            page: Page = made.new_page()
            page.set_default_timeout(15_000)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("console", lambda line: complaints.append(line.text) if "Content Security" in line.text else None)
            if key is not None:
                page.goto("/ui/sign-in")
                page.get_by_label("Your key").fill(key)
                page.get_by_role("button", name="Sign in").click()
                page.wait_for_url("**/ui")
            page.goto(path)
            return page

        yield open_page
        assert complaints == []
