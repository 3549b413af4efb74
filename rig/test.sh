#!/usr/bin/env bash
# Runs every suite and prints how long each took: `make test`.
#
# Suites of real parts (FUSE mounts, HDFS, whole processes) run one test at a time: they share two cores, mounts
# and ports, and a time-out of one must not come from the load of another.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

rig/deps.sh test || exit 1
PATH=$PATH:$HOME/.cargo/bin:/usr/sbin:/sbin
rig/hdfs/hdfs.sh fetch || exit 1
cargo build --workspace --all-targets --features failpoints || exit 1

failed=()
times=()
suite() { # NAME COMMAND...
    local name=$1 begun=$SECONDS
    shift
    printf '\n== %s\n' "$name"
    "$@" || failed+=("$name")
    times+=("$(printf '%5d s  %s' $((SECONDS - begun)) "$name")")
}

suite "unit tests" cargo test --workspace --features failpoints --lib --bins
for crate in fsd sync proxy .; do
    for file in "$crate"/tests/*.rs; do
        [ -e "$file" ] || continue
        test=$(basename "$file" .rs)
        package=$crate
        [ "$crate" = . ] && package=trough
        # only the root package and those that have crash points know the feature
        features=()
        grep -q '^failpoints' "$crate/Cargo.toml" && features=(--features failpoints)
        suite "$package: $test" cargo test -p "$package" "${features[@]}" --test "$test" -- --test-threads=1
    done
done
suite "examples in the documentation" cargo test --workspace --doc

printf '\n'
printf '%s\n' "${times[@]}"
printf '%5d s  in all\n' $SECONDS
if [ ${#failed[@]} -gt 0 ]; then
    printf 'failed: %s\n' "${failed[@]}"
    exit 1
fi
