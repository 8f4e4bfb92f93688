"""What the wheel holds: the client alone, unless a server is to be installed from it.

`CELLAR_PACKAGES=server` packs models, service and training too: see docs/decisions/0019. It is for
an environment that a server has to itself (`deploy/make-venv.sh`), and such a wheel is published
nowhere. An editable installation (`pip install -e`) has all of a checkout as it is.
"""

import os
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_SERVER = ("models", "service", "training")
_LEFT_OUT = ("__pycache__", ".publish-", ".DS_Store")


class PackagesHook(BuildHookInterface[Any]):
    """Adds to the wheel what is not under cellar/."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Choose the files.

        Raises:
            ValueError: CELLAR_PACKAGES is neither client nor server.
        """
        packages = os.environ.get("CELLAR_PACKAGES") or "client"
        if packages not in ("client", "server"):
            raise ValueError(f"CELLAR_PACKAGES is {packages!r}: say client or server")
        if version == "editable":
            return
        root = Path(self.root)
        # Beside the stubs, so that `protoc -I site-packages` finds them by their own names.
        chosen = {file: file.relative_to(root / "proto") for file in root.glob("proto/**/*.proto")}
        if packages == "server":
            for file in (file for name in _SERVER for file in (root / name).rglob("*")):
                place = file.relative_to(root)
                if file.is_file() and not any(part.startswith(_LEFT_OUT) for part in place.parts):
                    chosen[file] = place
        build_data["force_include"].update({str(at): str(to) for at, to in chosen.items()})
