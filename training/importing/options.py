"""What an import is told, and how it asks for what a file does not say."""

import argparse
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from training.errors import ConfigError
from training.importing.isolated import SECONDS
from training.settings import ModelName

_EXAMPLES = """\
examples:
  cellar-train import weights.pt --vocabulary symbols.json
  cellar-train import net.onnx --features open,high,low --name prices
  cellar-train import net.onnx --features x,y --state memory=kept --initial memory=1

It prints what it took the file for, and where each state starts. What the file does not say
is taken to be 0, and said to be taken: --initial says otherwise. Nothing is published that
computes something else than the file does in ONNX Runtime."""

Ask = Callable[[str, str, str], str]
"""Takes an option, the question it answers and an example; returns the answer."""


class Predicts(StrEnum):
    """What the columns of a prediction are."""

    LOGITS = "logits"
    LABELS = "labels"
    RAW = "raw"


class Reads(StrEnum):
    """What the head of a network that reads whole sequences looks at."""

    EVERY = "every"
    """Every step's outputs: one prediction for each step."""
    LAST = "last"
    """The outputs at the last step."""
    FINAL = "final"
    """The final state of each direction, side by side."""
    MEAN = "mean"
    """The mean of the outputs over the steps."""


class ImportOptions(BaseModel):
    """The settings of an import; every description is its ``--help`` text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: Path
    name: ModelName | None = Field(
        None, description="the model's name in the repository (default: the file's)"
    )
    models: Path = Field(Path("model-repository"), description="the repository to publish to")
    vocabulary: str | None = Field(
        None,
        description="the symbols in the order of their ids: a JSON list, a JSON object of "
        "symbols to ids, or a text file of characters; 'ids' where numbers are all there is",
    )
    features: str | None = Field(
        None, description="names of the values of a step, with commas: open,high,low"
    )
    predicts: Predicts | None = Field(
        None, description="what is predicted: logits of the next symbol, labels, or raw numbers"
    )
    labels: str | None = Field(
        None, description="what each column of a labels prediction stands for: yes,no or a file"
    )
    nonlinearity: Literal["tanh", "relu"] = Field(
        "tanh", description="what a plain RNN applies; a state_dict does not say"
    )
    reads: Reads | None = Field(
        None,
        description="what the head of a bidirectional network looks at: every step, the last "
        "outputs, the final states or the mean",
    )
    state: tuple[str, ...] = Field(
        (), description="a state of an ONNX graph as input=output; repeatable"
    )
    initial: tuple[str, ...] = Field(
        (),
        description="where a state starts, if not where the table says that is printed: one "
        "number for all entries, a number for each with commas, or a .npy file; repeatable",
    )
    input: str | None = Field(None, description="the ONNX input that takes the steps")
    output: str | None = Field(None, description="the ONNX output that holds the prediction")
    timeout: float = Field(
        SECONDS,
        gt=0,
        description="the most seconds that ONNX Runtime may take to open or run the graph once",
    )
    verbose: bool = Field(False, description="say in full why a file is refused")


def add_options(parser: argparse.ArgumentParser) -> None:
    """One option per setting."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EXAMPLES
    parser.add_argument("file", type=Path, metavar="FILE", help="a state_dict or an ONNX file")
    for name, field in ImportOptions.model_fields.items():
        if name == "file":
            continue
        shown = "" if field.default in (None, (), False) else f" (default: {field.default})"
        options: dict[str, Any] = {
            "dest": name,
            "default": argparse.SUPPRESS,
            "help": f"{field.description}{shown}",
        }
        if field.default == ():
            metavar = "STATE=VALUE" if name == "initial" else "INPUT=OUTPUT"
            options |= {"action": "append", "metavar": metavar}
        elif field.annotation is bool:
            options["action"] = "store_true"
        elif choices := _choices(field.annotation):
            options["choices"] = choices
        else:
            options["metavar"] = name.upper()
        parser.add_argument(f"--{name}", **options)


def options_of(settings: dict[str, Any]) -> ImportOptions:
    """Check the settings.

    Raises:
        ConfigError: one is wrong; the message names it.
    """
    try:
        return ImportOptions.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"{first['loc'][0]}: {first['msg']} (it is {first['input']!r})"
        ) from error


def refuse(option: str, question: str, example: str) -> str:
    """Answer nothing: where nobody can be asked, the option has to be given.

    Raises:
        ConfigError: always; the message names the option.
    """
    raise ConfigError(f"{question}: give {option}, for example {option} {example}")


def prompt(option: str, question: str, example: str) -> str:
    """Ask on the terminal.

    Raises:
        ConfigError: there was no answer.
    """
    try:
        answer = input(f"{question} ({option}, for example {example}): ").strip()
    except EOFError:
        answer = ""
    return answer or refuse(option, question, example)


def _choices(annotation: Any) -> list[str]:
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, StrEnum):
            return list(part)
    return [str(choice) for choice in get_args(annotation) if isinstance(choice, str)]
