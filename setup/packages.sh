#!/bin/sh
# Installs those of the named groups' Debian packages that are missing.
#
#   setup/packages.sh build network tests versus fuzz counts
#   setup/packages.sh lists                only fetches apt's lists anew
#
# Does nothing, and needs no privilege, where everything is there. On another
# distribution it says what is needed and goes on.
set -eu

# Rust links with a C compiler.
build="gcc libc6-dev"
# What the program and its lab run.
network="iproute2 iptables ipset kmod nftables"
# What the tests run besides: commands, clients of the internet, and a machine to emulate.
tests="bind9-dnsutils busybox-static chromium-headless-shell curl dhcpcd-base dnsmasq-base iputils-ping
 isc-dhcp-client network-manager openssh-client openssl procps python3-libtorrent qemu-system-x86 sipsak systemd
 util-linux xz-utils"
# A program in C that ours is compared with, and what keeps a thread behind all others.
versus="gcc libc6-dev libnetfilter-queue-dev util-linux"
# The fuzzer is written in C++.
fuzz="g++"
# Counts instructions.
counts="valgrind"

main() {
    if [ "$*" = lists ]; then
        as_root apt-get -q update
        return
    fi
    missing=$(missing_packages "$@")
    [ -n "$missing" ] || return 0
    if ! command -v apt-get > /dev/null; then
        echo "packages.sh: not a Debian machine; these, or what they are called here, are needed:" $missing >&2
        return 0
    fi
    echo "packages.sh: installing" $missing
    as_root apt-get -q update
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q install --yes --no-install-recommends $missing
}

missing_packages() {
    for group in "$@"; do
        case $group in
            build) packages=$build ;;
            network) packages=$network ;;
            tests) packages=$tests ;;
            versus) packages=$versus ;;
            fuzz) packages=$fuzz ;;
            counts) packages=$counts ;;
            *) fail "no group $group: build, network, tests, versus, fuzz and counts there are" ;;
        esac
        for package in $packages; do
            is_installed "$package" || printf '%s ' "$package"
        done
    done
}

is_installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2> /dev/null)" = installed ]
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo > /dev/null; then
        sudo "$@"
    else
        fail "root is needed for: $*"
    fi
}

fail() {
    echo "packages.sh: $1" >&2
    exit 1
}

main "$@"
