"""Recurrent layers in torch, and their cells in numpy. Knows nothing of data, training or ONNX."""
