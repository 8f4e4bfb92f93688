"""Read what people give: a file of text."""

from pathlib import Path

from training.errors import DataError


def read_text(path: Path) -> str:
    """The whole of a UTF-8 file, without its byte order mark.

    Raises:
        DataError: it is missing, cannot be read, or is not UTF-8.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}; "
            "save the file as UTF-8"
        ) from error
