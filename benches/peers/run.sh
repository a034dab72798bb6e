#!/usr/bin/env bash
# What remedyd is compared with: Celery, a pika script with SQLite, BullMQ. All in one go, on one broker, with the ratios.
#
#   benches/peers/run.sh [--json FILE] [--rounds N] [SECONDS]     3 rounds of about 10 seconds each, unless told otherwise
#
# Every contestant does the same for each event of about 400 bytes: read it, change the row of its agent durably (one of
# 1,000), publish one status event and have it confirmed, then ack. The backlog is there before it starts; what counts is the
# time from the first status event to the last. Afterwards its books must balance: nothing left, each event with one status
# event, numbered without a gap, and as many in the rows; if not, there are no figures at all.
#
#   remedyd       `serve`, release, defaults; one comment in, one comment out, about reports that were there before.
#                 It does more than the others: checks, a dedupe key, rules, an outbox
#   bare relay    no peer, but the limit of this arrangement: takes an event, publishes as many bytes, acks; keeps nothing
#   Celery        prefork with 8 processes, late acks, SQLite (write-ahead log, synchronous FULL), publication confirmed
#   pika+SQLite   one event after the other, as one writes it first; and in batches of 256 with confirms and acks in bulk,
#                 as one who knows both well would
#   BullMQ        on Redis that syncs before every answer (appendfsync always): row and status event by one script, 128 jobs
#                 at a time
#
# PEERS_CELERY_PROCESSES and PEERS_BULLMQ_CONCURRENCY try other settings of these two. The defaults were the fastest of 2, 4
# and 8 processes and of 64, 128 and 256 jobs, in one trial of a few seconds each, on two cores.
#
# The commit printed is that of this checkout. Whether REMEDYD_BIN was built from it, the time of its build beside it may tell.
#
# RabbitMQ holds quorum queues only, since those alone confirm what is on the disk. All stores lie under target/peers, which
# should be a real disk. A backlog is sized by a trial so that it lasts SECONDS; rounds go through the contestants in turn.
#
# Needs remedyd built in release ($REMEDYD_BIN, else target/release/remedyd), Debian's rabbitmq-server, redis-server, nodejs,
# npm, python3-venv, and once the package registries (versions are pinned in requirements.txt and package-lock.json).
# Leaves only target/peers, with the installed packages in it. Ends with 69 if something is missing, 1 if a contestant failed.
set -euo pipefail

EX_USAGE=64
EX_UNAVAILABLE=69
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)

say() { printf '%s\n' "run.sh: $*" >&2; }
usage() { say "benches/peers/run.sh [--json FILE] [--rounds N] [SECONDS]"; exit "$EX_USAGE"; }

json='' rounds=3 seconds=10
while [ $# -gt 0 ]; do
    case $1 in
        --json) [ $# -ge 2 ] || usage; json=$(realpath -m "$2"); shift ;;
        --rounds) [ $# -ge 2 ] || usage; rounds=$2; shift ;;
        -*) usage ;;
        *) seconds=$1 ;;
    esac
    shift
done
case "$rounds$seconds" in *[!0-9]*) usage ;; esac
if [ "$rounds" -lt 1 ] || [ "$seconds" -lt 1 ]; then usage; fi

cd "$root"
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
REMEDYD_BIN=$(realpath -m "${REMEDYD_BIN:-$target/release/remedyd}")
[ -x "$REMEDYD_BIN" ] || { say "there is no $REMEDYD_BIN: cargo build --release, or set REMEDYD_BIN"; exit "$EX_UNAVAILABLE"; }
for program in redis-server node npm python3; do
    command -v "$program" >/dev/null || { say "there is no $program: apt-get install redis-server nodejs npm python3-venv"; exit "$EX_UNAVAILABLE"; }
done

# Installed once, and again when what is asked for has changed.
peers=$target/peers
mkdir -p "$peers"
if ! cmp -s "$here/requirements.txt" "$peers/venv/requirements.txt"; then
    rm -rf "$peers/venv"
    python3 -m venv "$peers/venv"
    "$peers/venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$here/requirements.txt" >&2
    cp "$here/requirements.txt" "$peers/venv/"
fi
if ! cmp -s "$here/package-lock.json" "$peers/node/installed.json"; then
    rm -rf "$peers/node"
    mkdir "$peers/node"
    cp "$here/package.json" "$here/package-lock.json" "$peers/node/"
    (cd "$peers/node" && npm ci --silent --ignore-scripts --no-fund --no-audit >&2)
    cp "$here/package-lock.json" "$peers/node/installed.json"
fi
cp "$here/bullmq.mjs" "$peers/node/"

scratch='' comparing=''
clean_up() {
    local code=$?
    trap - EXIT INT TERM
    if [ -n "$comparing" ] && kill -TERM "$comparing" 2>/dev/null; then wait "$comparing" || true; fi
    if [ -n "$scratch" ]; then
        "$root/tests/support/rabbitmq.sh" stop "$scratch/broker" </dev/null || say "the broker in $scratch/broker did not stop in order"
        rm -rf "$scratch"
    fi
    exit "$code"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

scratch=$(mktemp -d "$peers/run.XXXXXX")
PEERS_AMQP_URL=$(tests/support/rabbitmq.sh start "$scratch/broker")
# shellcheck disable=SC1091
PEERS_RABBITMQ=$(. "$scratch/broker/env" && "$RABBITMQCTL" version)
export REMEDYD_BIN PEERS_AMQP_URL PEERS_RABBITMQ PEERS_SCRATCH="$scratch" PEERS_NODE="$peers/node"
export PYTHONPATH="$here" PYTHONPYCACHEPREFIX="$peers/pycache"
# In the background, so that a signal reaches this script at once and ends everything in order.
"$peers/venv/bin/python" "$here/compare.py" "$seconds" "$rounds" ${json:+"$json"} &
comparing=$!
code=0
wait "$comparing" || code=$?
comparing=''
[ "$code" -eq 0 ] || exit "$code"
