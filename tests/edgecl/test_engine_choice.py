"""A board with a GPU runs what carries ONNX there; every other one runs ExecuTorch."""

from pathlib import Path

from edgecl.bundle import open_bundle
from edgecl.engine_choice import choose
from tests.conftest import MakeBundle


def test_without_a_gpu_it_is_executorch(make_bundle: MakeBundle, tmp_path: Path) -> None:
    with open_bundle(make_bundle(tmp_path / "b.ecl", onnx=True)) as bundle:
        assert choose("auto", bundle.manifest, root=tmp_path) == "executorch"
        assert choose("onnxruntime", bundle.manifest, root=tmp_path) == "onnxruntime"


def test_a_gpu_that_onnx_runtime_cannot_use_is_left_alone(make_bundle: MakeBundle, tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvhost-gpu").touch()
    with open_bundle(make_bundle(tmp_path / "b.ecl", onnx=True)) as bundle:  # the provider here is the CPU's
        assert choose("auto", bundle.manifest, root=tmp_path) == "executorch"
