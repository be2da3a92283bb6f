"""Reads a manifest, and refuses one that contradicts itself: what follows a reader may rely on."""

import re
from typing import Final

import msgspec

from edgecl.errors import BundleError
from edgecl.manifest import MAX_ELEMENTS, MAX_MANIFEST_BYTES, SCHEMA, Layout, Manifest, Method, Tensor, signature

_PLAIN_PATH: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")


def decode(data: bytes, where: str = "manifest.json") -> Manifest:
    """Read and check a manifest.

    Raises BundleError: not JSON, a missing, unknown or ill-typed field, a schema this edgecl does not know, or fields
    that contradict each other (pieces that overlap, a method whose shapes do not fit the state layout).
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise BundleError(
            f"{where}: {len(data)} bytes, more than the limit of {MAX_MANIFEST_BYTES}; rebuild the bundle"
        )
    try:
        schema = msgspec.json.decode(data, type=_Schema).schema
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{where}: not a manifest: {error}; rebuild the bundle") from None
    if schema != SCHEMA:
        raise BundleError(f"{where}: schema {schema}, this edgecl reads schema {SCHEMA}; upgrade edgecl or rebuild")
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{where}: {error}; rebuild the bundle") from None
    for problem in _contradictions(manifest):
        raise BundleError(f"{where}: {problem}; rebuild the bundle")
    return manifest


class _Schema(msgspec.Struct):
    schema: int


def _contradictions(m: Manifest) -> list[str]:
    """What is wrong with a manifest that has the right fields and types."""
    if m.input.kind == "image" and len(m.input.shape) != 3:
        return [f"input.shape: {list(m.input.shape)} is not height, width, channels"]
    problems: list[str] = []
    for layout in (m.layout, *(form.layout for form in m.forms)):
        problems += _wrong_layout(layout)
    if m.forms and (m.forms[0].layout, m.forms[0].trained) != (m.layout, m.learner.trained):
        problems.append("forms: the first one is not that of layout and learner")
    if len(m.forms) == 1 or len({form.name for form in m.forms}) != len(m.forms):
        problems.append("forms: one alone, or a name stands twice")
    if len({form.layout.digest for form in m.forms}) != len(m.forms):
        problems.append("forms: two have the same layout")
    if len({method.name for method in m.methods}) != len(m.methods):
        problems.append("methods: a name stands twice")
    for name in m.layouts:
        if not any((method.kind, method.batch, method.form) == ("infer", 1, name) for method in m.methods):
            problems.append("methods: none infers one sample" + (f" of form {name}" if name else ""))
    for method in m.methods:
        problems += [f"methods.{method.name}: {p}" for p in _wrong_shapes(m, method)]
    if len({file.path for file in m.files}) != len(m.files):
        problems.append("files: a path stands twice")
    for file in m.files:
        if not _PLAIN_PATH.fullmatch(file.path) or ".." in file.path.split("/"):
            problems.append(f"files: {file.path!r} is not a plain relative path")
    channels = m.input.shape[-1:] if m.input.kind == "image" else m.input.shape[:1]
    if not (len(m.input.scale) == len(m.input.shift) == (channels[0] if channels else 1)):
        problems.append(
            f"input: {len(m.input.scale)} scales and {len(m.input.shift)} shifts for shape {list(m.input.shape)}"
        )
    if len(m.classes) < 2:
        problems.append(f"classes: {len(m.classes)}, a classifier has two or more")
    if sum(tap.channels for tap in m.taps) != m.features:
        problems.append(f"taps: {sum(tap.channels for tap in m.taps)} channels, features says {m.features}")
    if m.detector and not m.features:
        problems.append("detector: there are no taps for it to look at")
    if m.router and not m.features:
        problems.append("router: there are no taps for it to look at")
    if m.head and not m.router:
        problems.append("head: there is no router to whiten the taps for it")
    if m.min_version > m.version:
        problems.append(f"min_version {m.min_version} is above version {m.version}")
    return problems


def _wrong_layout(layout: Layout) -> list[str]:
    problems: list[str] = []
    for kind, pieces in (("theta", layout.theta), ("slots", layout.slots)):
        end = 0
        for piece in pieces:
            if piece.offset != end:
                problems.append(f"layout.{kind}.{piece.name}: offset {piece.offset}, the piece before ends at {end}")
            end += piece.size
        if len({piece.name for piece in pieces}) != len(pieces):
            problems.append(f"layout.{kind}: a name stands twice")
    for vector in (layout.theta_size, layout.slots_size):
        if vector > MAX_ELEMENTS:
            problems.append(f"layout: a vector of {vector} elements")
    return problems


def _wrong_shapes(m: Manifest, method: Method) -> list[str]:
    problems: list[str] = []
    if method.form not in m.layouts:
        return [f"there is no form {method.form}"]
    for side, have, want in zip(
        ("inputs", "outputs"),
        (method.inputs, method.outputs),
        signature(m, method.kind, method.batch, method.form),
        strict=True,
    ):
        if have != want:
            problems.append(f"{side} {_shown(have)} where {_shown(want)} is needed")
    return problems


def _shown(tensors: tuple[Tensor, ...]) -> str:
    return "(" + ", ".join(f"{t.name} {t.dtype}{list(t.shape)}" for t in tensors) + ")"
