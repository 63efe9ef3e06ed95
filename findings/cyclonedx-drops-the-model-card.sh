#!/usr/bin/env bash
# cyclonedx-python-lib 11.0.0, seen on 2026-11-30: a round trip loses the model card.
#
# Believed: Bom.from_json keeps what the CycloneDX 1.6 schema allows, or refuses what it does not know.
# Happens: modelCard of a machine-learning component, with its considerations, is dropped without a word. Properties of
# the same component stay.
# Who is hurt: anyone who merges or enriches such files, and whose statements about privacy are in the model card.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet 'cyclonedx-python-lib[json-validation]==11.0.0'
"$folder/venv/bin/python" - <<'PYTHON'
import json

from cyclonedx.model.bom import Bom
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

card = {"considerations": {"ethicalConsiderations": [{"name": "privacy", "mitigationStrategy": "epsilon 3 at 1e-5"}]}}
component = {
    "type": "machine-learning-model",
    "bom-ref": "model",
    "name": "model",
    "modelCard": card,
    "properties": [{"name": "privacy:epsilon", "value": "3"}],
}
bom = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": [component]}
problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bom))
print(f"valid by the strict schema: {problem is None}")
(again,) = json.loads(JsonV1Dot6(Bom.from_json(bom)).output_as_string())["components"]
print(f"members before: {sorted(component)}")
print(f"members after:  {sorted(again)}")
assert problem is None and "modelCard" not in again and again["properties"] == component["properties"]
print("still so")
PYTHON
