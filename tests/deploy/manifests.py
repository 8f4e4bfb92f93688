"""What is in deploy/, read as it stands: manifests of Kubernetes, files of compose, the image."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from service.settings import Settings
from service.settings.reading import read
from tests.documents import ROOT

DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")

Document = dict[str, Any]
_ENTRY = re.compile(r"\b(CELLAR_[A-Z_]+)=(\S+)")


def documents(path: Path) -> list[Document]:
    """The documents of a YAML file, or of all of a folder but its kustomization."""
    files = [path] if path.is_file() else sorted(path.glob("*.yaml"))
    return [
        document
        for file in files
        if file == path or file.name != "kustomization.yaml"
        for document in yaml.safe_load_all(file.read_text("utf-8"))
    ]


def one(found: list[Document], kind: str) -> Document:
    """The only document of a kind."""
    (document,) = [each for each in found if each["kind"] == kind]
    return document


def kustomization(folder: Path) -> Document:
    """What a folder is built of."""
    found: Document = yaml.safe_load((folder / "kustomization.yaml").read_text("utf-8"))
    return found


def kustomizations() -> list[Path]:
    """Every folder that is built."""
    return [file.parent for file in sorted(KUBERNETES.rglob("kustomization.yaml"))]


def variables(folder: Path) -> dict[str, str]:
    """The settings that a folder gives the server, as variables."""
    return dict(
        literal.split("=", 1)
        for each in kustomization(folder).get("configMapGenerator", ())
        for literal in each["literals"]
    )


def of_image() -> dict[str, str]:
    """The settings that the image of the CPU gives the server, as variables."""
    found = dict(_ENTRY.findall("\n".join(_without_comments(DOCKERFILE))))
    return found | {"CELLAR_DEVICE": "cpu"}


def settings(*given: Mapping[str, str]) -> Settings:
    """The server's settings by the image, and by what is set beside it; later ones win.

    Raises:
        SettingsError: one of them is no setting, or has no such value.
    """
    merged = {name: value for each in (of_image(), *given) for name, value in each.items()}
    return read([], merged).settings


def container(workload: Document) -> Document:
    """The only container of a workload."""
    (only,) = workload["spec"]["template"]["spec"]["containers"]
    found: Document = only
    return found


def probes(workload: Document) -> dict[str, Document]:
    """The HTTP requests of its probes, by the probe's name."""
    names = ("startupProbe", "readinessProbe", "livenessProbe")
    return {name: container(workload)[name]["httpGet"] for name in names}


def least_stop_s(chosen: Settings) -> float:
    """Seconds that the server may take to end: calls, checkpoints, and a second."""
    drain_s = max(chosen.drain_timeout_s, chosen.drain_delay_s)
    return drain_s + chosen.drain_timeout_s + 1


def _without_comments(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("#")]
