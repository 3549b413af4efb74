#!/usr/bin/env bash
# Hosts on one machine: network namespaces on a bridge, which can be cut from one another.
#
#   net.sh start DIR [OWNER_PID]           an empty net. With OWNER_PID all of it ends, and DIR goes, when that process
#                                          is gone
#   net.sh host DIR NAME...                adds hosts, and says of each "NAME ADDRESS NAMESPACE"; DIR/disk/NAME is for
#                                          its files
#   net.sh hosts DIR                       the same of all; `here` is this machine itself
#   net.sh exec DIR HOST COMMAND...        runs a command on a host, in the place of this process
#   net.sh cut DIR HOST OTHER...           nothing passes between HOST and each OTHER any more
#   net.sh heal DIR [HOST OTHER...]        what was cut between them passes again; without hosts, everything
#   net.sh stop DIR                        kills what runs on the hosts, unmounts what is below DIR, takes the hosts
#                                          away; the files stay
#
# Hosts share this machine's files and mounts, and have a network each: 198.18.NUMBER.0/24, from the range for
# benchmarks (RFC 2544), which is routed nowhere. They reach each other and `here`, not what is outside.
#
# A cut drops what the bridge would pass on, so that the other side is silent: no reset, no refusal, on new and on
# established connections, in both directions. ARP still passes: a sender whose neighbour does not answer that is told
# "no route to host" by its own kernel. Loopback within a host is never touched.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/process.sh"
. "$here/hosts.sh"
rig=net.sh
# how long the processes of a net may take to be gone once they are killed
end_s=30

net_number() { sed -n 's/^number=//p' "$dir/env" 2>/dev/null || true; }

# A number that no other net has: the hub's namespace is made by one or not at all, whoever tries at the same time.
claim() {
    local hub said
    for ((number = 0; number < 256; number++)); do
        hub=trough-$number-hub
        [ ! -e "/run/netns/$hub" ] && [ -z "$(ip -4 route show root "198.18.$number.0/24")" ] || continue
        said=$(ip netns add "$hub" 2>&1) && return
        [ -e "/run/netns/$hub" ] || fail "no namespace can be made: $said"
    done
    fail "no network of 198.18.0.0/16 is free; see 'ip netns list' and 'ip route'"
}

in_hub() { nsenter --net="/run/netns/trough-$number-hub" -- "$@"; }

plug() { ip -n "trough-$number-hub" link set dev "$1" addrgenmode none master bridge up; } # HOST's end of its cable

build() {
    local hub=trough-$number-hub
    ip -n "$hub" link add name bridge type bridge stp_state 0 forward_delay 0
    ip -n "$hub" link set dev bridge addrgenmode none up
    in_hub nft -f - <<NFT
table bridge trough {
    set cut { type ifname . ifname; }
    chain forward {
        type filter hook forward priority 0; policy accept;
        ether type != arp iifname . oifname @cut drop
    }
}
NFT
    ip link add name "trough-$number" type veth peer name here netns "$hub"
    plug here
    ip address add "198.18.$number.254/24" dev "trough-$number"
    ip link set dev "trough-$number" addrgenmode none up
    echo "here 198.18.$number.254 -" >"$dir/hosts"
}

start() { # [OWNER_PID]
    [ "$(id -u)" = 0 ] || fail "only root may make hosts"
    need ip iproute2
    need nft nftables
    need nsenter util-linux
    [ -z "$number" ] || fail "$dir has a net already; stop it first"
    claim
    echo "number=$number" >"$dir/env"
    [ -z "${1:-}" ] || watchdog "$1"
    trap '[ $? -eq 0 ] || stop_all' EXIT
    build
}

add_host() { # NAME
    [[ $1 =~ ^[a-z][a-z0-9-]{0,14}$ && $1 != hub && $1 != bridge && $1 != lo ]] ||
        fail "a host cannot be called '$1': use up to 15 of a-z, 0-9 and -"
    ! grep -q "^$1 " "$dir/hosts" || fail "there is a host $1 already"
    local name=trough-$number-$1 address n
    n=$(wc -l <"$dir/hosts")
    [ "$n" -le 253 ] || fail "a net has at most 253 hosts"
    address=198.18.$number.$n
    ip netns add "$name"
    ip link add name "$1" netns "trough-$number-hub" type veth peer name eth0 netns "$name"
    plug "$1"
    ip -n "$name" -batch - <<BATCH
link set dev lo up
address add $address/24 dev eth0
link set dev eth0 addrgenmode none up
BATCH
    mkdir -p "$dir/disk/$1"
    echo "$1 $address /run/netns/$name" | tee -a "$dir/hosts"
}

# Cuts or heals in one step. To cut twice, or to heal what is not cut, is no error: to heal, each pair is added first.
change() { # cut|heal HOST OTHER...
    local how=$1 host=$2 other pairs=
    shift 2
    address_on "$dir" "$host" >/dev/null
    for other in "$@"; do
        [ "$other" != "$host" ] || fail "$host cannot be cut from itself"
        address_on "$dir" "$other" >/dev/null
        pairs+="${pairs:+, }\"$host\" . \"$other\", \"$other\" . \"$host\""
    done
    [ -n "$pairs" ] || fail "$how needs two hosts"
    {
        echo "add element bridge trough cut { $pairs }"
        [ "$how" = cut ] || echo "delete element bridge trough cut { $pairs }"
    } | in_hub nft -f -
}

# One at a time adds hosts or takes them away, until this process or subshell ends.
lock() {
    exec 8>"$dir/lock"
    flock 8
}

namespaces() { ip netns list | awk -v prefix="trough-$number-" 'index($1, prefix) == 1 { print $1 }'; }

# Kills until nobody is left: one that was just forked is not in the first list.
kill_all() {
    local name ids deadline=$((SECONDS + end_s))
    while :; do
        ids=$(for name in $(namespaces); do ip netns pids "$name"; done)
        [ -n "$ids" ] || return 0
        # shellcheck disable=SC2086  # one word a process
        [ $SECONDS -lt $deadline ] || fail "processes on the hosts of $dir do not end:" $ids
        # shellcheck disable=SC2086  # one word a process
        kill -KILL $ids 2>/dev/null || true
        sleep 0.02
    done
}

# Whatever is mounted below DIR, what was mounted last first. In mountinfo a space is \040. Who was killed may have left
# the directory below its mount immutable.
unmount_all() {
    local at
    awk '{ print $5 }' /proc/self/mountinfo | tac | while read -r at; do
        at=$(printf '%b' "$at")
        [[ $at == "$dir"/* ]] || continue
        umount --lazy "$at" || true
        chattr -i "$at" 2>/dev/null || true
    done
}

stop_all() {
    local name
    lock
    number=$(net_number)
    [ -n "$number" ] || return 0
    kill_all
    unmount_all
    ip link delete "trough-$number" 2>/dev/null || true
    for name in $(namespaces); do ip netns delete "$name" || true; done
    # the number is another net's from now on
    : >"$dir/env"
    rm -f "$dir/hosts"
}

verb=${1:-help}
[ $# -ge 2 ] || { sed -n '2,/^set /p' "$0" | sed '$d;s/^# \{0,1\}//'; exit 2; }
[ "$verb" != start ] || mkdir -p "$2"
dir=$(cd "$2" && pwd -P)
shift 2
number=$(net_number)
if [ "$verb" = start ]; then start "$@"; exit; fi
[ -n "$number" ] || fail "$dir has no net; start it first"
case $verb in
    host)
        lock
        for name in "$@"; do add_host "$name"; done
        ;;
    hosts) cat "$dir/hosts" ;;
    exec)
        [ $# -ge 2 ] || fail "exec needs a host and a command"
        before=$(entering "$dir" "$1")
        # shellcheck disable=SC2086  # words before a command
        exec $before "${@:2}"
        ;;
    cut) change cut "$@" ;;
    heal) if [ $# -eq 0 ]; then in_hub nft flush set bridge trough cut; else change heal "$@"; fi ;;
    stop) stop_all ;;
    *) fail "unknown verb $verb" ;;
esac
