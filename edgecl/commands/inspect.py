"""`edgecl inspect`: what a bundle is, what it needs, and what is in it."""

from pathlib import Path

import click
import msgspec

from edgecl import keys, signed
from edgecl.bundle import Bundle, open_bundle
from edgecl.commands.table import aligned
from edgecl.errors import BundleError
from edgecl.manifest import Manifest, Method


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--pieces", is_flag=True, help="Name every piece of theta and slots.")
@click.option("--json", "as_json", is_flag=True, help="Print the id and the manifest as one JSON object.")
def inspect(bundle: Path, pieces: bool, as_json: bool) -> None:
    """Show what a bundle is and what it needs.

    Sizes, digests and contents of all files are checked; the program is not run. A signature is verified where you have
    the key that it names (edgecl keys list).
    """
    with open_bundle(bundle) as opened:
        try:
            told, problem = signed.tell(opened, keys.known(keys.folder())), ""
        except BundleError as error:  # to look at what is wrong is what this is for
            told, problem = signed.Told(signed=True), str(error).removeprefix(f"{bundle}: ")
        if as_json:
            shown = {"id": opened.id, "signature": told, "problem": problem, "manifest": opened.manifest}
            print(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode())
        else:
            print(_text(opened, f"wrong: {problem}" if problem else str(told), pieces=pieces))


def _text(bundle: Bundle, signature: str, *, pieces: bool) -> str:
    m = bundle.manifest
    blocks = [aligned(_facts(bundle, signature)), _methods(m.methods), _layout(m, pieces=pieces)]
    blocks.append(aligned([("file", "bytes", "sha256"), *((f.path, str(f.bytes), f.sha256) for f in m.files)]))
    return "\n\n".join(blocks)


def _facts(bundle: Bundle, signature: str) -> list[tuple[str, str]]:
    m = bundle.manifest
    hyper = ", ".join(f"{hyper.name}={hyper.value:g}" for hyper in m.learner.hyper) or "none"
    arch = " or ".join(m.requires.arch) or "any processor"
    how = [word for word, true in (("adapts", m.learner.adapts), ("learns from labels", m.learner.trains)) if true]
    canaries = (
        f"every {m.guard.canary_every} updates, floor {m.guard.canary_floor:.3f}" if m.guard.canary_every else "never"
    )
    return [
        ("bundle", f"{m.name} version {m.version} (not below {m.min_version}), lineage {m.lineage}"),
        ("id", bundle.id),
        ("signature", signature),
        ("learner", f"{m.learner.name}: {' and '.join(how) or 'only answers'}"),
        ("hyper", hyper),
        ("input", f"{m.input.kind} {_shape(m.input.shape)}"),
        ("classes", f"{len(m.classes)}: {_few(m.classes)}"),
        ("canaries", f"{m.canaries.count}, {m.canaries.accuracy:.1%} right as built; checked {canaries}"),
        ("novelty", _novelty(m)),
        ("domains", _domains(m)),
        ("head", f"{m.head.form}, taught by labels" if m.head else "none: labels teach the program alone"),
        *([("forms", ", ".join(form.name for form in m.forms))] if m.forms else []),
        ("collapse", f"below {m.guard.entropy_floor:g} nats over {m.guard.window} answers"),
        ("budget", _mb(m.memory_budget_bytes) if m.memory_budget_bytes else "none"),
        ("requires", f"edgecl {m.requires.edgecl}, {m.requires.engine}, {arch}, {_mb(m.requires.memory_bytes)}"),
        ("when replaced", f"{m.learned} what was learned"),
        ("built with", ", ".join(f"{name} {version}" for name, version in m.built_with)),
    ]  # fmt: skip


def _novelty(m: Manifest) -> str:
    taps = ", ".join(f"{tap.name} {tap.channels}" for tap in m.taps)
    if not m.detector:
        return f"not detected{f'; taps {taps}' if taps else ', there are no taps'}"
    found = m.detector
    form = "1 bit" if found.form == "bits" else "float32"
    return f"below similarity {found.calibration.threshold:.3f}, {found.dimensions} dimensions of {form}; taps {taps}"


def _domains(m: Manifest) -> str:
    if not m.router:
        return "one, there are no taps to tell others by"
    kept = f"{m.router.domains} at most, then {'merged' if m.router.full == 'merge' else 'refused'}"
    return (
        f"{kept if m.router.domains > 1 else 'one state follows the stream'}; signatures of {m.router.dimensions} bits"
    )


def _methods(methods: tuple[Method, ...]) -> str:
    rows = [["method", "batch", "weights", "workspace", "planned", "estimated", "delegates", "outside"]]
    for method in methods:
        memory = method.memory
        sizes = (memory.weights_bytes, memory.workspace_bytes, memory.planned_bytes, memory.estimated_bytes)
        outside = ", ".join(method.outside) or "nothing"
        rows.append([method.name, str(method.batch), *map(_mb, sizes), str(method.delegates), outside])
    return aligned(rows)


def _layout(m: Manifest, *, pieces: bool) -> str:
    rows = [("state", "shape", "numbers", "")] if pieces else [("state", "pieces", "numbers", "by gradients")]
    for vector, parts in (("theta", m.layout.theta), ("slots", m.layout.slots)):
        trained = [part for part in parts if vector == "theta" and part.name in m.learner.trained]
        if pieces:
            for part in parts:
                note = "by gradients" if part in trained else ""
                rows.append((f"{vector}.{part.name}", _shape(part.shape), str(part.size), note))
        else:
            size, gradients = sum(part.size for part in parts), sum(part.size for part in trained)
            rows.append((vector, str(len(parts)), str(size), str(gradients)))
    total = m.layout.theta_size + m.layout.slots_size
    return f"{aligned(rows)}\n{4 * total} bytes, layout {m.layout.digest}"


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "1"


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


def _mb(size: int) -> str:
    return f"{size / 1e6:.2f} MB"
