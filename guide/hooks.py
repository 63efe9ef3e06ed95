"""What MkDocs calls while it builds: the generated pages and the files beside `docs/` come in, and their links are led.

A page in `docs/` links to `../SECURITY.md` as it would on disk. On the site that file is a page too; any other file
outside `docs/` is no part of the site, so that such a link becomes the name of the file.
"""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import dirname, normpath, relpath
from typing import Any

from mkdocs.structure.files import File, Files

from guide import pages

ROOT = Path(__file__).parent.parent
BESIDE = {
    "SECURITY.md": "project/security.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
}
"""Files in the root that are pages of the site, and where."""
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)")
_NOT_BUILT = ("404.html", "sitemap.xml", "sitemap.xml.gz")
"""What MkDocs writes for a site with an address of its own, which this one does not have."""


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages, and the files beside `docs/`."""
    beside = {page: (ROOT / name).read_text(encoding="utf-8") for name, page in BESIDE.items()}
    for path, text in {**pages.generated(), **beside}.items():
        files.append(File.generated(config, path, content=text))
    for file in files:
        if file.src_uri.endswith(".py"):  # to be read in a browser; and the package has no code but its own
            file.dest_uri = f"{file.src_uri}.txt"
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead the links of a page that point outside `docs/`."""
    return led(markdown, page.file.src_uri)


def on_post_build(config: Any) -> None:
    """Remove what only a site with an address of its own can use."""
    for name in _NOT_BUILT:
        Path(config["site_dir"], name).unlink(missing_ok=True)


def led(markdown: str, page: str) -> str:
    """A page's text with its links to files outside `docs/` led to a page of the site, or turned into their names."""
    on_disk = {site: name for name, site in BESIDE.items()}.get(page, f"docs/{page}")

    def lead(match: re.Match[str]) -> str:
        text, target, fragment = match[1], match[2], match[3] or ""
        path = normpath(f"{dirname(on_disk)}/{target}" if dirname(on_disk) else target)
        if path.startswith("docs/"):
            found = path.removeprefix("docs/")
        elif path in BESIDE:
            found = BESIDE[path]
        else:
            return text if "`" in text else f"{text} (`{path}`)"
        return f"[{text}]({relpath(found, dirname(page) or '.')}{fragment})"

    return _LINK.sub(lead, markdown)
