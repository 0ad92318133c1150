#!/bin/sh
# First process of an emulated host: gives it a root directory of its own, then becomes its init.
# Runs in fresh mount, pid, uts and ipc namespaces; the keeper made everything in $DIR before.
#   DIR   this host's directory    NAME   host name    INIT   simple or systemd
set -eu
root=$DIR/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$DIR/disk/upper,workdir=$DIR/disk/work" "$root"
cd "$root"
mount -t proc -o nosuid,nodev,noexec proc proc
mount -t sysfs -o nosuid,nodev,noexec sysfs sys
mount -t tmpfs -o mode=755,nosuid dev dev
for node in null,3 zero,5 full,7 random,8 urandom,9; do
    mknod -m 666 "dev/${node%,*}" c 1 "${node#*,}"
done
mknod -m 666 dev/tty c 5 0
mkdir -p dev/pts dev/shm dev/serial/by-id dev/net
mknod -m 666 dev/net/tun c 10 200
mount --bind "$DIR/pts" dev/pts
mount --bind "$DIR/serial" dev/serial/by-id
mount -t tmpfs -o mode=1777,nosuid,nodev shm dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr
mount -t tmpfs -o mode=755,nosuid,nodev run run
mount -t tmpfs -o mode=1777,nosuid,nodev tmp tmp
mkdir run/firmware
mount --bind "$DIR/firmware" run/firmware
# Its own boot id and hardware serial, in the same files as on a Raspberry Pi.
cat "$DIR/boot_id" >run/boot_id
{ cat proc/cpuinfo; cat "$DIR/cpuinfo"; } >run/cpuinfo
mount --bind run/cpuinfo proc/cpuinfo
# A fault inside must not restart the real machine, tune it or set its clock.
if [ -e proc/sysrq-trigger ]; then
    mount --bind proc/sysrq-trigger proc/sysrq-trigger
    mount -o remount,bind,ro proc/sysrq-trigger
fi
mount --bind proc/sys proc/sys
mount --bind proc/sys/net proc/sys/net
mount -o remount,bind,ro proc/sys
mount --bind run/boot_id proc/sys/kernel/random/boot_id
hostname "$NAME"
if [ "$INIT" = systemd ]; then
    mount -t tmpfs -o mode=755,nosuid,nodev,noexec cgroup sys/fs/cgroup
    if [ "$CGROUP" = v2 ]; then
        mount -t cgroup2 cgroup sys/fs/cgroup
    else
        mkdir sys/fs/cgroup/systemd
        mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
        # Read-only. Otherwise systemd mounts the machine's other hierarchies and leaves groups there.
        mount -o remount,ro sys/fs/cgroup
    fi
fi
mkdir run/outside
pivot_root . run/outside
cd /
umount -l /run/outside
rmdir /run/outside
exec </dev/null
harmless=-sys_time,-sys_module,-sys_rawio
if [ "$INIT" = systemd ]; then
    exec env -i container=testbed PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        setpriv --bounding-set "$harmless" /lib/systemd/systemd
fi
mkdir -p /run/sshd
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# A shell as init: it reaps orphans, and restarts the SSH server.
exec setpriv --bounding-set "$harmless" sh -c 'cd /; [ ! -x /etc/rc.local ] || /etc/rc.local & while :; do /usr/sbin/sshd -D -e; sleep 0.1; done'
