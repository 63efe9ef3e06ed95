"""Pages on paper: Chromium as it prints, and the whole report within its page."""

from __future__ import annotations

import pytest

from tests.kit.driver import Ledger
from tests.kit.office import Office, furnished
from tests.ui.conftest import Opener

PAPER = {"width": 794, "height": 1123}
"""A4 at 96 dots an inch."""
CUT = """() => [...document.querySelectorAll('main *')].filter((one) => {
  const style = getComputedStyle(one);
  const hides = style.overflowX !== 'visible' || style.overflowY !== 'visible';
  return hides && one.tagName !== 'IFRAME' && one.getClientRects().length && !one.matches('svg, svg *, .hidden')
    && (one.scrollWidth > one.clientWidth + 1 || one.scrollHeight > one.clientHeight + 1);
}).map((one) => `${one.tagName}.${one.className} ${one.textContent.trim().slice(0, 40)}`)"""
SHOWN = """() => [...document.querySelectorAll('nav, button, form, .bottom, .skip')]
  .filter((one) => one.getClientRects().length).map((one) => `${one.tagName} ${one.textContent.trim().slice(0, 40)}`)"""

BESIDE = """() => document.documentElement.scrollWidth <= innerWidth ? [] : [...document.querySelectorAll('body *')]
  .filter((one) => one.getBoundingClientRect().right > innerWidth + 1)
  .map((one) => `${one.tagName}.${one.className} ${one.textContent.trim().slice(0, 40)}`)"""


@pytest.fixture(scope="module")
def office(site: Ledger) -> Office:
    """A furnished tenant behind the server."""
    return furnished(site)


def test_nothing_is_cut_on_paper(open_page: Opener, office: Office) -> None:
    """Goal: a printed page has all that it says, and nothing to click. Method: every page as it is printed on A4:
    elements that hide a part of what they have, what is wider than the paper, and the frame of the page."""
    page = open_page("/ui", key=office.admin.key, viewport=PAPER, color_scheme="dark")
    page.emulate_media(media="print")
    wrong: list[str] = []
    for path in office.pages.values():
        page.goto(path)
        wrong += [f"{path} cuts {one}" for one in page.evaluate(CUT)]
        wrong += [f"{path} shows {one}" for one in page.evaluate(SHOWN)]
        wrong += [f"{path} has beside the paper {one}" for one in page.evaluate(BESIDE)]
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.get_by_role("heading", level=1).is_visible()
    assert not wrong, "\n".join(wrong)


def test_the_whole_report_is_in_its_page(open_page: Opener, office: Office) -> None:
    """Goal: the report is read where its period is chosen, and nothing of it acts in the page. Method: what the frame
    shows is what the page of its own does; it runs no script and sends no form; other sites may not frame it."""
    page = open_page(office.pages["report"], key=office.admin.key)
    frame = page.frame_locator("iframe.report")
    heading = frame.get_by_role("heading").first
    heading.scroll_into_view_if_needed()
    assert page.locator("iframe.report").get_attribute("sandbox") == ""
    address = str(page.locator("iframe.report").get_attribute("src"))
    title = heading.inner_text()
    assert "patients" in frame.locator("body").inner_text()
    answer = page.request.get(address)
    policy = answer.headers["content-security-policy"]
    assert "frame-ancestors 'self'" in policy
    assert "sandbox" in policy
    assert answer.headers["x-frame-options"] == "SAMEORIGIN"
    alone = page.request.get(address.replace("/report/page?", "/report/html?"))
    assert alone.headers["x-frame-options"] == "DENY"
    assert "frame-ancestors 'none'" in alone.headers["content-security-policy"]
    page.goto(address.replace("/report/page?", "/report/html?"))
    assert page.get_by_role("heading").first.inner_text() == title
