"""`edgecl sign`: put a signature into a bundle."""

from pathlib import Path

import click
import msgspec

from edgecl import signed
from edgecl.commands.options import private_key


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--key", required=True, help="A .key file, or the name of a key that edgecl keys list shows.")
@click.option("--passphrase-file", type=click.Path(path_type=Path), help="Its first line is the key's passphrase.")
@click.option("--json", "as_json", is_flag=True, help="Print who signed what as one line of JSON.")
def sign(bundle: Path, key: str, passphrase_file: Path | None, as_json: bool) -> None:
    """Sign a bundle, in place of the signature that it may have.

    All files are checked first. The id of the bundle stays as it is.
    """
    with_key = private_key(key, passphrase_file)
    with signed.sign(bundle, with_key) as opened:
        if as_json:
            shown = {"bundle": str(bundle), "id": opened.id, "key": with_key.public.name}
            print(msgspec.json.encode({**shown, "fingerprint": with_key.public.fingerprint}).decode())
        else:
            print(f"{bundle}: signed by {with_key.public}\n{len(opened.manifest.files)} files, id {opened.id}")
