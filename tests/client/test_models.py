"""What a run produced: files and folders, their digests, and how they reach the journal."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from ledger.client import Gaussian
from ledger.client import Ledger as Client
from ledger.client.models import described
from ledger.errors import InvalidRequest
from tests.kit.driver import Terminal

RELEASE = Gaussian(noise_multiplier=20)


@pytest.fixture
def produced(tmp_path: Path) -> Path:
    """A folder as training libraries leave it, with a link to a file as hubs keep them."""
    folder = tmp_path / "checkpoint"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 9000)
    (folder / "tokenizer" / "vocab.json").write_text("{}")
    (tmp_path / "blob").write_text("the shared file")
    (folder / "config.json").symlink_to(tmp_path / "blob")
    return folder


def test_files_are_described_by_their_bytes(produced: Path) -> None:
    """Goal: names, sizes and digests are those of the files, whatever leads to them. Method: hashlib over the whole
    bytes; a file, a folder, the folder from within, and through a link."""
    names = ["config.json", "model.safetensors", "tokenizer/vocab.json"]
    expected = [
        {
            "name": f"checkpoint/{name}",
            "sha256": hashlib.sha256((produced / name).read_bytes()).hexdigest(),
            "size": (produced / name).stat().st_size,
        }
        for name in names
    ]
    assert described([produced]) == described([f"{produced}/"]) == expected
    assert described([produced / "model.safetensors"]) == [{**expected[1], "name": "model.safetensors"}]
    os.chdir(produced)
    assert described(["."]) == expected


def test_what_is_no_file_is_named(produced: Path, tmp_path: Path) -> None:
    """Goal: nothing is left out silently: each path that cannot be described is named, with what to do."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "other").symlink_to(produced)
    (tmp_path / "piped").mkdir()
    os.mkfifo(tmp_path / "piped" / "pipe")
    (tmp_path / "many").mkdir()
    for number in range(101):
        (tmp_path / "many" / f"{number}").touch()
    (tmp_path / "model.safetensors").touch()
    cases: list[tuple[list[str | Path], str]] = [
        (["gone"], "gone does not exist"),
        (["empty"], "is a folder without files"),
        (["linked"], "is a link to a folder"),
        (["piped"], "is neither a file nor a folder"),
        (["many"], "Pack the files into one archive"),
        (["model.safetensors", produced / "model.safetensors"], "two files are named model.safetensors"),
    ]
    for paths, text in cases:
        with pytest.raises(InvalidRequest, match=text) as raised:
            described([tmp_path / path for path in paths])
        assert raised.value.field == "models"


def test_a_run_is_settled_with_what_it_produced(client: Client, produced: Path) -> None:
    """Goal: `produced` computes digests when it is called, and leaving the run settles it with them; a failure to read
    one changes nothing else."""
    with client.run(datasets=["mnist"], mechanism=RELEASE) as run:
        run.step()
        run.produced(produced / "model.safetensors")
        run.produced(produced / "tokenizer")
        before = described([produced / "model.safetensors", produced / "tokenizer"])
        (produced / "model.safetensors").write_bytes(b"written later")
        with pytest.raises(InvalidRequest, match="two files are named"):
            run.produced(produced / "model.safetensors")
    assert client.run_info(run.id)["settled"]["models"] == before


def test_settle_takes_paths_and_digests(client: Client, produced: Path) -> None:
    """Goal: paths and ready digests may be mixed; one path in place of a list is an error, not a list of letters."""
    run = client.ask(datasets=["mnist"], mechanism=RELEASE)["id"]
    client.start(run)
    ready = {"name": "adapter", "sha256": "ab" * 32, "size": 7}
    with pytest.raises(InvalidRequest, match="a list of paths"):
        client.settle(run, models=str(produced))
    settled = client.settle(run, models=[ready, produced / "config.json"])
    assert settled["models"] == [ready, *described([produced / "config.json"])]


def test_the_command_computes_digests(terminal: Terminal, produced: Path) -> None:
    """Goal: `settle --model` states files and folders, `settle` and `run show` print them."""
    terminal("dataset create counts --mu 1 --delta 1e-6")
    run = terminal("request counts --type gaussian --noise-multiplier 20 --json").json["id"]
    terminal(f"start {run}")
    missing = terminal(f"settle {run} --model {produced}/gone")
    assert (missing.status, "gone does not exist" in missing.err) == (2, True)
    settled = terminal(f"settle {run} --model {produced} --model {produced}/model.safetensors")
    assert settled.status == 0, settled.err
    stated = described([produced, produced / "model.safetensors"])
    assert terminal(f"run show {run} --json").json["settled"]["models"] == stated
    for text in (settled.out, terminal(f"run show {run}").out):
        flat = " ".join(text.split())
        for model in stated:
            assert f"{model['name']}, {model['size']:,} bytes, SHA-256 {model['sha256']}" in flat
