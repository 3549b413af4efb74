#!/usr/bin/env bash
# A real Consul for tests and demonstrations, with its data on the disk: one server on loopback, or servers and agents
# on the hosts of a net (net.sh).
#
#   consul.sh fetch                        builds the version that go.mod pins, once, into the user's cache
#   consul.sh start DIR [OWNER_PID]        ready when it returns; DIR/env says where. With OWNER_PID all of it
#                                          ends, and DIR goes, when that process is gone
#   consul.sh start-secure DIR [OWNER_PID] the same with ACLs (DIR/token may do all) and mutual TLS (DIR/tls/)
#   consul.sh start-on DIR NET SERVERS AGENTS
#                                          on hosts, of which SERVERS and AGENTS are lists with commas. It ends with NET
#   consul.sh agent DIR HOST...            further agents
#   consul.sh stop DIR                     ends every process; the data stays
#   consul.sh status DIR                   what runs
#   consul.sh leader DIR                   the server that most servers hold to lead
#   consul.sh pause|resume|kill DIR WHO    SIGSTOP, SIGCONT, SIGKILL; WHO is server-1, or a host
#   consul.sh restart DIR WHO...           kills them where they run, starts them with their data, waits until they are
#                                          ready
#   consul.sh empty DIR                    fresh, empty servers at the same addresses; agents run on
#
# On a host Consul has its usual ports: HTTP on 8500 and DNS on 8600, of 127.0.0.1 and of the host's address.
# `stop` uses SIGKILL: what Consul acknowledged is in its log, and an orderly leave is another test's matter.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/../process.sh"
. "$here/../hosts.sh"
rig=consul.sh
version=$(sed -n 's:^require github.com/hashicorp/consul v\(.*\)$:\1:p' "$here/go.mod")
go_wanted=$(sed -n 's:^go \(.*\)$:\1:p' "$here/go.mod")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/trough/consul-$version
consul=$cache/consul
net='' servers=server-1 agents=
ready_s=${CONSUL_RIG_READY_S:-90}

# A Go of at least 1.21 fetches the one that Consul wants by itself, through the module proxy. An older one, as Debian
# 12 has it, is told to: a toolchain is a module like any other, but for the permissions of its programs.
need_go() {
    PATH=$PATH:/usr/local/go/bin
    command -v go >/dev/null || install_package golang-go
    local advice="install Go $go_wanted or later (https://go.dev/doc/install), or put a consul $version at $consul"
    command -v go >/dev/null || fail "go is missing: $advice"
    local found
    found=$(go env GOVERSION | sed 's/^go//')
    [ "$(printf '1.21\n%s\n' "$found" | sort -V | head -n 1)" = 1.21 ] && return
    local own=$cache/go-$go_wanted
    if [ ! -x "$own/bin/go" ]; then
        echo "consul.sh: fetching Go $go_wanted, for $found is too old to build Consul" >&2
        local module
        module=golang.org/toolchain@v0.0.1-go$go_wanted.linux-$(go env GOARCH)
        # outside of any module, so that nothing but the download is asked of the old one
        (cd / && timeout 600 go mod download "$module") >&2 || fail "Go $go_wanted could not be fetched: $advice"
        rm -rf "$own.part"
        mkdir -p "$cache"
        cp -r "$(go env GOMODCACHE)/$module" "$own.part"
        chmod -R u+w "$own.part"
        find "$own.part/bin" "$own.part/pkg/tool" -type f -exec chmod +x {} +
        mv "$own.part" "$own"
    fi
    unset GOROOT
    PATH=$own/bin:$PATH
}

fetch() {
    [ -x "$consul" ] && return
    lock_cache "$cache"
    if [ ! -x "$consul" ]; then
        need_go
        echo "consul.sh: building Consul $version into $cache (8 minutes on two cores, once)" >&2
        # go.sum has every hash; GONOSUMDB, because Consul's own sub-modules are missing from the checksum database
        (cd "$here" && GOTOOLCHAIN=auto GOFLAGS=-mod=readonly GONOSUMDB=github.com/hashicorp/consul CGO_ENABLED=0 \
            timeout 1800 nice -n 10 go build -buildvcs=false -trimpath -ldflags='-s -w' -o "$consul.part" \
            github.com/hashicorp/consul) >&2 || fail "Consul $version could not be built; see above"
        mv "$consul.part" "$consul"
    fi
    exec 9>&-
}

everyone() { printf '%s\n' $servers $agents; }

# Not by a pipe: grep stops reading when it has found it, and with pipefail who then still writes has failed.
is_one() { grep -qxF -- "$1" < <(everyone); } # WHO

server() { [[ " $servers " == *" $1 "* ]]; } # WHO

address_of() { if [ -n "$net" ]; then address_on "$net" "$1"; else echo 127.0.0.1; fi; } # WHO

# The words before a command that make it run where WHO does.
beside() { [ -z "$net" ] || entering "$net" "$1"; } # WHO

# What a secure Consul has besides: certificates that it makes itself, and a token.
secure() {
    mkdir -p "$dir/tls"
    (cd "$dir/tls" && "$consul" tls ca create && "$consul" tls cert create -server -dc dc1 &&
        "$consul" tls cert create -client -dc dc1) >"$dir/tls/log" 2>&1 ||
        { cat "$dir/tls/log" >&2; fail "the certificates could not be made"; }
    cat /proc/sys/kernel/random/uuid >"$dir/token"
}

configure() { # WHO
    mkdir -p "$dir/$1/conf"
    local https=-1
    if [ -f "$dir/token" ]; then
        https=$https_port
        cat >"$dir/$1/conf/secure.json" <<JSON
{
  "acl": {
    "enabled": true, "default_policy": "deny",
    "tokens": { "initial_management": "$(cat "$dir/token")", "agent": "$(cat "$dir/token")" }
  },
  "tls": {
    "https": {
      "ca_file": "$dir/tls/consul-agent-ca.pem",
      "cert_file": "$dir/tls/dc1-server-consul-0.pem", "key_file": "$dir/tls/dc1-server-consul-0-key.pem",
      "verify_incoming": true
    }
  }
}
JSON
    fi
    local address role='"server": false' others='' who
    address=$(address_of "$1")
    ! server "$1" || role="\"server\": true, \"bootstrap_expect\": $(wc -w <<<"$servers")"
    # Servers join agents too: an agent joins once, at its start, and when all servers come back with nothing it may
    # take gossip 40 s until the agents are in the catalogue again. Who joins itself has joined, and never tries others.
    # Autopilot keeps dead servers: it would take them out of the quorum, and for ten seconds after their return the end
    # of the leader would be the end of the quorum.
    for who in $(if server "$1"; then everyone; else printf '%s\n' $servers; fi); do
        [ "$who" = "$1" ] || others+="${others:+, }\"$(address_of "$who")\""
    done
    cat >"$dir/$1/conf/consul.json" <<JSON
{
  $role,
  "node_name": "$1",
  "data_dir": "$dir/$1/data",
  "bind_addr": "$address",
  "client_addr": "127.0.0.1${net:+ $address}",
  "retry_join": [$others],
  "retry_interval": "1s",
  "ports": {
    "http": $http_port, "dns": $dns_port, "server": $rpc_port, "serf_lan": $serf_port,
    "serf_wan": -1, "grpc": -1, "grpc_tls": -1, "https": $https
  },
  "performance": { "raft_multiplier": 1 },
  "autopilot": { "cleanup_dead_servers": false, "server_stabilization_time": "1s", "last_contact_threshold": "2s" },
  "limits": { "http_max_conns_per_client": 1000 },
  "connect": { "enabled": false },
  "disable_update_check": true,
  "leave_on_terminate": false,
  "log_level": "INFO"
}
JSON
}

launch() { # WHO
    configure "$1"
    # shellcheck disable=SC2046  # words before a command
    (GOMAXPROCS=2 exec $(beside "$1") "$consul" agent -config-dir "$dir/$1/conf" \
        </dev/null >>"$dir/$1/log" 2>&1) 9>&- &
    echo $! >"$dir/$1/pid"
}

# HTTP by bash alone: curl is not everywhere.
get() { # WHO PATH [SECONDS]
    # shellcheck disable=SC2046  # words before a command
    timeout "${3:-5}" $(beside "$1") bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$0" &&
        printf "GET %s HTTP/1.0\r\nHost: 127.0.0.1\r\nX-Consul-Token: %s\r\n\r\n" "$1" "$2" >&3 &&
        cat <&3' "$http_port" "$2" "$(cat "$dir/token" 2>/dev/null)" 2>/dev/null
}

# Each has a leader and is in the catalogue, before which no session can be made; a server may vote. One that came back
# empty may at first not: the others know its predecessor from the agents. Were the leader to end meanwhile, no other
# could be elected.
ready() { # WHO...
    local who
    for who in "$@"; do
        grep -q '"Status":"passing"' < <(get "$who" "/v1/health/node/$who?consistent") || return 1
        ! server "$who" || grep -q '"Voter":true' < <(get "$who" /v1/operator/raft/configuration |
            grep -o '{[^{}]*}' | grep "\"Node\":\"$who\"") || return 1
    done
}

leader() {
    local who address
    address=$(for who in $servers; do get "$who" /v1/status/leader 2 & done | { grep -oE '[0-9.]+:[0-9]+"' || true; } |
        tr -d '"' | sort | uniq -c | awk -v all="$(wc -w <<<"$servers")" '2 * $1 > all { print $2 }')
    for who in $servers; do
        [ "$address" != "$(address_of "$who"):$rpc_port" ] || { echo "$who"; return; }
    done
    fail "no server is held to lead by most"
}

choose_ports() {
    http_port=$(free_ports 5)
    dns_port=$((http_port + 1)) rpc_port=$((http_port + 2)) serf_port=$((http_port + 3)) https_port=$((http_port + 4))
    write_env
}

write_env() {
    cat >"$dir/env" <<ENV
http_port=$http_port
dns_port=$dns_port
rpc_port=$rpc_port
serf_port=$serf_port
https_port=$https_port
net="$net"
servers="$servers"
agents="$agents"
CONSUL_HTTP_ADDR=http://127.0.0.1:$http_port
ENV
}

start() { # [OWNER_PID]
    local attempt
    fetch
    [ ! -f "$dir/env" ] || . "$dir/env"
    none_runs
    for attempt in 1 2 3; do # another process may take a port between the look and the bind
        [ -f "$dir/env" ] && [ "$attempt" -eq 1 ] || choose_ports
        [ "$attempt" -gt 1 ] || [ -z "${1:-}" ] || watchdog "$1"
        launch_all
        wait_ready && return
        stop_all
        grep -q 'address already in use' "$dir"/*/log || break
    done
    fail "Consul could not be started below $dir"
}

add_agents() { # HOST...
    local who
    for who in "$@"; do
        ! is_one "$who" || fail "$who has a Consul already"
        agents+=" $who"
    done
    write_env
    for who in "$@"; do launch "$who"; done
    wait_ready "$@"
}

start_on() { # NET SERVERS AGENTS
    fetch
    net=$(cd "$1" && pwd)
    servers=${2//,/ } agents=${3//,/ }
    none_runs
    http_port=8500 dns_port=8600 rpc_port=8300 serf_port=8301 https_port=8501
    write_env
    launch_all
    wait_ready || { stop_all; fail "Consul could not be started on the hosts of $net"; }
}

verb=${1:-help}
if [ "$verb" = fetch ]; then fetch; exit; fi
[ $# -ge 2 ] || { sed -n '2,/^set /p' "$0" | sed '$d;s/^# \{0,1\}//'; exit 2; }
mkdir -p "$2"
dir=$(cd "$2" && pwd)
shift 2
case $verb in
    start) start "$@"; exit ;;
    start-secure) fetch; secure; start "$@"; exit ;;
    start-on) start_on "$@"; exit ;;
esac
[ -f "$dir/env" ] || fail "$dir has no Consul; start it first"
. "$dir/env"
case $verb in
    pause | resume | kill | restart)
        [ $# -gt 0 ] || fail "$verb needs one of:" $(everyone)
        for who in "$@"; do is_one "$who" || fail "there is no $who, but" $(everyone); done
        ;;
esac
case $verb in
    stop) stop_all ;;
    status) show_all ;;
    leader) leader ;;
    agent) [ -n "$net" ] || fail "agents need hosts"; add_agents "$@" ;;
    pause) for who in "$@"; do stand_still "$who"; done ;;
    resume) for who in "$@"; do go_on "$who"; done ;;
    kill) for who in "$@"; do terminate "$who"; done ;;
    restart)
        for who in "$@"; do terminate "$who"; done
        for who in "$@"; do launch "$who"; done
        wait_ready "$@"
        ;;
    empty)
        # all of them are down before the first one is up: a server that lives would give it the old data
        for who in $servers; do terminate "$who"; done
        for who in $servers; do rm -rf "$dir/$who/data"; done
        for who in $servers; do launch "$who"; done
        # shellcheck disable=SC2086  # one word a server
        wait_ready $servers
        ;;
    *) fail "unknown verb $verb" ;;
esac
