"""What runs on the board loads neither PyTorch nor the host side, nor cryptography; shown in a process of its own."""

import subprocess
import sys

FORBIDDEN = {"torch", "executorch", "onnx", "onnxruntime", "serial", "cryptography", "export", "firmware_host"}


def test_edgecl_imports_nothing_of_the_training_side_or_the_host() -> None:
    code = (
        "import importlib, pkgutil, sys, edgecl\n"
        "for module in pkgutil.walk_packages(edgecl.__path__, 'edgecl.'):\n"
        "    importlib.import_module(module.name)\n"
        f"print(*sorted({FORBIDDEN} & sys.modules.keys()))\n"
        "print('edgecl.engine' in sys.modules, 'edgecl._runtime' in sys.modules)"
    )
    # -P: the current folder may be the source tree, which has no compiled module.
    loaded = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout == "\nTrue True\n"
