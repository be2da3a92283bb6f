"""A tiny bundle with arbitrary bytes for a program, real programs, and bundles that really run."""

import fcntl
import hashlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy

from edgecl import bundle, head, state
from edgecl import detector as fits
from edgecl.engine import open_program
from edgecl.manifest import (
    Calibration,
    Canaries,
    Detector,
    Guard,
    Head,
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
    Router,
    Tap,
    signature,
)
from edgecl.whitening import Whitening
from export import router as routers

# Whoever starts tests in the background has them ignore it, and so would all processes that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

BUILDER = Path(__file__).parent / "edgecl" / "build_programs.py"
PACKAGES = ("torch", "executorch", "onnx", "onnxscript")

MakeBundle = Callable[..., Path]


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


ALL_PASS = Calibration(threshold=-1.0, mean=-1.0, deviation=0.125, drift=8.0)
DETECTOR = Detector(form="bits", dimensions=64, seed=7, calibration=ALL_PASS)
"""To which nothing is novel."""


def detector(features: int, classes: int) -> bytes:
    """The file of DETECTOR."""
    random = np.random.default_rng(5)
    mean, scale = random.random(features, np.float32), 0.5 + random.random(features, np.float32)
    return fits.dump(fits.Fit(mean, scale, random.integers(0, 256, (classes, 8), np.uint8)))


ROUTER = Router(dimensions=64, seed=3, domains=1, full="merge", calibration=ALL_PASS)


def router(widths: tuple[int, ...]) -> bytes:
    """A file for ROUTER, of a whitening that changes nothing."""
    identity = Whitening(np.zeros(sum(widths), np.float32), tuple(np.eye(width, dtype=np.float32) for width in widths))
    return routers.dump(routers.Made(ROUTER, identity, np.arange(8, dtype=np.uint8)))


def sums(white: npt.NDArray[Any], labels: npt.NDArray[Any]) -> bytes:
    """A head that has summed whitened features [n, F] with their labels."""
    classes = int(labels.max()) + 1
    return head.dump(head.HEADS["lda"].empty(white.shape[1], classes, 0).add(white, labels))


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
        forms=(),
        methods=(),
        features=7,
        taps=(Tap(name="layer1", channels=3), Tap(name="layer2:in", channels=4)),
        detector=DETECTOR,
        router=ROUTER,
        head=Head(form="lda", seed=0),
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
        "detector.safetensors": detector(7, 3),
        "router.safetensors": router((3, 4)),
        "head.safetensors": sums(random.standard_normal((9, 7)), np.arange(9) % 3),
        "onnx/infer_b1.onnx": b"never looked into",
    }


@pytest.fixture(scope="session")
def programs(pytestconfig: pytest.Config) -> Path:
    """The folder that `build_programs.py` fills, kept in pytest's cache while the builder and its packages stay."""
    try:
        versions = "".join(version(package) for package in PACKAGES)
    except PackageNotFoundError as error:
        pytest.skip(f"{error}; pip install 'edgecl[export]' to build the programs")
    key = hashlib.sha256(BUILDER.read_bytes() + versions.encode()).hexdigest()[:16]
    assert pytestconfig.cache is not None
    home = pytestconfig.cache.mkdir("programs")
    with open(home / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several workers of pytest-xdist may want them at once
        folder = home / key
        if not folder.exists():
            shutil.rmtree(building := home / "building", ignore_errors=True)
            building.mkdir()
            built = subprocess.run([sys.executable, BUILDER, building], capture_output=True, text=True)
            assert built.returncode == 0, built.stderr
            building.rename(folder)
    return folder


@pytest.fixture(scope="session")
def make_bundle(programs: Path) -> MakeBundle:
    """Makes a bundle of `looped.pte`, which runs: `make_bundle(destination, **changes of its manifest)`.

    Four classes, images of 8 x 8, batches of four. `damage` changes the bytes of the program and `expected` a tensor of
    its self-test; with `trained=()` the guard has no use for canaries. Its source is images of noise.
    """
    with np.load(programs / "looped.npz") as file:
        vectors = dict(file)
    theta, slots = vectors["adapt_b4.in.0"], vectors["adapt_b4.in.1"]
    source = _source(programs, theta)
    plain = Manifest(
        schema=1,
        name="looped",
        lineage="looped",
        version=1,
        min_version=1,
        requires=Requires(edgecl="0.1.0", engine="executorch 1.5.1", arch=(), memory_bytes=1 << 20),
        learner=Learner(
            name="faulty",
            hyper=tuple(
                Hyper(name=name, value=value)
                for name, value in (("rate", 0.001), ("shrink", 0), ("poison", 0), ("step", 1))
            ),
            report=("sum",),
            noise=theta.size,
            trains=True,
            adapts=True,
            trained=("head",),
        ),
        classes=("cat", "dog", "owl", "yak"),
        input=Input(kind="image", shape=(8, 8, 3), scale=(0.02,) * 3, shift=(-2.5,) * 3),
        layout=Layout(
            theta=(Piece(name="head", shape=(8, 4), offset=0),), slots=(Piece(name="mean", shape=(8, 4), offset=0),)
        ),
        forms=(),
        methods=(),
        features=8,
        taps=(Tap(name="layer1", channels=8),),
        detector=DETECTOR,
        router=source.made.record,
        head=Head(form="lda", seed=0),
        guard=Guard(canary_every=0, canary_floor=0.0, entropy_floor=0.0, window=16),
        canaries=Canaries(count=8, accuracy=0.5),
        memory_budget_bytes=0,
        learned="carry",
        built_with=(("edgecl", "0.1.0"),),
        files=(),
    )
    random = np.random.default_rng(3)

    def make(
        destination: Path,
        *,
        methods: tuple[str, ...] = ("infer_b1", "infer_b4", "adapt_b4", "learn_b4"),
        damage: Callable[[bytes], bytes] = bytes,
        expected: Mapping[str, Callable[[Any], Any]] = {},
        canary_count: int = 8,
        onnx: bool = False,
        trained: tuple[str, ...] = ("head",),
        **changes: Any,
    ) -> Path:
        kinds: dict[str, Kind] = {"infer_b1": "infer", "infer_b4": "infer", "adapt_b4": "adapt", "learn_b4": "learn"}
        learner = msgspec.structs.replace(plain.learner, trained=trained)
        canaries = Canaries(count=canary_count, accuracy=0.5)
        given = msgspec.structs.replace(plain, learner=learner, canaries=canaries, **changes)
        given = msgspec.structs.replace(given, methods=tuple(_method(given, kinds[m], int(m[-1])) for m in methods))
        x_shape = (canary_count, *given.input.shape)
        image = given.input.kind == "image"
        x = random.integers(0, 256, x_shape, dtype=np.uint8) if image else random.random(x_shape, dtype=np.float32)
        files = {
            **({"detector.safetensors": detector(given.features, len(given.classes))} if given.detector else {}),
            **({"router.safetensors": routers.dump(source.made)} if given.router else {}),
            **({"head.safetensors": sums(source.white, source.labels)} if given.head else {}),
            "program.pte": damage((programs / "looped.pte").read_bytes()),
            "state.safetensors": state.dump(state.State(given.layout, theta, slots)),
            "canaries.safetensors": safetensors.numpy.save({"x": x, "y": random.integers(0, 4, canary_count)}),
            "vectors.safetensors": safetensors.numpy.save(
                {
                    (name := f"{method.name}/{side}/{tensor.name}"): expected.get(name, np.asarray)(
                        vectors[f"{method.name}.{side}.{place}"]
                    )
                    for method in given.methods
                    for side, tensors in (("in", method.inputs), ("out", method.outputs))
                    for place, tensor in enumerate(tensors)
                }
            ),
        }
        if onnx:
            files |= {f"onnx/{name}.onnx": (programs / "looped" / f"{name}.onnx").read_bytes() for name in methods}
        bundle.write(given, files, destination).close()
        return destination

    return make


@dataclass(frozen=True)
class Source:
    """What the looped bundle knows of images of noise, by the taps of `looped.pte` as built."""

    made: routers.Made
    white: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


def _source(programs: Path, theta: Any) -> Source:
    noise = np.random.default_rng(11).integers(0, 256, (600, 8, 8, 3)).astype(np.float32)
    x = np.ascontiguousarray((noise * np.float32(0.02) + np.float32(-2.5)).transpose(0, 3, 1, 2))
    program = open_program(programs / "looped.pte", methods=["infer_b1"])
    taps = np.concatenate([program.execute("infer_b1", [theta, one[None]])[1] for one in x])
    program.close()
    made = routers.fit([taps[:400]], [taps[400:]], [8], dimensions=1024, seed=0, domains=1, full="merge")
    return Source(made, made.whitening(taps), np.arange(600) % 4)


@pytest.fixture(scope="session")
def looped(make_bundle: MakeBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle that `make_bundle` makes without changes, as an archive."""
    return make_bundle(tmp_path_factory.mktemp("bundles") / "looped.ecl")
