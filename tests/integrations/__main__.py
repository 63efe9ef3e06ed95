"""`make test-integrations`: the tests of each stack in an environment of its own, beside one real server.

    python -m tests.integrations [STACK …]

A stack that cannot be installed, or whose Python is not on this machine, is reported as NOT TESTED; with
LEDGER_INTEGRATIONS=required, that fails. A stack names its Python in `python-version`; default this one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from ledger.operate import deploy
from ledger.settings import Settings
from tests.kit.driver import environment, first_keys, serve_command

ROOT: Final = Path(__file__).resolve().parent.parent.parent
TORCH: Final = ROOT / ".ci" / "torch.lock"
"""PyTorch without CUDA, which is in no lock file of a stack: torch-apart.txt."""
STACKS: Final = tuple(sorted(lock.parent.name for lock in Path(__file__).parent.glob("*/requirements.lock")))
SECONDS_MAX: Final = 1200
"""How long one stack may install, and how long it may test."""


def main(stacks: list[str]) -> int:
    """Install and test these stacks, or all. Return the exit status."""
    if unknown := sorted(set(stacks) - set(STACKS)):
        print(f"no such stack: {', '.join(unknown)}. There are: {', '.join(STACKS)}", file=sys.stderr)
        return 2
    chosen = stacks or list(STACKS)
    pythons = {stack: installed(stack) for stack in chosen}
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(database_url=SecretStr(f"sqlite:///{folder}/ledger.db"))
        deploy.migrate(settings)
        key = first_keys(settings).admin_key
        env = {**environment(settings), "PYTHONPATH": str(ROOT)}
        with serve_command([sys.executable, "-m", "ledger", "serve"], Path(folder), env) as served:
            outcomes = {
                stack: None
                if python is None
                else tested(stack, python, {"LEDGER_URL": served.url, "LEDGER_KEY": key, "HOME": folder})
                for stack, python in pythons.items()
            }
    words = {None: "NOT TESTED: it could not be installed", True: "passed", False: "FAILED"}
    for stack, outcome in outcomes.items():
        print(f"{stack:12} {words[outcome]}")
    is_required = os.environ.get("LEDGER_INTEGRATIONS") == "required"
    return int(False in outcomes.values() or (is_required and None in outcomes.values()))


def base_python(stack: str) -> str | None:
    """Return a Python of the version that a stack needs: this one, one of the path or of pyenv; None if no one is."""
    file = Path(__file__).parent / stack / "python-version"
    if not file.is_file():
        return sys.executable
    version = file.read_text().strip()
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    newest = sorted(pyenv.glob(f"{version}.*/bin/python"), key=lambda one: int(one.parts[-3].rpartition(".")[2]))
    for candidate in (sys.executable, shutil.which(f"python{version}"), *map(str, reversed(newest))):
        command = [candidate, "-c", "import ensurepip, sys; print('%d.%d' % sys.version_info[:2])"] if candidate else []
        if candidate and subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() == version:
            return candidate
    print(f"{stack}: it needs Python {version}, which is not here. Install it, or put it on the path.", file=sys.stderr)
    return None


def installed(stack: str) -> Path | None:
    """Return the Python of a stack's environment, made anew if its lock file changed; None if it cannot be made."""
    lock, folder = Path(__file__).parent / stack / "requirements.lock", ROOT / "build" / "integrations" / stack
    python, stamp = folder / "bin" / "python", folder / "installed.lock"
    locks = [lock, TORCH] if "\nopacus==" in lock.read_text(encoding="utf-8") else [lock]
    pinned = b"".join(one.read_bytes() for one in locks)
    if stamp.is_file() and stamp.read_bytes() == pinned:
        return python
    base = base_python(stack)
    if base is None:
        return None
    print(f"installing {stack} into {folder.relative_to(ROOT)}", flush=True)
    begun = time.monotonic()
    subprocess.run([base, "-m", "venv", "--clear", folder], check=True)
    pip: list[str | Path] = [
        python,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--quiet",
        "--require-hashes",
    ]
    try:
        given = [part for one in locks for part in ("--requirement", one)]
        subprocess.run([*pip, *given], check=True, timeout=SECONDS_MAX)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        print(f"{stack}: {error}", file=sys.stderr)
        return None
    stamp.write_bytes(pinned)
    print(f"installed {stack} in {time.monotonic() - begun:.0f} s", flush=True)
    return python


def tested(stack: str, python: Path, given: dict[str, str]) -> bool:
    """Return whether the tests of a stack pass. They import the client from this folder. given: the environment's
    variables of the server, and a home for what libraries keep there."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("LEDGER_", "PYTEST_"))}
    env |= {"PYTHONPATH": str(ROOT), **given}
    here = Path(__file__).parent
    options: list[str | Path] = [
        "-q",
        "-ra",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
        "--rootdir",
        ROOT,
        "--confcutdir",
        here,
    ]
    print(f"testing {stack}", flush=True)
    command: list[str | Path] = [python, "-m", "pytest", *options, here / stack]
    try:
        return subprocess.run(command, check=False, env=env, timeout=SECONDS_MAX).returncode == 0
    except subprocess.TimeoutExpired as error:
        print(f"{stack}: {error}", file=sys.stderr)
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
