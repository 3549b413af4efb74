#!/usr/bin/env bash
# A real HDFS for tests and demonstrations: one NameNode and three DataNodes, each its own JVM, on loopback or on a host
# of a net (net.sh).
#
#   hdfs.sh fetch                          jars into the user's cache, once per Hadoop version
#   hdfs.sh start DIR [OWNER_PID]          ready when it returns; DIR/env says where. With OWNER_PID all of it
#                                          ends, and DIR goes, when that process is gone
#   hdfs.sh start-on DIR NET HOST          all of it on one host, for the others to reach. It ends with NET
#   hdfs.sh stop DIR                       ends every process; the data stays
#   hdfs.sh status DIR                     what runs
#   hdfs.sh pause|resume|kill DIR WHO      SIGSTOP, SIGCONT, SIGKILL; WHO is namenode or datanode-1..3
#   hdfs.sh restart DIR WHO                kills it where it runs, starts it with its data, waits until all is ready
#   hdfs.sh reformat DIR                   a fresh, empty NameNode and DataNodes on the same ports
#   hdfs.sh blocks DIR /PATH               "datanode-N FILE" for each replica of each block of a file
#   hdfs.sh dfs DIR ARGS...                Hadoop's own `hdfs dfs ARGS`
#
# `stop` uses SIGKILL: HDFS keeps what it acknowledged, and a JVM's orderly end takes seconds.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/../process.sh"
. "$here/../hosts.sh"
rig=hdfs.sh
version=$(sed -n 's:.*<hadoop.version>\(.*\)</hadoop.version>.*:\1:p' "$here/pom.xml")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/trough/hadoop-$version
lib=$cache/lib
datanodes=3
address=127.0.0.1 before=
ready_s=${HDFS_RIG_READY_S:-90}

fetch() {
    need java openjdk-17-jre-headless
    [ -d "$lib" ] && return
    need mvn maven
    lock_cache "$cache"
    if [ ! -d "$lib" ]; then
        echo "hdfs.sh: fetching Hadoop $version (about 65 MB) into $lib" >&2
        rm -rf "$cache/lib.part"
        timeout 900 mvn -q -B -f "$here/pom.xml" dependency:copy-dependencies -DincludeScope=runtime \
            "-DoutputDirectory=$cache/lib.part" >&2 || fail "maven could not fetch Hadoop $version"
        mv "$cache/lib.part" "$lib"
    fi
    exec 9>&-
}

property() { printf '  <property><name>%s</name><value>%s</value></property>\n' "$1" "$2"; }

site() { # FILE, properties on stdin
    { echo '<configuration>'; cat; echo '</configuration>'; } >"$1"
}

# One configuration directory for each process: the webapps directories must be there, though empty.
configure() {
    local conf=$dir/$1/conf n=${1#datanode-}
    mkdir -p "$conf/webapps/hdfs" "$conf/webapps/datanode" "$dir/$1/tmp"
    cat >"$conf/log4j.properties" <<LOG
log4j.rootLogger=INFO,A
log4j.appender.A=org.apache.log4j.ConsoleAppender
log4j.appender.A.layout=org.apache.log4j.PatternLayout
log4j.appender.A.layout.ConversionPattern=%d{ISO8601} %p %c: %m%n
LOG
    {
        property fs.defaultFS "hdfs://$address:$rpc_port"
        property hadoop.tmp.dir "$dir/$1/tmp"
        property ipc.client.connect.retry.interval 100
        property ipc.client.connect.max.retries 100
    } | site "$conf/core-site.xml"
    {
        property dfs.replication "$datanodes"
        property dfs.permissions.enabled true
        property dfs.heartbeat.interval 1
        property dfs.namenode.heartbeat.recheck-interval 1000
        property dfs.namenode.redundancy.interval.seconds 1s
        # a copy that did not come about is tried again after this, not after five minutes
        property dfs.namenode.reconstruction.pending.timeout-sec 5
        property dfs.namenode.safemode.extension 0
        property dfs.namenode.safemode.min.datanodes "$datanodes"
        property dfs.namenode.datanode.registration.ip-hostname-check false
        property dfs.namenode.fs-limits.min-block-size 0
        property dfs.namenode.http-address "$address:$http_port"
        property dfs.namenode.name.dir "$dir/namenode/data"
        property dfs.namenode.handler.count 16
        # an edit need not survive a power cut here, only the end of its process
        property dfs.namenode.edits.noeditlogchannelflush true
        if [ "$1" != namenode ]; then
            local base=$((dn_port + (n - 1) * 3))
            property dfs.datanode.hostname "$address"
            property dfs.datanode.data.dir "$dir/$1/data"
            property dfs.datanode.address "$address:$base"
            property dfs.datanode.http.address "$address:$((base + 1))"
            property dfs.datanode.ipc.address "$address:$((base + 2))"
            property dfs.datanode.du.reserved 0
        fi
    } | site "$conf/hdfs-site.xml"
}

everyone() { echo namenode; seq -f 'datanode-%g' 1 "$datanodes"; }

java_for() { # WHO HEAP CLASS ARGS...
    local who=$1 heap=$2
    shift 2
    # serial collector and first compiler only: four JVMs share a test's two cores, and start-up counts most
    # nothing in /tmp: who is killed takes none of it away
    # shellcheck disable=SC2086  # words before a command
    HADOOP_USER_NAME=hdfs exec $before java "-Xmx$heap" -XX:+UseSerialGC \
        -XX:TieredStopAtLevel="${HDFS_RIG_TIER:-1}" -Xshare:auto --add-opens=java.base/java.lang=ALL-UNNAMED \
        -XX:-UsePerfData "-Djava.io.tmpdir=$dir/$who/tmp" -cp "$dir/$who/conf:$lib/*" "$@"
}

launch() { # WHO
    local class=org.apache.hadoop.hdfs.server.datanode.DataNode heap=192m
    if [ "$1" = namenode ]; then
        class=org.apache.hadoop.hdfs.server.namenode.NameNode heap=${HDFS_RIG_NAMENODE_HEAP:-256m}
    fi
    (java_for "$1" "$heap" "$class" </dev/null >>"$dir/$1/log" 2>&1) 9>&- &
    echo $! >"$dir/$1/pid"
}

# HTTP by bash alone: a Java command costs over a second, and curl is not everywhere.
http() { # METHOD PATH
    # shellcheck disable=SC2086  # words before a command
    timeout 5 $before bash -c 'exec 3<>"/dev/tcp/$3/$0" &&
        printf "%s %s HTTP/1.0\r\nHost: $3\r\nContent-Length: 0\r\n\r\n" "$1" "$2" >&3 &&
        cat <&3' "$http_port" "$1" "$2" "$address" 2>/dev/null
}
get() { http GET "$1"; }

# The superuser is called hdfs, so that permissions mean something to everyone else; the root is open to all.
open_root() {
    local deadline=$((SECONDS + ready_s))
    until grep -q ' 200 ' < <(http PUT '/webhdfs/v1/?op=SETPERMISSION&permission=777&user.name=hdfs'); do
        # a NameNode that has just started on a busy machine can take longer for its first answer than one try waits
        [ $SECONDS -lt $deadline ] || fail "the root directory could not be opened to all within $ready_s s"
        sleep 0.2
    done
}

# The NameNode takes a DataNode that was killed for alive for some more seconds: whether it takes blocks, only it says.
takes_blocks() { # NUMBER
    # shellcheck disable=SC2086  # words before a command
    timeout 5 $before bash -c 'exec 3<>"/dev/tcp/$0/$1"' "$address" $((dn_port + ($1 - 1) * 3)) 2>/dev/null
}

ready() {
    local state n
    for n in $(seq 1 "$datanodes"); do takes_blocks "$n" || return 1; done
    state=$(get '/jmx?qry=Hadoop:service=NameNode,name=FSNamesystemState') || return 1
    grep -q "\"NumLiveDataNodes\" : $datanodes" <<<"$state" && grep -q '"FSState" : "Operational"' <<<"$state"
}

choose_ports() {
    rpc_port=$(free_ports $((2 + 3 * datanodes)))
    http_port=$((rpc_port + 1)) dn_port=$((rpc_port + 2))
    write_env
}

write_env() {
    cat >"$dir/env" <<ENV
rpc_port=$rpc_port
http_port=$http_port
dn_port=$dn_port
address=$address
before="$before"
HDFS_URL=hdfs://$address:$rpc_port
ENV
}

format() {
    (java_for namenode 256m org.apache.hadoop.hdfs.server.namenode.NameNode -format -nonInteractive) \
        >>"$dir/namenode/log" 2>&1 || { tail -n 30 "$dir/namenode/log" >&2; fail "the NameNode could not be formatted"; }
}

configure_all() {
    local who
    for who in $(everyone); do configure "$who"; done
    [ -d "$dir/namenode/data/current" ] || format
}

start() { # [OWNER_PID]
    local attempt
    fetch
    none_runs
    for attempt in 1 2 3; do # another process may take a port between the look and the bind
        if [ ! -f "$dir/env" ] || [ "$attempt" -gt 1 ]; then choose_ports; else . "$dir/env"; fi
        [ "$attempt" -gt 1 ] || [ -z "${1:-}" ] || watchdog "$1"
        configure_all
        launch_all
        wait_ready && { open_root; return; }
        stop_all
        grep -q 'BindException' "$dir"/*/log || break
    done
    fail "HDFS could not be started below $dir"
}

start_on() { # NET HOST
    fetch
    none_runs
    address=$(address_on "$1" "$2")
    before=$(entering "$1" "$2")
    rpc_port=8020 http_port=9870 dn_port=9900
    write_env
    configure_all
    launch_all
    wait_ready || { stop_all; fail "HDFS could not be started on host $2"; }
    open_root
}

blocks() { # PATH
    local answer id n file
    answer=$(get "/webhdfs/v1$1?op=GET_BLOCK_LOCATIONS") || fail "the NameNode does not answer"
    for id in $(grep -o '"blockId":[0-9]*' <<<"$answer" | cut -d: -f2 | sort -un); do
        for n in $(seq 1 "$datanodes"); do
            find "$dir/datanode-$n/data" -path '*/finalized/*' -name "blk_$id" 2>/dev/null | while read -r file; do
                echo "datanode-$n $file"
            done
        done
    done
}

verb=${1:-help}
if [ "$verb" = fetch ]; then fetch; exit; fi
[ $# -ge 2 ] || { sed -n '2,/^set /p' "$0" | sed '$d;s/^# \{0,1\}//'; exit 2; }
mkdir -p "$2"
dir=$(cd "$2" && pwd)
shift 2
case $verb in
    start) start "$@"; exit ;;
    start-on) start_on "$@"; exit ;;
esac
[ -f "$dir/env" ] || fail "$dir has no HDFS; start it first"
. "$dir/env"
case ${1:-} in
    namenode | datanode-[1-9]) ;;
    *) case $verb in pause | resume | kill | restart) fail "$verb needs namenode or datanode-1..$datanodes" ;; esac ;;
esac
case $verb in
    stop) stop_all ;;
    status) show_all ;;
    pause) stand_still "$1" ;;
    resume) go_on "$1" ;;
    kill) terminate "$1" ;;
    restart) terminate "$1"; launch "$1"; wait_ready ;;
    reformat)
        stop_all
        for who in $(everyone); do rm -rf "$dir/$who/data"; done
        format
        launch_all
        wait_ready
        open_root
        ;;
    blocks) blocks "$1" ;;
    dfs) java_for namenode 1g org.apache.hadoop.fs.FsShell "$@" ;;
    *) fail "unknown verb $verb" ;;
esac
