#!/usr/bin/env bash
# Repeats the suites of real parts until the time is over or one fails: `make soak`.
#
#   SOAK_S=3600     for how long, in seconds
#   SOAK_LOG=FILE   where the output of the suites goes (default: target/soak.log)
#
# The first round has TROUGH_SOAK=1: the random kills and hangs go on for ten minutes instead of seconds, and what
# hangs or lies dead is left so for two minutes each (rig/src/soak.rs). The rounds after it are those of `make test`,
# again and again. Only the end of a long log is kept: a soak must not fail on a full disk
# of its own making.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

log=${SOAK_LOG:-${CARGO_TARGET_DIR:-target}/soak.log}
log_bytes_max=$((64 << 20))

rig/deps.sh test || exit 1
PATH=$PATH:$HOME/.cargo/bin:/usr/sbin:/sbin
rig/hdfs/hdfs.sh fetch || exit 1
rig/consul/consul.sh fetch || exit 1
cargo build --profile test --workspace --all-targets --features failpoints || exit 1
mkdir -p "$(dirname "$log")"
: >"$log"

begun=$SECONDS
until_s=$((begun + ${SOAK_S:-3600}))
round=0
failed=
trap 'failed="interrupted"; summary; exit 130' INT TERM

summary() {
    printf '\n%d rounds in %d s: %s\n' "$round" $((SECONDS - begun)) "${failed:-none failed}"
    df -h "${TMPDIR:-/tmp}" | sed -n '2s/^/disk: /p'
    printf 'mounts left: %d\n' "$(grep -c fuse.trough /proc/self/mounts)"
    printf 'log: %s\n' "$log"
}

trim() {
    [ "$(stat -c %s "$log")" -le $log_bytes_max ] && return
    tail -c $((log_bytes_max / 2)) "$log" >"$log.new" && cat "$log.new" >"$log"
    rm -f "$log.new"
}

while [ $SECONDS -lt $until_s ]; do
    round=$((round + 1))
    printf 'round %d, %d s left\n' $round $((until_s - SECONDS)) | tee -a "$log"
    if [ $round -eq 1 ]; then export TROUGH_SOAK=1; else unset TROUGH_SOAK; fi
    # on a full disk tee says so and reads on: the suites go on without a log
    cargo test --workspace --features failpoints --test '*' -- --test-threads=1 2>&1 |
        tee -a -p "$log" >/dev/null
    if [ "${PIPESTATUS[0]}" -ne 0 ]; then
        failed="failed in round $round"
        grep -aE "^test .*FAILED|panicked at|^error" "$log" | tail -n 40
        break
    fi
    trim
done
summary
[ -z "$failed" ]
