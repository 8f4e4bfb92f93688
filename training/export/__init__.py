"""From a network to a portable ONNX model, and the check that both compute the same."""
