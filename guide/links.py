"""Checks a built site: every link inside it leads to a file and an anchor, and no page loads from another host."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
"""The elements that a browser loads something for by itself, and by which attribute."""
_NAMING = frozenset({"canonical", "prev", "next"})
"""Kinds of `link` that name something and load nothing."""


class Page(HTMLParser):
    """The links of a page, what it loads, and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = {""}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag in _LOADING and _LOADING[tag] in given and given.get("rel") not in _NAMING:
            self.loads.append(given[_LOADING[tag]])


def problems(site: Path) -> Iterator[str]:
    """What is wrong with a site, a line each."""
    pages = {path.relative_to(site).as_posix(): Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    for name, page in sorted(pages.items()):
        for target in page.loads:
            if urlsplit(target).scheme not in ("", "data") or urlsplit(target).netloc:
                yield f"{name}: loads {target} from another host"
        for target in dict.fromkeys([*page.links, *page.loads]):
            yield from _wrong(site, pages, name, target)


def _wrong(site: Path, pages: dict[str, Page], name: str, target: str) -> Iterator[str]:
    parts = urlsplit(target)
    if parts.scheme or parts.netloc:
        return
    path = (site / name).parent / unquote(parts.path) if parts.path else site / name
    path = path.resolve()
    if not path.is_relative_to(site.resolve()) or not path.is_file():
        yield f"{name}: {target} leads to no file of the site"
        return
    found = pages.get(path.relative_to(site.resolve()).as_posix())
    if parts.fragment and (found is None or unquote(parts.fragment) not in found.anchors):
        yield f"{name}: {target} leads to no anchor"
