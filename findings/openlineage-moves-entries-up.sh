#!/usr/bin/env bash
# openlineage-python 1.54.0, seen on 2026-11-30: empty entries of a list are dropped, and later ones move up.
#
# Believed: a list in a facet is sent as it is; an entry that is not known is sent as null or as an empty object.
# Happens: Serde.to_json removes None and empty objects from lists. The entries behind them move up, and belong to other
# items of a list beside it.
# Who is hurt: anyone whose facets have lists that belong together by position: here an unknown cost disappears, and a
# known one is credited to the wrong run.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet openlineage-python==1.54.0
"$folder/venv/bin/python" - <<'PYTHON'
import json

import attr
from openlineage.client.generated.base import RunFacet
from openlineage.client.serde import Serde


@attr.define
class PrivacyRunFacet(RunFacet):
    runs: list = attr.field(factory=list)
    epsilons: list = attr.field(factory=list)

    @staticmethod
    def _get_schema() -> str:
        return "https://example.org/privacy.json"


facet = PrivacyRunFacet(runs=["first", "second", "third"], epsilons=[1.0, None, 3.0])
sent = json.loads(Serde.to_json(facet))
meant = dict(zip(facet.runs, facet.epsilons, strict=True))
received = dict(zip(sent["runs"], sent["epsilons"], strict=False))
print(f"meant:    {meant}")
print(f"received: {received}")
assert sent["epsilons"] == [1.0, 3.0] and received["second"] == 3.0
print("still so")
PYTHON
