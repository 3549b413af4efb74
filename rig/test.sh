#!/usr/bin/env bash
# Runs every suite and prints how long each took: `make test`.
#
#   TEST_LANES=3      suites at the same time
#   SUITE_S=2700      a suite that has not ended by then has failed, in seconds
#   SUITES=REGEX      only the suites whose name (package/target) matches
#
# Within a suite of real parts (FUSE mounts, HDFS, whole processes) the tests run one at a time: they share mounts
# and a rig. Three suites at a time keep two cores busy while tests wait for events; each is shown when it is done.
# The fault matrix of a cluster runs by itself, two of its rigs at a time: its clients alone keep the cores busy.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

rig/deps.sh test || exit 1
PATH=$PATH:$HOME/.cargo/bin:/usr/sbin:/sbin
rig/hdfs/hdfs.sh fetch || exit 1
export WORK
WORK=$(mktemp -d "${TMPDIR:-/tmp}/trough-test.XXXXXX")
trap 'rm -rf "$WORK"' EXIT

# where no test of this version ran yet this builds Consul, which takes as long as building trough
rig/consul/consul.sh fetch >"$WORK/consul" 2>&1 &
consul=$!
echo "building"
cargo test --workspace --features failpoints --no-run --message-format=json-render-diagnostics >"$WORK/built" || exit 1
# what no test runs compiles as well
cargo build --profile test --workspace --all-targets --features failpoints || exit 1
wait "$consul" || { cat "$WORK/consul" >&2; exit 1; }

# NAME DIRECTORY PROGRAM of every test program, those that take longest first
jq -r --arg root "$PWD" 'select(.reason == "compiler-artifact" and .profile.test and .executable)
    | (.manifest_path | rtrimstr("/Cargo.toml")) as $directory
    | (if $directory == $root then "trough" else ($directory | split("/") | last) end) as $package
    | "\($package)/\(.target.name)\({test: "", bin: "-bin-unit"}[.target.kind[0]] // "-unit") \($directory) \(.executable)"' \
    "$WORK/built" | grep -E -- "${SUITES:-.}" >"$WORK/suites"
slow='commands|faults|publish|store_contract|kv_contract|services|discovery|mount_suite|cache_kill|cache_power|cache_model'
{ grep -E "$slow" "$WORK/suites"; grep -vE "$slow" "$WORK/suites"; } >"$WORK/ordered"
[ -s "$WORK/ordered" ] || { echo "no suite is called ${SUITES:-anything}" >&2; exit 1; }

run_suite() { # NAME DIRECTORY PROGRAM
    local name=$1 begun=$SECONDS threads=()
    case $name in
        *-unit) ;;
        "$matrix") threads=(--test-threads=2) ;;
        *) threads=(--test-threads=1) ;;
    esac
    local log=$WORK/${name//\//.}.log status=0
    (cd "$2" && timeout --foreground --kill-after=30 "${SUITE_S:-2700}" "$3" "${threads[@]}") >"$log" 2>&1 </dev/null || status=$?
    {
        flock 9
        printf '\n== %s\n' "$name"
        cat "$log"
        printf '%5d s  %s\n' $((SECONDS - begun)) "$name" >>"$WORK/times"
        [ $status -eq 0 ] || echo "$name" >>"$WORK/failed"
    } 9>"$WORK/printing"
}
export -f run_suite
export matrix=trough/faults_cluster
begun=$SECONDS
run() { # LANES; NAME DIRECTORY PROGRAM of each on standard input
    xargs -r -P "$1" -L 1 bash -c 'run_suite "$@"' suite
}
grep "^$matrix " "$WORK/ordered" | run 1
grep -v "^$matrix " "$WORK/ordered" | run "${TEST_LANES:-3}"

printf '\n'
sort -rn "$WORK/times"
printf '%5d s  in all, without building\n' $((SECONDS - begun))
awk '/^test result:/ { passed += $4; failed += $6 } END { printf "%d passed, %d failed\n", passed, failed }' "$WORK"/*.log
done_suites=$(wc -l <"$WORK/times")
wanted_suites=$(wc -l <"$WORK/ordered")
if [ "$done_suites" -ne "$wanted_suites" ]; then
    echo "only $done_suites of $wanted_suites suites came to an end" >&2
    exit 1
fi
if [ -s "$WORK/failed" ]; then
    # once more at the end, without the logs of the processes that come with it
    while read -r name; do
        grep -h -A 6 "' panicked at \|' ([0-9]*) panicked at " "$WORK/${name//\//.}.log" | cut -c -400
    done <"$WORK/failed"
    printf 'failed: %s\n' "$(tr '\n' ' ' <"$WORK/failed")"
    exit 1
fi
