"""A folder of models: ``<root>/<name>/<version>/model.onnx``.

The highest integer version of a name is its default. An external ONNX file may carry its manifest
as ``manifest.json`` beside it. Knows nothing of how a model is run.
"""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from models.errors import ModelError, ModelNotFoundError
from models.fit import check_fit, check_weights
from models.manifest import Manifest, fingerprint

MODEL_FILE = "model.onnx"
SIDECAR_FILE = "manifest.json"
HIGHEST_VERSION = 2**32 - 1  # the wire has 32 bits for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One version of one model, read and validated."""

    name: str
    version: int
    manifest: Manifest
    proto: onnx.ModelProto
    fingerprint: str
    path: Path

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


class ModelRepository:
    """Finds, reads and publishes models below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        """The models that have at least one version, sorted."""
        if not self.root.is_dir():
            return []
        return sorted(
            folder.name for folder in self.root.iterdir() if folder.is_dir() and _models_in(folder)
        )

    def versions(self, name: str) -> list[int]:
        """The versions of a model, ascending.

        Raises:
            ModelNotFoundError: there is none.
            ModelError: a folder is numbered as no version can be.
        """
        folder = self.root / name
        # A name is one path component: anything else would escape the repository.
        found = _models_in(folder) if Path(name).name == name and folder.is_dir() else []
        if not found:
            known = ", ".join(self.names()) or "none"
            raise ModelNotFoundError(f"model '{name}' is not in {self.root} (it holds: {known})")
        for child in found:
            if not _is_version(child.name):
                raise ModelError(
                    f"{child}: a version is a whole number from 1 to {HIGHEST_VERSION}, without "
                    "leading zeros: rename the folder"
                )
        return sorted(int(child.name) for child in found)

    def load(self, name: str, version: int | None = None) -> Model:
        """Read one version of a model, the highest when none is named.

        Raises:
            ModelNotFoundError: no such model or version.
            ModelError: the file is not a servable recurrent model.
        """
        versions = self.versions(name)
        if version is None:
            version = versions[-1]
        elif version not in versions:
            known = ", ".join(map(str, versions))
            raise ModelNotFoundError(f"model '{name}' has no version {version} (it has: {known})")
        return load_model(self.root / name / str(version) / MODEL_FILE, name=name, version=version)

    def publish(self, proto: onnx.ModelProto, manifest: Manifest) -> Path:
        """Write a model as the next version of its name; the file appears whole or not at all.

        Returns the path of the new ``model.onnx``.

        Raises:
            ModelError: the highest version there can be is taken.
        """
        folder = self.root / manifest.name
        folder.mkdir(parents=True, exist_ok=True)
        manifest.embed(proto)
        staging = Path(tempfile.mkdtemp(prefix=".publish-", dir=folder))
        try:
            onnx.save_model(proto, str(staging / MODEL_FILE))
            staging.chmod(0o755)
            while True:
                # Above every number in use, by whatever it is: a version is never taken twice.
                version = max(_numbers_in(folder), default=0) + 1
                if version > HIGHEST_VERSION:
                    raise ModelError(f"{folder / str(version - 1)}: no higher version is possible")
                target = folder / str(version)
                try:
                    os.rename(staging, target)
                except OSError:
                    if not target.exists():
                        raise
                    continue  # somebody else published this number first: take the next
                return target / MODEL_FILE
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def load_model(path: Path, *, name: str, version: int) -> Model:
    """Read and validate one ONNX file.

    Raises:
        ModelError: unreadable, no ONNX, no manifest, or a manifest the graph does not fit.
    """
    proto = _read_proto(path)
    manifest = Manifest.extract(proto)
    sidecar = path.parent / SIDECAR_FILE
    if manifest is None and sidecar.is_file():
        manifest = _read_sidecar(sidecar)
    if manifest is None:
        raise ModelError(
            f"{path}: no manifest: nothing says which tensors are its recurrent state; "
            f"put a {SIDECAR_FILE} beside it"
        )
    check_fit(proto, manifest, where=str(path))
    check_weights(proto, where=str(path))
    return Model(
        name=name,
        version=version,
        manifest=manifest,
        proto=proto,
        fingerprint=fingerprint(proto),
        path=path,
    )


def _read_proto(path: Path) -> onnx.ModelProto:
    try:
        proto = onnx.load_model(str(path), load_external_data=False)
    except (DecodeError, OSError) as error:
        raise ModelError(f"{path}: not a readable ONNX model: {_first_line(error)}") from error
    try:
        onnx.load_external_data_for_model(proto, str(path.parent))
    except (onnx.checker.ValidationError, ValueError, OSError) as error:
        raise ModelError(
            f"{path}: the weights that it keeps in other files cannot be read: {_first_line(error)}"
        ) from error
    try:
        onnx.checker.check_model(proto)
    except (onnx.checker.ValidationError, ValueError) as error:  # ValueError: above 2 GiB
        raise ModelError(f"{path}: not a readable ONNX model: {_first_line(error)}") from error
    return proto


def _read_sidecar(path: Path) -> Manifest:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: not readable: {_first_line(error)}") from error
    return Manifest.parse(text, where=str(path))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _models_in(folder: Path) -> list[Path]:
    """The numbered folders that hold a model, in no order."""
    return [
        child
        for child in folder.iterdir()
        if child.name.isdecimal() and (child / MODEL_FILE).is_file()
    ]


def _numbers_in(folder: Path) -> list[int]:
    """The version numbers that are taken below a model's folder, in no order."""
    numbers = [int(child.name) for child in folder.iterdir() if child.name.isdecimal()]
    return [number for number in numbers if _is_version(str(number))]


def _is_version(name: str) -> bool:
    return name.isdecimal() and name == str(int(name)) and 1 <= int(name) <= HIGHEST_VERSION


__all__ = ["MODEL_FILE", "SIDECAR_FILE", "Model", "ModelRepository", "check_fit", "load_model"]
