"""Files beside `docs/`: which of them are pages of the site, and where a link to one leads.

A page in `docs/` links to `../SECURITY.md` as it would on disk. On the site that file is a page too; any other file
outside `docs/` is no part of the site, so that such a link becomes the name of the file.
"""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import dirname, normpath, relpath

ROOT = Path(__file__).parent.parent
BESIDE = {
    "SECURITY.md": "project/security.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
}
"""Files in the root that are pages of the site, and where."""
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)")


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
