# What the rigs do with processes; sourced by those that have a function `fail`.

# Stops a process and waits until each of its threads stands still: one that runs may still answer.
stand_still() { # PID
    kill -STOP "$1"
    local try
    for ((try = 0; try < 500; try++)); do
        grep -L '^State:.T' /proc/"$1"/task/*/status 2>/dev/null | grep -q . || return 0
        sleep 0.01
    done
    fail "process $1 does not stop"
}
