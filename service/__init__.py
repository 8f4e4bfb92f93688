"""The server: engine (pure of gRPC), rpc (thin servicers), server (composition root)."""

import os

# ONNX Runtime's wheels for Linux report usage to their maker unless told not to, and ask when
# they are imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
