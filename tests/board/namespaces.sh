#!/bin/sh
# namespaces.sh QEMU COMMAND...: runs a command as root of namespaces of its own, in which programs for 64-bit Arm run.
# Started by machine.py, which maps the users: "ready" on stdout asks for that, a line on stdin tells that it is done.
set -eu
echo ready
read -r _
exec </dev/null >&2
qemu=$1
shift
mount -t proc proc /proc
# Since Linux 6.7 every user namespace has its own table of interpreters, and the machine's is left as it is. Before, the
# mount is refused, and what the machine's own table says counts.
if mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc 2>/dev/null; then
  # An ELF file, 64-bit, little-endian, for aarch64. F: the emulator is opened here and now, so it need not be in a chroot.
  # P: it is told the name by which a program was called, from which Python finds its virtual environment.
  magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
  mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
  printf '%s' ":edgecl-arm64:M::$magic:$mask:$qemu:FP" >/proc/sys/fs/binfmt_misc/register
fi
exec "$@"
