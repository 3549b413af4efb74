#!/usr/bin/env bash
# Shows a cluster that answers through any node, and through the end of one of them: `make demo NODES=3`.
#
#   NODES=3         3 to 9 nodes, each on a host of its own (net.sh)
#   STORE=hdfs      a real HDFS on a further host as the deep store, instead of a directory
#   ONCE=1          stops at the end, instead of staying in the foreground
#
# Nothing stays behind, however it ends. Exit status: 0 when every query was answered, and rightly, else 1.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. rig/demo_steps.sh

# so many nodes have a server of Consul and a candidate for the lead; more of either are not needed
servers_max=3
# the longest that one step may take, on a machine that has much else to do
patience_s=300
# while something is waited for, it is said at least so often what there is
say_s=5
# A cluster is patient, for a node that is gone may come back and a query may take minutes. By default it plans every
# 30 s, gives nodes 30 s to say what they hold when it is new, waits 5 s more when a lead died, 5 minutes until what a
# lost node held is copied anew, and 2 minutes until a copy that is one too many goes.
quick='--set lead.cycle.period_s=3 --set lead.cycle.settle_s=3 --set lead.lock_delay_s=1 \
      --set plan.lost_grace_ms=2000 --set plan.drain_grace_ms=2000'
question='SELECT count(*) AS strikes, sum(cost_total_usd) AS cost_usd FROM strikes'

once=${ONCE:-}
nodes=() servers=() others=() survivors=()
dir='' store='' victim=''
declare -A address=() namespace=() pid=() expected=()

case ${NODES:-} in
    [3-9]) ;;
    *) fail "NODES=${NODES:-} cannot be shown: say 3 to 9 for a cluster, or 1 for one machine" \
        "(of two nodes each would hold everything, for each segment lies on two)" ;;
esac
[ "$(id -u)" = 0 ] || fail "each node gets a host of its own, a network namespace, and only root may make those"

home() { echo "$dir/disk/$1"; } # NODE: its directory

on() { rig/net.sh exec "$dir" "$@"; } # NODE COMMAND...

# Shows a command and runs it, on this machine or on a node.
show() { # COMMAND
    run "$1"
    bash -o pipefail -c "$1" 2>&1 | indent || fail "that went wrong"
}
show_on() { # NODE COMMAND
    printf '  %s$ %s\n' "$1" "$2"
    on "$1" bash -o pipefail -c "$2" 2>&1 | indent || fail "that went wrong"
}

# The first start of trough on a node: it keeps what it is told in its trough.toml.
first_start() { # NODE
    local lead=''
    [[ " ${servers[*]} " != *" $1 "* ]] || lead=' --lead'
    cat <<COMMAND
trough up --dir $(home "$1")$lead --store $store \\
      --set registry.kind=consul --set node.name=$1 --set node.read_listen=${address[$1]}:6444 \\
      --set node.manager_listen=${address[$1]}:6112 --set node.lead_listen=${address[$1]}:6111 \\
      --set manager.insecure_open=true \\
      $quick
COMMAND
}

# Starts trough on a node, beside this script.
start() { # NODE COMMAND
    : >"$dir/$1.ready"
    rig/net.sh exec "$dir" "$1" bash -c "exec $2" >"$dir/$1.ready" 2>>"$dir/$1.log" &
    pid[$1]=$!
}

# How many segments there are for which a condition holds, as a node sees it; nothing when that cannot be said now.
count() { # NODE CONDITION
    { on "$1" trough segments --dir "$(home "$1")" --where "$2" --format json | jq length; } 2>/dev/null || true
}

# What a node knows of the cluster, by a filter of jq's; nothing when that cannot be said now.
cluster() { # NODE FILTER
    { on "$1" trough status --dir "$(home "$1")" --json | jq -r "$2"; } 2>/dev/null || true
}

# Waits until a function says yes, and shows what there is, which it leaves in `state`.
await() { # FUNCTION NODE
    local begun=$SECONDS shown='' shown_at=0 yes=''
    while [ -z "$yes" ]; do
        if "$@"; then yes=1; fi
        if [ "$yes$state" != "$shown" ] || [ $((SECONDS - shown_at)) -ge $say_s ]; then
            printf '    %3d s  %s\n' $((SECONDS - begun)) "$state$([ ! -e "$dir/asking" ] || echo "; $(tally)")"
            shown=$state shown_at=$SECONDS
        fi
        if [ -z "$yes" ] && [ $((SECONDS - begun)) -ge $patience_s ]; then
            tail -n 15 "$dir"/*.log >&2
            fail "nothing more came of that within $patience_s s"
        fi
        [ -n "$yes" ] || sleep 0.5
    done
}

all_live() {
    local live
    live=$(cluster "$1" '[.leading.cycle.nodes[] | select(.state == "live")] | length')
    state="${live:-none} of $NODES nodes are live"
    [ "$live" = "$NODES" ]
}

all_held() {
    local held
    held=$(count "$1" 'copies >= 2')
    state="${held:-none} of ${#expected[@]} segments have two copies"
    [ "$held" = ${#expected[@]} ]
}

all_made_good() {
    local lead lack
    lead=$(cluster "$1" '.lead.node // "nobody"')
    [ "$lead" != "$victim" ] || lead="the dead $victim still"
    lack=$(count "$1" "copies < 2 OR has(holders, '$victim')")
    state="$lead leads, ${lack:-?} segments lack a copy"
    [ "$lack" = 0 ]
}

all_settled() {
    local moving
    moving=$(cluster "$1" '[.leading.cycle | .moves, (.nodes[] | .draining, (.told - .holds | fabs))] | add')
    state="${moving:-?} copies come or go"
    [ "$moving" = 0 ]
}

all_asked() {
    state="all is well"
    [ "$(cat "$dir"/asked.* | wc -l)" -ge ${#expected[@]} ]
}

# Asks for one segment after the other through one node, as long as there is $dir/asking, and says of each "ok SECONDS"
# when the answer was what SQLite says of the file that was published, else "FAILED" and why.
ask_through() { # NODE
    local segment said
    while [ -e "$dir/asking" ]; do
        for segment in "${!expected[@]}"; do
            [ -e "$dir/asking" ] || return 0
            said=$(curl -sS --max-time 60 --write-out '%{time_total}' --data-binary "$question" \
                "http://${address[$1]}:6444/?segment=$segment" 2>&1) || true
            if [ "${said%$'\n'*}" = "${expected[$segment]}" ]; then
                echo "ok ${said##*$'\n'}"
            else
                echo "FAILED $segment through $1: ${said//$'\n'/ }"
            fi
            sleep 0.05
        done
    done
}

tally() {
    cat "$dir"/asked.* | awk '$1 == "ok" { ok++; if ($2 > slowest) slowest = $2 }
        END { if (NR == 0) printf "no query yet"; else printf "%d queries, %d failed, the slowest took %d ms", NR, NR - ok, 1000 * slowest }'
}

cleanup() {
    local status=$? node mount
    trap - EXIT INT TERM
    rm -f "$dir/asking"
    title "stopping"
    [ ${#pid[@]} -eq 0 ] || kill "${pid[@]}" 2>/dev/null || true
    wait
    for node in "${!pid[@]}"; do
        mount=$(home "$node")/mount
        ! mountpoint -q "$mount" || { echo "demo: $mount is still mounted" >&2; status=1; }
    done
    if [ -s "$dir/env" ]; then rig/net.sh stop "$dir" || exit 1; fi
    # in one step, for the watchdog of net.sh looks at it too
    mv "$dir" "$dir.gone"
    remove "$dir.gone"
    exit "$status"
}

rig/deps.sh cluster
PATH=$PATH:$HOME/.cargo/bin:/usr/sbin:/sbin
dir=$(temporary)
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
# all of it ends and the directory goes when this process is gone, also when it is killed
rig/net.sh start "$dir" $$

build "$dir"
rig/consul/consul.sh fetch
[ "${STORE:-}" != hdfs ] || rig/hdfs/hdfs.sh fetch
PATH=$(realpath "${trough%/*}"):$PATH
# nothing that follows is asked outside of this machine
export PATH no_proxy='*' NO_PROXY='*'

title "2. Make $NODES hosts, with a Consul for the cluster"
for ((n = 1; n <= NODES; n++)); do
    nodes+=("worker-$n")
    if [ "$n" -le $servers_max ]; then servers+=("worker-$n"); else others+=("worker-$n"); fi
done
show "rig/net.sh host $dir ${nodes[*]}"
while read -r node at where; do
    address[$node]=$at namespace[$node]=${where##*/}
done < <(rig/net.sh hosts "$dir")
echo "    each is a network namespace of this machine, and this machine reaches its address;"
echo "    \`worker-1\$ COMMAND\` below was run as: rig/net.sh exec $dir worker-1 COMMAND"
list() { local IFS=,; echo "'$*'"; }
show "rig/consul/consul.sh start-on $dir/consul $dir $(list "${servers[@]}") $(list "${others[@]}")"
echo "    an agent of it runs on each, as it would on machines of their own"
store=$dir/store
if [ "${STORE:-}" = hdfs ]; then
    show "rig/net.sh host $dir hdfs"
    show "rig/hdfs/hdfs.sh start-on $dir/hdfs $dir hdfs"
    # shellcheck disable=SC1091  # written by the line above
    . "$dir/hdfs/env"
    store=$HDFS_URL/trough
fi

title "3. Start trough on each of them"
for node in "${nodes[@]}"; do
    line=$(first_start "$node")
    [ "$node" != worker-1 ] || printf '  %s$ %s\n' "$node" "$line"
    start "$node" "$line"
done
echo "    and the same on the others with their addresses${others:+, from worker-4 on without --lead}"
echo "    (the last two lines make the demo short: a cluster waits 5 minutes for a node that is gone)"
for node in "${nodes[@]}"; do await_ready "${pid[$node]}" "$dir/$node.ready" "$dir/$node.log"; done
await all_live worker-1

title "4. Publish the databases in the deep store"
for file in "$dir"/segments/*.sqlite; do
    segment=$(basename "$file" .sqlite)
    expected[$segment]=$(sqlite3 -readonly -json "$file" "$question")
done
show_on worker-1 "trough put --dir $(home worker-1) $dir/segments/*.sqlite | tail -n 1"
await all_held worker-1
show_on worker-1 "trough segments --dir $(home worker-1) --where \"id GLOB 'new-*'\""
show_on worker-1 "trough status --dir $(home worker-1)"

title "5. Ask each node for a segment that it does not hold"
for node in "${nodes[@]}"; do
    without="NOT has(holders, '$node')"
    biggest="$without AND length = (SELECT max(length) FROM segments WHERE $without)"
    read -r segment holders < <(on "$node" trough segments --dir "$(home "$node")" --where "$biggest" --format json |
        jq -r '.[0] | .id + " " + .holders')
    echo "    $node does not hold $segment, and asks one of ${holders/,/ and }:"
    show "curl -sS --data-binary '$question' \\
      'http://${address[$node]}:6444/?segment=$segment'"
done
show "curl -sS http://${address[worker-1]}:6444/metrics | grep ^trough_read_forwards_total"

victim=$(cluster worker-1 .lead.node)
title "6. Kill $victim, which leads, and all else that runs on its host, while the others are asked"
touch "$dir/asking"
for node in "${nodes[@]}"; do
    [ "$node" != "$victim" ] || continue
    survivors+=("$node")
    ask_through "$node" >"$dir/asked.$node" &
done
via=${survivors[0]}
echo "    each segment is asked for in turn, through each of ${survivors[*]};"
echo "    the answer must be what SQLite says of the file that was published"
await all_asked
disown "${pid[$victim]}"
unset "pid[$victim]"
show "kill -KILL \$(ip netns pids ${namespace[$victim]})"
echo "    Consul takes it for alive for 10 to 20 s more; then another leads, and what it held is copied anew"
await all_made_good "$via"
rm "$dir/asking"
show_on "$via" "trough status --dir $(home "$via")"
echo "    $(tally)"
! grep -hvm 5 '^ok' "$dir"/asked.* >&2 || fail "a query was not answered, or wrongly"

title "7. Start $victim again"
show "rig/consul/consul.sh restart $dir/consul $victim"
line="trough up --dir $(home "$victim")"
printf '  %s$ %s\n' "$victim" "$line"
start "$victim" "$line"
await_ready "${pid[$victim]}" "$dir/$victim.ready" "$dir/$victim.log"
await all_live "$via"
await all_settled "$via"
show_on "$via" "trough status --dir $(home "$via")"

if [ -n "$once" ]; then exit 0; fi

title "The cluster stays until Ctrl-C, and then goes with all its files. In another terminal, as root, try:"
cat <<TRY
  cd $PWD
  at() { TROUGH_DIR=$dir/disk/\$1 rig/net.sh exec $dir "\$1" $(realpath "$trough") "\${@:2}"; }
  at worker-1 status --watch
  at worker-2 segments --where "has(holders, 'worker-2')"
  at worker-3 query ohio "SELECT airport, count(*) AS n FROM strikes GROUP BY 1 ORDER BY 2 DESC LIMIT 5"
  at worker-1 sync plan --decommission worker-2
  at worker-1 put YOUR.sqlite
  dig +short @${address[worker-1]} -p 8600 ohio.trough-read.service.consul
  ls $dir/disk/worker-1/mount
  rig/net.sh cut $dir $victim here ${survivors[*]}      (nobody hears of it; then: rig/net.sh heal $dir)
  less $dir/worker-1.log
TRY
wait
fail "no node runs any more"
