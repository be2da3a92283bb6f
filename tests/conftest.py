"""A tiny bundle, built by hand, that several tests open, damage and lie about."""

import msgspec
import numpy as np
import pytest
import safetensors.numpy

from edgecl import state
from edgecl.manifest import (
    Canaries,
    Guard,
    Hyper,
    Input,
    Kind,
    Layout,
    Learner,
    Manifest,
    Memory,
    Method,
    Piece,
    Requires,
    signature,
)


def _method(manifest: Manifest, kind: Kind, batch: int) -> Method:
    inputs, outputs = signature(manifest, kind, batch)
    memory = Memory(estimated_bytes=4096, weights_bytes=2048, workspace_bytes=1024, planned_bytes=512)
    return Method(
        name=f"{kind}_b{batch}",
        kind=kind,
        batch=batch,
        inputs=inputs,
        outputs=outputs,
        memory=memory,
        delegates=1,
        outside=(),
    )


def _manifest() -> Manifest:
    empty = Manifest(
        schema=1,
        name="tiny",
        lineage="tiny",
        version=3,
        min_version=1,
        requires=Requires(edgecl="0.1.0", engine="executorch 1.5.1", arch=("x86_64", "aarch64"), memory_bytes=1 << 20),
        learner=Learner(
            name="ecotta",
            hyper=(Hyper(name="rate", value=0.001),),
            report=("loss", "entropy"),
            noise=0,
            trains=False,
            adapts=True,
        ),
        classes=("cat", "dog", "owl"),
        input=Input(kind="image", shape=(4, 4, 3), scale=(0.1, 0.1, 0.1), shift=(0.0, 0.0, 0.0)),
        layout=Layout(
            theta=(Piece(name="a", shape=(2, 3), offset=0), Piece(name="b", shape=(5,), offset=6)),
            slots=(Piece(name="m", shape=(2,), offset=0),),
        ),
        methods=(),
        features=7,
        guard=Guard(canary_every=10, canary_floor=0.5, entropy_floor=0.1, window=64),
        canaries=Canaries(count=4, accuracy=0.75),
        memory_budget_bytes=64 << 20,
        learned="carry",
        built_with=(("edgecl", "0.1.0"),),
        files=(),
    )
    methods = (_method(empty, "infer", 1), _method(empty, "infer", 2), _method(empty, "adapt", 2))
    return msgspec.structs.replace(empty, methods=methods)


@pytest.fixture
def tiny_manifest() -> Manifest:
    """Three methods, eleven numbers of theta, two of slots, four canaries; no files yet."""
    return _manifest()


@pytest.fixture
def tiny_files(tiny_manifest: Manifest) -> dict[str, bytes]:
    """Files that fit the tiny manifest; the program is arbitrary bytes."""
    manifest, random = tiny_manifest, np.random.default_rng(7)
    vectors = {
        f"{method.name}/{side}/{tensor.name}": random.standard_normal(tensor.shape).astype(np.float32)
        for method in manifest.methods
        for side, tensors in (("in", method.inputs), ("out", method.outputs))
        for tensor in tensors
    }
    canaries = {"x": random.integers(0, 256, (4, 4, 4, 3), dtype=np.uint8), "y": np.array([0, 1, 2, 1])}
    theta, slots = (random.standard_normal(n).astype(np.float32) for n in (11, 2))
    return {
        "program.pte": random.bytes(700),
        "state.safetensors": state.dump(state.State(manifest.layout, theta, slots)),
        "vectors.safetensors": safetensors.numpy.save(vectors),
        "canaries.safetensors": safetensors.numpy.save(canaries),
        "detector.safetensors": safetensors.numpy.save({"prototypes": theta.reshape(1, 11), "seed": np.array([7])}),
        "onnx/infer_b1.onnx": b"never looked into",
    }
