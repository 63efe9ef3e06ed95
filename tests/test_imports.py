"""The rooms of the house: who may import whom."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ledger"

# The packages that each package may import. None imports upward, and there is no cycle.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "canonical": set(),
    "encoding": {"canonical"},
    "logs": {"errors"},
    "settings": {"errors"},
    "core": {"errors", "canonical"},
    "accounting": {"errors", "core"},
    "store": {"errors", "core"},
    "access": {"errors", "core", "store"},
    "verifier": {"errors", "core"},
    "signer": {"errors", "canonical", "settings", "core", "store", "verifier"},
    "service": {"errors", "core", "accounting", "store", "access", "verifier", "signer"},
    "alerting": {"errors", "core", "store", "verifier", "service"},
    "report": {"errors", "encoding", "core", "accounting", "store", "service"},
    "recompute": {"errors", "core", "accounting", "verifier"},
    "operate": {"errors", "settings", "core", "store", "access", "verifier", "service"},
    "api": {
        "errors",
        "encoding",
        "logs",
        "settings",
        "core",
        "accounting",
        "store",
        "access",
        "verifier",
        "signer",
        "service",
        "alerting",
        "report",
        "operate",
    },
    "client": {"errors", "canonical", "verifier"},
    "cli": {
        "errors",
        "canonical",
        "logs",
        "settings",
        "core",
        "access",
        "verifier",
        "signer",
        "recompute",
        "operate",
        "client",
        "api",
        # The types of answers, for mypy alone.
        "service",
    },
    "__main__": {"cli"},
    "__init__": set(),
}

ONLY_IN: dict[str, set[str]] = {
    "fastapi": {"api"},
    "fastapi_offline": {"api"},
    "prometheus_client": {"api"},
    "starlette": {"api"},
    "uvicorn": {"cli", "api.protocol"},
    "numpy": {"accounting"},
    "scipy": {"accounting"},
    "sqlalchemy": {"signer.keyfile", "store", "service.writer", "operate.deploy"},
    "alembic": {"operate.deploy"},
    "psycopg": {"operate.deploy"},
    "typer": {"cli"},
    "rich": {"cli"},
    "httpx": {"client", "alerting.courier", "access.oidc"},
    "jwt": {"verifier.jws", "access.oidc"},
    "cryptography": {"verifier.jws", "access.oidc"},
    "pydantic_settings": {"settings"},
    "matplotlib": {"report"},
    "reportlab": {"report"},
    # `typing` has TypedDict too, which Pydantic reads from Python 3.12 on.
    "typing_extensions": {"accounting", "service", "signer", "api"},
    "jinja2": {"report"},
    "markupsafe": {"report"},
}


ROOT_MODULES = {"errors", "canonical", "encoding", "settings", "logs"}


def room_of(path: Path) -> str:
    """The module or folder right under `ledger` that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def names_of(path: Path) -> set[str]:
    """A file's package and module, as the table of libraries names them."""
    parts = [*path.relative_to(PACKAGE).with_suffix("").parts]
    return {parts[0], ".".join(parts)}


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
            assert names_of(path) & ONLY_IN[top], f"{path} imports {top}"
        else:
            assert top in sys.stdlib_module_names | {"ledger", "pydantic", "pydantic_core"}, f"{path} imports {top}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "client").glob("*.py")), ids=lambda path: str(path.name))
def test_the_client_verifies_by_jws_alone(path: Path) -> None:
    """Goal: a training job loads nothing of the verifier but signed statements. Method: the syntax tree."""
    assert {name for name in imported(path) if name.startswith("ledger.verifier")} <= {
        "ledger.verifier",
        "ledger.verifier.jws",
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_decision_is_checked_by_what_does_not_share_it(path: Path) -> None:
    """Goal: replay, verifier and store check the decision without its code, and the decision knows no journal.

    Method: the syntax tree. `service` alone, which submits commands, imports `core.decision`.
    """
    name, names = ".".join(path.relative_to(PACKAGE).with_suffix("").parts), imported(path)
    if not name.startswith(("core.decision", "service.")):
        assert not {one for one in names if one.startswith("ledger.core.decision")}, f"{path} imports the decision"
    if name.startswith(("core.decision", "core.alerts")):
        assert not {one for one in names if one.startswith("ledger.core.journal")}, f"{path} imports the journal"


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "cli").rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_the_command_line_knows_answers_as_types_alone(path: Path) -> None:
    """Goal: a client's command line runs without the server's libraries. Method: what the file imports of `service`,
    without the blocks that only a type checker reads."""
    tree = ast.parse(path.read_text())
    types = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    typed = {id(node) for block in types for node in ast.walk(block)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in typed:
            assert not (node.module or "").startswith(("ledger.service", "ledger.api.schemas")), path


ENDPOINTS = [path for path in FILES if re.search(r"^router = APIRouter", path.read_text(), re.MULTILINE)]


@pytest.mark.parametrize("path", ENDPOINTS, ids=lambda path: str(path.name))
def test_endpoints_are_http_alone(path: Path) -> None:
    """Goal: use cases stand in `service`, once. Method: the syntax tree of every module that has a router.

    It makes no command, reads no entry, and takes nothing from another endpoint.
    """
    others = {f"ledger.api.{other.stem}" for other in ENDPOINTS} - {f"ledger.api.{path.stem}"}
    pure = ("ledger.core.commands", "ledger.core.decision", "ledger.core.journal")
    nodes = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom))
    names = imported(path) | {f"{node.module}.{alias.name}" for node in nodes for alias in node.names}
    assert not names & others, f"{path} imports another endpoint"
    assert not {name for name in names if name.startswith(pure)}, f"{path} decides or reads a journal"


def test_every_room_is_on_the_map() -> None:
    """Goal: whoever opens ledger/__init__.py finds every module there."""
    said = ast.get_docstring(ast.parse((PACKAGE / "__init__.py").read_text())) or ""
    for room in {room_of(path) for path in FILES} - {"__init__", "__main__"}:
        assert re.search(rf"\b{room}\b", said) or room in ROOT_MODULES, room
