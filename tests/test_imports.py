"""Imports: that the contracts of .importlinter can be broken, and which library is used where."""

from __future__ import annotations

import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "ledger"
CONTRACTS = ROOT / ".importlinter"

ONLY_IN: dict[str, set[str]] = {
    "cachetools": {
        *("access", "accounting.display", "alerting.turns", "api"),
        *(
            "service.asking",
            "service.catalogue",
            "service.curves",
            "service.epsilons",
            "service.flights",
            "signer.heads",
        ),
    },
    "fastapi": {"api"},
    "fastapi_offline": {"api"},
    "prometheus_client": {"api"},
    "starlette": {"api", "ui"},
    "anyio": {"api.limits", "api.streams"},
    "uvicorn": {"cli", "api.protocol", "api.cycle"},
    "httptools": {"api.protocol"},
    # Flower and NVFlare bring it.
    "numpy": {"accounting", "client.flower", "client.nvflare"},
    "scipy": {"accounting"},
    "sqlalchemy": {"store", "service.writer", "operate.deploy"},
    "alembic": {"operate.deploy"},
    "psycopg": {"operate.deploy", "store.arrays", "store.engines"},
    "typer": {"cli"},
    "rich": {"cli"},
    "httpx": {"web"},
    "filelock": {"client.files"},
    "platformdirs": {"client.files"},
    "opacus": {
        "client.lightning",
        *(f"client.opacus.{name}" for name in ("accountant", "checks", "evidence", "trainers", "training", "watch")),
    },
    "torch": {
        "client.fastdp",
        "client.past",
        "client.transformers",
        *(f"client.opacus.{name}" for name in ("checks", "evidence", "trainers", "training", "watch")),
    },
    "lightning": {"client.lightning"},
    "transformers": {"client.transformers"},
    "trl": {"client.transformers"},
    "flwr": {"client.flower"},
    "nvflare": {"client.nvflare"},
    "ray": {"client.sweeps.ray"},
    "jwt": {"verifier.jws", "access.oidc"},
    "cryptography": {"verifier.jws", "verifier.dsse", "access.oidc", "access.authorization"},
    "authlib": {"access.authorization"},
    # What Authlib's checks raise comes from it.
    "joserfc": {"access.authorization"},
    "pydantic_settings": {"settings"},
    "matplotlib": {"report"},
    "reportlab": {"report"},
    # `typing` has TypedDict too, which Pydantic reads from Python 3.12 on.
    "typing_extensions": {"accounting", "service", "signer", "api"},
    "jinja2": {"report", "ui"},
    "yaml": {"recompute.registry"},
    "markupsafe": {"report", "ui"},
}


ROOT_MODULES = {
    "addresses",
    "errors",
    "canonical",
    "encoding",
    "settings",
    "logs",
    "background",
    "web",
    "deferred",
    "mistakes",
    "suggest",
}


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
def test_libraries_stay_in_their_rooms(path: Path) -> None:
    """Goal: only `accounting` needs NumPy, only `api` FastAPI, only the store's side SQLAlchemy."""
    for name in imported(path):
        top = name.split(".")[0]
        if top in ONLY_IN:
            assert names_of(path) & ONLY_IN[top], f"{path} imports {top}"
        else:
            assert top in sys.stdlib_module_names | {"ledger", "pydantic", "pydantic_core"}, f"{path} imports {top}"


PLANTED: Final = {
    "packages": ("core.amounts", "store.tables"),
    "canonical": ("store.rows", "canonical"),
    "logs": ("service.writer", "logs"),
    "settings": ("store.engines", "settings"),
    "accounting": ("operate.deploy", "accounting.costs"),
    "store": ("recompute.work", "store.rows"),
    "verifier": ("report.reader", "verifier.verify"),
    "access": ("signer.heads", "access.keys"),
    "signer": ("operate.check", "signer.keyfile"),
    "service": ("cli.runs", "service.runs"),
    "operate": ("recompute.work", "operate.deploy"),
    "api": ("__main__", "api.app"),
    "ui": ("service.runs", "ui.static"),
    "alerting-and-report": ("cli.alerting", "alerting.watch"),
    "advisories": ("service.runs", "advisories.match"),
    "client-and-recompute": ("api.runs", "client.wire"),
    "decision": ("report.reader", "core.decision.group"),
    "checks-without-decision": ("core.journal.replay", "core.decision.posting"),
    "decision-without-journal": ("core.forecast", "core.journal.chain"),
    "client": ("client.wire", "verifier.merkle"),
    "signed-statements": ("verifier.merkle", "core.amounts"),
    "verifier-layers": ("verifier.statements", "verifier.witness"),
    "signer-layers": ("signer.receipts", "signer.publish"),
    "signer-without-store": ("signer.keyfile", "store"),
    "tokens": ("access.roles", "store"),
    "writer": ("service.writer", "accounting.amounts"),
    "watch": ("alerting.watch", "service.writer"),
    "mirror": ("operate.mirror", "store.rows"),
    "reports": ("report.source", "service.writer"),
    "tables": ("store.guards", "core.datasets"),
}
"""By contract of .importlinter: a module, and what it must not import."""


def test_each_contract_fails_when_broken(tmp_path: Path) -> None:
    """Goal: no contract of .importlinter is one that nothing can break.

    Method: a copy of the package with a forbidden import for each contract; `lint-imports` must name each of them.
    """
    config = configparser.ConfigParser()
    config.read(CONTRACTS)
    prefix = "importlinter:contract:"
    names = {section.removeprefix(prefix): config[section]["name"] for section in config if section.startswith(prefix)}
    assert names.keys() == PLANTED.keys()
    shutil.copytree(PACKAGE, tmp_path / "ledger", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(CONTRACTS, tmp_path)
    for importer, target in PLANTED.values():
        with (tmp_path / "ledger" / f"{importer.replace('.', '/')}.py").open("a") as file:
            file.write(f"\nimport ledger.{target}\n")
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    linted = subprocess.run(
        command,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert linted.returncode == 1, linted.stderr
    _, *sections = re.split(r"\n(.+)\n-{3,}\n", linted.stdout[linted.stdout.index("\nBroken contracts\n") :])
    reports = dict(zip(sections[::2], sections[1::2], strict=True))
    for contract, (importer, target) in PLANTED.items():
        assert f"ledger.{importer} -> ledger.{target} (l." in reports.get(names[contract], ""), linted.stdout


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
