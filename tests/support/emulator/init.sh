#!/bin/busybox sh
# The emulated machine's first process: makes a small Debian-like system, runs
# /emulator/command and powers off. The command's output goes to the second
# serial port; the kernel's log, and with it the console, gets our messages.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin
export HOME=/root TERM=dumb

say() {
    echo "<0>emulator: $1" > /dev/kmsg
}

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mkdir -p /root /var/lib /var/log /dev/net /dev/pts
mount -t devpts devpts /dev/pts
# Opening it loads the module, which would make the device only then.
mknod /dev/net/tun c 10 200
ln -s /run /var/run
ln -s /proc/self/fd /dev/fd
hostname emulator
ip link set lo up
stty -F /dev/ttyS1 raw -echo

for module in $(cat /emulator/modules); do
    modprobe "$module" || say "module $module did not load"
done

cd /root
say "command starts"
/bin/sh /emulator/command < /dev/null > /dev/ttyS1 2>&1
code=$?
# Changing a terminal's settings waits for what has been written to it.
stty -F /dev/ttyS1 raw -echo
say "exit code $code"
reboot -f
