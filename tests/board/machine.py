"""An emulated board: Debian 12 for 64-bit Arm, run by qemu-user, reached over SSH. `make board` starts it.

    python tests/board/machine.py build | start | stop | remove

It lives in build/board and in namespaces of its own (users, mounts, processes). So it needs no privileges where users
may have such namespaces and subordinate ids, it changes nothing outside that folder, and it ends with one process.
What is emulated is the processor, not a machine: the kernel, its memory and the network are the host's.
"""

import contextlib
import hashlib
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
HERE: Final = Path(__file__).resolve().parent
FOLDER: Final = ROOT / "build" / "board"
SYSTEM: Final = FOLDER / "root"
SSH_CONFIG: Final = FOLDER / "ssh_config"
"""For `ssh -F`: the board is the host `edgecl-board` in it."""

HOST: Final = "edgecl-board"
USER: Final = "pi"
CPU: Final = "cortex-a72"
"""A Raspberry Pi 4's. The emulator's default, a processor that has everything, computes int8 differently with SME."""

SUITE: Final = "bookworm"
PACKAGES: Final = "python3-venv,openssh-server"
LEFT_OUT: Final = ("/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*")
SETUP: Final = f'chroot "$1" useradd --create-home --shell /bin/bash --password "*" {USER}'

SSHD: Final = f"""\
ListenAddress 127.0.0.1
HostKey /etc/ssh/ssh_host_ed25519_key
AllowUsers {USER} root
PermitRootLogin prohibit-password
AuthorizedKeysFile /etc/ssh/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
MaxStartups 100
PrintMotd no
AcceptEnv LANG LC_*
SetEnv QEMU_CPU={CPU} LANG=C.UTF-8
Subsystem sftp internal-sftp
"""

CORE: Final = """\
processor\t: {number}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

"""
"""A core in the /proc/cpuinfo of a Raspberry Pi 4."""

START_S: Final = 120.0
OWN_INTERPRETERS: Final = (6, 7)
"""Linux from which a user namespace has interpreters of its own."""

EMULATOR: Final = "qemu-aarch64-static"
NEEDED: Final = {
    EMULATOR: "qemu-user-static",
    "mmdebstrap": "mmdebstrap",
    "newuidmap": "uidmap",
    "ssh": "openssh-client",
    "unshare": "util-linux",
}
"""Programs, and the packages that have them."""


def build() -> None:
    """Make the system, unless it is there. Takes about four minutes, and 300 MB to download and to keep."""
    recipe = hashlib.sha256("\n".join((SUITE, PACKAGES, *LEFT_OUT, SETUP)).encode()).hexdigest()
    stamp = FOLDER / "recipe"
    if stamp.is_file() and stamp.read_text() == recipe and SYSTEM.is_dir():
        return
    check_host()
    stop()
    FOLDER.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    clear()
    print(f"building {SYSTEM}; this takes some minutes", file=sys.stderr, flush=True)
    options = [f"--include={PACKAGES}", f"--customize-hook={SETUP}", "--dpkgopt=force-unsafe-io"]
    options += [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
    command = [
        "mmdebstrap",
        "--quiet",
        "--mode=root",
        "--arch=arm64",
        "--variant=minbase",
        *options,
        SUITE,
        str(SYSTEM),
    ]
    if inside(command, FOLDER / "build.log")[0].wait():
        raise SystemExit(f"board: the system was not built; {FOLDER / 'build.log'} says why")
    stamp.write_text(recipe)


def start() -> None:
    """Start the board, unless it runs. Returns when it answers."""
    if running():
        return
    check_host()
    key, port = FOLDER / "key", free_port()
    if not key.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", HOST, "-f", str(key)], check=True)
    (FOLDER / "cpuinfo").write_text("".join(CORE.format(number=n) for n in range(os.cpu_count() or 1)))
    (SYSTEM / "etc/ssh/sshd_config").write_text(SSHD)
    shutil.copyfile(f"{key}.pub", SYSTEM / "etc/ssh/authorized_keys")
    public = (SYSTEM / "etc/ssh/ssh_host_ed25519_key.pub").read_text()
    (FOLDER / "known_hosts").write_text(f"{HOST} {public}")
    SSH_CONFIG.write_text(
        f"Host {HOST}\n  HostName 127.0.0.1\n  Port {port}\n  HostKeyAlias {HOST}\n  User {USER}\n"
        f'  IdentityFile "{key}"\n  IdentitiesOnly yes\n  UserKnownHostsFile "{FOLDER / "known_hosts"}"\n'
        "  StrictHostKeyChecking yes\n  BatchMode yes\n"
    )
    command = ["sh", str(HERE / "boot.sh"), str(SYSTEM), str(FOLDER / "cpuinfo"), str(port)]
    process, first = inside(command, FOLDER / "sshd.log")
    (FOLDER / "pid").write_text(f"{first} {started(first)}")
    deadline_s = time.monotonic() + START_S
    while not answers(port):
        if process.poll() is not None or time.monotonic() > deadline_s:
            stop()
            raise SystemExit(f"board: it did not start; {FOLDER / 'sshd.log'} says why")
        time.sleep(0.1)


def stop() -> None:
    """End the board and everything that runs on it."""
    if pid := running():
        os.kill(pid, signal.SIGKILL)  # the first process of its namespace: the kernel ends all others with it
        while started(pid):
            time.sleep(0.01)
    (FOLDER / "pid").unlink(missing_ok=True)


def running() -> int:
    """The board's first process, or 0."""
    try:
        pid, start = (FOLDER / "pid").read_text().split()
    except (OSError, ValueError):
        return 0
    return int(pid) if started(int(pid)) == start else 0


def started(pid: int) -> str:
    """When a process started, in ticks since boot: another process with its number started later. Empty if it ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def answers(port: int) -> bool:
    """Whether an SSH server does."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.settimeout(5)
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def free_port() -> int:
    """One that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def remove() -> None:
    """Delete the board with all that is on it."""
    stop()
    clear()
    shutil.rmtree(FOLDER, ignore_errors=True)


def clear() -> None:
    """Delete the system: as root of the namespaces, since some of its files belong to subordinate ids."""
    if SYSTEM.exists() and inside(["rm", "-rf", str(SYSTEM)], FOLDER / "build.log")[0].wait():
        raise SystemExit(f"board: {SYSTEM} could not be deleted; {FOLDER / 'build.log'} says why")


def inside(command: list[str], log: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start a command as root of namespaces of its own, all output in a log.

    Gives what waits for it, and the number of the command itself, with which all ends that it has started.
    """
    emulator = str(shutil.which(EMULATOR))
    words = ["unshare", "--user", "--mount", "--pid", "--uts", "--fork"]
    words += ["sh", str(HERE / "namespaces.sh"), emulator, *command]
    environment = os.environ | {"QEMU_CPU": CPU}
    (to_ready, ready), (go, to_go) = os.pipe(), os.pipe()
    with log.open("wb") as file:
        process = subprocess.Popen(
            words, stdin=go, stdout=ready, stderr=file, cwd="/", env=environment, start_new_session=True
        )
    os.close(go)
    os.close(ready)
    with open(to_ready, "rb") as said, open(to_go, "wb") as say:
        if not said.readline():
            raise SystemExit(f"board: this machine grants no namespaces; {log} says why")
        first = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
        map_users(process.pid, "uid")
        map_users(process.pid, "gid")
        say.write(b"mapped\n")
    return process, first


def map_users(pid: int, kind: str) -> None:
    """Root keeps all numbers; anyone else becomes root there, and the other users are that one's subordinate ids."""
    if not os.geteuid():
        Path(f"/proc/{pid}/{kind}_map").write_text("0 0 65536\n")
        return
    own = os.getuid() if kind == "uid" else os.getgid()
    subprocess.run([f"new{kind}map", str(pid), "0", str(own), "1", "1", *subordinate(kind)], check=True)


def subordinate(kind: str) -> list[str]:
    """First and number of the ids that this user may hand out; nothing where there are none."""
    names = (str(os.getuid()), pwd.getpwuid(os.getuid()).pw_name)
    with contextlib.suppress(OSError):
        for line in Path(f"/etc/sub{kind}").read_text().splitlines():
            name, *numbers = line.split(":")
            if name in names:
                return numbers
    return []


def check_host() -> None:
    """Raises SystemExit with the line that says what is missing here."""
    needed = {program: NEEDED[program] for program in NEEDED if program != "newuidmap" or os.geteuid()}
    missing = sorted({package for program, package in needed.items() if not shutil.which(program)})
    if missing:
        raise SystemExit(f"board: some programs are missing; apt install {' '.join(missing)}")
    if os.geteuid() and not (subordinate("uid") and subordinate("gid")):
        raise SystemExit("board: this user has no subordinate ids; run as root, or add some with usermod --add-subuids")
    kernel = tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])
    if kernel < OWN_INTERPRETERS and not Path("/proc/sys/fs/binfmt_misc/qemu-aarch64").exists():
        raise SystemExit("board: Linux before 6.7 needs the machine's own binfmt entry; apt install binfmt-support")


COMMANDS: Final = {"build": build, "start": start, "stop": stop, "remove": remove}


def main(words: list[str]) -> None:
    """Raises SystemExit: unknown command, or what a command could not do."""
    if len(words) != 1 or words[0] not in COMMANDS:
        raise SystemExit(f"board: give one of {', '.join(COMMANDS)}")
    COMMANDS[words[0]]()


if __name__ == "__main__":
    main(sys.argv[1:])
