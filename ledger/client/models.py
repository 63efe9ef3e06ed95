"""Digests of the files that a run produced, which are settled with the run."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ledger.errors import InvalidRequest

MODELS_MAX: Final = 100
"""How many files one run states."""
NAME_LENGTH_MAX: Final = 255
Model = str | os.PathLike[str] | Mapping[str, Any]
"""The path of a file or folder, or `{"name", "sha256", "size"}`."""


def described(paths: Sequence[str | os.PathLike[str]]) -> list[dict[str, Any]]:
    """Return `{"name", "sha256", "size"}` of each file, size in bytes. A folder stands for all files within it.

    A file is named without its folder. A file of a folder has the folder's name before it: `checkpoint/config.json`.
    Links to files are followed. Raises InvalidRequest that names the path: if it cannot be read or is neither file nor
    folder, for a link to a folder, for a name that occurs twice, and for more than 100 files.
    """
    return joined([], paths)


def joined(known: Sequence[dict[str, Any]], paths: Sequence[str | os.PathLike[str]]) -> list[dict[str, Any]]:
    """Return these digests, and those of further files as `described` does."""
    models = {model["name"]: model for model in known}
    for given in paths:
        for name, file in _files(Path(given)):
            if name in models:
                raise InvalidRequest(
                    f"models: two files are named {name}. Rename one, or give a folder that contains both.",
                    field="models",
                )
            if len(models) == MODELS_MAX:
                raise InvalidRequest(
                    f"models: {given} is the file after the first {MODELS_MAX}, which are the most. Pack the files into"
                    " one archive.",
                    field="models",
                )
            models[name] = {"name": name, **digest_of(file)}
    return list(models.values())


def stated_models(models: Sequence[Model]) -> list[dict[str, Any]]:
    """Return the digests to send: those that are given as mappings, then those of the files and folders at the given
    paths. Raises InvalidRequest as `described` does."""
    if isinstance(models, str | os.PathLike):
        raise InvalidRequest("models: give a list of paths, not one path", field="models")
    given = [dict(model) for model in models if isinstance(model, Mapping)]
    return given + described([model for model in models if not isinstance(model, Mapping)])


def digest_of(file: Path) -> dict[str, Any]:
    """Return `{"sha256", "size"}` of a file, read in pieces. Raises InvalidRequest if it cannot be read."""
    try:
        with file.open("rb") as opened:
            sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
            return {"sha256": sha256, "size": opened.tell()}
    except OSError as error:
        raise InvalidRequest(f"models: {file}: {error.strerror}", field="models") from None


def _files(path: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files that a path stands for, each with its name, in the order of their names."""
    folder = Path(os.path.abspath(path))  # noqa: PTH100 (`resolve` would name what a link leads to)
    if not path.is_dir():
        yield _named(folder.name, path), _readable(path)
        return
    within = sorted(_walk(path), key=str)
    if not within:
        raise InvalidRequest(f"models: {path} is a folder without files", field="models")
    for file in within:
        yield _named(f"{folder.name}/{file.relative_to(path).as_posix()}", file), file


def _walk(folder: Path) -> Iterator[Path]:
    def stop(error: OSError) -> None:
        raise InvalidRequest(f"models: {error.filename}: {error.strerror}", field="models")

    for parent, folders, files in os.walk(folder, onerror=stop):
        for name in folders:
            if (linked := Path(parent, name)).is_symlink():
                raise InvalidRequest(f"models: {linked} is a link to a folder. Give the folder itself.", field="models")
        yield from (_readable(Path(parent, name)) for name in files)


def _readable(path: Path) -> Path:
    """Return the path of a file or of a link to one. Raises InvalidRequest for others, such as pipes."""
    if not path.is_file():
        problem = "is neither a file nor a folder" if path.exists() else "does not exist"
        raise InvalidRequest(f"models: {path} {problem}", field="models")
    return path


def _named(name: str, file: Path) -> str:
    if len(name) > NAME_LENGTH_MAX:
        raise InvalidRequest(
            f"models: the name of {file} has more than {NAME_LENGTH_MAX} characters. Rename it.", field="models"
        )
    return name
