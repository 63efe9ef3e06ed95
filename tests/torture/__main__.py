"""`make torture`: the parts that are named, or the first two. Each module states its settings.

hostile   what one hostile tenant can do to another one's approvals                      tests/torture/quiet.py
faults    killed processes, full disks and lost answers, and a count of what came of it  tests/torture/faults
rolling   servers that are restarted in turn behind a balancer                           tests/torture/rolling.py
soak      half an hour at half of capacity                                               tests/torture/soak.py
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Final

from tests.torture import quiet, rolling, soak
from tests.torture.faults import report

PARTS: Final[Mapping[str, Callable[[], bool | None]]] = {
    "hostile": quiet.main,
    "faults": report.main,
    "rolling": rolling.main,
    "soak": soak.main,
}
DEFAULT: Final = ("hostile", "faults")


def main() -> None:
    """Run the parts in turn. The exit status is 1 if one of them found a promise broken."""
    names = sys.argv[1:] or DEFAULT
    if unknown := set(names) - set(PARTS):
        raise SystemExit(f"no part is called {sorted(unknown)}; there are: {' '.join(PARTS)}")
    broken = [name for name in names if PARTS[name]() is False]
    sys.exit(f"promises were broken in: {', '.join(broken)}" if broken else 0)


if __name__ == "__main__":
    main()
