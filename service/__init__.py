"""The server: engine (pure of gRPC), rpc (thin servicers), server (composition root)."""

import os

# ONNX Runtime's wheels for Linux report usage to their maker unless told not to, and ask when
# they are imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# A message then goes from the socket straight to the thread that polls for the event loop, and
# not by way of gRPC's own pool of threads: a third less CPU, see docs/decisions/0015. gRPC reads
# this when it is first used.
GRPC_EXPERIMENTS = "-event_engine_listener"
os.environ.setdefault("GRPC_EXPERIMENTS", GRPC_EXPERIMENTS)
