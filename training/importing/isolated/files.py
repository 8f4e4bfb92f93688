"""What a file is by its first bytes, for whoever was given another one than they think."""

import stat
from pathlib import Path

from training.errors import DataError

_KINDS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs", "a Git LFS pointer: fetch the model itself with git lfs pull"),
    (0, b"\x89HDF", "a Keras file in HDF5: convert it with tf2onnx and import the .onnx file"),
    (4, b"TFL3", "a TensorFlow Lite model: convert the network it was made of with tf2onnx"),
    (0, b"\x1f\x8b", "compressed by gzip: unpack it first"),
    (0, b"7z\xbc\xaf", "a 7z archive: unpack it first"),
    (0, b"<", "a web page or XML: download the model itself (on GitHub, the raw file)"),
    (0, b"{", "JSON and no model"),
    (0, b"GGUF", "a GGUF file: export the network that it was made of to ONNX"),
)
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_AS_TORCH = (
    "what torch.save writes: name it .pt if it is a state_dict, or export the network with "
    "torch.onnx.export"
)


def check_file(file: Path) -> None:
    """Check that there is a file to read.

    Raises:
        DataError: there is none, or it is something else; the message says what.
    """
    try:
        mode = file.stat().st_mode
        if stat.S_ISDIR(mode):
            if (file / "saved_model.pb").is_file():
                raise DataError(
                    f"{file}: a TensorFlow SavedModel: convert it with python -m tf2onnx.convert "
                    f"--saved-model {file} --output model.onnx, and import that"
                )
            raise DataError(f"{file}: a folder: name the model's file in it")
        if not stat.S_ISREG(mode):
            raise DataError(f"{file}: no regular file (a pipe, a socket or a device)")
        with file.open("rb") as content:
            if not content.read(1):
                raise DataError(f"{file}: it is empty: copy or export it again")
    except FileNotFoundError as error:
        raise DataError(f"{file}: there is no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise DataError(f"{file}: not readable: {getattr(error, 'strerror', error)}") from error


def other_kind(file: Path, *, but: str = "") -> str | None:
    """What a file is that is not what its name says, and what to do; ``None`` where it is unknown.

    Args:
        file: an existing file.
        but: the suffix that it has: its own kind is no answer.
    """
    with file.open("rb") as content:
        head = content.read(64)
    for place, magic, kind in _KINDS:
        if head[place:].startswith(magic):
            return kind
    if but == ".onnx" and head.startswith((_ZIP, _PICKLE)):
        return _AS_TORCH
    if but not in ("", ".onnx") and head[:1] == b"\x08":
        return "an ONNX file: name it .onnx"
    return None
