#!/usr/bin/env bash
# Seeds one defect after the other (src/mutation.rs) and sees to it that the suite catches each.
#
#   tests/mutations.sh [MUT01 …]
#
# 1. Builds the suites below once, with the feature `mutations` and a little optimised: in one build that nothing but this
#    check compiles. What is tested otherwise knows of no mutation. The other features are those of the tests, so that the
#    dependencies are built once.
# 2. Runs them as they are. They have to pass; the simulation plays $SIM_SEEDS seeds here (4,000).
# 3. Runs them with each defect, cheapest first, until one fails: that one has caught it. A suite that does not end has
#    caught nothing: it may be the machine that is slow.
# 4. Prints the table, and fails unless every defect was caught. target/reliability gets the line for the summary.
#
# Needs a broker (REMEDYD_TEST_AMQP_URL) for what only a broker can show; tests/run.sh starts one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# In the order in which they are asked: name of the binary, and what is said to it. A lock of a store that one thread has
# just dropped is for a moment still that of a process which another one starts, and who listens to the log hears other
# threads: one thread for these.
SUITES=("machine" "lib --test-threads=1" "simulation no_seed" "pipeline" "store_journal --test-threads=1" "link rabbitmq")
# Enough for every defect that the simulation is to see; one needs a few. A passing suite takes seconds.
MUTANT_SEEDS=30
LONGEST_S=300
export SIM_SEEDS=${SIM_SEEDS:-4000}

scratch=$(mktemp -d "${TMPDIR:-/tmp}/remedyd-mutations.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
declare -A BINARY=()

say() { printf '%s\n' "mutations.sh: $*" >&2; }

build() {
    local arguments=() suite name locked=()
    [ -z "${CI:-}" ] || locked=(--locked)
    for suite in "${SUITES[@]}"; do
        name=${suite%% *}
        if [ "$name" = lib ]; then arguments+=(--lib); else arguments+=(--test "$name"); fi
    done
    # a profile of its own would build every dependency again; these are optimised as they are
    CARGO_PROFILE_DEV_OPT_LEVEL=1 CARGO_INCREMENTAL=0 CARGO_TERM_COLOR=never \
        cargo test --no-run --features crash-points,otlp,mutations "${locked[@]}" "${arguments[@]}" >"$scratch/build" 2>&1 ||
        { cat "$scratch/build" >&2; exit 1; }
    for suite in "${SUITES[@]}"; do
        name=${suite%% *}
        BINARY[$name]=$(sed -n "s,^ *Executable .*\\(tests/$name\\|src/$name\\)\\.rs (\\(.*\\))\$,\\2,p" "$scratch/build")
        [ -x "${BINARY[$name]}" ] || { say "there is no binary of $name"; exit 1; }
    done
}

# run SUITE: its output goes to $scratch/output.
run() {
    local words
    read -ra words <<<"$1"
    timeout "$LONGEST_S" "${BINARY[${words[0]}]}" "${words[@]:1}" </dev/null >"$scratch/output" 2>&1
}

# What a person wants to know of a suite that has failed: the first test that did.
first_failed() {
    sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$scratch/output" | head -n 1
}

unmutated() {
    local suite began=$SECONDS
    for suite in "${SUITES[@]}"; do
        if ! LONGEST_S=3600 run "$suite"; then
            cat "$scratch/output" >&2
            say "${suite%% *} fails without a mutation"
            exit 1
        fi
        grep -E '^simulation ' "$scratch/output" || true # only the simulation says such a line
    done
    say "without a mutation all suites pass, after $((SECONDS - began)) s"
}

# caught CODE: prints by whom, or fails.
caught() {
    local suite code=0 began=$SECONDS
    for suite in "${SUITES[@]}"; do
        code=0
        # what a mutated proof would record goes nowhere
        CARGO_TARGET_DIR=$scratch/target REMEDYD_MUTATION=$1 SIM_STOP=yes SIM_SEEDS=$MUTANT_SEEDS run "$suite" || code=$?
        case $code in
            0) continue ;;
            124) say "$1: ${suite%% *} does not end within $LONGEST_S s" && continue ;;
            *) echo "${suite%% *} $(first_failed)|$((SECONDS - began))" ;;
        esac
        return 0
    done
    return 1
}

check_all() {
    local code breaks does by total=0 found=0 rows=()
    while IFS='|' read -r code breaks does; do
        if [ "$#" -gt 0 ] && [[ " $* " != *" $code "* ]]; then continue; fi
        total=$((total + 1))
        if by=$(caught "$code"); then
            found=$((found + 1))
            printf '%-6s %-4s %-78s %s after %s s\n' "$code" "$breaks" "$does" "${by%|*}" "${by#*|}"
            rows+=("{\"code\":\"$code\",\"breaks\":\"$breaks\",\"does\":\"$does\",\"caught_by\":\"${by%|*}\",\"seconds\":${by#*|}}")
        else
            printf '%-6s %-4s %-78s NOT CAUGHT\n' "$code" "$breaks" "$does"
        fi
    done < <("${BINARY[lib]}" mutation:: --nocapture | grep -oE 'MUT[0-9]+\|.*')
    [ "$total" -gt 0 ] || { say "there is no such mutation"; exit 1; }
    if [ "$found" -ne "$total" ]; then
        say "mutations caught $found/$total"
        exit 1
    fi
    record "mutations caught $found/$total" "$(IFS=,; echo "{\"caught\":$found,\"seeded\":$total,\"mutations\":[${rows[*]}]}")"
}

# As tests/support/proof.rs does.
record() {
    local figures=${CARGO_TARGET_DIR:-target}/reliability
    mkdir -p "$figures"
    printf '%s\n' "$1" | tee "$figures/70-mutations.txt"
    printf '%s\n' "$2" >"$figures/70-mutations.json"
}

build
unmutated
check_all "$@"
