"""What a bundle says of itself: methods, shapes, state layout, memory plan, requirements.

`manifest.json` is UTF-8 JSON with the fields of `Manifest` in this order and no others; arrays keep their order. The
identity of a bundle is the sha256 of these bytes, so the encoding is fixed: two-space indentation, one final newline.
"""

import hashlib
import math
from collections.abc import Mapping
from typing import Annotated, Final, Literal

import msgspec

from edgecl.errors import BundleError

MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "signature.json"
"""Signs the manifest and the files that it lists, so the manifest cannot list it: `edgecl/oms.py`."""

SCHEMA: Final = 1
MAX_MANIFEST_BYTES: Final = 4 << 20
"""A manifest lists files and pieces of state; the largest built so far is under 100 KB."""

MAX_SIGNATURE_BYTES: Final = 64 << 10
"""A signature has about 250 bytes for each file of the bundle."""

MAX_ELEMENTS: Final = 1 << 31
"""No tensor of a bundle has more elements: a manifest that says so lies."""

MAX_RANK: Final = 8
"""Dimensions of a tensor. With the limits below it keeps checking a hostile manifest within a second."""

MAX_METHODS: Final = 64
MAX_PIECES: Final = 4096
MAX_FILES: Final = 256
MAX_DOMAINS: Final = 1024

Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")]  # not $, which lets a newline follow
Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Size = Annotated[int, msgspec.Meta(ge=0, le=1 << 46)]
Dimension = Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]
Shape = Annotated[tuple[Dimension, ...], msgspec.Meta(max_length=MAX_RANK)]
Dtype = Literal["float32", "int64", "int32", "uint8", "bool"]
Kind = Literal["infer", "adapt", "learn", "score"]


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A frozen record of the manifest; an unknown field is an error."""


class Tensor(Record, frozen=True):
    """One input or output of a method."""

    name: Name
    dtype: Dtype
    shape: Shape


class Memory(Record, frozen=True):
    """Bytes that one method needs, estimated from its graph and measured where the bundle was built."""

    estimated_bytes: Size
    """Packed weights and live activations at the worst moment, from the graph."""
    weights_bytes: Size
    """Heap that loading the method took, measured, in steps of an eighth of the estimate."""
    workspace_bytes: Size
    """Heap that its first execution took and kept, measured likewise."""
    planned_bytes: Size
    """Buffers that ExecuTorch planned ahead of time."""


class Method(Record, frozen=True):
    """A named entry of the program."""

    name: Name
    kind: Kind
    batch: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    memory: Memory
    delegates: int
    """Delegate calls in the method; one, unless the learner accepts operators outside."""
    outside: tuple[str, ...]
    """Operators that stayed outside the delegate, by name."""
    form: str = ""
    """The form that it runs; empty for the first."""


class Piece(Record, frozen=True):
    """A named part of a state vector."""

    name: Name
    shape: Shape
    offset: Size

    @property
    def size(self) -> int:
        """Elements of the piece."""
        return math.prod(self.shape)


class Layout(Record, frozen=True):
    """How theta and slots, each one flat float32 vector, divide into named pieces."""

    theta: Annotated[tuple[Piece, ...], msgspec.Meta(max_length=MAX_PIECES)]
    slots: Annotated[tuple[Piece, ...], msgspec.Meta(max_length=MAX_PIECES)]

    @property
    def theta_size(self) -> int:
        """Elements of theta."""
        return sum(piece.size for piece in self.theta)

    @property
    def slots_size(self) -> int:
        """Elements of slots."""
        return sum(piece.size for piece in self.slots)

    @property
    def digest(self) -> str:
        """sha256 of the layout: states move only between bundles that agree on it."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()


class Input(Record, frozen=True):
    """What one sample is before preprocessing, and how it becomes the program's float input.

    `image`: uint8 [height, width, channel], shape given as such; the program's input is float32 [channel, height,
    width] = pixel * scale[channel] + shift[channel]. `vector`: float32 of any shape, value * scale + shift along the
    first axis.
    """

    kind: Literal["image", "vector"]
    shape: Shape
    scale: tuple[float, ...]
    shift: tuple[float, ...]


class Hyper(Record, frozen=True):
    """A number that the learner takes at every step, and its value unless the user gives another."""

    name: Name
    value: float


class Learner(Record, frozen=True):
    """The learner compiled into the program."""

    name: Name
    hyper: tuple[Hyper, ...]
    report: tuple[Name, ...]
    """Names of the numbers in a step's report."""
    noise: Dimension
    """N, the random numbers a step takes."""
    trains: bool
    """Whether it has a `learn` method."""
    adapts: bool
    """Whether it has an `adapt` method."""
    trained: tuple[Name, ...] = ()
    """Pieces of theta that gradients change; the canaries are answered with these, and all else as built."""


class Form(Record, frozen=True):
    """One form of a learner: what a domain's state may be. edgecl/forms.py chooses among several."""

    name: Name
    layout: Layout
    trained: tuple[Name, ...]
    gates: Dimension
    """K, inputs of activations that `score` tells."""


class Guard(Record, frozen=True):
    """When the loop refuses a step or takes the state back. See docs/guide/guard.md."""

    canary_every: Annotated[int, msgspec.Meta(ge=0)]
    """Updates between two canary checks; 0 for none."""
    canary_floor: float
    """Canary accuracy, 0 to 1, under which the state is rolled back."""
    entropy_floor: float
    """Entropy, in nats, of the class shares among recent predictions under which the learner counts as collapsed."""
    window: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
    """Recent predictions that the entropy is taken over."""


class Requires(Record, frozen=True):
    """What a board must have."""

    edgecl: str
    engine: str
    arch: tuple[str, ...]
    memory_bytes: Size
    """Resident bytes of the whole process that the build measured or estimated."""


class Canaries(Record, frozen=True):
    """Labelled source samples kept in the bundle."""

    count: Size
    accuracy: float
    """Accuracy of the state as built, measured at build time the way the guard measures it."""


class Tap(Record, frozen=True):
    """A place in the network whose channels, averaged over the image, are part of `taps`."""

    name: str
    channels: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]


class Calibration(Record, frozen=True):
    """What similarities are like among samples that belong, and from where on they do not."""

    threshold: float
    """Similarity below which a sample is novel: one in twenty of those that belong is below."""
    mean: float
    deviation: Annotated[float, msgspec.Meta(gt=0)]
    """Standard deviation."""
    drift: Annotated[float, msgspec.Meta(gt=0)]
    """Limit of the sum of deviations above which the stream has shifted: edgecl/shift.py."""


class Detector(Record, frozen=True):
    """How inputs unlike the source are told: edgecl/detector.py. What it knows is in `detector.safetensors`."""

    form: Literal["bits", "full"]
    """One bit a dimension, or float32."""
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
    """D, of a hypervector."""
    seed: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
    """The projection is made from it."""
    calibration: Calibration


class Router(Record, frozen=True):
    """How domains are told apart and kept: edgecl/router.py. What it knows is in `router.safetensors`."""

    dimensions: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
    """D, of a signature."""
    seed: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 2)]
    domains: Annotated[int, msgspec.Meta(ge=1, le=MAX_DOMAINS)]
    """That are kept at most, the source among them; 1 for no routing."""
    full: Literal["merge", "refuse"]
    """What becomes of one more."""
    calibration: Calibration
    """Of the source."""


class Head(Record, frozen=True):
    """The head without gradients that labels teach: edgecl/head.py. Source sums are in `head.safetensors`."""

    form: Literal["lda", "ridge"]
    seed: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
    """Of the random features of `ridge`."""


class File(Record, frozen=True):
    """A file of the bundle."""

    path: str
    bytes: Size
    sha256: Digest


class Manifest(Record, frozen=True):
    """The whole of `manifest.json`."""

    schema: int
    name: Name
    lineage: Name
    version: Annotated[int, msgspec.Meta(ge=0)]
    min_version: Annotated[int, msgspec.Meta(ge=0)]
    requires: Requires
    learner: Learner
    classes: tuple[str, ...]
    input: Input
    layout: Layout
    """Of the first form."""
    forms: tuple[Form, ...]
    """All of them, where there are several; the first answers until another is chosen."""
    methods: Annotated[tuple[Method, ...], msgspec.Meta(max_length=MAX_METHODS)]
    features: Dimension
    """F, the width of `taps`."""
    taps: tuple[Tap, ...]
    """What `taps` is made of, in order."""
    detector: Detector | None
    router: Router | None
    head: Head | None
    guard: Guard
    canaries: Canaries
    memory_budget_bytes: Size
    learned: Literal["discard", "carry", "rebase"]
    """What becomes of learned state when a later version of this lineage replaces the bundle."""
    built_with: tuple[tuple[str, str], ...]
    """Names and versions of what built it."""
    files: Annotated[tuple[File, ...], msgspec.Meta(max_length=MAX_FILES)]

    def method(self, kind: Kind, batch: int | None = None, form: str = "") -> Method:
        """The method of a kind and form, at a batch size or at the largest one.

        Raises BundleError when the bundle has none.
        """
        found = [m for m in self.methods if m.kind == kind and m.form == form and (batch is None or m.batch == batch)]
        if not found:
            wanted = kind if batch is None else f"{kind} at batch {batch}"
            have = ", ".join(m.name for m in self.methods)
            raise BundleError(f"{self.name}: no method {wanted} (it has {have}); build the bundle with it")
        return max(found, key=lambda m: m.batch)

    @property
    def layouts(self) -> Mapping[str, Layout]:
        """By form, the first one under the empty name."""
        return {"": self.layout} | {form.name: form.layout for form in self.forms[1:]}

    def trained(self, form: str) -> tuple[str, ...]:
        """Pieces of a form's theta that gradients change."""
        return next((one.trained for one in self.forms[1:] if one.name == form), self.learner.trained)

    def form_of(self, layout: Layout) -> str:
        """The form whose states have this layout; empty for the first."""
        return next((name for name, own in self.layouts.items() if own is layout or own == layout), "")

    def has(self, kind: Kind) -> bool:
        """Whether the bundle has a method of this kind."""
        return any(m.kind == kind for m in self.methods)


def encode(manifest: Manifest) -> bytes:
    """The bytes of `manifest.json`."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def sample_shape(given: Input) -> tuple[int, ...]:
    """Shape of one sample as the program takes it: channels first for an image."""
    if given.kind == "image":
        height, width, channels = given.shape
        return (channels, height, width)
    return given.shape


def signature(m: Manifest, kind: Kind, batch: int, form: str = "") -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Inputs and outputs that a method of this kind and batch must have; a tensor without elements is left out.

    `y` is one row of class probabilities a sample: one-hot for a label, all zero for a sample to leave out. What
    `score` gives for one sample: the gradients by theta of its summed logits and of its cross-entropy (zero for pieces
    that are not trained), and the inputs of the activations above the first adaptor.
    """

    def floats(name: str, *shape: int) -> Tensor:
        return Tensor(name=name, dtype="float32", shape=shape)

    layout = m.layouts[form]
    gates = next((one.gates for place, one in enumerate(m.forms) if (one.name if place else "") == form), 0)
    theta, slots = floats("theta", layout.theta_size), floats("slots", layout.slots_size)
    x = floats("x", batch, *sample_shape(m.input))
    logits, taps = floats("logits", batch, len(m.classes)), floats("taps", batch, m.features)
    noise, hyper = floats("noise", m.learner.noise), floats("hyper", len(m.learner.hyper))
    report = floats("report", len(m.learner.report))
    y = floats("y", batch, len(m.classes))
    inputs, outputs = {
        "infer": ([theta, x], [logits, taps]),
        "adapt": ([theta, slots, x, noise, hyper], [logits, taps, theta, slots, report]),
        "learn": ([theta, slots, x, y, hyper], [theta, slots, report]),
        "score": (
            [theta, x, y],
            [floats("tangent", layout.theta_size), floats("gradient", layout.theta_size), floats("gates", gates)],
        ),
    }[kind]
    return tuple(t for t in inputs if 0 not in t.shape), tuple(t for t in outputs if 0 not in t.shape)
