#!/usr/bin/env bash
# The kernels' tests on the software renderer of Debian's newest Mesa, which has matrix units of 8 x 8 x 8, so that no test of
# them may skip (RUGOSA_REQUIRE): its packages and all that they need are unpacked under target/ and started through their own
# loader, nothing is installed. Left out, and said, where they cannot be had; then RUGOSA_PORTABILITY=strict fails instead.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../.."
folder=$PWD/target/portability/lavapipe-next

left_out() {
    echo "portability: lavapipe-next left out: $1"
    [ "${RUGOSA_PORTABILITY:-}" != strict ] && exit 0
    exit 1
}

find_in_root() { find "$folder/root" -name "$1" ! -type d 2>/dev/null | sort | head -n 1; }
if [ -z "$(find_in_root libvulkan_lvp.so)" ]; then
    command -v apt-get >/dev/null && command -v dpkg >/dev/null || left_out "it comes as Debian packages, and there is no apt-get"
    key=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -e "$key" ] || left_out "there is no $key to check Debian's packages with"
    mkdir -p "$folder"/{state/lists/partial,cache/archives/partial}
    : >"$folder/status" # as if nothing were installed, so that everything is downloaded
    echo "deb [signed-by=$key] http://deb.debian.org/debian sid main" >"$folder/sources.list"
    apt=(apt-get -q -y -o "Dir::Etc::SourceList=$folder/sources.list" -o Dir::Etc::SourceParts=- -o "Dir::State=$folder/state"
        -o "Dir::State::status=$folder/status" -o "Dir::Cache=$folder/cache" -o Debug::NoLocking=1 -o APT::Sandbox::User=
        -o Acquire::Languages=none)
    { "${apt[@]}" update && "${apt[@]}" --no-install-recommends --download-only install mesa-vulkan-drivers libvulkan1; } \
        >"$folder/log" 2>&1 || left_out "apt-get cannot download Mesa ($folder/log)"
    for package in "$folder"/cache/archives/*.deb; do
        dpkg -x "$package" "$folder/root"
    done
    rm -rf "$folder/cache" "$folder/state"
    [ -n "$(find_in_root libvulkan_lvp.so)" ] || left_out "Mesa's packages have no libvulkan_lvp.so"
fi
driver=$(find_in_root libvulkan_lvp.so)
loader=$(find_in_root 'ld-linux*.so.*')
cat >"$folder/icd.json" <<JSON
{"file_format_version": "1.0.0", "ICD": {"library_path": "$driver", "api_version": "1.4.0"}}
JSON
export RUGOSA_REQUIRE=f16,subgroup,coop
exec "$here/on_driver.sh" lavapipe-next "$folder/icd.json" "$loader" --library-path "$(dirname "$driver")"
