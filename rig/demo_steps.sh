# What the demonstrations share: what they print, what they build, how they wait; sourced by each of them.
# shellcheck shell=bash disable=SC2034

# the longest that one waits for trough to answer
ready_s=60
trough=${CARGO_TARGET_DIR:-target}/debug/trough

if [ -t 1 ]; then bold=$(tput bold 2>/dev/null || true) plain=$(tput sgr0 2>/dev/null || true); else bold='' plain=''; fi
title() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
run() { printf '  $ %s\n' "$*"; }
indent() { sed 's/^/    /'; }
fail() { echo "demo: $*" >&2; exit 1; }

temporary() { mktemp -d "${TMPDIR:-/tmp}/trough-demo.XXXXXX"; }

# Removes what is below a directory, but not what is mounted there.
remove() { rm -rf --one-file-system "$1"; }

# trough, and one database a state in DIR/segments.
build() { # DIR
    title "1. Build trough and 57 small databases"
    cargo build --quiet --bin trough --example birdstrikes
    mkdir -p "$1"
    "${CARGO_TARGET_DIR:-target}/debug/examples/birdstrikes" "$1/segments" testdata | indent
    echo "    one a state, from 10,000 reported bird strikes and 3,376 airports (FAA, public domain)"
}

# Waits until a `trough up` says that it is ready.
await_ready() { # PID OUTPUT LOG
    local waited=0
    until grep -q "trough is ready" "$2"; do
        kill -0 "$1" 2>/dev/null || { tail -n 20 "$3" >&2; fail "trough up ended"; }
        [ $((waited += 1)) -le $((10 * ready_s)) ] ||
            { tail -n 20 "$3" >&2; fail "trough up was not ready within $ready_s s"; }
        sleep 0.1
    done
}
