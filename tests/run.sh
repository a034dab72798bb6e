#!/usr/bin/env bash
# Runs every test against a private broker: what `make test` does. The service is built with its crash points.
#
#   tests/run.sh [ARGUMENTS FOR THE TEST RUNNER]
#
# With arguments, only the tests that the runner picks by them.
#
# 1. Sees to it that what the tests start is there (installs the Debian packages when run as root).
# 2. Starts a broker of its own in a temporary directory (tests/support/rabbitmq.sh); no other is touched.
# 3. Runs unit and integration tests (cargo-nextest if installed, else cargo test), then the doc tests.
# 4. Has the suite checked by seeded defects, and the simulation played at length (tests/mutations.sh).
# 5. Prints what the proofs have recorded, and leaves it in target/reliability.json and target/reliability.md.
# 6. Stops what it started, however it ends, and passes the exit code on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

EX_UNAVAILABLE=69
policy_written=''
scratch=''

say() { printf '%s\n' "run.sh: $*" >&2; }

clean_up() {
    local code=$?
    trap - EXIT INT TERM
    [ -z "$policy_written" ] || rm -f "$policy_written"
    if [ -n "$scratch" ]; then
        tests/support/rabbitmq.sh stop "$scratch/broker" </dev/null || say "the broker in $scratch/broker did not stop in order"
        if [ "$code" -eq 0 ]; then rm -rf "$scratch"; else say "the broker's logs are kept in $scratch/broker/log"; fi
    fi
    exit "$code"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Debian packages and how to see that one is there. The system's Python, since that is what they install for.
declare -A NEEDED=(
    [rabbitmq-server]='[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || command -v rabbitmq-server'
    [python3-pika]='/usr/bin/python3 -c "import pika"'
    [python3-venv]='/usr/bin/python3 -c "import ensurepip, venv"'
    [nodejs]='command -v node'
    [npm]='command -v npm'
    [python3-prometheus-client]='/usr/bin/python3 -c "import prometheus_client"'
    [strace]='command -v strace'
    [chromium]='command -v chromium'
    # tests/deploy.rs: the tools of those who will use what is under deploy/
    [prometheus]='command -v prometheus && command -v promtool'
    [yamllint]='command -v yamllint'
    [shellcheck]='command -v shellcheck'
    [systemd]='command -v systemd-analyze'
    [docker-compose]='command -v docker-compose'
    [kubernetes-client]='command -v kubectl'
    [debhelper]='command -v dh'
    [fakeroot]='command -v fakeroot'
    [lintian]='command -v lintian'
    [mandoc]='command -v mandoc'
    [openssl]='command -v openssl'
)

# Prints those that are not there.
missing_packages() {
    local package
    for package in "${!NEEDED[@]}"; do
        eval "${NEEDED[$package]}" >/dev/null 2>&1 || echo "$package"
    done
}

# The rabbitmq-server package starts a node of its own when it is configured, on the default ports, or fails to in
# a container and is left half installed. policy-rc.d (exit 101: not allowed) is Debian's way to say: do not.
forbid_services() {
    [ ! -e /usr/sbin/policy-rc.d ] || return 0
    policy_written=/usr/sbin/policy-rc.d
    printf '#!/bin/sh\nexit 101\n' >"$policy_written"
    chmod 755 "$policy_written"
}

install_missing() {
    local missing
    mapfile -t missing < <(missing_packages)
    [ "${#missing[@]}" -gt 0 ] || return 0
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        say "the tests need ${missing[*]}. On Debian or Ubuntu: sudo apt-get install --no-install-recommends ${missing[*]}"
        exit "$EX_UNAVAILABLE"
    fi
    say "installing ${missing[*]}"
    forbid_services
    export DEBIAN_FRONTEND=noninteractive
    # What counts is whether the programs are there afterwards; a service that would not start is not our concern.
    { apt-get update -q && apt-get install -y -q --no-install-recommends "${missing[@]}"; } </dev/null >&2 || say "apt-get ended with $?"
    if [ -n "$policy_written" ]; then
        rm -f "$policy_written"
        policy_written=''
    fi
    mapfile -t missing < <(missing_packages)
    if [ "${#missing[@]}" -gt 0 ]; then
        say "could not install ${missing[*]}"
        exit "$EX_UNAVAILABLE"
    fi
}

start_broker() {
    scratch=$(mktemp -d "${TMPDIR:-/tmp}/remedyd-tests.XXXXXX")
    say "starting a private broker"
    tests/support/rabbitmq.sh start "$scratch/broker" </dev/null >&2
    REMEDYD_TEST_AMQP_URL=$(cat "$scratch/broker/url")
    export REMEDYD_TEST_AMQP_URL
}

# Adds up what the runners said, in one line that does not depend on which of them there was.
closing_line() {
    awk '
        /^ *Summary \[/ { for (i = 2; i <= NF; i++) { if ($i ~ /^passed/) p += $(i - 1); if ($i ~ /^failed/ || $i ~ /^timed$/) f += $(i - 1) } seen = 1 }
        /^test result:/ { for (i = 2; i <= NF; i++) { if ($i ~ /^passed/) p += $(i - 1); if ($i ~ /^failed/) f += $(i - 1) } seen = 1 }
        END { if (seen) printf "%d passed, %d failed\n", p, f; else print "no test ran" }
    ' "$1"
}

# What the proofs have recorded, as one block, as JSON and for a person.
reliability() {
    local figures=${CARGO_TARGET_DIR:-target}/reliability commit
    compgen -G "$figures/*.txt" >/dev/null || return 0
    commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
    [ -z "$(git status --porcelain 2>/dev/null)" ] || commit="$commit with changes"
    /usr/bin/python3 -B tests/support/reliability.py "$figures" "$commit"
}

run_tests() {
    local log=$scratch/output code=0 locked=() whole=$#
    [ -z "${CI:-}" ] || locked=(--locked)
    export CARGO_TERM_COLOR=never
    rm -rf "${CARGO_TARGET_DIR:-target}/reliability"{,.json,.md}
    {
        if cargo nextest --version >/dev/null 2>&1; then
            cargo nextest run --features crash-points,otlp --no-fail-fast "${locked[@]}" "$@" || code=$?
        else
            [ $# -gt 0 ] || set -- --lib --bins --tests
            cargo test --features crash-points,otlp --no-fail-fast "${locked[@]}" "$@" || code=$?
        fi
        cargo test --features crash-points,otlp --doc "${locked[@]}" || code=$?
        if [ "$whole" -eq 0 ]; then tests/mutations.sh || code=$?; fi
        echo "$code" >"$scratch/code"
    } </dev/null 2>&1 | tee "$log"
    code=$(cat "$scratch/code")
    # nextest shows the output of a failed test indented, a runner inside a test would too: only whole lines count
    closing_line "$log"
    reliability || code=$?
    return "$code"
}

install_missing
start_broker
run_tests "$@"
