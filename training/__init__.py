"""Train recurrent networks and export them as portable ONNX models.

Data -> network -> fit -> evaluate -> export. Knows `models`, and nothing of serving.
"""

import os

# ONNX Runtime's wheels for Linux report usage to their maker unless told not to, and ask when
# they are imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
