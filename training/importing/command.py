"""`cellar-train import`: from a file to a servable model in the repository."""

import re
import sys
import traceback
from pathlib import Path

from rich.console import Console

from models.errors import ModelError
from training.errors import DataError, TrainingError
from training.importing.from_onnx import understanding as from_onnx
from training.importing.from_torch import understanding as from_torch
from training.importing.isolated.files import check_file, other_kind
from training.importing.isolated.reasons import of_running
from training.importing.isolated.runtime import FatalError, RefusedError, Runtime
from training.importing.options import Ask, ImportOptions, prompt, refuse
from training.importing.publishing import publish

TORCH_FILES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")


def import_model(
    options: ImportOptions, *, console: Console | None = None, ask: Ask | None = None
) -> Path:
    """Read a model of other origin, prove what it is taken for, and publish it.

    What the file does not say has to be in the options, or is asked for on a terminal.

    Returns the published file.

    Raises:
        DataError: the file cannot be used.
        ConfigError: something is missing or does not fit.
        ParityError: what would be published computes something else.
    """
    file = options.file
    if ask is None:
        ask = prompt if sys.stdin.isatty() else refuse
    name = options.name or _name_of(file)
    check_file(file)
    try:
        with Runtime(options.timeout) as runtime:
            if file.suffix.lower() == ".onnx":
                ways = from_onnx.understand(options, ask, name=name, runtime=runtime)
            elif file.suffix.lower() in TORCH_FILES:
                ways = iter([from_torch.understand(options, ask, name=name)])
            else:
                kind = other_kind(file)
                if kind is None:
                    known = ", ".join((".onnx", *TORCH_FILES))
                    kind = f"its name ends in none of {known}: rename it to what it is"
                    raise DataError(f"{file}: {kind}")
                raise DataError(f"{file}: it is {kind}")
            return publish(
                ways,
                options.models,
                file=file,
                open_graph=runtime.open,
                console=console or Console(quiet=True),
            )
    except (ModelError, FatalError) as error:
        text = str(error)
        raise DataError(text if str(file) in text else f"{file}: {text}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: a name in it is no text: it is damaged: copy it again") from error
    except RefusedError as error:
        raise DataError(f"{file}: {of_running(str(error))}") from error
    except (TrainingError, KeyboardInterrupt):
        raise
    except Exception as error:  # whatever a file does that nobody thought of
        what = next(iter(str(error).strip().splitlines()), "")
        raise DataError(
            f"{file}: it cannot be imported, and the reason is not known to the import "
            f"({type(error).__name__}: {what}): nothing is published; please report it with what "
            "--verbose says"
        ) from error


def full_reason(error: BaseException) -> str | None:
    """All that is known of why an import failed; ``None`` where its message is all of it."""
    cause = error.__cause__
    while cause is not None:
        if isinstance(cause, RefusedError):
            return str(cause)
        if not isinstance(cause, (TrainingError, ModelError, OSError, EOFError)):
            return "".join(traceback.format_exception(cause)).rstrip()
        cause = cause.__cause__
    return None


def _name_of(file: Path) -> str:
    name = re.sub(r"[^a-z0-9._-]+", "-", file.stem.lower()).strip("-._")[:64]
    return name or "imported"
