#!/bin/sh
# boot.sh ROOT CPUINFO PORT: mounts what a running Debian has, makes ROOT the root, and becomes its sshd. Everything ends
# with this process.
set -eu
mount --bind "$1" "$1" # a folder becomes a mount, as a root has to be
cd "$1"
hostname edgecl-board
mount -t proc proc proc
mount --bind "$2" proc/cpuinfo
mount --rbind /sys sys # XNNPACK asks it which cores there are, and refuses the machine without an answer
mount -o remount,bind,ro,nosuid,nodev,noexec sys
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs run
mkdir run/sshd
mount -t tmpfs -o mode=755,nosuid tmpfs dev
for device in null zero full random urandom tty; do
  touch "dev/$device"
  mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs dev/shm
mount -t binfmt_misc binfmt_misc proc/sys/fs/binfmt_misc 2>/dev/null || true # lasts as long as it is mounted somewhere
pivot_root . . # the old root now lies on top of the new one
umount -l .
exec /usr/sbin/sshd -D -e -o "Port=$3"
