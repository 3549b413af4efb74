#!/usr/bin/env bash
# Makes sure that what `make demo` or `make test` needs is there.
#
#   deps.sh demo     what shows the idea: a C compiler for SQLite, FUSE, sqlite3, curl
#   deps.sh cluster  that, and what makes several hosts of this machine
#   deps.sh test     that, and what proves it: Java, Maven, Go, file system and network tools
#
# As root on Debian missing packages are installed; otherwise they are named, and the exit status is 1.
set -euo pipefail

fail() { echo "trough: $*" >&2; exit 1; }

# COMMAND:PACKAGE; the command tells whether the package is needed
demo=(cc:gcc sqlite3:sqlite3 curl:curl mountpoint:util-linux)
cluster=("${demo[@]}" jq:jq ip:iproute2 nft:nftables nsenter:util-linux chattr:e2fsprogs)
test=("${cluster[@]}" java:openjdk-17-jre-headless mvn:maven go:golang-go getfattr:attr mkfs.ext4:e2fsprogs
    losetup:mount strace:strace unshare:util-linux sha256sum:coreutils dig:bind9-dnsutils)

case ${1:-demo} in
    demo) wanted=("${demo[@]}") ;;
    cluster) wanted=("${cluster[@]}") ;;
    test) wanted=("${test[@]}") ;;
    *) fail "deps.sh: say demo, cluster or test" ;;
esac

PATH=$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin:/usr/local/go/bin
command -v cargo >/dev/null ||
    fail "Rust is missing: install it from https://rustup.rs, open a new shell, and try again"

missing() { # the packages whose command is not there
    for pair in "${wanted[@]}"; do
        command -v "${pair%%:*}" >/dev/null || echo "${pair#*:}"
    done | sort -u
}

packages=$(missing)
if [ -n "$packages" ]; then
    # shellcheck disable=SC2086  # one word a package
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "installing:" $packages
        install() { DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null; }
        install || { apt-get update -qq && install; }
    fi
    packages=$(missing)
    [ -z "$packages" ] || fail "missing Debian packages:" $packages "(apt-get install" $packages")"
fi

[ -c /dev/fuse ] || { [ "$(id -u)" = 0 ] && modprobe fuse 2>/dev/null; } || true
[ -c /dev/fuse ] || fail "/dev/fuse is missing: this kernel or container has no FUSE (try: modprobe fuse)"
