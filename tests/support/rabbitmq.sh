#!/usr/bin/env bash
# A private RabbitMQ node on loopback, for the tests.
#
#   rabbitmq.sh start DIR [CONF]  starts a node that keeps everything it writes under DIR, waits until it serves,
#                                 prints its URL; writes DIR/url and DIR/env (for rabbitmqctl; source it in
#                                 a subshell, since it changes HOME). CONF: a file of further settings, in
#                                 which @TLS_PORT@ stands for a free port, written to DIR/tls_port
#   rabbitmq.sh kill DIR          kills the node as a crash would, waits until it is gone; epmd stays
#   rabbitmq.sh again DIR         starts a killed node again, as it was, and waits until it serves
#   rabbitmq.sh stop DIR          stops it and its epmd, waits until both are gone; DIR stays, for its logs
#
# It needs the programs of the rabbitmq-server package and nothing else: not the package's own node, not its
# user, not the default ports. It must never touch another node: every name, port and directory is its own,
# and what it ends, it ends by the process ids it wrote down itself.
set -eu

# A cold start takes about 6 s on two idle cores; shared cores have been seen to take ten times that.
START_SECONDS=120
# A clean stop flushes the write-ahead log; after this the node is killed.
STOP_SECONDS=30

usage() { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 64; }
die() { echo "rabbitmq.sh: $*" >&2; exit 1; }

# Ports nobody listens on at this moment. Chosen below the ephemeral range (32768 and up on Linux), so that no
# outgoing connection takes one between this look and the node's bind.
free_ports() {
    local wanted=$1 port found=() tried=0
    while [ "${#found[@]}" -lt "$wanted" ]; do
        tried=$((tried + 1))
        [ "$tried" -le 200 ] || die "no $wanted free ports found"
        port=$((10000 + (RANDOM * 32768 + RANDOM) % 20000))
        case " ${found[*]-} " in *" $port "*) continue ;; esac
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then found+=("$port"); fi
    done
    echo "${found[@]}"
}

alive() { [ -n "${1:-}" ] && kill -0 "$1" 2>/dev/null && ! grep -qs '^State:[[:space:]]*Z' "/proc/$1/status"; }

# Waits until the process $1 is gone, at most $2 seconds.
gone() {
    local tenths=$(($2 * 10))
    while alive "$1"; do
        tenths=$((tenths - 1))
        [ "$tenths" -gt 0 ] || return 1
        sleep 0.1
    done
}

# Prints the first of the candidates that is an executable file.
program() {
    local candidate
    for candidate in "$@"; do
        if [ -x "$candidate" ]; then echo "$candidate"; return 0; fi
    done
    die "none of these is there: $* (install rabbitmq-server)"
}

start() {
    local dir=$1 conf=${2:-} server epmd amqp_port dist_port epmd_port tls_port node
    # The package's /usr/sbin wrappers change user; the programs behind them do not.
    server=$(program "${RABBITMQ_HOME:-/usr/lib/rabbitmq}/bin/rabbitmq-server" \
        /usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server /opt/rabbitmq/sbin/rabbitmq-server)
    epmd=$(command -v epmd || program /usr/lib/erlang/erts-*/bin/epmd)
    [ ! -e "$dir/pids" ] || die "$dir has a node already: stop it first"
    mkdir -p "$dir/home" "$dir/mnesia" "$dir/log"
    chmod 700 "$dir" "$dir/home"
    dir=$(cd "$dir" && pwd)
    read -r amqp_port dist_port epmd_port tls_port <<<"$(free_ports 4)"
    node="remedyd-$amqp_port@localhost"

    cat >"$dir/rabbitmq.conf" <<CONF
listeners.tcp.default = 127.0.0.1:$amqp_port
# The default write-ahead log of 512 MB is written in memory first: too much beside builds and tests.
raft.wal_max_size_bytes = 64000000
# A test machine's disk is not the broker's to judge.
disk_free_limit.absolute = 64MB
CONF
    if [ -n "$conf" ]; then
        sed "s/@TLS_PORT@/$tls_port/g" "$conf" >>"$dir/rabbitmq.conf"
        echo "$tls_port" >"$dir/tls_port"
    fi
    echo '[rabbitmq_consistent_hash_exchange].' >"$dir/enabled_plugins"
    : >"$dir/rabbitmq-env.conf"
    cat >"$dir/env" <<ENV
export HOME='$dir/home'
export RABBITMQ_NODENAME='$node'
export RABBITMQ_NODE_IP_ADDRESS=127.0.0.1
export RABBITMQ_NODE_PORT=$amqp_port
export RABBITMQ_DIST_PORT=$dist_port
export RABBITMQ_MNESIA_BASE='$dir/mnesia'
export RABBITMQ_LOG_BASE='$dir/log'
export RABBITMQ_PID_FILE='$dir/node.pid'
export RABBITMQ_CONFIG_FILE='$dir/rabbitmq.conf'
export RABBITMQ_ENABLED_PLUGINS_FILE='$dir/enabled_plugins'
export RABBITMQ_CONF_ENV_FILE='$dir/rabbitmq-env.conf'
export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1}'
export ERL_EPMD_ADDRESS=127.0.0.1
export ERL_EPMD_PORT=$epmd_port
export RABBITMQCTL='${server%/*}/rabbitmqctl'
export RABBITMQ_PROGRAM='$server'
export REMEDYD_TEST_AMQP_URL='amqp://guest:guest@127.0.0.1:$amqp_port/%2f'
ENV
    # shellcheck disable=SC1091
    . "$dir/env"

    # epmd is started here rather than by the node, so that its process id is known. Both get sessions of their
    # own: a Ctrl-C at the test run is not for the broker, which `stop` ends in order.
    setsid "$epmd" >"$dir/log/epmd.log" 2>&1 </dev/null &
    echo "epmd=$!" >"$dir/pids"
    launch "$dir"
    echo "$REMEDYD_TEST_AMQP_URL" | tee "$dir/url"
}

# Starts the node's own processes in the environment of DIR/env, and waits until it serves.
launch() {
    local dir=$1 server_pid
    rm -f "$dir/node.pid"
    setsid "$RABBITMQ_PROGRAM" >>"$dir/log/console.log" 2>&1 </dev/null &
    server_pid=$!
    echo "server=$server_pid" >>"$dir/pids"
    if ! await "$dir" "$server_pid"; then
        echo "rabbitmq.sh: the node did not start; the end of its console:" >&2
        tail -n 20 "$dir/log/console.log" >&2
        stop "$dir"
        exit 1
    fi
}

kill_node() {
    local dir=$1 erlang
    erlang=$(cat "$dir/node.pid")
    alive "$erlang" || die "the node in $dir does not run"
    kill -KILL "$erlang"
    gone "$erlang" 10 || die "the node in $dir did not die"
}

again() {
    local dir=$1 erlang
    [ -e "$dir/pids" ] || die "no node in $dir"
    erlang=$(cat "$dir/node.pid" 2>/dev/null || true)
    gone "$erlang" 10 || die "the node in $dir runs"
    # shellcheck disable=SC1091
    . "$dir/env"
    launch "$dir"
}

# Waits until the node says that it has started; fails early if its process ends.
await() {
    local dir=$1 server_pid=$2 tenths=$((START_SECONDS * 10))
    until [ -s "$dir/node.pid" ]; do
        alive "$server_pid" || return 1
        tenths=$((tenths - 1))
        [ "$tenths" -gt 0 ] || return 1
        sleep 0.1
    done
    "$RABBITMQCTL" --quiet await_startup --timeout "$START_SECONDS" >/dev/null 2>"$dir/log/await.log"
}

stop() {
    local dir=$1 epmd='' server='' erlang=''
    [ -e "$dir/pids" ] || { echo "rabbitmq.sh: no node in $dir" >&2; return 0; }
    # shellcheck disable=SC1091
    . "$dir/pids"
    erlang=$(cat "$dir/node.pid" 2>/dev/null || true)
    if alive "$erlang"; then
        # The Erlang VM turns SIGTERM into an orderly shutdown.
        kill -TERM "$erlang" 2>/dev/null || true
        gone "$erlang" "$STOP_SECONDS" || kill -KILL "$erlang" 2>/dev/null || true
    fi
    if ! gone "$server" 10; then
        kill -KILL "$server" 2>/dev/null || true
    fi
    if alive "$epmd"; then
        kill -TERM "$epmd" 2>/dev/null || true
        gone "$epmd" 10 || kill -KILL "$epmd" 2>/dev/null || true
    fi
    rm -f "$dir/pids" "$dir/url" "$dir/node.pid"
}

case "$#:${1:-}" in
2:start | 3:start) start "$2" "${3:-}" ;;
2:kill) kill_node "$2" ;;
2:again) again "$2" ;;
2:stop) stop "$2" ;;
*) usage ;;
esac
