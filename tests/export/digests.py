"""Prints the digests of a compiled step, as JSON: run in another process, they must be the same as here."""

import hashlib
import json

from export.learners.tent import Tent
from export.lower import lower
from export.to_onnx import to_onnx
from export.trace import methods
from tests.export import nets, pipeline


def compiled() -> dict[str, str]:
    """SHA-256 of a step of tent on the small ResNet, as a program and as ONNX."""
    learner = Tent(pipeline.captured(nets.ResNet, open_norms=True))
    method = methods(learner, "adapt", 4, nets.batch(nets.ResNet, 4), 5)
    graph = pipeline.compiled(method)
    made = {"pte": lower({method.name: graph}).pte, "onnx": to_onnx(graph, method.inputs, method.outputs)}
    return {name: hashlib.sha256(data).hexdigest() for name, data in made.items()}


if __name__ == "__main__":
    print(json.dumps(compiled()))
