"""Models out of an external ONNX graph."""
