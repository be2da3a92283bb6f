"""A bundle that begins with a learned state: the way of any state onto boards, through trial, canaries and probation.

Everything but the state stays as it is, so a deployment sends little more than that. What a board has learned gives way
to it, unless the deployment says otherwise.
"""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from edgecl import bundle as bundles
from edgecl import contents, state
from edgecl.bundle import Bundle
from edgecl.errors import BundleError, StoreError
from edgecl.preprocess import Preprocess
from edgecl.programs import Programs
from edgecl.state import State


def write(bundle: Bundle, begins: State, version: int, out: Path) -> str:
    """Write it; its id. The signature of the old one is none of it.

    Raises BundleError: the state is not of the form that a bundle begins with. StoreError: it cannot be written.
    """
    manifest = bundle.manifest
    if begins.layout != manifest.layout:
        raise BundleError(
            f"{out}: these states are of form {manifest.form_of(begins.layout)!r}, and a bundle begins with its first; "
            "write a state file instead"
        )
    built = replace(begins, step=0, seen=0)
    canaries = msgspec.structs.replace(manifest.canaries, accuracy=_accuracy(bundle, built))
    changed = msgspec.structs.replace(manifest, version=version, learned="discard", canaries=canaries)
    try:
        files = {file.path: (bundle.directory / file.path).read_bytes() for file in manifest.files}
    except OSError as error:
        raise StoreError(f"{bundle.origin}: {error.strerror}; give a bundle that can be read") from None
    files[contents.STATE] = state.dump(built)
    with bundles.write(changed, files, out) as written:
        return written.id


def _accuracy(bundle: Bundle, built: State) -> float:
    """Of the canaries, by the state that the bundle begins with."""
    canaries = bundles.read_canaries(bundle)
    if not len(canaries.y):
        return bundle.manifest.canaries.accuracy
    preprocess, method = Preprocess(bundle.manifest.input), bundle.manifest.method("infer")
    right = 0
    with Programs(bundle) as programs:
        for start in range(0, len(canaries.y), method.batch):
            places = np.arange(start, min(start + method.batch, len(canaries.y)))
            filled = np.resize(places, method.batch)
            x = preprocess.batch([preprocess.check(canaries.x[place]) for place in filled])
            logits = programs.call(method, theta=built.theta, x=x)["logits"][: len(places)]
            right += int((logits.argmax(1) == canaries.y[places]).sum())
    return right / len(canaries.y)
