#!/usr/bin/env bash
# The kernel suite and the quick self-test on a driver that is not installed:
#   on_driver.sh NAME ICD.json [program that starts others]
# Ends with the counts in one line. What tests the tests (planted bugs, missing launches) and other settings of a device runs
# elsewhere: on these drivers it takes long, and finds the same.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
name=$1 icd=$2
shift 2

cargo build --quiet
suite=$(cargo test --test kernels --no-run 2>&1 | sed -n 's/.*Executable tests\/kernels.*(\(.*\))/\1/p')
log=$(mktemp)
trap 'rm -f "$log"' EXIT
run() {
    env -u RUGOSA_DEVICE -u VK_ICD_FILENAMES VK_DRIVER_FILES="$icd" "$@"
}

device=$(run "$@" target/debug/rugosa devices 2>/dev/null | sed -n 2p || true)
started=$SECONDS
kernels=0
run "$@" "$suite" --skip mutants:: --skip faults:: --skip environment:: 2>&1 | tee "$log" | grep -A 1 -E '^(test .* FAILED|---- |thread |test result)' | cut -c 1-300 || true
grep -q '^test result: ok' "$log" || kernels=1
took=$((SECONDS - started))
started=$SECONDS
selftest=0
checked=$(RUGOSA_SELFTEST=off run "$@" target/debug/rugosa selftest --quick 2>/dev/null | tail -n 1) || selftest=1
echo "$name:$device"
echo "$name: tests/kernels: $(sed -n 's/^test result: \(.*\); finished.*/\1/p' "$log") ($took s); selftest --quick: $checked ($((SECONDS - started)) s)"
[ "$kernels$selftest" = 00 ]
