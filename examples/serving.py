"""What the examples share: small models in a folder, and the real server of it on a free port."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.repository import ModelRepository
from training.export.exporter import export
from training.networks.recurrent import RecurrentNetwork

COMMANDS = Path(sys.executable).parent
ZOO = Path(__file__).parents[1] / "models" / "zoo"


def publish(folder: Path, network: RecurrentNetwork, name: str) -> None:
    """Writes a network as the next version of a model."""
    proto, manifest = export(network, name=name)
    ModelRepository(folder).publish(proto, manifest)


@contextmanager
def served(models: Path, *flags: str) -> Iterator[str]:
    """A server of the models in a folder; yields its address, and stops it with SIGTERM."""
    command = (f"--models={models}", "--port=0", "--metrics-port=off", "--log-format=json")
    process = subprocess.Popen(
        [str(COMMANDS / "cellar-serve"), *command, *flags], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None, "stdout is a pipe"
    try:
        for line in process.stdout:
            entry = json.loads(line)
            if entry["event"] == "serving":
                yield f"127.0.0.1:{entry['port']}"
                return
        raise SystemExit("the server did not start; it says why above")
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
