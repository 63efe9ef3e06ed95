#!/usr/bin/env bash
# Ask for a run, as the environment states it, and write the outputs of the step. Each value arrives in a variable and is
# passed as one word, so that nothing in it is executed. The ledger's key is read from LEDGER_KEY, and from nowhere else.
set -euo pipefail

: "${LEDGER_KEY:?is not set. Set it from a secret, at the step: env: LEDGER_KEY: \${{ secrets.LEDGER_KEY \}\}}"
output=${GITHUB_OUTPUT:-/dev/null}

options=("--wait" "--wait-at-most=$ASK_WAIT_AT_MOST" "--key=$ASK_KEY" "--mechanism=$ASK_MECHANISM" "--receipt=$ASK_RECEIPT")
[ "$ASK_START" = "true" ] && options+=("--start")
[ -n "${ASK_PURPOSE:-}" ] && options+=("--purpose=$ASK_PURPOSE")
[ -n "${ASK_PROJECT:-}" ] && options+=("--project=$ASK_PROJECT")
[ -n "${ASK_SHARE:-}" ] && options+=("--share=$ASK_SHARE")
[ -n "${ASK_SEGMENTS:-}" ] && options+=("--segments=$ASK_SEGMENTS")
[ -n "${ASK_VALID_FOR:-}" ] && options+=("--valid-for=$ASK_VALID_FOR")
[ -n "${ASK_SIZE_DIFFERS:-}" ] && options+=("--size-differs=$ASK_SIZE_DIFFERS")
while IFS= read -r label; do
  [ -n "$label" ] && options+=("--label=$label")
done <<<"${ASK_LABELS:-}"
datasets=()
while IFS= read -r dataset; do
  [ -n "$dataset" ] && datasets+=("$dataset")
done <<<"$ASK_DATASETS"

status=0
privacy-ledger request "${options[@]}" -- "${datasets[@]}" || status=$?
case $status in
  0) outcome=approved ;;
  1) outcome=refused ;;
  7) outcome=waits ;;
  *) outcome=failed ;;
esac
echo "outcome=$outcome" >>"$output"
if [ "$status" -ne 0 ]; then
  echo "::error title=The privacy ledger::The run is not approved ($outcome). The lines above state why."
  exit "$status"
fi
# The same key names the run that was approved just now.
run=$(privacy-ledger runs --key="$ASK_KEY" --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["items"][0]["id"])')
echo "run=$run" >>"$output"
echo "receipt=$ASK_RECEIPT" >>"$output"
