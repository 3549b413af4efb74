#!/usr/bin/env bash
# Repeats the suites of real parts until the time is over or one fails: `make soak`.
#
#   SOAK_S=3600   for how long
#
# TROUGH_SOAK=1 tells the tests to hold their hangs and repeat their kills for minutes instead of once.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

rig/deps.sh test || exit 1
PATH=$PATH:$HOME/.cargo/bin:/usr/sbin:/sbin
rig/hdfs/hdfs.sh fetch || exit 1
export TROUGH_SOAK=1
until_s=$((SECONDS + ${SOAK_S:-3600}))
round=0
while [ $SECONDS -lt $until_s ]; do
    round=$((round + 1))
    printf '\n== round %d, %d s left\n' $round $((until_s - SECONDS))
    cargo test --workspace --features failpoints --test '*' -- --test-threads=1 || {
        echo "failed in round $round after $SECONDS s" >&2
        exit 1
    }
done
printf '\n%d rounds in %d s, none failed\n' $round $SECONDS
