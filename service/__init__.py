"""The server: engine (pure of gRPC), rpc (thin servicers), server (composition root)."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

# `python -m service.server` looks in the working directory first. Where a cellar.py or a models.py
# of the user's lies there, the folder of our own goes before it.
_ROOT = Path(__file__).parents[1]
for _found in (find_spec("cellar"), find_spec("models")):
    if _found is None or Path(_found.origin or "").parent.parent != _ROOT:
        sys.path.insert(0, str(_ROOT))
        break

# ONNX Runtime's wheels for Linux report usage to their maker unless told not to, and ask when
# they are imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# A message then goes from the socket straight to the thread that polls for the event loop, and
# not by way of gRPC's own pool of threads: a third less CPU, see docs/decisions/0015. gRPC reads
# this when it is first imported.
GRPC_EXPERIMENTS = "-event_engine_listener"
os.environ.setdefault("GRPC_EXPERIMENTS", GRPC_EXPERIMENTS)

# gRPC's core writes to stderr what strangers send, such as the reason of a GOAWAY. What matters to
# whoever runs the server is in the server's own log.
GRPC_VERBOSITY = "NONE"
os.environ.setdefault("GRPC_VERBOSITY", GRPC_VERBOSITY)
