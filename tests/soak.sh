#!/usr/bin/env bash
# The long forms of the proofs, within a budget of time: what `make soak BUDGET=20m` does.
#
#   tests/soak.sh [BUDGET [TEST …]]        90s, 20m, 8h; of the proofs below only those named, for the whole budget
#
# 1. Builds everything in release, with the crash points. That is not counted.
# 2. Starts a broker of its own.
# 3. Runs one proof after the other, each for its share of the budget (PROOF_SECONDS), from a seed of this day or $PROOF_SEED;
#    two days have a million seeds between them, so that what they play adds up. Stops by SIGTERM are 200 at the least.
#    One that has failed ends neither the others nor its part in the report.
# 4. Writes target/soak/report.md, for a person, and target/soak/report.json. Fails if a proof has failed, or if a fault
#    of some kind was never injected.
#
# Needs what tests/run.sh installs; root and loop devices for the power cuts.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

EX_USAGE=64

# Share of the budget in percent, name of the binary, test in it.
PROOFS=(
    "30 simulation no_seed_breaks_an_invariant_and_every_seed_settles"
    "10 kills every_crash_point"
    "20 kills random_kills"
    "8 kills stops_at_random_moments"
    "7 kills broker_kills"
    "8 power_cut what_is_acked_survives_a_power_cut"
    "6 storage_faults a_failing_disk_loses_nothing"
    "6 broker_faults broker_faults"
    "4 fuzz any_bytes_are_an_event_or_have_a_reason"
    "1 fuzz a_damaged_record_is_never_another_record"
)

say() { printf '%s\n' "soak.sh: $*" >&2; }

seconds_of() {
    case $1 in
        *[!0-9smh]* | [smh]* | *[smh]?*) return 1 ;;
        *h) echo $((${1%h} * 3600)) ;;
        *m) echo $((${1%m} * 60)) ;;
        *) echo "${1%s}" ;;
    esac
}

budget=${1:-20m}
seconds=$(seconds_of "$budget") || { say "$budget is no time: say 90s, 20m or 8h"; exit "$EX_USAGE"; }
shift || true
if [ $# -gt 0 ]; then
    chosen=()
    for proof in "${PROOFS[@]}"; do
        if [[ " $* " == *" ${proof##* } "* ]]; then chosen+=("$((100 / $#)) ${proof#* }"); fi
    done
    [ "${#chosen[@]}" -eq $# ] || { say "not all of these are proofs: $*"; exit "$EX_USAGE"; }
    PROOFS=("${chosen[@]}")
fi
soak=$(realpath -m "${CARGO_TARGET_DIR:-target}")/soak
rm -rf "$soak"
mkdir -p "$soak/log"
PROOF_SEED=${PROOF_SEED:-$(date -u +%Y%m%d)000000}
export PROOF_SEED

declare -A BINARY=()
build() {
    local names=() proof name
    for proof in "${PROOFS[@]}"; do
        read -r _ name _ <<<"$proof"
        [ -n "${BINARY[$name]:-}" ] || names+=(--test "$name")
        BINARY[$name]=wanted
    done
    say "building in release"
    CARGO_TERM_COLOR=never cargo test --release --features crash-points --no-run "${names[@]}" 2>&1 | tee "$soak/log/build" >&2
    for name in "${!BINARY[@]}"; do
        BINARY[$name]=$(sed -n "s,^ *Executable tests/$name\\.rs (\\(.*\\))\$,\\1,p" "$soak/log/build")
        [ -x "${BINARY[$name]}" ] || { say "there is no binary of $name"; exit 1; }
    done
}

start_broker() {
    say "starting a private broker"
    scratch=$(mktemp -d "${TMPDIR:-/tmp}/remedyd-soak.XXXXXX")
    trap 'tests/support/rabbitmq.sh stop "$scratch/broker" </dev/null >&2 || true; rm -rf "$scratch"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    tests/support/rabbitmq.sh start "$scratch/broker" </dev/null >&2
    REMEDYD_TEST_AMQP_URL=$(cat "$scratch/broker/url")
    export REMEDYD_TEST_AMQP_URL
}

prove() {
    local proof share name test code began
    for proof in "${PROOFS[@]}"; do
        read -r share name test <<<"$proof"
        code=0
        began=$SECONDS
        say "$name $test, $((seconds * share / 100)) s"
        # figures go beside the report, and not among those of `make test`
        CARGO_TARGET_DIR=$soak PROOF_SECONDS=$((seconds * share / 100)) \
            "${BINARY[$name]}" --exact "$test" --nocapture </dev/null >"$soak/log/$test" 2>&1 || code=$?
        printf '%s\t%s\t%s\t%s\n' "$name" "$test" "$code" "$((SECONDS - began))" >>"$soak/runs"
        if [ "$code" -ne 0 ]; then say "FAILED, see $soak/log/$test"; fi
    done
}

build
start_broker
prove
commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
[ -z "$(git status --porcelain 2>/dev/null)" ] || commit="$commit with changes"
/usr/bin/python3 -B tests/support/soak_report.py "$soak" "$commit" "$budget"
