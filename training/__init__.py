"""Train recurrent networks and export them as portable ONNX models.

Data -> network -> fit -> evaluate -> export. Knows `models`, and nothing of serving.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

# `python -m training.cli` looks in the working directory first. Where a models.py of the user's
# lies there, the folder of our own goes before it.
_ROOT = Path(__file__).parents[1]
_found = find_spec("models")
if _found is None or Path(_found.origin or "").parent.parent != _ROOT:
    sys.path.insert(0, str(_ROOT))

# ONNX Runtime's wheels for Linux report usage to their maker unless told not to, and ask when
# they are imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
