"""`edgecl keys`: key pairs that sign bundles, and the keys that a board trusts."""

from pathlib import Path

import click
import msgspec

from edgecl import keys as pairs
from edgecl import trust as trusts
from edgecl.commands.options import passphrase_of
from edgecl.commands.table import aligned

folder = click.option(
    "--folder", type=click.Path(path_type=Path), help="Where the keys are. [$XDG_CONFIG_HOME/edgecl/keys]"
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print a line of JSON a key.")


class Shown(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A key, without its secret."""

    name: str
    fingerprint: str
    private: str | None = None
    """The file of its private half, where that is here."""
    passphrase: bool | None = None
    """Whether that is under one."""
    public: str | None = None
    """The file of its public half."""
    lineages: tuple[str, ...] | None = None
    """That a board trusts it for."""


@click.group()
def keys() -> None:
    """Make and list the keys that sign bundles, and say which a board trusts."""


@keys.command()
@click.argument("name")
@folder
@click.option("--passphrase", is_flag=True, help="Ask for a passphrase, and keep the private key under it.")
@click.option("--passphrase-file", type=click.Path(path_type=Path), help="Take it from the first line of a file.")
@as_json
def new(name: str, folder: Path | None, passphrase: bool, passphrase_file: Path | None, as_json: bool) -> None:
    """Make a key pair: NAME.key to sign with, NAME.pem for those who verify."""
    words = ""
    if passphrase or passphrase_file:
        words = passphrase_of(passphrase_file, f"Passphrase of the new key {name}", confirm=True)
    where = folder or pairs.folder()
    key = pairs.new(where, name, words)
    shown = _pair(key, where / f"{name}{pairs.PUBLIC}")
    if as_json:
        _print([shown])
    else:
        print(f"private  {shown.private}\npublic   {shown.public}\n{key.fingerprint}")


@keys.command("list")
@folder
@click.option("--trust", type=click.Path(path_type=Path), metavar="DIR", help="List a trust directory instead.")
@as_json
def list_(folder: Path | None, trust: Path | None, as_json: bool) -> None:
    """List your keys, or those that a board trusts."""
    if trust:
        _trusted(trusts.read(trust), trust, as_json)
        return
    where = folder or pairs.folder()
    shown = [_pair(key, where / f"{key.name}{pairs.PUBLIC}") for key in pairs.known(where)]
    if as_json:
        _print(shown)
        return
    rows = [("key", "fingerprint", "private", "")]
    for one in shown:
        under = "under a passphrase" if one.passphrase else ""
        rows.append((one.name, one.fingerprint, "here" if one.private else "elsewhere", under))
    print(aligned(rows) if shown else f"no keys in {where}; make one with: edgecl keys new NAME")


@keys.command()
@click.argument("key")
@folder
@as_json
def show(key: str, folder: Path | None, as_json: bool) -> None:
    """Show the public half of a key, as a board takes it. KEY is a name, or a .pem file."""
    path, found = _public(key, folder)
    if as_json:
        _print([_pair(found, path)])
    else:
        print(found.pem, end="")


@keys.command()
@click.argument("key")
@folder
@as_json
def fingerprint(key: str, folder: Path | None, as_json: bool) -> None:
    """Print the fingerprint of a key. KEY is a name, or a .pem file."""
    path, found = _public(key, folder)
    if as_json:
        _print([_pair(found, path)])
    else:
        print(found.fingerprint)


@keys.command()
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@click.argument("key")
@click.option("--lineage", "lineages", multiple=True, required=True, metavar="NAME", help="What it may sign; * for "
              "every lineage. May be repeated.")  # fmt: skip
@folder
@as_json
def trust(directory: Path, key: str, lineages: tuple[str, ...], folder: Path | None, as_json: bool) -> None:
    """Trust a key in a trust directory, for these lineages and no others. KEY is a name, or a .pem file."""
    _, found = _public(key, folder)
    trusts.add(directory, found, tuple(dict.fromkeys(lineages)))
    if as_json:
        _print([Shown(name=found.name, fingerprint=found.fingerprint, lineages=tuple(dict.fromkeys(lineages)))])
    else:
        print(f"{directory}: {found} may sign {', '.join(dict.fromkeys(lineages))}")


@keys.command()
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@click.argument("name")
@as_json
def revoke(directory: Path, name: str, as_json: bool) -> None:
    """Trust a key no longer: what it signed is refused from now on. What runs goes on running."""
    trusts.remove(directory, name)
    left = len(trusts.read(directory).keys)
    if as_json:
        print(msgspec.json.encode({"name": name, "left": left}).decode())
    else:
        print(f"{directory}: {name} is trusted no longer; {left or 'no'} key{'s' * (left != 1)} left")


def _public(given: str, directory: Path | None) -> tuple[Path, pairs.PublicKey]:
    path = pairs.find(given, pairs.PUBLIC, directory or pairs.folder())
    return path, pairs.read_public(path)


def _pair(key: pairs.PublicKey, public: Path) -> Shown:
    private = public.with_suffix(pairs.PRIVATE)
    here = private.is_file() and private != public
    return Shown(
        name=key.name,
        fingerprint=key.fingerprint,
        public=str(public),
        private=str(private) if here else None,
        passphrase=pairs.locked(private) if here else None,
    )


def _trusted(trust: trusts.Trust, directory: Path, as_json: bool) -> None:
    if as_json:
        _print([Shown(name=one.key.name, fingerprint=one.key.fingerprint, lineages=one.lineages) for one in trust.keys])
    else:
        rows = [("key", "fingerprint", "lineages")]
        rows += [(one.key.name, one.key.fingerprint, ", ".join(one.lineages)) for one in trust.keys]
        print(
            aligned(rows)
            if trust.keys
            else f"no keys in {directory}; trust one with: edgecl keys trust {directory} KEY"
        )
        print(f"development mode is {'on: unsigned bundles are taken' if trust.development else 'off'}")
    for problem in trust.problems:
        click.echo(f"edgecl: {problem}", err=True)


def _print(shown: list[Shown]) -> None:
    for one in shown:
        print(msgspec.json.encode(one).decode())
