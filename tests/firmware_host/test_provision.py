"""Getting edgecl onto a board, which is this computer behind a real sshd: with a home, or with a root of its own."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgecl import __version__
from edgecl.errors import EdgeclError, LinkError, ProfileError, StoreError
from edgecl.facts import Facts
from firmware_host import survey
from firmware_host.links.address import SshAddress
from firmware_host.links.link import Options
from firmware_host.provision import place
from firmware_host.remote import Remote, remote
from firmware_host.survey import Survey
from firmware_host.wheels import Target, identity, python_of
from tests.firmware_host import homes, wheelhouse
from tests.firmware_host.homes import Home

SYSTEM = Path(f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}")
PYTHON = SYSTEM if SYSTEM.exists() else getattr(sys, "_base_executable", sys.executable)
"""The board's, which the wheels fit."""

pytestmark = pytest.mark.xdist_group("provision")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels") / "house"
    wheelhouse.make(folder)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    folder = tmp_path_factory.mktemp("board")
    (folder / "home").mkdir()
    with homes.running(folder / "ssh", folder / "home") as found:
        yield found


@pytest.fixture
def board(server: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("EDGECL_SSH", server.command)
    return server


def edgecl(server: Home, *words: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"EDGECL_SSH": server.command}
    command = [sys.executable, "-P", "-m", "edgecl", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def provisioned(server: Home, house: Path, *words: object) -> dict[str, dict[str, Any]]:
    """What became of each step."""
    common = ("provision", "board", "--wheelhouse", house, "--python", PYTHON, "--json")
    done = edgecl(server, *common, *words)
    assert done.returncode == 0, done.stderr
    return {step["step"]: step for step in map(json.loads, done.stdout.splitlines())}


@pytest.fixture(scope="module")
def settled(server: Home, wheels: Path) -> dict[str, dict[str, Any]]:
    """The board, provisioned by a user, and what became of each step."""
    return provisioned(server, wheels, "--user-only")


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """All that is in a folder, and when it was last written."""
    found = (path for path in folder.rglob("*") if "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)): (path.lstat().st_mtime_ns, path.lstat().st_ino) for path in found}


def test_a_dry_run_tells_every_step_and_changes_nothing(board: Home, wheels: Path) -> None:
    before = files(board.home.parent / "home")
    steps = provisioned(board, wheels, "--user-only", "--dry-run")
    assert list(steps) == ["wheels", "folders", "environment", "command", "unit", "service", "check"]
    assert not any(step["root"] for step in steps.values())
    assert "-m venv --without-pip" in steps["environment"]["script"]
    as_root = edgecl(board, "provision", "board", "--wheelhouse", wheels, "--python", PYTHON, "--dry-run",
                     "--store", f"{board.home}/store")  # fmt: skip
    assert "unit: have /etc/systemd/system/edgecl.service (as root)\n" in as_root.stdout, as_root.stderr
    assert files(board.home) == before


def test_a_user_gets_edgecl(board: Home, settled: dict[str, dict[str, Any]]) -> None:
    assert [name for name, step in settled.items() if not step["changed"]] == ["service", "check"]
    assert __version__ in settled["check"]["remark"]
    where = board.home / ".local/share/edgecl"
    assert (where / "state").stat().st_mode & 0o777 == 0o700
    unit = (board.home / ".config/systemd/user/edgecl.service").read_text()
    assert f"ExecStart={where}/venv/bin/edgecl serve --store {where}/state\n" in unit
    assert __version__ in remote("board").script('"$HOME/.local/bin/edgecl" --version')


def test_once_is_enough(board: Home, wheels: Path, settled: object, tmp_path: Path) -> None:
    before = files(board.home)
    (tmp_path / "release.pem").write_text("-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n")
    (tmp_path / "release.toml").write_text('lineages = ["*"]\n')
    again = provisioned(board, wheels, "--user-only", "--trust", tmp_path)
    assert [name for name, step in again.items() if step["changed"]] == ["trust"]
    trust = board.home / ".local/share/edgecl/state/trust.d"
    assert (trust / "release.toml").read_text() == 'lineages = ["*"]\n'
    shutil.rmtree(trust)
    trust.mkdir()
    after = files(board.home)
    assert {name for name in before | after if before.get(name) != after.get(name)} <= {
        ".local/share/edgecl/state",
        ".local/share/edgecl/state/trust.d",
    }


def test_what_was_cut_off_is_finished(board: Home, wheels: Path, settled: object) -> None:
    where, cache = board.home / ".local/share/edgecl", board.home / ".cache/edgecl/wheels"
    venv = where / os.readlink(where / "venv")
    (venv / "complete").unlink()  # as if the power had gone while it was being filled
    shutil.rmtree(venv / "lib")
    (where / "venv").unlink()
    damaged = next(cache.glob("click-*.whl"))
    damaged.write_bytes(damaged.read_bytes()[:1000])
    (cache / "old-1.0-py3-none-any.whl").write_bytes(b"")
    (where / "bin/.edgecl.left").write_text("")
    steps = provisioned(board, wheels, "--user-only")
    assert [name for name, step in steps.items() if step["changed"]] == ["wheels", "environment"]
    assert steps["wheels"]["remark"].startswith("1 of 6 sent")
    assert len(list(cache.iterdir())) == 6
    assert __version__ in remote("board").script('"$HOME/.local/bin/edgecl" --version')


def test_the_agent_that_was_installed_answers(board: Home, settled: object) -> None:
    done = edgecl(board, "probe", "board", "--json")
    assert done.returncode == 0, done.stderr
    found = msgspec.json.decode(done.stdout, type=Facts)
    where = board.home / ".local/share/edgecl"
    assert (found.edgecl, found.disk.path, found.trusted_keys) == (__version__, str(where / "state"), ())
    assert [engine.name for engine in found.engines] == ["executorch"]
    assert "store" in edgecl(board, "probe", "board").stdout


def test_doctor_looks_at_the_host_and_at_the_board(board: Home, settled: object) -> None:
    before = files(board.home)
    done = edgecl(board, "doctor", "board", "--json")
    found = {one["name"]: one for one in map(json.loads, done.stdout.splitlines())}
    for name in ("ssh", "ssh keys", "host key", "strict host keys", "agent", "version", "file system"):
        assert found[name]["status"] == "ok", found[name]
    assert found["trusted keys"]["status"] == "failed" and done.returncode == 1
    runs = Path("/run/systemd/system").is_dir()
    assert found["service"]["status"] == ("failed" if runs else "skipped")
    assert all(one["cure"] for one in found.values() if one["status"] in ("failed", "warning"))
    assert files(board.home) == before


def test_doctor_tells_what_keeps_it_from_the_board(board: Home, settled: object, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(
        (board.folder / "config").read_text().replace(str(board.folder / "known_hosts"), str(tmp_path / "empty"))
        + "Host *\n StrictHostKeyChecking accept-new\n"
    )
    (tmp_path / "empty").write_text("")
    stranger = Home(tmp_path, board.home)
    found = {
        one["name"]: one for one in map(json.loads, edgecl(stranger, "doctor", "board", "--json").stdout.splitlines())
    }
    assert found["host key"]["status"] == "failed" and "fingerprint" in found["host key"]["cure"]
    assert found["strict host keys"]["status"] == "warning"
    (tmp_path / "config").write_text(
        (board.folder / "config").read_text().replace("IdentityFile", "IdentityFile none #")
    )
    found = {
        one["name"]: one for one in map(json.loads, edgecl(stranger, "doctor", "board", "--json").stdout.splitlines())
    }
    assert found["agent"]["status"] == "failed" and "ssh-copy-id" in found["agent"]["cure"]
    nowhere = edgecl(board, "doctor", "ssh://127.0.0.1:1")
    assert nowhere.returncode == 1 and "Connection refused" in nowhere.stdout


def test_a_step_that_fails_is_told(board: Home, wheels: Path, settled: object) -> None:
    link = board.home / ".local/bin/edgecl"
    target = os.readlink(link)
    link.unlink()
    link.write_text("somebody else's")
    done = edgecl(board, "provision", "board", "--wheelhouse", wheels, "--python", PYTHON, "--user-only")
    assert done.returncode == 1
    told = f"edgecl: board: command failed: {link}: not ours; move it away; mend that, and run the same command again\n"
    assert done.stderr == told and link.read_text() == "somebody else's"
    link.unlink()
    link.symlink_to(target)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--wheelhouse", "nothing"), f"requirement edgecl=={__version__}"),
        (("--python", "python2"), "no Python 3.11 or later"),
        (("--store", "/dev/shm/edgecl"), "a store cannot lie on tmpfs"),
        (("--trust", "nothing"), "give a trust directory"),
        (("--profile", "toaster"), "no such profile"),
    ],
)
def test_what_cannot_be_is_told_before_anything_changes(
    board: Home, wheels: Path, words: tuple[str, str], problem: str
) -> None:
    before = files(board.home)
    usual = () if words[0] == "--wheelhouse" else ("--wheelhouse", wheels)
    usual = usual if words[0] == "--python" else (*usual, "--python", PYTHON)
    done = edgecl(board, "provision", "board", "--user-only", *usual, *words)
    assert done.returncode == 1
    assert problem in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert files(board.home) == before


def test_a_private_key_stays_here(board: Home, wheels: Path, tmp_path: Path) -> None:
    (tmp_path / "release.pem").write_text("-----BEGIN PRIVATE KEY-----\n")
    done = edgecl(board, "provision", "board", "--user-only", "--wheelhouse", wheels, "--python", PYTHON,
                  "--trust", tmp_path)  # fmt: skip
    assert done.returncode == 1 and "a private key, which no board may have" in done.stderr


def test_a_board_that_cannot_be_reached_is_exit_code_4(board: Home) -> None:
    done = edgecl(board, "provision", "ssh://127.0.0.1:1")
    assert done.returncode == 4 and "Connection refused" in done.stderr and done.stderr.count("\n") == 1


def test_an_unknown_host_key_is_not_taken(board: Home, tmp_path: Path) -> None:
    (tmp_path / "unknown").write_text("")
    own = Options(ssh_command=f"{board.command} -o UserKnownHostsFile={tmp_path / 'unknown'}")
    with pytest.raises(LinkError, match="host key is not known yet"):
        Remote(SshAddress("board", "board"), own).script("true")
    assert (tmp_path / "unknown").read_text() == ""


@pytest.mark.parametrize("device", ["local:", "serial:/dev/ttyUSB0", "-oProxyCommand=touch x", "", "a b"])
def test_only_ssh_brings_edgecl_to_a_board(device: str) -> None:
    with pytest.raises(LinkError):
        remote(device)


def test_a_password_of_sudo_is_never_taken_for_a_command(board: Home, tmp_path: Path) -> None:
    """A sudo that takes the password as the real one does: a line of its own, whether or not it asks."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sudo").write_text(
        "#!/bin/sh\n"
        f"printf '%s\\n' \"$*\" >>{tmp_path}/asked\n"
        'if [ "$1" = -n ]; then echo "sudo: a password is required" >&2; exit 1; fi\n'
        f"IFS= read -r password; [ \"$password\" = 'x; touch {tmp_path}/run' ] || exit 1\n"
        'shift 4; exec "$@"\n'
    )
    (tmp_path / "bin/sudo").chmod(0o755)
    (tmp_path / "bin/id").write_text('#!/bin/sh\nif [ "$1" = -u ]; then echo 1000; else exec /usr/bin/id "$@"; fi\n')
    (tmp_path / "bin/id").chmod(0o755)
    (tmp_path / "home").mkdir()
    with homes.running(tmp_path / "ssh", tmp_path / "home", path=str(tmp_path / "bin")) as server:
        to, options = SshAddress("board", "board"), Options(ssh_command=server.command)
        assert survey.ask(Remote(to, options), store="").sudo == "password"
        knowing = Remote(to, options, f"x; touch {tmp_path}/run")
        assert knowing.script("echo $a", root=True, values={"a": "it's done"}) == "it's done\n"
        assert "touch" not in repr(knowing)
        assert (tmp_path / "asked").read_text().splitlines()[-1] == "-k -S -p  sh -s"
        assert not (tmp_path / "run").exists()
        with pytest.raises(EdgeclError, match="a password is required"):
            Remote(to, options).script("true", root=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="a root of its own needs root")
@pytest.mark.skipif(not SYSTEM.exists(), reason="the service's user may not run this Python")
def test_with_root_the_service_and_the_agent_are_another_user(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    (shared / "home").mkdir(parents=True)
    for folder in (shared, *shared.parents):  # pytest's are closed to others
        if folder.owner() == "root" and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    with homes.running(tmp_path / "ssh", shared / "home", apart=True) as server:
        monkeypatch.setenv("EDGECL_SSH", server.command)
        words = ("--store", shared / "store", "--development")
        board = remote("board")
        board.script(f"mkdir -p /run/systemd/system; cat >/usr/bin/systemctl <<'END'\n{SYSTEMCTL}END")
        steps = provisioned(server, wheels, *words)
        assert steps["user"]["changed"] and "sudo" not in steps
        doing = ("daemon-reload", "--quiet enable edgecl", "restart edgecl")
        asked = board.script("cat /run/asked").splitlines()
        assert [line for line in asked if line in doing] == list(doing)
        old = board.script("readlink /opt/edgecl/venv").strip()
        other = wheelhouse.make(tmp_path / "house", comment=b"another build")
        steps = provisioned(server, tmp_path / "house", *words, "--wheel", other)
        assert [name for name, step in steps.items() if step["changed"]] == ["wheels", "environment", "service"]
        assert steps["wheels"]["remark"].startswith("1 of 6 sent")
        assert "restart edgecl" in board.script("cat /run/asked").splitlines()[len(asked) :]
        assert board.script("ls -d /opt/edgecl/venv-*").split() != [f"/opt/edgecl/{old}"]
        assert len(board.script("ls -d /opt/edgecl/venv-*").split()) == 1
        told = board.script("getent passwd edgecl; stat -c '%U %a' \"$store\" \"$store/trust.d\" /opt/edgecl/venv/",
                            values={"store": str(shared / "store")}).splitlines()  # fmt: skip
        assert told[0].startswith("edgecl:") and told[0].endswith(":/usr/sbin/nologin")
        assert told[1:] == ["edgecl 750", "root 755", "root 755"]
        # Whoever logs in, the agent is started as the user of the store.
        done = edgecl(server, "probe", "board", "--json")
        assert done.returncode == 0, done.stderr
        found = msgspec.json.decode(done.stdout, type=Facts)
        assert (found.user, found.root, found.development) == ("edgecl", False, True)
        assert found.service == "active"
        assert found.disk.path == f"{shared}/store"
        unit = board.script("cat /etc/systemd/system/edgecl.service")
        assert f"ReadWritePaths={shared}/store" in unit and "User=edgecl" in unit
    assert not Path("/etc/systemd/system/edgecl.service").exists()


SYSTEMCTL = """#!/bin/sh
# A systemd that starts what it is told to, and writes down what it is asked.
echo "$*" >>/run/asked
case "$*" in
  restart*) : >/run/active ;;
  *is-active*) [ -e /run/active ] ;;
  show\\ *) echo LoadState=loaded; echo ActiveState=active ;;
esac
"""

SURVEYED = """arch=aarch64
libc=glibc 2.36
user=pi
uid=1000
home=/home/pi
systemd=yes
sudo=free
python=3.9 /usr/bin/python3
python=3.11 /usr/bin/python3.11
python=3.13 /usr/local/bin/python3.13
model=Raspberry Pi 5 Model B Rev 1.0
group=video
group=gpio
disk=ext4 1000
"""


def test_a_survey_is_read() -> None:
    found = survey.parse(SURVEYED, "board")
    assert found.pythons == (((3, 11), "/usr/bin/python3.11"), ((3, 13), "/usr/local/bin/python3.13"))
    assert found.libc == (2, 36) and found.free_bytes == 1024000 and found.groups == ("video", "gpio")
    assert found.profile.name == "raspberry-pi-5" and found.systemd and found.sudo == "free"


@pytest.mark.parametrize(
    ("change", "error", "problem"),
    [
        (("glibc 2.36", "musl 1.2"), ProfileError, "not glibc"),
        (("python=3.11", "python=3.8"), None, ""),
        (("disk=ext4", "disk=vfat"), StoreError, "cannot lie on vfat"),
        (("disk=ext4", "disk=overlay"), StoreError, "cannot lie on overlay"),
    ],
)
def test_a_board_that_will_not_do_is_told(
    change: tuple[str, str], error: type[EdgeclError] | None, problem: str
) -> None:
    text = SURVEYED.replace(*change)
    if error is None:
        assert isinstance(survey.parse(text, "board"), Survey)
    else:
        with pytest.raises(error, match=problem):
            survey.parse(text, "board")
    with pytest.raises(ProfileError, match="64-bit"):
        _ = survey.parse(SURVEYED.replace("aarch64", "armv7l").replace("Raspberry Pi 5", "A board"), "board").profile


@pytest.mark.parametrize(
    "store", ["state", "/srv/a b", "/srv/../etc", "/srv/x\nALL", "/srv/$(id)", "/srv/%h", "/", "//x"]
)
def test_a_path_that_would_mean_more_than_itself_is_refused(store: str) -> None:
    found = survey.parse(SURVEYED, "board")
    with pytest.raises(EdgeclError, match="no folder for a service"):
        place(found, user_only=False, store=store)
    with pytest.raises(EdgeclError, match="no user for a rule"):
        place(survey.parse(SURVEYED.replace("user=pi", "user=pi ALL"), "board"), user_only=False)
    assert place(found, user_only=True)[1].store == "/home/pi/.local/share/edgecl/state"


def test_the_platforms_of_a_board_are_those_that_its_libc_runs() -> None:
    target = Target((3, 11), "aarch64", (2, 31))
    assert target.platforms[0] == "manylinux_2_31_aarch64" and "manylinux_2_28_aarch64" in target.platforms
    assert "manylinux_2_34_aarch64" not in target.platforms and target.platforms[-1] == "linux_aarch64"


def test_the_python_of_a_wheel_is_in_its_name(tmp_path: Path) -> None:
    names = {"a-1-cp311-cp311-linux_aarch64.whl": (3, 11), "a-1-py3-none-any.whl": None, "a-1-cp39-abi3-any.whl": None}
    for name, python in names.items():
        (tmp_path / name).write_bytes(b"")
        assert python_of(tmp_path / name) == python
    for name in ("missing-1-py3-none-any.whl", "a.tar.gz"):
        with pytest.raises(EdgeclError, match="no wheel"):
            python_of(tmp_path / name)
    assert identity((), "/usr/bin/python3") != identity((), "/usr/bin/python3.11")
