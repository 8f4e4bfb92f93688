"""A stand-in for CUDA under ONNX Runtime's real CUDA provider: every call of it is counted."""
