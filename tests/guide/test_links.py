"""How the links of a built site are checked, and how links out of `docs/` are led."""

from __future__ import annotations

from pathlib import Path

import pytest

from guide.beside import led
from guide.links import problems

PAGE = '<html><head><link rel="stylesheet" href="a.css"></head><body><h1 id="top">A</h1>{}</body></html>'


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A page, one in a folder, and a style sheet."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.css").write_text("")
    (tmp_path / "index.html").write_text(PAGE.format('<a href="sub/b.html#part">b</a> <a href="#top">a</a>'))
    (tmp_path / "sub" / "b.html").write_text(
        '<h2 id="part">B</h2><a href="../index.html">a</a><a href="https://x.org/">x</a>'
    )
    return tmp_path


def test_a_good_site_has_no_problems(site: Path) -> None:
    """Goal: nobody is kept from building. Method: relative links, anchors, and a link to another host."""
    assert list(problems(site)) == []


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('<a href="c.html">c</a>', "index.html: c.html leads to no file of the site"),
        ('<a href="sub/">b</a>', "index.html: sub/ leads to no file of the site"),
        ('<a href="../outside.html">c</a>', "index.html: ../outside.html leads to no file of the site"),
        ('<a href="sub/b.html#no">b</a>', "index.html: sub/b.html#no leads to no anchor"),
        ('<a href="#no">a</a>', "index.html: #no leads to no anchor"),
        ('<img src="no.png">', "index.html: no.png leads to no file of the site"),
        ('<script src="https://x.org/a.js"></script>', "index.html: loads https://x.org/a.js from another host"),
        ('<img src="//x.org/a.png">', "index.html: loads //x.org/a.png from another host"),
    ],
)
def test_what_is_wrong_is_named(site: Path, body: str, said: str) -> None:
    """Goal: a broken link, a missing anchor and a foreign host fail the build. Method: one of each."""
    (site / "index.html").write_text(PAGE.format(body))
    (site.parent / "outside.html").write_text("")
    assert list(problems(site)) == [said]


@pytest.mark.parametrize(
    ("page", "link", "as_shown"),
    [
        ("index.md", "[s](../SECURITY.md#what-is-protected)", "[s](project/security.md#what-is-protected)"),
        ("how-to/upgrades.md", "[c](../../CHANGELOG.md)", "[c](../project/changelog.md)"),
        ("how-to/upgrades.md", "[b](backups.md#x)", "[b](backups.md#x)"),
        ("reference/export.md", "[`vectors/`](../../vectors/README.md)", "`vectors/`"),
        ("reference/export.md", "[the schema](../../ledger/schema.json)", "the schema (`ledger/schema.json`)"),
        ("project/security.md", "[r](docs/reference/receipts.md#x)", "[r](../reference/receipts.md#x)"),
        ("project/contributing.md", "[s](SECURITY.md)", "[s](security.md)"),
        ("index.md", "[x](https://x.org/a) [y](#y)", "[x](https://x.org/a) [y](#y)"),
    ],
)
def test_links_out_of_the_pages(page: str, link: str, as_shown: str) -> None:
    """Goal: a link works in the source and on the site. Method: links of each kind, from pages in each place."""
    assert led(link, page) == as_shown
