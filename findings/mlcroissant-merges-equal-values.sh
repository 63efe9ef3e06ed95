#!/usr/bin/env bash
# mlcroissant 1.1.1, seen on 2026-11-30: reading a Croissant file merges equal values of a list.
#
# Believed: a list of texts in the metadata comes back with the items that were written.
# Happens: the file goes through an RDF graph, in which equal values are one. Two entries of the same text become one,
# so that lists that belong together by position, such as names and costs, no longer match.
# Who is hurt: anyone who states one cost for each release in parallel lists: a sum over what is read back is too small.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet mlcroissant==1.1.1
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import json
import logging
import sys
from pathlib import Path

import mlcroissant as mlc

logging.disable(logging.WARNING)
costs = ["epsilon 0.5", "epsilon 0.5", "epsilon 1.0"]
written = mlc.Metadata(
    name="releases",
    description="Three releases.",
    url="https://example.org/releases",
    license=["MIT"],
    version="1.0.0",
    cite_as="nobody",
    keywords=costs,
)
path = Path(sys.argv[1]) / "croissant.json"
path.write_text(json.dumps(written.to_json(), default=str))
read = list(mlc.Dataset(str(path)).metadata.keywords)
print(f"written: {json.loads(path.read_text())['keywords']}")
print(f"read:    {read}")
total = {name: sum(float(text.split()[1]) for text in texts) for name, texts in (("written", costs), ("read", read))}
print(f"sums: {total}")
assert sorted(read) == ["epsilon 0.5", "epsilon 1.0"] and total == {"written": 2.0, "read": 1.5}
print("still so")
PYTHON
