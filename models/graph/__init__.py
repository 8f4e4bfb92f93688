"""Pieces of ONNX graphs."""
