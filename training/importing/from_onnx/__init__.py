"""Models out of a foreign ONNX graph."""
