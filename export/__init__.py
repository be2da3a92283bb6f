"""The training side: from a PyTorch model to a bundle. The only place that imports torch, executorch or onnx."""
