"""Put new secrets where only their owner reads them: a terminal, standard output if asked for, or a file of mode 600.

The standard output of a service, a container or a CI job is a log. Others read it, and it is kept for long.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Annotated, Any, Final

import typer

from ledger.cli.show import console
from ledger.errors import InvalidRequest

Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        help="A new file for the secret, which only you can read; - prints it. Default: show it on a terminal or with"
        " --json, else write a file.",
    ),
]
NAMES_TRIED_MAX: Final = 100


def keep_private() -> None:
    """Make every file that this process creates from now on readable by its user alone."""
    os.umask(0o077)


class PrivateFile:
    """A new file that only its owner can read, with one secret NAME=VALUE per line. It never overwrites a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._descriptor = os.open(path, flags, 0o600)
        except FileExistsError:
            raise InvalidRequest(f"{path} exists already. Give another file with --output.", field="output") from None
        except OSError as error:
            raise InvalidRequest(
                f"{path} cannot be created: {error.strerror}. New secrets are written to a file unless standard output"
                " is a terminal. Name a file with --output FILE, or print them with --output -",
                field="output",
            ) from None

    @classmethod
    def beside(cls, path: Path) -> PrivateFile:
        """Create a file of this name, or of this name with a number if it exists already."""
        names = (path, *(path.with_name(f"{path.name}.{number}") for number in range(2, NAMES_TRIED_MAX)))
        return cls(next((name for name in names if not os.path.lexists(name)), path))

    def write(self, values: Mapping[str, str]) -> None:
        """Write the secrets, and wait until they are on the disk."""
        text = "".join(f"{name}={value}\n" for name, value in values.items())
        with os.fdopen(self._descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """Remove the file, if there is no secret to write."""
        with suppress(OSError):
            os.close(self._descriptor)
        self.path.unlink(missing_ok=True)

    def announce(self, what: str) -> None:
        """Print where the secret is, and how to use it."""
        path = shlex.quote(
            str(self.path) if self.path.is_absolute() else f"./{self.path}"
        )  # without a slash, `.` searches PATH
        console.plain(f"{self.path}: {what} Only you can read it. To use it: set -a; . {path}; set +a")


def replace_private(path: Path, text: str, *, field: str) -> None:
    """Write a file that only its owner can read, on the disk and all at once, so that a reader never sees half of it.
    It replaces a file of this name. Raises InvalidRequest for the field."""
    partial = path.with_name(f".{path.name}.{token_hex(8)}")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise InvalidRequest(f"{field}: {path} cannot be written: {error.strerror}", field=field) from None
    finally:
        partial.unlink(missing_ok=True)


def is_printed(output: Path | None, *, as_json: bool) -> bool:
    """Return whether the secret is printed to standard output."""
    return str(output) == "-" if output is not None else as_json or sys.stdout.isatty()


@contextmanager
def destination(output: Path | None, *, as_json: bool, name: Path) -> Iterator[PrivateFile | None]:
    """Yield the file for a secret that is about to be made; None if it is printed.

    The file is created first, so that no secret is lost because its file cannot be created. It is removed if the
    secret cannot be made.
    """
    if is_printed(output, as_json=as_json):
        yield None
        return
    file = PrivateFile.beside(name) if output is None else PrivateFile(output)
    try:
        yield file
    except BaseException:
        file.remove()
        raise


def without(answer: Mapping[str, Any], member: str, file: PrivateFile) -> dict[str, Any]:
    """Return the answer for --json, with the file's name instead of the secret."""
    return {**{name: value for name, value in answer.items() if name != member}, "file": str(file.path)}
