#!/bin/sh
# The machine's first process: loads the modules, then does the commands that come over the first port, one after the
# other, until the other end is closed. An answer is a line with the exit status and the length of the output, and the
# output; the output of a command that is "shown" goes to the second port as it comes.
export PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
/bin/busybox mkdir -p /sbin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/shm /dev/pts /dev/net
mount -t tmpfs tmpfs /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run
# A checkout that is below it has what is tested there.
[ -n "$(ls -A /tmp)" ] || mount -t tmpfs tmpfs /tmp
chmod 1777 /tmp
# What the shell says belongs to the console, and so does the kernel.
while read -r module; do
    insmod "$module" || echo "$module could not be loaded"
done </etc/modules
[ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200
ip link set lo up

tries=0
until [ -e /dev/vport0p2 ]; do
    tries=$((tries + 1))
    if [ "$tries" = 100 ]; then
        echo "There is no port to hear commands from."
        poweroff -f
    fi
    sleep 0.1
done
# A port can be written to once the other end is there; before, reading would say that it is closed.
exec 3<>/dev/vport0p1
echo ready >&3
while read -r kind <&3; do
    : >/run/command
    while IFS= read -r line <&3 && [ "$line" != "#end of command" ]; do
        printf '%s\n' "$line" >>/run/command
    done
    case $kind in
    collect)
        sh /run/command </dev/null >/run/output 2>&1 3>&-
        status=$?
        # One descriptor reads what was there when it was looked at: what a process in the background adds is not of it.
        size=$(stat -c %s /run/output)
        echo "$status $size" >&3
        head -c "$size" /run/output >&3
        ;;
    show)
        sh /run/command </dev/null >/dev/vport0p2 2>&1 3>&-
        echo "$? 0" >&3
        ;;
    esac
done
poweroff -f
