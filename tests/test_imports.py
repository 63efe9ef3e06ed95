"""The rooms of the house: who may import whom."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ledger"

# errors, model <- accounting, decide, journal <- store <- certificates, keys, writer <- runs <- planner <- api;
# accounting <- shapes; store, shapes <- catalogue <- runs; accounting, journal <- answers <- runs;
# client imports errors, canonical and jws alone.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "canonical": set(),
    "logs": {"errors"},
    "model": set(),
    "accounting": {"errors", "model"},
    "shapes": {"accounting"},
    "decide": {"errors", "model"},
    "alerts": {"model"},
    "journal": {"errors", "model", "canonical"},
    "tables": set(),
    "rows": {"model", "journal", "tables"},
    "store": {"errors", "model", "alerts", "journal", "rows", "tables"},
    "certificates": {"errors", "model", "accounting", "journal", "store"},
    "jws": {"errors"},
    "oidc": {"errors", "model"},
    "keys": {"errors", "model", "oidc", "store"},
    "writer": {"errors", "model", "alerts", "journal", "decide", "store"},
    "watch": {"errors", "model", "alerts", "journal", "store"},
    "courier": {"errors", "model", "alerts", "jws", "store", "watch", "writer"},
    "catalogue": {"errors", "model", "shapes", "store"},
    "answers": {"errors", "model", "accounting", "journal"},
    "runs": {
        "receipts",
        "signing",
        "errors",
        "model",
        "accounting",
        "answers",
        "catalogue",
        "certificates",
        "decide",
        "journal",
        "shapes",
        "store",
        "writer",
    },
    "planner": {
        "errors",
        "model",
        "accounting",
        "answers",
        "catalogue",
        "certificates",
        "decide",
        "runs",
        "shapes",
        "store",
    },
    "report": {"errors", "model", "accounting", "answers", "catalogue", "journal", "store"},
    "settings": {"errors"},
    "signing": {"errors", "jws", "settings"},
    "receipts": {"canonical", "journal", "jws", "model", "signing"},
    "deploy": {"errors", "model", "keys", "settings", "store", "tables"},
    "merkle": set(),
    "witness": {"errors", "journal", "jws", "merkle"},
    "verify": {"errors", "journal", "jws", "witness"},
    "proofs": {"errors", "jws", "merkle", "witness"},
    "heads": {"errors", "model", "journal", "jws", "merkle", "signing", "store", "verify"},
    "publish": {"alerts", "errors", "model", "heads", "jws", "store", "witness"},
    "mirror": {"errors", "model", "journal"},
    "recompute": {"errors", "model", "accounting", "journal", "verify"},
    "registry": {"errors", "model", "accounting", "journal", "recompute"},
    "audit": {"errors", "model", "journal", "settings", "store", "deploy", "witness", "mirror"},
    "api": {
        "errors",
        "logs",
        "model",
        "accounting",
        "answers",
        "catalogue",
        "journal",
        "shapes",
        "verify",
        "store",
        "certificates",
        "writer",
        "oidc",
        "keys",
        "runs",
        "planner",
        "report",
        "settings",
        "signing",
        "receipts",
        "deploy",
        "merkle",
        "heads",
        "proofs",
        "publish",
        "alerts",
        "watch",
        "courier",
    },
    "client": {"errors", "jws", "canonical"},
    "cli": {
        "errors",
        "canonical",
        "jws",
        "signing",
        "model",
        "logs",
        "deploy",
        "settings",
        "oidc",
        "verify",
        "recompute",
        "registry",
        "witness",
        "proofs",
        "audit",
        "client",
    },
    "__main__": {"cli"},
    "__init__": set(),
}

ONLY_IN: dict[str, set[str]] = {
    "fastapi": {"api"},
    "fastapi_offline": {"api"},
    "prometheus_client": {"api"},
    "starlette": {"api"},
    "uvicorn": {"cli"},
    "numpy": {"accounting"},
    "scipy": {"accounting"},
    "sqlalchemy": {"signing", "tables", "rows", "store", "writer", "deploy"},
    "alembic": {"deploy"},
    "psycopg": {"deploy"},
    "typer": {"cli"},
    "rich": {"cli"},
    "httpx": {"client", "courier", "oidc"},
    "jwt": {"jws", "oidc"},
    "cryptography": {"jws", "oidc"},
    "pydantic_settings": {"settings"},
    "matplotlib": {"report"},
    "reportlab": {"report"},
    "jinja2": {"report"},
    "markupsafe": {"report"},
}


def room_of(path: Path) -> str:
    """The module or folder right under `ledger` that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Full names of all modules that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found.add(node.module)
            if node.module == "ledger":
                found.update(f"ledger.{alias.name}" for alias in node.names)
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_dependencies_point_one_way(path: Path) -> None:
    """Goal: the map in ledger/__init__.py is true. Method: the syntax tree of every file, against the table above."""
    room = room_of(path)
    rooms = {name.split(".")[1] for name in imported(path) if name.startswith("ledger.")} - {room, "__version__"}
    assert rooms <= MAY_IMPORT[room], f"{path} reaches into {rooms - MAY_IMPORT[room]}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_libraries_stay_in_their_rooms(path: Path) -> None:
    """Goal: only `accounting` needs NumPy, only `api` FastAPI, only the store's side SQLAlchemy."""
    for name in imported(path):
        top = name.split(".")[0]
        if top in ONLY_IN:
            assert room_of(path) in ONLY_IN[top], f"{path} imports {top}"
        else:
            assert top in sys.stdlib_module_names | {"ledger", "pydantic", "pydantic_core"}, f"{path} imports {top}"


def test_every_room_is_on_the_map() -> None:
    """Goal: whoever opens ledger/__init__.py finds every module there."""
    said = ast.get_docstring(ast.parse((PACKAGE / "__init__.py").read_text())) or ""
    for room in {room_of(path) for path in FILES} - {"__init__", "__main__"}:
        assert f"\n    {room}" in said, room
