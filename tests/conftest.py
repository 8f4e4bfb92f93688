"""What holds for all tests."""

import os

# Tests run side by side, one process per core: threads that wait for each other would only
# take turns. Before torch and numpy are imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
