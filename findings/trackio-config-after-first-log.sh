#!/usr/bin/env bash
# trackio 0.43.0, seen on 2026-11-30: what is added to a run's configuration after its first values is lost.
#
# Believed: `run.config` is the configuration of the run, as in Weights & Biases, whose calls Trackio has: what is set in it is stored.
# Happens: the configuration is stored with the first values that are logged. What is set later stays in memory, without a warning.
# Who is hurt: anyone who learns a parameter while training, such as the noise multiplier or the batch size that a library chose. The
# dashboard and the API show the run without it, and the process that could tell is gone.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet trackio==0.43.0
cd "$folder"
HOME="$folder" TRACKIO_DIR="$folder/runs" "$folder/venv/bin/python" - <<'PYTHON'
import trackio

run = trackio.init(project="demo", name="one", config={"epochs": 1})
run.config["before"] = 1
trackio.log({"loss": 1.0})
run.config["noise_multiplier"] = 1.1
trackio.log({"loss": 0.5})
trackio.finish()
(stored,) = trackio.Api().runs("demo")
kept = {name: value for name, value in stored.config.items() if not name.startswith("_")}
print(f"set: {[name for name in run.config if not name.startswith('_')]}; stored: {kept}")
assert run.config["noise_multiplier"] == 1.1
assert kept == {"epochs": 1, "before": 1}
print("still so")
PYTHON
