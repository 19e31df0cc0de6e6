#!/usr/bin/env bash
# Every shader variant through compilers that are not ours: naga's SPIR-V through spirv-val (Debian: spirv-tools), and the
# WGSL of those that need no optional feature through Tint (npm: webgpu, needs node). Then the kernels on two software
# renderers that are not ours either: SwiftShader, and the newest Mesa's. What cannot be had is left out, and said; what fails,
# or is not done in time, fails here. Set RUGOSA_PORTABILITY=strict to fail for what cannot be had, too, and =quick for what
# on_driver.sh leaves on those renderers.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
out=${1:-target/portability}
strict=${RUGOSA_PORTABILITY:-}

left_out() {
    echo "portability: $1 left out: $2"
    [ "$strict" != strict ]
}

# the programs are those of `make test`
export CARGO_INCREMENTAL="${CARGO_INCREMENTAL:-0}"
rm -rf "$out/shaders"
cargo run --quiet --example shaders -- "$out/shaders"

if command -v spirv-val >/dev/null; then
    # kernels for matrix units are SPIR-V 1.6 with an extension that packaged versions of spirv-val do not know yet
    total=$(find "$out/shaders" -name '*.spv' ! -name '*_coop-*' | wc -l)
    # one line a failure; xargs itself fails where one does
    if ! find "$out/shaders" -name '*.spv' ! -name '*_coop-*' -print0 |
        xargs -0 -P "$(getconf _NPROCESSORS_ONLN)" -n 1 sh -c \
            'spirv-val --target-env vulkan1.1 "$0" >"$0.log" 2>&1 || { echo "spirv-val: $0: $(head -n 1 "$0.log")" >&2; exit 1; }'; then
        echo "portability: spirv-val refuses some of $total variants" >&2
        exit 1
    fi
    echo "spirv-val: $total passed, 0 failed"
else
    left_out spirv-val "install spirv-tools"
fi

if command -v node >/dev/null && command -v npm >/dev/null; then
    mkdir -p "$out/tint"
    if [ -d "$out/tint/node_modules/webgpu" ] ||
        (cd "$out/tint" && npm install --no-save --ignore-scripts --silent webgpu@0.6 >/dev/null 2>&1); then
        (cd "$out/tint" && timeout 300 node "$OLDPWD/tests/portability/tint.mjs" "$(cd "$OLDPWD/$out/shaders/portable" && pwd)")
    else
        left_out Tint "npm cannot install webgpu"
    fi
else
    left_out Tint "install node and npm"
fi

# side by side: each compiles kernels on one core
tests/portability/swiftshader.sh &
tests/portability/lavapipe-next.sh || failed=1
wait $! || failed=1
[ -z "${failed:-}" ]
