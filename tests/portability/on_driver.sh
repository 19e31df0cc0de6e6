#!/usr/bin/env bash
# The tests of the kernels, the finite differences, runs on matrix units and the quick self-test on a driver that is not
# installed:
#   on_driver.sh NAME ICD.json [program that starts others]
# Ends with the counts in one line, and fails where something failed or was not done in time. What tests the tests (planted
# bugs, missing launches) and other settings of a device runs elsewhere: on these drivers it takes long, and finds the same.
#
# RUGOSA_PORTABILITY=quick leaves most out: these drivers compile a kernel for seconds, on a slow machine for many. On a driver
# with matrix units what tests those is left, planted bugs included; on another the self-test, whose cases are counted that four
# minutes did not suffice for: fewer than two in three is a failure.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
name=$1 icd=$2
shift 2
quick=0
[ "${RUGOSA_PORTABILITY:-}" != quick ] || quick=1
# the programs are those of `make test`
export CARGO_INCREMENTAL="${CARGO_INCREMENTAL:-0}"
suite=$(cargo test --test suite --no-run 2>&1 | sed -n 's/.*Executable tests\/suite\.rs (\(.*\))/\1/p')
if [ -z "$suite" ]; then
    echo "$name: cargo does not say where the suite is" >&2
    exit 1
fi
# TARGET/debug/deps/suite-HASH and TARGET/debug/rugosa
program=$(dirname "$(dirname "$suite")")/rugosa

log=$(mktemp)
trap 'rm -f "$log"' EXIT
run() {
    env -u RUGOSA_DEVICE -u VK_ICD_FILENAMES NODEVICE_SELECT=1 VK_DRIVER_FILES="$icd" RUGOSA_SELFTEST=off "$@"
}
failed=0
counts=""

# tests LIMIT FILTER...: those of the suite, in so many seconds (0: as many as it takes); what they skip is printed once
tests() {
    local limit=$1 what=${*:2} started=$SECONDS code=0
    run timeout "$limit" "${wrapper[@]}" "$suite" "${@:2}" --skip thorough::faults --skip thorough::environment >"$log" 2>&1 || code=$?
    grep '^skipped: ' "$log" | sort -u | cut -c 1-200 || true
    grep -A 1 -E '^(test .* FAILED|---- |thread |test result: FAILED)' "$log" | cut -c 1-300 || true
    local result
    result=$(sed -n 's/^test result: .*\. \([0-9]* passed; [0-9]* failed\).*/\1/p' "$log")
    if [ "$code" = 124 ]; then
        result="$(grep -c '^test .* ok$' "$log" || true) passed, the rest not done in $limit s"
    elif grep -q '^running 0 tests' "$log"; then
        result="no test of that name"
        code=1
    fi
    [ "$code" = 0 ] || failed=1
    counts+="$what: ${result:-ended with $code} ($((SECONDS - started)) s); "
}

# selftest LIMIT: the quick self-test, with no case started after so many seconds (0: no limit)
selftest() {
    local limit=() left code=0 last
    [ "$1" = 0 ] || limit=(--limit "$1")
    last=$(run "${wrapper[@]}" "$program" selftest --quick "${limit[@]}" 2>"$log" | tail -n 1) || code=$?
    if [ "$code" != 0 ]; then
        failed=1
        cut -c 1-300 "$log"
    fi
    left=$(sed -n 's/.* \([0-9]*\) not run in time.*/\1/p' <<<"$last")
    if [ "${left:-0}" -gt $((${last%% *} / 2)) ]; then
        failed=1
        last+=" (too few)"
    fi
    counts+="selftest --quick: $last"
}

wrapper=("$@")
device=$(run "${wrapper[@]}" "$program" devices 2>/dev/null | sed -n 2p || true)
units=0
[[ ",${RUGOSA_REQUIRE:-}," != *,coop,* ]] || units=1
case $quick$units in
11)
    tests 1500 kernels::coop:: kernels::spare:: kernels::in_weight:: gradients:: training::halves::
    RUGOSA_MUTANTS=_coop tests 600 thorough::mutants::
    ;;
10) selftest 240 ;;
01)
    tests 0 kernels:: gradients:: training::halves::
    RUGOSA_MUTANTS=_coop tests 0 thorough::mutants::
    selftest 0
    ;;
*)
    tests 0 kernels:: gradients:: training::halves::
    selftest 0
    ;;
esac
echo "$name:$device"
echo "$name: $counts"
[ "$failed" = 0 ]
