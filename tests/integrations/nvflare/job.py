"""One job in NVFlare's simulator, in a process of its own: `python job.py '{"workspace": …, "controller": {…}}'`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from nvflare.app_common.default_component_policy import DEFAULT_CLASS_ALLOW_LIST
from nvflare.app_common.np.np_model_persistor import NPModelPersistor
from nvflare.job_config.api import FedJob

from tests.integrations.nvflare.controller import RecordedFedAvg
from tests.integrations.nvflare.digits_executor import Digits

OURS = ("controller.RecordedFedAvg", "digits_executor.Digits")


def main(given: dict[str, Any]) -> int:
    """Run the job. Return 0 if the simulator did."""
    folder = Path(given["workspace"])
    (folder / "local").mkdir(parents=True)
    paths = [f"tests.integrations.nvflare.{name}" for name in OURS]
    allowed = {"format_version": 2, "class_allow_list": [*DEFAULT_CLASS_ALLOW_LIST, *paths]}
    (folder / "local" / "resources.json").write_text(json.dumps(allowed))
    job = FedJob(name="digits", min_clients=3)
    job.set_app_packages(["ledger", "tests"])
    job.to_server(NPModelPersistor(model=np.zeros((64, 10)).tolist()), id="persistor")
    job.to_server(RecordedFedAvg(folder=str(folder), dies_at=given.get("dies_at", 0), **given["controller"]))
    job.to_clients(Digits(clients=3, breaks=given.get("breaks", "")))
    return int(job.simulator_run(str(folder), n_clients=3, threads=3, log_config="concise") or 0)


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
