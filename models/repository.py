"""A folder of models: ``<root>/<name>/<version>/model.onnx``.

The highest integer version of a name is its default. A foreign ONNX file may carry its manifest
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
from models.manifest import Manifest, fingerprint

MODEL_FILE = "model.onnx"
SIDECAR_FILE = "manifest.json"


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
            folder.name for folder in self.root.iterdir() if folder.is_dir() and self._has(folder)
        )

    def versions(self, name: str) -> list[int]:
        """The versions of a model, ascending.

        Raises:
            ModelNotFoundError: there is none.
        """
        folder = self.root / name
        # A name is one path component: anything else would escape the repository.
        found = sorted(_versions_in(folder)) if Path(name).name == name and folder.is_dir() else []
        if not found:
            known = ", ".join(self.names()) or "none"
            raise ModelNotFoundError(f"model '{name}' is not in {self.root} (it holds: {known})")
        return found

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
        """
        folder = self.root / manifest.name
        folder.mkdir(parents=True, exist_ok=True)
        manifest.embed(proto)
        staging = Path(tempfile.mkdtemp(prefix=".publish-", dir=folder))
        try:
            onnx.save_model(proto, str(staging / MODEL_FILE))
            staging.chmod(0o755)
            while True:
                version = max(_versions_in(folder), default=0) + 1
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

    @staticmethod
    def _has(folder: Path) -> bool:
        return bool(_versions_in(folder))


def load_model(path: Path, *, name: str, version: int) -> Model:
    """Read and validate one ONNX file.

    Raises:
        ModelError: unreadable, no ONNX, no manifest, or a manifest the graph does not fit.
    """
    try:
        proto = onnx.load_model(str(path))
        onnx.checker.check_model(proto)
    except (DecodeError, onnx.checker.ValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{path}: not a readable ONNX model: {reason}") from error
    manifest = Manifest.extract(proto)
    sidecar = path.parent / SIDECAR_FILE
    if manifest is None and sidecar.is_file():
        manifest = Manifest.parse(sidecar.read_text(encoding="utf-8"), where=str(sidecar))
    if manifest is None:
        raise ModelError(
            f"{path}: no manifest: nothing says which tensors are its recurrent state; "
            f"put a {SIDECAR_FILE} beside it"
        )
    check_fit(proto, manifest, where=str(path))
    return Model(
        name=name,
        version=version,
        manifest=manifest,
        proto=proto,
        fingerprint=fingerprint(proto),
        path=path,
    )


def check_fit(proto: onnx.ModelProto, manifest: Manifest, *, where: str) -> None:
    """Check that a graph has the tensors its manifest names, with the shapes it names.

    Raises:
        ModelError: it has not; the message names the tensor.
    """
    constants = {tensor.name for tensor in proto.graph.initializer}
    inputs = {value.name: value for value in proto.graph.input if value.name not in constants}
    outputs = {value.name: value for value in proto.graph.output}
    wanted_inputs = {manifest.input.name} | {state.input for state in manifest.states}
    wanted_outputs = {manifest.prediction.output} | {state.output for state in manifest.states}
    if manifest.lengths is not None:
        wanted_inputs.add(manifest.lengths)
    if manifest.quantiles is not None:
        wanted_inputs.add(manifest.quantiles.levels)
        wanted_outputs.add(manifest.quantiles.output)
    for kind, wanted, found in (
        ("input", wanted_inputs, inputs),
        ("output", wanted_outputs, outputs),
    ):
        for name in sorted(wanted - found.keys()):
            known = ", ".join(found)
            raise ModelError(f"{where}: the manifest names {kind} '{name}', the graph has: {known}")
    for name in sorted(inputs.keys() - wanted_inputs):
        raise ModelError(f"{where}: the graph needs input '{name}', which the manifest omits")
    for state in manifest.states:
        if state.batch_axis > len(state.shape):
            raise ModelError(f"{where}: state '{state.input}': batch_axis is outside its shape")
        for value in (inputs[state.input], outputs[state.output]):
            _check_shape(value, state.shape, state.batch_axis, where=where)


def _check_shape(
    value: onnx.ValueInfoProto, shape: tuple[int, ...], batch_axis: int, *, where: str
) -> None:
    if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise ModelError(f"{where}: state '{value.name}' must be float32")
    if not value.type.tensor_type.HasField("shape"):
        return
    dims = list(value.type.tensor_type.shape.dim)
    expected: list[int | None] = list(shape)
    expected.insert(batch_axis, None)
    declared = [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]
    if len(declared) != len(expected) or any(
        have is not None and want is not None and have != want
        for have, want in zip(declared, expected, strict=True)
    ):
        raise ModelError(
            f"{where}: state '{value.name}' has shape {declared}, the manifest says {expected} "
            "(None is the batch)"
        )
    if declared[batch_axis] is not None:
        raise ModelError(
            f"{where}: state '{value.name}': the batch axis {batch_axis} is fixed at "
            f"{declared[batch_axis]}; export it with a dynamic batch"
        )


def _versions_in(folder: Path) -> list[int]:
    return [
        int(child.name)
        for child in folder.iterdir()
        if child.name.isdecimal() and int(child.name) > 0 and (child / MODEL_FILE).is_file()
    ]
