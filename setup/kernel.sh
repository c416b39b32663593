#!/bin/sh
# Fetches Debian's stock cloud kernel for the emulated tests into
# target/emulator/{vmlinuz,modules/<release>}.
#
# Needs no privilege and installs nothing: the package is downloaded through
# apt, which checks its signature, and unpacked beside the build. No boot
# loader is touched and no initramfs of the host is rebuilt.
set -eu

metapackage=linux-image-cloud-amd64
destination=$(cd "$(dirname "$0")/.." && pwd)/target/emulator
fresh=$destination.new

main() {
    package=$(kernel_package)
    if [ -e "$destination/package" ] && [ "$(cat "$destination/package")" = "$package" ]; then
        echo "$package is already in $destination"
        return
    fi
    rm -rf "$fresh"
    trap 'rm -rf "$fresh"' EXIT
    mkdir -p "$fresh"
    download "$package"
    arrange
    echo "$package" > "$fresh/package"
    rm -rf "$destination"
    mv "$fresh" "$destination"
    echo "$package is in $destination"
}

# The metapackage depends on the package that holds the kernel itself, whose
# name carries the release and so changes with every ABI change.
kernel_package() {
    command -v apt-get > /dev/null || fail "this needs Debian's apt"
    package=$(apt-cache depends "$metapackage" 2> /dev/null |
        sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1)
    [ -n "$package" ] || fail "apt does not know $metapackage: run 'apt-get update' as root first"
    echo "$package"
}

download() {
    (cd "$fresh" && apt-get -q download "$1") ||
        fail "cannot download $1: apt's lists may be old, run 'apt-get update' as root first"
    dpkg-deb -x "$fresh"/*.deb "$fresh/unpacked"
    rm "$fresh"/*.deb
}

# Debian 12 has /lib/modules with plain modules, Debian 13 /usr/lib/modules
# with modules compressed by xz.
arrange() {
    mv "$fresh"/unpacked/boot/vmlinuz-* "$fresh/vmlinuz"
    for modules in "$fresh/unpacked/lib/modules" "$fresh/unpacked/usr/lib/modules"; do
        [ ! -d "$modules" ] || mv "$modules" "$fresh/modules"
    done
    rm -r "$fresh/unpacked"
    find "$fresh/modules" -name '*.ko.xz' -exec xz --decompress {} +
}

fail() {
    echo "kernel.sh: $1" >&2
    exit 1
}

main
