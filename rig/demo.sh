#!/usr/bin/env bash
# Shows the whole way from a file to an answer on real data: `make demo`.
#
#   NODES=3                a cluster of so many nodes, and the end of one of them, instead of one machine
#   DEMO_DIR=./demo-data   where it works
#   STORE=hdfs             a real HDFS on this machine as the deep store, instead of a directory
#   ONCE=1                 stops at the end and leaves nothing behind, instead of staying in the foreground
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. rig/demo_steps.sh

[ "${NODES:-1}" = 1 ] || exec rig/demo_cluster.sh
once=${ONCE:-}
if [ -n "$once" ]; then dir=$(temporary); else dir=$(realpath -m "${DEMO_DIR:-./demo-data}"); fi
read_port=${READ_PORT:-6444}
write_port=${WRITE_PORT:-6222}
manager_port=${MANAGER_PORT:-6112}
up_pid=
hdfs_dir=

cleanup() {
    status=$?
    trap - EXIT INT TERM
    if [ -n "$up_pid" ] && kill -0 "$up_pid" 2>/dev/null; then
        title "stopping"
        kill "$up_pid" 2>/dev/null || true
        wait "$up_pid" 2>/dev/null || true
    fi
    [ -z "$hdfs_dir" ] || rig/hdfs/hdfs.sh stop "$hdfs_dir" || true
    if [ -n "$once" ]; then
        if mountpoint -q "$dir/mount" 2>/dev/null; then
            echo "demo: $dir/mount is still mounted" >&2
            status=1
        else
            remove "$dir"
        fi
    fi
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

rig/deps.sh demo
PATH=$PATH:$HOME/.cargo/bin

build "$dir"

store=()
if [ "${STORE:-}" = hdfs ]; then
    title "   Start an HDFS on this machine: a NameNode and three DataNodes"
    hdfs_dir=$dir/hdfs
    rig/hdfs/hdfs.sh start "$hdfs_dir" $$ 2>&1 | indent
    # shellcheck disable=SC1091  # written by the line above
    . "$hdfs_dir/env"
    store=(--store "$HDFS_URL/trough")
fi

title "2. Start trough"
run "trough up --dir $dir${store[*]:+ ${store[*]}}"
log=$dir/up.log
: >"$dir/ready"
"$trough" up --dir "$dir" "${store[@]}" --read-port "$read_port" --write-port "$write_port" \
    --manager-port "$manager_port" \
    >"$dir/ready" 2>"$log" &
up_pid=$!
await_ready "$up_pid" "$dir/ready" "$log"
echo "    ready; its log is $log"

title "3. Publish the databases in the deep store"
run "trough put $dir/segments/*.sqlite"
"$trough" put --dir "$dir" "$dir"/segments/*.sqlite | tail -n 1 | indent
# the mount shows a segment once it was pulled and verified
expected=$(find "$dir/segments" -name '*.sqlite' | wc -l)
waited=0
until [ "$(find "$dir/mount" -maxdepth 1 -name '*.sqlite' | wc -l)" -ge "$expected" ]; do
    kill -0 "$up_pid" 2>/dev/null || { tail -n 20 "$log" >&2; up_pid=; fail "trough up ended"; }
    [ $((waited += 1)) -le 1200 ] || { "$trough" status --dir "$dir" >&2; fail "not all $expected segments are there"; }
    sleep 0.1
done
echo "    all $expected were pulled, verified and mounted"

sql='SELECT species, count(*) AS strikes, sum(cost_total_usd) AS cost_usd
       FROM strikes GROUP BY species ORDER BY strikes DESC LIMIT 5'
title "4. Ask Texas over HTTP"
run "curl --data-binary \"$sql\" 'http://127.0.0.1:$read_port/?segment=texas'"
curl --silent --show-error --fail-with-body --noproxy '*' --data-binary "$sql" \
    "http://127.0.0.1:$read_port/?segment=texas" | indent

title "5. Open the same segment as a file"
run "sqlite3 $dir/mount/texas.sqlite"
sqlite3 -readonly -header -column "$dir/mount/texas.sqlite" "$sql" | indent
ls -l "$dir/mount" | sed -n '2,4p' | indent
echo "    ..."

title "6. Look at the whole"
run "trough status --dir $dir"
"$trough" status --dir "$dir" | indent

if [ -n "$once" ]; then exit 0; fi

title "trough stays here until Ctrl-C. In another terminal, try:"
cat <<TRY
  $trough query --dir $dir ohio "SELECT airport, count(*) AS n FROM strikes GROUP BY 1 ORDER BY 2 DESC"
  sqlite3 $dir/mount/new-york.sqlite "SELECT name, city FROM airports LIMIT 5"
  sha256sum $dir/mount/ohio.sqlite
  getfattr -d $dir/mount/ohio.sqlite
  touch $dir/mount/new.sqlite                      (refused: the mount is read-only)
  $trough put --dir $dir YOUR.sqlite
TRY
wait "$up_pid" && status=0 || status=$?
up_pid=
exit "$status"
