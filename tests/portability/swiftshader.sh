#!/usr/bin/env bash
# The kernel suite and the quick self-test on SwiftShader, a second software renderer, out of Debian's package
# chromium-common: downloaded and unpacked under target/, not installed. Left out, and said, where the package cannot be had; then
# RUGOSA_PORTABILITY=strict fails instead.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../.."
folder=$PWD/target/portability/swiftshader

left_out() {
    echo "portability: SwiftShader left out: $1"
    [ "${RUGOSA_PORTABILITY:-}" != strict ] && exit 0
    exit 1
}

library() { find "$folder/root" -name libvk_swiftshader.so 2>/dev/null | head -n 1; }
if [ -z "$(library)" ]; then
    command -v apt-get >/dev/null && command -v dpkg >/dev/null || left_out "it comes as a Debian package, and there is no apt-get"
    mkdir -p "$folder"
    (cd "$folder" && { apt-get -q download chromium-common || { apt-get -q update && apt-get -q download chromium-common; }; }) >"$folder/log" 2>&1 ||
        left_out "apt-get cannot download chromium-common ($folder/log)"
    dpkg -x "$folder"/chromium-common_*.deb "$folder/root"
    rm -f "$folder"/chromium-common_*.deb
    [ -n "$(library)" ] || left_out "the package chromium-common has no libvk_swiftshader.so"
fi
cat >"$folder/icd.json" <<JSON
{"file_format_version": "1.0.0", "ICD": {"library_path": "$(library)", "api_version": "1.1.0"}}
JSON
exec "$here/on_driver.sh" SwiftShader "$folder/icd.json"
