# What the rigs do with packages, ports and processes; sourced by each of them.
#
# A rig sets `rig` (its name in messages), `dir` (where it keeps one directory for each process) and `ready_s`, and
# has the functions `everyone` (the names of its processes), `launch WHO` (which writes $dir/WHO/pid) and
# `ready WHO...`.
# File descriptor 9 is the lock of a fetch, which no process that stays may inherit.

# The longest that one may wait while another fetches or builds the same.
fetch_lock_s=1800

fail() { echo "$rig: $*" >&2; exit 1; }

install_package() { # PACKAGE, when root of a Debian
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 0
    echo "$rig: installing $1" >&2
    { DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$1" ||
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$1"; }; } >&2
}

need() { # COMMAND PACKAGE
    command -v "$1" >/dev/null && return
    install_package "$2"
    command -v "$1" >/dev/null || fail "$1 is missing: install it (Debian: apt-get install $2)"
}

# Takes the lock of the cache until the rig's process ends or `exec 9>&-`.
lock_cache() { # DIRECTORY
    mkdir -p "$1"
    exec 9>"$1/fetch.lock"
    flock -w "$fetch_lock_s" 9 || fail "another process has held $1/fetch.lock for $fetch_lock_s s; see what it does"
}

pid_of() { cat "$dir/$1/pid" 2>/dev/null || true; }

alive() { # WHO; the pid must still be a process with our directory on its command line
    local pid
    pid=$(pid_of "$1")
    [ -n "$pid" ] && grep -qF "$dir/$1/conf" < <(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline")
}

# Whether one that was launched is gone. It is not `alive` before its program is what it is to run.
ended() { # WHO
    local state
    state=$(sed 's/.*) //' "/proc/$(pid_of "$1")/stat" 2>/dev/null | cut -d' ' -f1)
    [ -z "$state" ] || [ "$state" = Z ]
}

# Stops a process and waits until each of its threads stands still: one that runs may still answer.
stand_still() { # WHO
    alive "$1" || fail "$1 does not run"
    local pid try
    pid=$(pid_of "$1")
    kill -STOP "$pid"
    for ((try = 0; try < 500; try++)); do
        # not by a pipe: its end by pipefail would look as if all stood still
        grep -q . < <(grep -L '^State:.T' /proc/"$pid"/task/*/status 2>/dev/null) || return 0
        sleep 0.01
    done
    fail "process $pid does not stop"
}

go_on() { # WHO
    alive "$1" || fail "$1 does not run"
    kill -CONT "$(pid_of "$1")"
}

terminate() { # WHO
    alive "$1" || return 0
    kill -KILL "$(pid_of "$1")" 2>/dev/null || true
    while alive "$1"; do sleep 0.02; done
    rm -f "$dir/$1/pid"
}

none_runs() {
    local who
    for who in $(everyone); do
        ! alive "$who" || fail "$who of $dir runs already; stop it first"
    done
}

launch_all() {
    local who
    for who in $(everyone); do launch "$who"; done
}

stop_all() {
    local who
    for who in $(everyone); do terminate "$who"; done
}

show_all() {
    local who
    for who in $(everyone); do alive "$who" && echo "$who $(pid_of "$who")" || echo "$who down"; done
}

wait_ready() { # [WHO...], else everyone
    local deadline=$((SECONDS + ready_s)) who
    # shellcheck disable=SC2046  # one word a process
    [ $# -gt 0 ] || set -- $(everyone)
    until ready "$@"; do
        for who in "$@"; do
            ended "$who" || continue
            tail -n 30 "$dir/$who/log" >&2
            echo "$rig: $who ended while starting; its log is $dir/$who/log" >&2
            return 1
        done
        if [ $SECONDS -ge $deadline ]; then
            for who in "$@"; do echo "== $who" >&2; tail -n 15 "$dir/$who/log" >&2; done
            echo "$rig: what is below $dir was not ready within $ready_s s" >&2
            return 1
        fi
        sleep 0.1
    done
}

free_ports() { # COUNT: the first of COUNT ports in a row, below the range that the kernel hands out itself
    local first port
    while :; do
        first=$((10000 + RANDOM % 20000))
        for port in $(seq "$first" $((first + $1 - 1))); do
            (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && continue 2
        done
        echo "$first"
        return
    done
}

started_at() { cut -d' ' -f22 "/proc/$1/stat" 2>/dev/null || true; }

# Ends the rig when the process that asked for it is gone, however it went.
watchdog() { # OWNER_PID; its start time tells it from a later process of the same number
    local born
    born=$(started_at "$1")
    (
        # what ends the whole group of processes must not end who clears up
        trap '' HUP INT TERM
        exec 9>&-
        while [ -n "$born" ] && [ "$(started_at "$1")" = "$born" ] && [ -f "$dir/env" ]; do sleep 0.3; done
        stop_all
        rm -rf --one-file-system "$dir"
    ) </dev/null >/dev/null 2>&1 &
}
