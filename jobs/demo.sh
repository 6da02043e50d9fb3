#!/bin/sh
# The loop on real data, one run after the other as cron would start them: a model is trained, half
# of the stream is healthy, then every feature moves by one standard deviation.
set -eu
: "${BIN:?folder of wine-drift}" "${RUN_HOME:?folder for the demo}" "${BATCHES:=8}"
rm -rf "$RUN_HOME"

data=${WINE_DRIFT_DATA:-}
if [ -z "$data" ]; then
    # prints the path; without a network the runs below say that they simulate
    data=$("$BIN/wine-drift" fetch-data --home .data) || data=
fi

n=0
while [ "$n" -lt "$BATCHES" ]; do
    "$BIN/wine-drift" run-batch --home "$RUN_HOME" ${data:+--data "$data"} \
        --scenario switch --scenario-start $((BATCHES / 2))
    n=$((n + 1))
done
echo
"$BIN/wine-drift" status --home "$RUN_HOME"
echo
echo "metrics: $RUN_HOME/metrics/wine_drift.prom"
