"""What MkDocs calls while it builds: the generated pages and the files beside `docs/` come in, and links are led."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from guide import pages
from guide.beside import BESIDE, ROOT, led

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
