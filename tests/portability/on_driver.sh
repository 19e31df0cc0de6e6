#!/usr/bin/env bash
# The kernel suite, the finite differences, runs on matrix units and the quick self-test on a driver that is not installed:
#   on_driver.sh NAME ICD.json [program that starts others]
# Ends with the counts in one line. What tests the tests (planted bugs, missing launches) and other settings of a device runs
# elsewhere: on these drivers it takes long, and finds the same. RUGOSA_PORTABILITY=quick leaves all but the self-test out, and
# stops that after four minutes, which is said: these drivers compile a kernel for seconds, on a slow machine for many.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
name=$1 icd=$2
shift 2

cargo build --quiet
log=$(mktemp)
trap 'rm -f "$log"' EXIT
run() {
    env -u RUGOSA_DEVICE -u VK_ICD_FILENAMES VK_DRIVER_FILES="$icd" "$@"
}

device=$(run "$@" target/debug/rugosa devices 2>/dev/null | sed -n 2p || true)
failed=0
counts=""
suites=(kernels gradients training)
limit=0
[ "${RUGOSA_PORTABILITY:-}" != quick ] || suites=() limit=240
for suite in "${suites[@]}"; do
    only=()
    [ "$suite" != training ] || only=(halves::)
    program=$(cargo test --test "$suite" --no-run 2>&1 | sed -n "s/.*Executable tests\/$suite.*(\(.*\))/\1/p")
    started=$SECONDS
    run "$@" "$program" "${only[@]}" --skip mutants:: --skip faults:: --skip environment:: 2>&1 | tee "$log" |
        grep -A 1 -E '^(test .* FAILED|---- |thread |test result: FAILED)' | cut -c 1-300 || true
    grep -q '^test result: ok' "$log" || failed=1
    counts+="tests/$suite: $(sed -n 's/^test result: .*\. \([0-9]* passed; [0-9]* failed\).*/\1/p' "$log") ($((SECONDS - started)) s); "
done
started=$SECONDS
checked=$(RUGOSA_SELFTEST=off run timeout "$limit" "$@" target/debug/rugosa selftest --quick 2>/dev/null | tail -n 1) || {
    [ $? = 124 ] && checked="stopped after $limit s" || failed=1
}
echo "$name:$device"
echo "$name: ${counts}selftest --quick: $checked"
[ "$failed" = 0 ]
