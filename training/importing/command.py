"""`cellar-train import`: from a file to a servable model in the repository."""

import argparse
import re
import sys
from enum import StrEnum
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from models.errors import ModelError
from training.errors import DataError
from training.importing.from_onnx import understanding as from_onnx
from training.importing.from_torch import understanding as from_torch
from training.importing.options import Ask, ImportOptions, prompt, refuse
from training.importing.publishing import publish

TORCH_FILES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")


def add_options(parser: argparse.ArgumentParser) -> None:
    """One option per setting."""
    parser.add_argument("file", type=Path, metavar="FILE", help="a state_dict or an ONNX file")
    for name, field in ImportOptions.model_fields.items():
        if name == "file":
            continue
        shown = "" if field.default in (None, ()) else f" (default: {field.default})"
        options: dict[str, Any] = {
            "dest": name,
            "default": argparse.SUPPRESS,
            "help": f"{field.description}{shown}",
        }
        if field.default == ():
            options |= {"action": "append", "metavar": "INPUT=OUTPUT"}
        elif choices := _choices(field.annotation):
            options["choices"] = choices
        else:
            options["metavar"] = name.upper()
        parser.add_argument(f"--{name}", **options)


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
    try:
        if file.suffix == ".onnx":
            ways = from_onnx.understand(options, ask, name=name)
        elif file.suffix in TORCH_FILES:
            ways = iter([from_torch.understand(options, ask, name=name)])
        else:
            raise DataError(
                f"{file}: its name ends in none of .onnx, {', '.join(TORCH_FILES)}: rename it to "
                "what it is"
            )
        return publish(ways, options.models, file=file, console=console or Console(quiet=True))
    except ModelError as error:
        text = str(error)
        raise DataError(text if str(file) in text else f"{file}: {text}") from error


def _choices(annotation: Any) -> list[str]:
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, StrEnum):
            return list(part)
    return [str(choice) for choice in get_args(annotation) if isinstance(choice, str)]


def _name_of(file: Path) -> str:
    name = re.sub(r"[^a-z0-9._-]+", "-", file.stem.lower()).strip("-._")[:64]
    return name or "imported"
