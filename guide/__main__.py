"""Builds the site into `ledger/site`, strictly, and checks its links: `python -m guide`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from guide import links
from guide.beside import ROOT

SITE = ROOT / "ledger" / "site"


def main() -> int:
    """Build and check. Exit status 1 if a page is wrong; the site is left as it was if it cannot be built."""
    made = ROOT / "build" / "site"
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--clean", "--site-dir", made],
        cwd=ROOT,
        check=False,
        # Material prints an advertisement of its successor unless told not to.
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    if built.returncode:
        return 1
    wrong = list(links.problems(made))
    for line in wrong:
        print(line, file=sys.stderr)
    if wrong:
        return 1
    shutil.rmtree(SITE, ignore_errors=True)
    shutil.copytree(made, SITE)
    count = sum(1 for _ in SITE.rglob("*.html"))
    print(f"{count} pages in {SITE.relative_to(ROOT)}. `make run` serves them at /docs/guide.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
