# How a rig runs something on a host of a net (net.sh); sourced after process.sh.
#
# A net is a directory. Its file `hosts` has a line "NAME ADDRESS NAMESPACE" for each host. A namespace is entered with
# nsenter, never with `ip netns exec`: that one gives the process a mount namespace of its own too, and nobody else
# sees what it mounts.

PATH=$PATH:/usr/sbin:/sbin

host_field() { # NET HOST COLUMN
    awk -v host="$2" -v column="$3" '$1 == host { print $column; found = 1 } END { exit !found }' \
        "$1/hosts" 2>/dev/null ||
        fail "$1 has no host '$2'"
}

address_on() { host_field "$1" "$2" 2; } # NET HOST

# The words before a command that make it run there. The host `here` is this machine as it is.
entering() { # NET HOST
    local namespace
    [ "$2" != here ] || return 0
    namespace=$(host_field "$1" "$2" 3) || exit 1
    echo "nsenter --net=$namespace --"
}
