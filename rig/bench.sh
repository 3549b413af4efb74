#!/usr/bin/env bash
# Measures the speed promises and writes BENCHMARKS.md: `make bench`.
#
#   rig/bench.sh --row 4    one row alone, nothing is written
#   rig/bench.sh --quick    small sizes, to try the benchmark itself
#
# Data sets (6 GB) are made once, below ~/.cache/trough/bench.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

rig/deps.sh test
PATH=$PATH:$HOME/.cargo/bin:/usr/sbin:/sbin
rig/hdfs/hdfs.sh fetch
rig/consul/consul.sh fetch
cargo build --release --workspace --bins
# the tests' JVMs are tuned to start fast; these are tuned to run fast
export HDFS_RIG_TIER=4
exec "${CARGO_TARGET_DIR:-target}/release/bench" "$@"
