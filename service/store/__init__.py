"""Where sessions outlive the process: bytes, columns, checksums and files.

Knows nothing of the engine, of models or of gRPC; what the bytes mean is the engine's matter.
"""
