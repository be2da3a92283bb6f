"""Memory of the whole running command, and of one large step, beside what PyTorch needs for the same."""

import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import cases
import children
import data
import models
import msgspec
import numpy as np
import peers
import results
import torch
from process import Memory
from torch import Tensor, nn

from export.build import build

SAMPLES: Final = 1000
"""Of `gaussian_noise`, for the running command: 62 updates of 16."""
COMMAND_BATCH: Final = 16

WIDE_BATCH: Final = 64
WIDE: Final = (
    ("ecotta-frozen", 1, False),
    ("ecotta-frozen", 3, False),
    ("ecotta-frozen", 3, True),
    ("ecotta", 3, False),
)
"""Learner, size of its meta convolutions, whether to recompute."""


RUN_MOST: Final = 80_000_000
RUN_AIM: Final = 64_000_000
WIDE_MOST: Final = 140_000_000
WIDE_AIM: Final = 100_000_000


class Command(msgspec.Struct, frozen=True):
    """`edgecl run` from start to end: answers, updates in the background, journal and checkpoints."""

    precision: str
    process: Memory
    said: str
    """What it counted, in its own words; its times are no matter of this page."""


class Wide(msgspec.Struct, frozen=True):
    """`adapt` on WRN-40-2 with four partitions, batch 64."""

    learner: str
    kernel: int
    recompute: bool
    """Whether arithmetic is done twice to keep less, as a build does that would pass its budget."""
    estimated_bytes: int
    workspace_bytes: int
    process: Memory


class Kept(msgspec.Struct, frozen=True):
    """What autograd keeps between the forward pass and the backward pass, parameters not counted."""

    what: str
    bytes: int


class Found(msgspec.Struct, frozen=True):
    """All of it."""

    commands: list[Command]
    torch: Memory
    """A process that does the work of the commands in PyTorch eager."""
    wide: list[Wide]
    kept: list[Kept]
    wide_torch: Memory


def run() -> Found:
    """Measure everything."""
    return Found(
        commands=[_command(precision) for precision in cases.PRECISIONS],
        torch=children.of_torch("resnet20", "ecotta", 1, COMMAND_BATCH),
        wide=[_wide(*given) for given in WIDE],
        kept=_kept(),
        wide_torch=children.of_torch("wrn40_2", "ecotta-frozen", 3, WIDE_BATCH),
    )


def _command(precision: str) -> Command:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        project = cases.project("resnet20", "ecotta", precision, batch=COMMAND_BATCH, epochs=1)
        build(project, folder / "bundle.ecl").bundle.close()
        x, y = data.corrupted("gaussian_noise")
        np.savez(folder / "stream.npz", x=x[:SAMPLES], y=y[:SAMPLES])
        words = [sys.executable, "-m", "edgecl", "run", str(folder / "bundle.ecl")]
        process, said = children.of_command(
            [*words, "--source", f"npz:{folder / 'stream.npz'}", "--state", str(folder / "state")]
        )
        told = [" ".join(line.split()) for line in said.splitlines() if line.startswith(("updates", "memory"))]
        return Command(precision, process, "; ".join(told))


def _wide(learner: str, kernel: int, recompute: bool) -> Wide:
    own, source = cases.learner_of(cases.project("wrn40_2", learner, "float", kernel=kernel, epochs=0))
    x, adapt = source.inputs(source.spread_out(WIDE_BATCH)), f"adapt_b{WIDE_BATCH}"
    made = cases.compiled(own, x, [("infer", 1), ("adapt", WIDE_BATCH)], recompute=recompute)
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "program.pte"
        program.write_bytes(made.pte)
        cost = children.costs(program, list(made.methods))[adapt]
        process = children.of_program(program, list(made.methods))
    return Wide(learner, kernel, recompute, made.estimates[adapt].workspace_bytes, cost.workspace_bytes, process)


def _kept() -> list[Kept]:
    """For the entropy of one batch, on WRN-40-2 as its authors wrote it."""
    x = torch.randn(WIDE_BATCH, 3, 32, 32)
    everything = models.wrn40_2().train()
    affine = models.wrn40_2().train().requires_grad_(False)
    for module in affine.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(True)
    frozen = models.wrn40_2().requires_grad_(False)
    metas = peers.Metas(frozen, 3).train()

    def ecotta() -> Tensor:
        entered = frozen.stem(x)
        for partition, meta in zip(frozen.partitions(), metas.parts, strict=True):
            entered = meta(entered, partition(entered))
        return frozen.head(entered)

    return [
        Kept("all parameters trained", _kept_bytes([everything], lambda: everything(x))),
        Kept("TENT", _kept_bytes([affine], lambda: affine(x))),
        Kept("EcoTTA, K = 4, meta convolutions 3×3", _kept_bytes([frozen, metas], ecotta)),
    ]


def _kept_bytes(owners: list[nn.Module], forward: Callable[[], Tensor]) -> int:
    """Bytes of the storages that autograd keeps for the backward pass of the mean entropy."""
    own = {
        tensor.untyped_storage().data_ptr() for owner in owners for tensor in (*owner.parameters(), *owner.buffers())
    }
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = peers.entropy(forward()).mean()
    assert math.isfinite(loss.item()) and loss.requires_grad  # the graph, and all that it keeps, lives until here
    return sum(seen.values())


def render(found: Found) -> list[str]:
    """What was found, as Markdown."""
    best = min(wide.workspace_bytes for wide in found.wide)
    running = next(command.process for command in found.commands if command.precision == "float").peak_bytes
    targets = [
        ("edgecl run, float, peak", RUN_MOST, running),
        ("edgecl run, float, peak: aim", RUN_AIM, running),
        ("WRN-40-2, least workspace of adapt", WIDE_MOST, best),
        ("WRN-40-2, least workspace of adapt: aim", WIDE_AIM, best),
    ]
    lines = [
        [what, f"{most / 1e6:.0f}", f"{have / 1e6:.1f}", results.verdict(have <= most)] for what, most, have in targets
    ]
    return [
        "MB (10^6 bytes).",
        f"## `edgecl run`: ResNet-20, ecotta, batch {COMMAND_BATCH}, {SAMPLES} samples, journal and checkpoints",
        results.table(
            ["whole process", "resident at the end", "peak"],
            [
                *([f"edgecl, {command.precision}", *_mbs(command.process)] for command in found.commands),
                ["PyTorch eager (no journal)", *_mbs(found.torch)],
            ],
        ),
        "\n".join(f"- edgecl, {command.precision}: {command.said}" for command in found.commands),
        f"## WRN-40-2, EcoTTA with K = 4, batch {WIDE_BATCH}: compiled `adapt`",
        results.table(
            ["", "workspace, estimated", "workspace, measured", "whole process, resident", "whole process, peak"],
            [
                *(
                    [
                        f"{wide.learner} {wide.kernel}×{wide.kernel}{', recomputing' * wide.recompute}",
                        f"{wide.estimated_bytes / 1e6:.1f}",
                        f"{wide.workspace_bytes / 1e6:.1f}",
                        *_mbs(wide.process),
                    ]
                    for wide in found.wide
                ),
                ["PyTorch eager, ecotta-frozen 3×3", "", "", *_mbs(found.wide_torch)],
            ],
        ),
        "## WRN-40-2, batch 64: what autograd keeps for the backward pass of the entropy",
        "Unique storages behind `torch.autograd.graph.saved_tensors_hooks`, without parameters and buffers.",
        results.table(["", "kept"], [[kept.what, f"{kept.bytes / 1e6:.1f}"] for kept in found.kept]),
        "## Targets",
        results.table(["MB", "at most", "found", ""], lines),
    ]


def _mbs(memory: Memory) -> list[str]:
    return [f"{memory.resident_bytes / 1e6:.1f}", f"{memory.peak_bytes / 1e6:.1f}"]
