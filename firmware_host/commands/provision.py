"""`edgecl provision`: put edgecl onto a board that has ssh and Python, or bring it up to date."""

import tempfile
from pathlib import Path

import click
import msgspec

from edgecl import devices
from edgecl.commands.options import size
from edgecl.errors import EdgeclError
from firmware_host import provision as steps
from firmware_host import survey, wheels
from firmware_host.provision import Step, Wish
from firmware_host.remote import Remote, remote
from firmware_host.survey import Survey
from firmware_host.wheels import Target


@click.command()
@click.argument("device")
@click.option("--wheel", type=click.Path(path_type=Path), help="Edgecl's own wheel for the board.")
@click.option("--wheelhouse", type=click.Path(path_type=Path), help="A folder with all wheels; no network is used.")
@click.option("--with", "extra", multiple=True, metavar="PACKAGE", help="Install this too. May be repeated.")
@click.option("--trust", type=click.Path(path_type=Path), help="A trust directory, whose keys the board is to trust.")
@click.option("--development", is_flag=True, help="Let the board take unsigned bundles.")
@click.option("--profile", help="Which board it is, where it does not say so itself; see edgecl devices.")
@click.option("--memory", type=size, metavar="SIZE", help="Budget of the learning process; else the profile's.")
@click.option("--python", default="", help="The board's Python, by name or path.")
@click.option("--store", default="", help="Folder on the board that keeps bundles and what is learned.")
@click.option("--user-only", is_flag=True, help="Without root: everything in the home of the user.")
@click.option("--ask-password", is_flag=True, help="Ask for the password that sudo on the board wants.")
@click.option("--dry-run", is_flag=True, help="Print every step and its script; change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON a step.")
def provision(
    device: str,
    wheel: Path | None,
    wheelhouse: Path | None,
    extra: tuple[str, ...],
    trust: Path | None,
    development: bool,
    profile: str | None,
    memory: int | None,
    python: str,
    store: str,
    user_only: bool,
    ask_password: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Put edgecl onto a board, with its service.

    The board needs ssh, Python 3.11 or later, and no internet. The same command again changes what is not yet as it
    should be; so it also brings a board up to date, and finishes what was cut off.
    """
    password = click.prompt(f"Password of sudo on {device}", hide_input=True, err=True) if ask_password else None
    own = wheel or wheels.own(wheelhouse)
    with (
        remote(device, sudo_password=password).connected() as board,
        tempfile.TemporaryDirectory(prefix="edgecl-wheels-") as folder,
    ):
        found = survey.ask(board, store=store or ("" if user_only else "/var/lib"), python=python)
        _check_root(board, found, user_only=user_only)
        kind = devices.find(profile) if profile else found.profile
        if memory is not None:
            kind = msgspec.structs.replace(kind, budget_bytes=memory)
        keys = _trust(trust) if trust else ()
        version, path = _python(found, own, device)
        target = Target(version, found.arch, found.libc)
        brought = wheels.collect(target, Path(folder), wheel=own, wheelhouse=wheelhouse, extra=extra)
        wish = Wish(kind, brought, path, keys, development, user_only)
        prefix, where = steps.place(found, user_only=user_only, store=store)
        planned = steps.plan(found, wish, prefix, where)
        steps.check_room(found, wish, device)
        if dry_run:
            for step in planned:
                print(_described(step, as_json=as_json))
            return
        steps.carry_out(planned, board, wish, lambda step, state: print(_told(step, state, as_json), flush=True))


def _check_root(board: Remote, found: Survey, *, user_only: bool) -> None:
    if user_only or found.sudo in ("root", "free") or (found.sudo == "password" and board.sudo_password is not None):
        return
    cure = "give --ask-password, or --user-only" if found.sudo == "password" else "give --user-only, or log in as root"
    raise EdgeclError(f"{board.to.text}: {found.user} may not become root there without a password; {cure}")


def _python(found: Survey, own: Path | None, device: str) -> tuple[tuple[int, int], str]:
    """The board's Python: the one that edgecl's wheel is for, or the first that will do."""
    wanted = wheels.python_of(own) if own else None
    for version, path in found.pythons:
        if wanted in (None, version):
            return version, path
    have = ", ".join(f"{major}.{minor}" for (major, minor), _ in found.pythons)
    assert wanted and own
    raise EdgeclError(
        f"{device}: {own.name} is for Python {wanted[0]}.{wanted[1]}, the board has {have}; build a wheel for that one"
    )


def _trust(folder: Path) -> tuple[tuple[str, bytes], ...]:
    """Public keys, and what they are for. Whether they are good, the board decides."""
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix in (".pem", ".toml"))
        keys = tuple((file.name, file.read_bytes()) for file in files)
    except OSError as error:
        raise EdgeclError(f"{folder}: {error.strerror}; give a trust directory") from None
    if private := next((name for name, content in keys if b"PRIVATE KEY" in content), None):
        raise EdgeclError(f"{folder / private}: a private key, which no board may have; give the public one")
    if not keys:
        raise EdgeclError(f"{folder}: no key in it; give a trust directory")
    return keys


def _described(step: Step, *, as_json: bool) -> str:
    if as_json:
        told = {"step": step.name, "what": step.what, "root": step.root, "script": step.script, "values": step.values}
        return msgspec.json.encode(told).decode()
    lines = [f"{name}={value}" for name, value in step.values.items()] + step.script.strip().splitlines()
    return f"{step.name}: {step.what}{' (as root)' if step.root else ''}\n" + "".join(f"    {line}\n" for line in lines)


def _told(step: Step, state: str, as_json: bool) -> str:
    state, _, remark = state.strip().partition(" ")
    if as_json:
        told = {"step": step.name, "what": step.what, "changed": state == steps.DONE, "remark": remark}
        return msgspec.json.encode(told).decode()
    return f"{step.name:12} {'changed' if state == steps.DONE else 'as it was':10} {remark or step.what}"
