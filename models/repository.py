"""A folder of models: ``<root>/<name>/<version>/model.onnx``.

The highest integer version of a name is its default. An external ONNX file may carry its manifest
as ``manifest.json`` beside it. Knows nothing of how a model is run.

Whoever serves a folder goes through its `entries`, of which each may be bad for itself; whoever
wants one model asks for it by name.
"""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnx

from models.errors import ModelError, ModelNotFoundError
from models.fit import check_fit, check_weights
from models.manifest import MOST_TEXT, Manifest, fingerprint
from models.untrusted.reading import MOST_BYTES, read_bytes, read_onnx

MODEL_FILE = "model.onnx"
SIDECAR_FILE = "manifest.json"
HIGHEST_VERSION = 2**32 - 1  # the wire has 32 bits for it
_MISNAMED = (
    f"a version is a whole number from 1 to {HIGHEST_VERSION}, without leading zeros: rename the "
    "folder"
)
_LONGEST_NAME = 128
_NO_MODELS = ("lost+found", "__pycache__")  # and whatever is hidden


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """One version of one model as its file says, before anything but Python has looked at it."""

    name: str
    version: int
    manifest: Manifest
    proto: onnx.ModelProto
    path: Path

    def check(self) -> Model:
        """Read its weights, and see that graph and manifest fit.

        Raises:
            ModelError: weights are missing, it is no sound ONNX, or the manifest does not fit.
        """
        _read_weights(self.proto, self.path)
        check_fit(self.proto, self.manifest, where=str(self.path))
        check_weights(self.proto, where=str(self.path))
        return Model(
            name=self.name,
            version=self.version,
            manifest=self.manifest,
            proto=self.proto,
            fingerprint=fingerprint(self.proto),
            path=self.path,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What a repository has below one name: a version of a model, or what stands for one."""

    name: str
    version: int | None
    """``None`` where no number can be told."""
    path: Path
    fault: str | None = None
    """Why it cannot be a model, as far as its folder shows that."""


class ModelRepository:
    """Finds, reads and publishes models below one folder.

    Args:
        root: the folder.
        most_bytes: that a model may have, with the weights in its other files.
    """

    def __init__(self, root: Path, *, most_bytes: int = MOST_BYTES) -> None:
        self.root = root
        self._most_bytes = most_bytes

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
                raise ModelError(f"{child}: {_MISNAMED}")
        return sorted(int(child.name) for child in found)

    def entries(self) -> list[Entry]:
        """Everything that is a version of a model or seems meant as one, by name and version.

        What cannot be read, or is not there yet, is an entry with a fault. Hidden files, loose
        files and folders that hold no number and no model are none of our business.

        Raises:
            OSError: the repository itself cannot be read.
        """
        if not self.root.is_dir():
            return []
        found: list[Entry] = []
        for folder in sorted(self.root.iterdir()):
            if not _is_ignored(folder):
                found += _entries_of(folder, self.root)
        return found

    def path(self, name: str, version: int) -> Path:
        """Where the file of a version of a model is, or would be."""
        return self.root / name / str(version) / MODEL_FILE

    def read(self, name: str, version: int) -> ModelFile:
        """Parse one version of a model, which may be anything but sound: see `ModelFile.check`.

        Raises:
            ModelError: unreadable, no ONNX, or no manifest.
        """
        path = self.path(name, version)
        return read_model(path, name=name, version=version, most_bytes=self._most_bytes)

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
        return self.read(name, version).check()

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


def load_model(path: Path, *, name: str, version: int, most_bytes: int = MOST_BYTES) -> Model:
    """Read and validate one ONNX file of at most so many bytes, with the weights beside it.

    Raises:
        ModelError: unreadable, no ONNX, no manifest, or a manifest the graph does not fit.
    """
    return read_model(path, name=name, version=version, most_bytes=most_bytes).check()


def read_model(path: Path, *, name: str, version: int, most_bytes: int = MOST_BYTES) -> ModelFile:
    """Parse one ONNX file, and find its manifest.

    Raises:
        ModelError: unreadable, no ONNX, or no manifest.
    """
    proto = read_onnx(path, most_bytes=most_bytes)
    try:
        manifest = Manifest.extract(proto)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    sidecar = path.parent / SIDECAR_FILE
    if manifest is None and sidecar.is_file():
        manifest = _read_sidecar(sidecar)
    if manifest is None:
        raise ModelError(
            f"{path}: no manifest: nothing says which tensors are its recurrent state; "
            f"put a {SIDECAR_FILE} beside it"
        )
    return ModelFile(name=name, version=version, manifest=manifest, proto=proto, path=path)


def _read_weights(proto: onnx.ModelProto, path: Path) -> None:
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


def _read_sidecar(path: Path) -> Manifest:
    try:
        data = read_bytes(path, MOST_TEXT, what="")
        text = data.decode("utf-8-sig")  # some editors begin a file with a mark
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


def _is_ignored(path: Path) -> bool:
    return path.name.startswith(".") or path.name in _NO_MODELS


def _entries_of(folder: Path, root: Path) -> list[Entry]:
    """What lies below one name."""
    name = folder.name
    fault = _why_no_folder(folder) or _why_no_name(name)
    if fault is not None:
        # A loose file beside the models is not one of them.
        return [] if _is_file(folder) else [_entry(name, None, folder, fault)]
    found: list[Entry] = []
    try:
        children = [child for child in folder.iterdir() if not _is_ignored(child)]
    except OSError as error:
        return [_entry(name, None, folder, f"cannot be read: {error.strerror}")]
    for child in children:
        if _is_version(child.name):
            fault = (
                _why_no_folder(child)
                or _why_no_model(child / MODEL_FILE)
                or _why_outside(child, root)
            )
            found.append(_entry(name, int(child.name), child, fault))
        elif _why_no_folder(child) is None and _why_no_model(child / MODEL_FILE) is None:
            found.append(_entry(name, None, child, _MISNAMED))
    return sorted(found, key=lambda entry: (entry.version is None, entry.version, entry.path))


def _entry(name: str, version: int | None, path: Path, fault: str | None) -> Entry:
    reason = None if fault is None else f"{path}: {fault}"
    return Entry(name=name, version=version, path=path, fault=reason)


def _why_no_folder(path: Path) -> str | None:
    try:
        if path.is_dir():
            return None
        return "a link to nowhere" if path.is_symlink() and not path.exists() else "not a folder"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _why_no_model(path: Path) -> str | None:
    """Why a file is no model, or none yet: half a copy of a model looks like this."""
    try:
        if path.is_file():
            return None
        if path.is_symlink() and not path.exists():
            return f"its {path.name} is a link to nowhere"
        return f"its {path.name} is not a file" if path.exists() else f"there is no {path.name}"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _why_no_name(name: str) -> str | None:
    """Why callers could not be told a name, or it would not be the same to all of them."""
    if len(name) > _LONGEST_NAME or not name.isprintable():
        return (
            f"its name cannot be that of a model: at most {_LONGEST_NAME} printable characters, "
            "in UTF-8: rename the folder"
        )
    return None


def _why_outside(folder: Path, root: Path) -> str | None:
    """Why a model's files are not its own: links lead out of its folder and of the repository."""
    for file in (folder / MODEL_FILE, folder / SIDECAR_FILE):
        try:
            place = file.resolve()
            if any(place.is_relative_to(one.resolve()) for one in (folder, root)):
                continue
        except (OSError, RuntimeError):  # links in a circle
            return f"its {file.name} cannot be read: its links lead nowhere"
        return (
            f"its {file.name} is a link that leads out of the repository: copy the file itself "
            "there"
        )
    return None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _numbers_in(folder: Path) -> list[int]:
    """The version numbers that are taken below a model's folder, in no order."""
    numbers = [int(child.name) for child in folder.iterdir() if child.name.isdecimal()]
    return [number for number in numbers if _is_version(str(number))]


def _is_version(name: str) -> bool:
    return name.isdecimal() and name == str(int(name)) and 1 <= int(name) <= HIGHEST_VERSION


__all__ = [
    "MODEL_FILE",
    "SIDECAR_FILE",
    "Entry",
    "Model",
    "ModelFile",
    "ModelRepository",
    "check_fit",
    "load_model",
    "read_model",
]
