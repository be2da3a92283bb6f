"""Which engine a board runs a bundle with, where nobody says: a GPU by ONNX Runtime where both are there."""

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from edgecl.contents import ONNX
from edgecl.manifest import Manifest

AUTO: Final = "auto"
DEFAULT: Final = "executorch"

GPU_NODES: Final = ("dev/nvidia0", "dev/nvhost-gpu", "dev/nvgpu")
"""Any of these, and the board has a GPU of NVIDIA's."""

GPU_PROVIDERS: Final = frozenset(("TensorrtExecutionProvider", "CUDAExecutionProvider"))


def choose(wanted: str, manifest: Manifest, *, root: Path = Path("/")) -> str:
    """The engine wanted; for `auto`, what suits board and bundle. ONNX Runtime is only loaded where it may suit."""
    if wanted != AUTO:
        return wanted
    carries = any(file.path.startswith(f"{ONNX}/") for file in manifest.files)
    if carries and any((root / node).exists() for node in GPU_NODES) and not GPU_PROVIDERS.isdisjoint(_providers()):
        return "onnxruntime"
    return DEFAULT


def _providers() -> Iterable[str]:
    if importlib.util.find_spec("onnxruntime") is None:
        return ()
    import onnxruntime

    return list(onnxruntime.get_available_providers())
