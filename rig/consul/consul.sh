#!/usr/bin/env bash
# A real Consul for tests and demonstrations: one server on loopback, with its data on the disk.
#
#   consul.sh fetch                        builds the version that go.mod pins, once, into the user's cache
#   consul.sh start DIR [OWNER_PID]        ready when it returns; DIR/env says where. With OWNER_PID all of it
#                                          ends, and DIR goes, when that process is gone
#   consul.sh start-secure DIR [OWNER_PID] the same with ACLs (DIR/token may do all) and mutual TLS (DIR/tls/)
#   consul.sh stop DIR                     ends every process; the data stays
#   consul.sh status DIR                   what runs
#   consul.sh pause|resume|kill DIR WHO    SIGSTOP, SIGCONT, SIGKILL; WHO is server-1
#   consul.sh restart DIR WHO              kills it where it runs, starts it with its data, waits until it is ready
#   consul.sh empty DIR                    a fresh, empty Consul on the same ports
#
# `stop` uses SIGKILL: what Consul acknowledged is in its log, and an orderly leave is another test's matter.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/../process.sh"
rig=consul.sh
version=$(sed -n 's:^require github.com/hashicorp/consul v\(.*\)$:\1:p' "$here/go.mod")
go_wanted=$(sed -n 's:^go \(.*\)$:\1:p' "$here/go.mod")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/trough/consul-$version
consul=$cache/consul
servers=1
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

everyone() { seq -f 'server-%g' 1 "$servers"; }

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
    cat >"$dir/$1/conf/consul.json" <<JSON
{
  "server": true,
  "bootstrap_expect": $servers,
  "node_name": "$1",
  "data_dir": "$dir/$1/data",
  "bind_addr": "127.0.0.1",
  "client_addr": "127.0.0.1",
  "ports": {
    "http": $http_port, "dns": $dns_port, "server": $((http_port + 2)), "serf_lan": $((http_port + 3)),
    "serf_wan": -1, "grpc": -1, "grpc_tls": -1, "https": $https
  },
  "performance": { "raft_multiplier": 1 },
  "limits": { "http_max_conns_per_client": 1000 },
  "connect": { "enabled": false },
  "disable_update_check": true,
  "leave_on_terminate": false,
  "log_level": "INFO"
}
JSON
}

launch() { # WHO
    (GOMAXPROCS=2 exec "$consul" agent -config-dir "$dir/$1/conf" </dev/null >>"$dir/$1/log" 2>&1) 9>&- &
    echo $! >"$dir/$1/pid"
}

# HTTP by bash alone: curl is not everywhere.
get() { # PATH
    timeout 5 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$0" &&
        printf "GET %s HTTP/1.0\r\nHost: 127.0.0.1\r\nX-Consul-Token: %s\r\n\r\n" "$1" "$2" >&3 &&
        cat <&3' "$http_port" "$1" "$(cat "$dir/token" 2>/dev/null)" 2>/dev/null
}

# It has a leader, and each server is in the catalogue: before that no session can be made.
ready() {
    local who
    get /v1/status/leader | grep -q '^"127' || return 1
    for who in $(everyone); do get "/v1/health/node/$who?consistent" | grep -q '"Status":"passing"' || return 1; done
}

choose_ports() {
    http_port=$(free_ports 5)
    dns_port=$((http_port + 1)) https_port=$((http_port + 4))
    cat >"$dir/env" <<ENV
http_port=$http_port
dns_port=$dns_port
https_port=$https_port
CONSUL_HTTP_ADDR=http://127.0.0.1:$http_port
ENV
}

start() { # [OWNER_PID]
    local who attempt
    fetch
    for who in $(everyone); do
        alive "$who" && fail "$who of $dir runs already; stop it first"
    done
    for attempt in 1 2 3; do # another process may take a port between the look and the bind
        if [ ! -f "$dir/env" ] || [ "$attempt" -gt 1 ]; then choose_ports; else . "$dir/env"; fi
        [ "$attempt" -gt 1 ] || [ -z "${1:-}" ] || watchdog "$1"
        for who in $(everyone); do configure "$who"; done
        launch_all
        wait_ready && return
        stop_all
        grep -q 'address already in use' "$dir"/*/log || break
    done
    fail "Consul could not be started below $dir"
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
esac
[ -f "$dir/env" ] || fail "$dir has no Consul; start it first"
. "$dir/env"
case ${1:-} in
    server-[1-9]) ;;
    *) case $verb in pause | resume | kill | restart) fail "$verb needs server-1..$servers" ;; esac ;;
esac
case $verb in
    stop) stop_all ;;
    status) show_all ;;
    pause) stand_still "$1" ;;
    resume) go_on "$1" ;;
    kill) terminate "$1" ;;
    restart) terminate "$1"; launch "$1"; wait_ready ;;
    empty)
        stop_all
        for who in $(everyone); do rm -rf "$dir/$who/data"; done
        launch_all
        wait_ready
        ;;
    *) fail "unknown verb $verb" ;;
esac
