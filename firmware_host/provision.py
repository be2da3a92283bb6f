"""Getting edgecl onto a board: steps, each a shell script that finds out for itself whether there is anything to do.

A step that was done says `same`, so that provisioning may be run again, also after it was cut off anywhere. What the
board runs changes at one point only, when a link is renamed from one complete environment to the next. Afterwards
nothing runs as root: the service and the agent run as the user `edgecl`, or, without root, as the user who provisioned.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from edgecl.devices import Profile
from edgecl.errors import EdgeclError
from firmware_host import unit, wheels
from firmware_host.remote import Remote, ScriptError, quoted, words
from firmware_host.survey import Survey
from firmware_host.unit import Place
from firmware_host.wheels import Wheel

GROWTH: Final = 5
"""An installed wheel takes up to so many times its size, itself included."""

DONE: Final = "changed"
SAME: Final = "same"

PATH: Final = re.compile(r"(/[A-Za-z0-9_][A-Za-z0-9._-]*|/\.[A-Za-z0-9_][A-Za-z0-9._-]*)+")
NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")

END: Final = "EDGECL-END"
"""Ends a file within a script."""


@dataclass(frozen=True)
class Step:
    """One thing to be done on the board."""

    name: str
    what: str
    script: str
    """Its last line on stdout says `changed` or `same`, and may go on with a remark."""
    root: bool = False
    values: Mapping[str, str] = field(default_factory=dict)
    """Variables of the script."""


@dataclass(frozen=True)
class Wish:
    """What the board is to be."""

    profile: Profile
    wheels: tuple[Wheel, ...]
    python: str
    """Path of the board's Python."""
    trust: tuple[tuple[str, bytes], ...] = ()
    """Files for the store's trust directory."""
    development: bool = False
    """Whether it takes unsigned bundles."""
    user_only: bool = False


def place(survey: Survey, *, user_only: bool, prefix: str = "", store: str = "") -> tuple[str, Place]:
    """The folder of the installation, and what lies where.

    Raises EdgeclError: a path or the user's name does not go into a unit or a rule of sudo as it is.
    """
    home = survey.home
    prefix = prefix or (f"{home}/.local/share/edgecl" if user_only else "/opt/edgecl")
    store = store or (f"{prefix}/state" if user_only else "/var/lib/edgecl")
    for path in (prefix, store):
        if not PATH.fullmatch(path):
            raise EdgeclError(f"{path!r}: no folder for a service; give one from / on, of letters, digits and ._/-")
    if not NAME.fullmatch(survey.user):
        raise EdgeclError(f"{survey.user!r}: no user for a rule of sudo; log in as another, or give --user-only")
    return prefix, Place(venv=f"{prefix}/venv", store=store)


def plan(survey: Survey, wish: Wish, prefix: str, where: Place) -> tuple[Step, ...]:
    """All steps, in their order."""
    root, home = not wish.user_only, survey.home
    cache = f"{home}/.cache/edgecl/wheels"
    identity = wheels.identity(wish.wheels, wish.python)
    values = {"prefix": prefix, "venv": where.venv, "store": where.store, "id": identity}
    if root:
        units = "/etc/systemd/system/edgecl.service"
        service = unit.service(where, wish.profile, groups=survey.groups, devices=survey.devices)
        known_as, manager = "/usr/local/bin/edgecl", "systemctl"
    else:
        units = f"{home}/.config/systemd/user/edgecl.service"
        service = unit.user_service(where, wish.profile)
        known_as, manager = f"{home}/.local/bin/edgecl", "systemctl --user"
    command = f"{prefix}/bin/edgecl"
    trust = [_file(f"{where.store}/trust.d/{name}", content.decode(), 0o644) for name, content in wish.trust]
    if wish.development:
        trust.append(_file(f"{where.store}/trust.d/development", "", 0o644))
    steps = [Step("wheels", f"have {len(wish.wheels)} wheels in {cache}", "", values={"cache": cache})]
    if root:
        people = _file("/etc/sysusers.d/edgecl.conf", unit.sysusers(where), 0o644) + USER
        steps.append(Step("user", "have a user and group edgecl", people, True, values | {"login": survey.user}))
    folders = _file("/etc/tmpfiles.d/edgecl.conf", unit.tmpfiles(where), 0o644) + FOLDERS if root else OWN_FOLDERS
    steps.append(Step("folders", f"have the folder {where.store}", folders, root, values))
    steps.append(
        Step(
            "environment",
            f"have edgecl in a virtual environment {where.venv}",
            ENVIRONMENT,
            root,
            values | {"cache": cache, "python": wish.python, "files": words([w.path.name for w in _installed(wish)])},
        )
    )
    wrapper = _wrapper(where) if root else _own_wrapper(where)
    script = _file(command, wrapper, 0o755) + LINK
    steps.append(Step("command", f"have the command {known_as}", script, root, {"known_as": known_as}))
    if root and survey.uid:
        steps.append(Step("sudo", f"let {survey.user} run the agent as edgecl", _sudoers(survey.user, where), True))
    if trust:
        steps.append(Step("trust", f"have {len(trust)} files in {where.store}/trust.d", "".join(trust), root))
    steps.append(Step("unit", f"have {units}", _file(units, service, 0o644), root))
    version = hashlib.sha256(f"{identity} {service}".encode()).hexdigest()
    start = values | {"version": version, "manager": manager, "as": "runuser -u edgecl -- " if root else ""}
    steps.append(Step("service", "have the service run what was installed", SERVICE, root, start))
    check = CHECK_AS_EDGECL if root else CHECK
    steps.append(Step("check", "ask the new edgecl for its version", check, root, {"command": command} | values))
    return tuple(steps)


def carry_out(
    steps: Sequence[Step], remote: Remote, wish: Wish, told: Callable[[Step, str], None] = lambda step, state: None
) -> None:
    """Do the steps, telling of each what became of it.

    Raises LinkError: no connection. EdgeclError: a step failed; those before it stay done, and may be done again.
    """
    for step in steps:
        try:
            if step.name == "wheels":
                told(step, send(remote, wish.wheels, step.values["cache"]))
            else:
                lines = remote.script(_PROLOGUE + step.script + _EPILOGUE, root=step.root, values=step.values)
                told(step, (lines.strip().splitlines() or [""])[-1])
        except ScriptError as error:
            raise EdgeclError(
                f"{remote.to.text}: {step.name} failed: {error}; mend that, and run the same command again"
            ) from None


def send(remote: Remote, files: Sequence[Wheel], folder: str) -> str:
    """Have these wheels and no others in a folder of the board. Only those that are missing travel, one at a time."""
    names = words([wheel.path.name for wheel in files])
    present = remote.script(_WHEELS, values={"cache": folder, "names": names})
    have = {line.partition("  ")[2]: line.partition("  ")[0] for line in present.splitlines()}
    missing = [wheel for wheel in files if have.get(wheel.path.name) != wheel.sha256]
    for wheel in missing:
        remote.unpack(folder, wheels.tar([wheel]))
    size = sum(wheel.path.stat().st_size for wheel in missing)
    return f"{DONE} {len(missing)} of {len(files)} sent, {size / 1e6:.1f} MB" if missing else SAME


def check_room(survey: Survey, wish: Wish, where: str) -> None:
    """Raises EdgeclError: the board's disk is too full."""
    need = GROWTH * sum(wheel.path.stat().st_size for wheel in wish.wheels)
    if survey.free_bytes < need:
        raise EdgeclError(
            f"{where}: {survey.free_bytes / 1e6:.0f} MB free, {need / 1e6:.0f} MB are needed; make room on the board"
        )


def _installed(wish: Wish) -> list[Wheel]:
    return [wheel for wheel in wish.wheels if not wheel.is_pip]


def _file(path: str, content: str, mode: int) -> str:
    """A script that writes a text file, unless it is there with this content."""
    assert END not in content
    return f"path={quoted(path)} mode={mode:04o}\ncontent=$(cat <<'{END}'\n{content.rstrip(chr(10))}\n{END}\n)\nput\n"


def _wrapper(where: Place) -> str:
    agent = f"{where.venv}/bin/edgecl agent --store {where.store}"
    return f"""#!/bin/sh
# Written by edgecl provision. The agent runs as the user that owns the store, whoever starts it.
if [ "${{1-}}" = agent ] && [ "$(id -un)" != edgecl ]; then
  if [ "$(id -u)" = 0 ]; then exec runuser -u edgecl -- {agent}; fi
  exec sudo -n -u edgecl -- {agent}
fi
if [ "${{1-}}" = agent ]; then exec {agent}; fi
exec {where.venv}/bin/edgecl "$@"
"""


def _own_wrapper(where: Place) -> str:
    return f"""#!/bin/sh
# Written by edgecl provision --user-only.
if [ "${{1-}}" = agent ]; then exec {where.venv}/bin/edgecl agent --store {where.store}; fi
exec {where.venv}/bin/edgecl "$@"
"""


def _sudoers(user: str, where: Place) -> str:
    name = "".join(letter if letter.isalnum() else "_" for letter in user)  # sudo passes over names with a dot
    rule = f"{user} ALL=(edgecl) NOPASSWD: {where.venv}/bin/edgecl agent --store {where.store}\n"
    path = f"/etc/sudoers.d/edgecl-{name}"
    # A damaged file there would lock everybody out of sudo.
    return 'if command -v visudo >/dev/null; then checked="visudo -cqf"; fi\n' + _file(path, rule, 0o440)


_PROLOGUE: Final = r"""
set -eu
umask 022
changed=same
checked=true
put() {
  if printf '%s\n' "$content" | cmp -s - "$path"; then return; fi
  mkdir -p "$(dirname "$path")"
  new=$(mktemp "$(dirname "$path")/.edgecl.XXXXXX")
  printf '%s\n' "$content" >"$new"
  $checked "$new"
  chmod "$mode" "$new"
  sync "$new" 2>/dev/null || sync
  mv -f "$new" "$path"
  changed=changed
}
"""

_EPILOGUE: Final = '\necho "$changed ${remark-}"\n'

_WHEELS: Final = r"""
mkdir -p "$cache" && cd "$cache" || exit 1
for file in * .[!.]*; do
  keep=no
  eval "set -- $names"
  for name; do if [ "$file" = "$name" ]; then keep=yes; fi; done
  if [ $keep = no ]; then rm -f "$file"; fi
done
eval "set -- $names"
for name; do if [ -f "$name" ]; then sha256sum "$name"; fi; done
"""

USER: Final = r"""
if command -v systemd-sysusers >/dev/null; then
  if ! getent passwd edgecl >/dev/null; then changed=changed; fi
  systemd-sysusers /etc/sysusers.d/edgecl.conf
elif ! getent passwd edgecl >/dev/null; then
  useradd --system --user-group --home-dir "$store" --shell /usr/sbin/nologin edgecl
  changed=changed
fi
if [ "$(id -u "$login")" != 0 ] && ! id -nG "$login" | tr ' ' '\n' | grep -qx edgecl; then
  usermod -aG edgecl "$login"
  changed=changed
fi
"""

FOLDERS: Final = r"""
if [ ! -d "$store/trust.d" ]; then changed=changed; fi
if command -v systemd-tmpfiles >/dev/null; then systemd-tmpfiles --create /etc/tmpfiles.d/edgecl.conf
else install -d -m 0750 -o edgecl -g edgecl "$store"; install -d -m 0755 "$store/trust.d"; fi
"""

OWN_FOLDERS: Final = r"""
if [ ! -d "$store/trust.d" ]; then mkdir -p "$store/trust.d"; chmod 0700 "$store"; changed=changed; fi
"""

LINK: Final = r"""
if [ "$(readlink "$known_as" || true)" != "$path" ]; then
  if [ -e "$known_as" ] && [ ! -L "$known_as" ]; then echo "$known_as: not ours; move it away" >&2; exit 1; fi
  mkdir -p "$(dirname "$known_as")"
  ln -sfn "$path" "$known_as"
  changed=changed
fi
"""

ENVIRONMENT: Final = r"""
own=$prefix/venv-$id
if [ ! -e "$own/complete" ]; then
  rm -rf "$own"
  mkdir -p "$prefix"
  "$python" -m venv --without-pip "$own"
  cd "$cache"
  eval "set -- $files"
  "$own/bin/python" "$(echo "$cache"/pip-*.whl)/pip" --quiet --disable-pip-version-check --no-input \
    install --no-index --no-deps --no-cache-dir "$@"
  "$own/bin/python" -c 'import edgecl._runtime'
  sync
  : >"$own/complete"
  sync
fi
if [ "$(readlink "$venv" || true)" != "venv-$id" ]; then
  rm -f "$prefix/.venv"
  ln -s "venv-$id" "$prefix/.venv"
  mv -fT "$prefix/.venv" "$venv"
  sync
  changed=changed
fi
"""

SERVICE: Final = r"""
if [ "$manager" = "systemctl --user" ]; then export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR-/run/user/$(id -u)}"; fi
if [ ! -d /run/systemd/system ] || ! $manager show-environment >/dev/null 2>&1; then
  remark="there is no systemd to start it; run $as$venv/bin/edgecl serve --store $store"
elif [ "$(cat "$prefix/started" 2>/dev/null || true)" != "$version" ] || ! $manager --quiet is-active edgecl; then
  $manager daemon-reload
  $manager --quiet enable edgecl
  $manager restart edgecl
  echo "$version" >"$prefix/started"
  changed=changed
  if [ "$manager" = "systemctl --user" ]; then
    loginctl enable-linger 2>/dev/null || remark="it stops when you log out; run: sudo loginctl enable-linger"
  fi
fi
for other in "$prefix"/venv-*; do
  if [ "$other" != "$prefix/venv-$id" ]; then rm -rf "$other"; changed=changed; fi
done
"""

CHECK: Final = r"""
remark=$("$command" --version)
"""

CHECK_AS_EDGECL: Final = r"""
cd /
remark=$(runuser -u edgecl -- "$command" --version)
"""
