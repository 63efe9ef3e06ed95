"""The examples for pipelines and clusters, executed against a real server: the step of the action by bash, the lines of
the GitLab jobs by sh, and the command of the init container. Neither GitHub, GitLab nor a cluster runs here."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ledger.client import Ledger
from tests.kit.driver import Terminal

ROOT = Path(__file__).parents[2]
INTEGRATIONS = ROOT / "integrations"
MECHANISM = '{"type": "gaussian", "noise_multiplier": 5}'
ODD = "a count; $(touch stolen) `touch stolen` \"quoted\" 'and' --start"


def read(path: str) -> dict[str, Any]:
    """A file of YAML."""
    parsed: dict[str, Any] = yaml.safe_load((INTEGRATIONS / path).read_text())
    return parsed


@pytest.fixture
def machine(terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a job on a machine that has the command, and a dataset."""
    monkeypatch.chdir(tmp_path)
    terminal("dataset create mnist --mu 1 --delta 1e-6")
    terminal("dataset create clicks --mu 1 --delta 1e-6")
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "privacy-ledger"
    command.write_text(
        f"#!/bin/sh\nPYTHONPATH={shlex.quote(str(ROOT))} exec {sys.executable}"
        " -c 'from ledger.cli import main; main()' \"$@\"\n"
    )
    command.chmod(0o755)
    return {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "RUNNER_TEMP": str(tmp_path)}


def act(
    machine: dict[str, str], folder: Path, **inputs: str
) -> tuple[subprocess.CompletedProcess[str], dict[str, str]]:
    """Execute the step of the action that asks, as a runner does: each expression replaced, and the outputs read."""
    action = read("github/action.yml")
    known = {name: given.get("default", "") for name, given in action["inputs"].items()}
    assert set(inputs) <= set(known)
    contexts = {
        "github.repository": "acme/train",
        "github.run_id": "17",
        "github.job": "ask",
        "runner.temp": machine["RUNNER_TEMP"],
    }

    def filled(text: str) -> str:
        return re.sub(r"\$\{\{ *([\w.-]+) *\}\}", lambda found: values[found[1]], text)

    values = dict(contexts)
    values |= {f"inputs.{name}": filled(str(text)) for name, text in {**known, **inputs}.items()}
    (step,) = [step for step in action["runs"]["steps"] if step["id"] == "request"]
    outputs = folder / "outputs"
    outputs.write_text("")
    env = {
        **machine,
        "GITHUB_ACTION_PATH": str(INTEGRATIONS / "github"),
        "GITHUB_OUTPUT": str(outputs),
        **{name: filled(text) for name, text in step["env"].items()},
    }
    script = folder / "step.sh"
    script.write_text(step["run"])
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
        env=env, cwd=folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return done, dict(line.split("=", 1) for line in outputs.read_text().splitlines())


def test_the_action_asks_and_leaves_a_receipt(terminal: Terminal, machine: dict[str, str], tmp_path: Path) -> None:
    """Goal: the action does what its inputs state, executes nothing that is written in them, prints no key, and a job
    that is run again neither asks twice nor trains twice. Method: every input; each outcome; text for a shell."""
    url, key = os.environ["LEDGER_URL"], os.environ["LEDGER_KEY"]
    asked = {"url": url, "datasets": "mnist\nclicks\n", "mechanism": MECHANISM, "purpose": ODD}
    labels = f"sweep=7\nnote={ODD}\n"
    done, outputs = act(
        machine,
        tmp_path,
        **asked,
        labels=labels,
        segments="",
        start="true",
        **{"wait-at-most": "5s", "valid-for": "P1D"},
    )
    assert done.returncode == 0, done.stderr
    assert (outputs["outcome"], outputs["receipt"]) == ("approved", str(tmp_path / "run.jwt"))
    assert key not in done.stdout + done.stderr
    assert not list(tmp_path.rglob("stolen"))
    with Ledger() as ledger:
        run = ledger.run_info(outputs["run"])
        assert (run["state"], run["idempotency_key"]) == ("started", "acme/train/17/ask")
        assert run["request"]["datasets"] == ["mnist", "clicks"]
        assert (run["request"]["purpose"], run["request"]["labels"]) == (ODD, {"sweep": "7", "note": ODD})
    terminal("jwks --output jwks.json")
    assert (
        terminal(f"receipt verify {outputs['receipt']} --jwks jwks.json --dataset mnist --run {run['id']}").status == 0
    )
    again, outputs = act(machine, tmp_path, **asked, labels=labels, **{"wait-at-most": "5s", "valid-for": "P1D"})
    assert (again.returncode, outputs) == (1, {"outcome": "refused"})
    assert "one receipt covers one execution" in again.stderr
    assert not (tmp_path / "run.jwt").exists()
    for changes, status, outcome in (
        ({"mechanism": '{"type": "gaussian", "noise_multiplier": 0.5}'}, 1, "refused"),
        ({"mechanism": '{"type": "gaussian"}'}, 2, "failed"),
        ({"datasets": "nothing"}, 5, "failed"),
        ({"start": "false"}, 0, "approved"),
    ):
        done, outputs = act(
            machine, tmp_path, **{**asked, **changes, "idempotency-key": "-".join(changes) + f"-{status}"}
        )
        assert (done.returncode, outputs["outcome"]) == (status, outcome), done.stderr
        assert (tmp_path / "run.jwt").exists() == (status == 0)
    terminal("dataset fair-use mnist --waits-above 1 --reason 'large ones wait'")
    done, outputs = act(machine, tmp_path, **asked, **{"idempotency-key": "waits", "wait-at-most": "0s"})
    assert (done.returncode, outputs) == (7, {"outcome": "waits"})
    without = {name: value for name, value in machine.items() if name != "LEDGER_KEY"}
    done, outputs = act(without, tmp_path, **asked)
    assert (done.returncode != 0, outputs) == (True, {})
    assert "env: LEDGER_KEY: ${{ secrets.LEDGER_KEY }}" in done.stderr


def test_the_action_has_every_option_and_no_key_among_its_inputs() -> None:
    """Goal: whatever `request` takes can be given to the action, and no key is an input. Method: the options that its
    script passes against those of the command."""
    action, script = read("github/action.yml"), (INTEGRATIONS / "github" / "request.sh").read_text()
    passed = set(re.findall(r"--([a-z-]+)", script.partition("status=0")[0]))
    options = (
        "wait wait-at-most key mechanism receipt start purpose project share segments valid-for size-differs label"
    )
    assert passed == set(options.split())
    assert not any("key" in name for name in action["inputs"] if name != "idempotency-key")
    assert "LEDGER_KEY" not in str(action)
    steps = {name for step in action["runs"]["steps"] for name in step.get("env", {})}
    assert set(re.findall(r"\bASK_[A-Z_]+", script)) == steps - {"LEDGER_URL", "PACKAGE"}


def test_the_jobs_of_gitlab_ask_and_admit(machine: dict[str, str], tmp_path: Path) -> None:
    """Goal: the first job leaves a receipt and the keys, and the second begins by them only. Method: the lines of both,
    without the installation; then with a changed receipt."""
    jobs = read("gitlab/request.yml")
    ask, admit = jobs[".privacy-ledger-request"], jobs[".privacy-ledger-admitted"]
    env = {**machine, "ASK_DATASET": "mnist", "ASK_MECHANISM": MECHANISM, "ASK_PURPOSE": ODD, "ASK_WAIT_AT_MOST": "5s"}
    env |= {"CI_PROJECT_PATH": "acme/train", "CI_PIPELINE_ID": "17", "CI_JOB_NAME_SLUG": "ask"}

    def execute(lines: list[str]) -> int:
        typed = "\n".join(line for line in lines if "pip install" not in line)
        return subprocess.run(["sh", "-ec", typed], env=env, cwd=tmp_path, timeout=120, check=False).returncode

    assert execute(ask["script"]) == 0
    assert set(ask["artifacts"]["paths"]) <= {path.name for path in tmp_path.iterdir()}
    assert execute(admit["before_script"]) == 0
    receipt = tmp_path / "run.jwt"
    receipt.write_text(receipt.read_text()[:-6] + "AAAAA\n")
    assert execute(admit["before_script"]) == 1
    env["ASK_DATASET"] = "clicks"
    assert execute(admit["before_script"]) == 1


def test_the_job_of_kubernetes_admits_what_was_approved(
    terminal: Terminal, machine: dict[str, str], tmp_path: Path
) -> None:
    """Goal: the init container admits a started run of this mechanism, without a server, and nothing else. Method: its
    command on real files, with the address of the server gone; another mechanism; an approval; nothing."""
    spec = read("kubernetes/training-job.yaml")["spec"]
    pod = spec["template"]["spec"]
    assert (spec["backoffLimit"], pod["restartPolicy"], pod["containers"][0]["command"][0]) == (0, "Never", "python")
    (admit,) = pod["initContainers"]
    mounts = {mount["mountPath"]: tmp_path / mount["name"] for mount in admit["volumeMounts"]}
    for folder in mounts.values():
        folder.mkdir()
    words = admit["command"]
    for path, folder in mounts.items():
        words = [word.replace(f"{path}/", f"{folder}/") for word in words]
    offline = {**machine, "LEDGER_URL": "http://127.0.0.1:1", "LEDGER_KEY": ""}

    def admitted() -> int:
        return subprocess.run(words, env=offline, timeout=120, check=False, capture_output=True).returncode

    (tmp_path / "mechanism" / "mechanism.json").write_text(MECHANISM)
    terminal(f"jwks --output {tmp_path}/keys/jwks.json")
    assert admitted() == 2  # no receipt
    ask = f"request mnist --mechanism @{tmp_path}/mechanism/mechanism.json --wait --receipt {tmp_path}/receipt/run.jwt"
    assert terminal(f"{ask} --key held").status == 0
    verified = terminal(
        f"receipt verify {tmp_path}/receipt/run.jwt --jwks {tmp_path}/keys/jwks.json --state held --json"
    )
    words = [word.replace("=acme", f"={verified.json['tenant']}") for word in words]
    assert admitted() == 1
    assert terminal(f"{ask} --key started --start").status == 0
    assert admitted() == 0
    (tmp_path / "mechanism" / "mechanism.json").write_text('{"type": "gaussian", "noise_multiplier": 1}')
    assert admitted() == 1
