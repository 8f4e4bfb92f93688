"""The settings of a training run: one definition for Python, the command line and the run folder.

Every field's description is its ``--help`` text.
"""

import json
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from training.errors import ConfigError

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


class Cell(StrEnum):
    """The recurrent cell."""

    RNN = "rnn"
    LSTM = "lstm"
    GRU = "gru"


class Transform(StrEnum):
    """How a series' changes are measured."""

    LOG_RETURN = "log-return"
    DIFFERENCE = "difference"


def _duration(value: object) -> object:
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", value)
        if match is None:
            raise ValueError(f"'{value}' is no duration: write 90, 90s, 3m or 1h")
        return float(match[1]) * _UNITS[match[2]]
    return value


ModelName = Annotated[
    str,
    Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="the model's name in the repository"),
]
Duration = Annotated[float, BeforeValidator(_duration)]


class TrainingConfig(BaseModel):
    """What every task has in common."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: ModelName
    models: Path = Field(Path("model-repository"), description="the repository to publish to")
    runs: Path = Field(Path("runs"), description="where run folders go")

    cell: Cell = Field(Cell.LSTM, description="recurrent cell: rnn, lstm or gru")
    layers: int = Field(1, ge=1, le=16, description="stacked layers")
    hidden: int = Field(256, ge=1, le=8192, description="units per layer")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="dropout between layers and before the head"
    )

    batch: int = Field(64, ge=1, description="parallel streams")
    window: int = Field(64, ge=2, description="steps per truncated back-propagation window")
    learning_rate: float = Field(4e-3, gt=0, description="peak learning rate")
    warmup: int = Field(40, ge=0, description="steps of linear warm-up; cosine decay follows")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's weight decay")
    clip: float = Field(1.0, gt=0, description="gradient norm above which gradients are scaled")

    budget_s: Duration | None = Field(
        None,
        gt=0,
        description="train for about so long: 90, 90s, 3m, 1h (default: 2m; series: 30s, "
        "and at most 100 epochs)",
    )
    steps: int | None = Field(None, ge=1, description="train for so many windows (repeatable)")
    epochs: float | None = Field(None, gt=0, description="train for so many passes over the data")
    seed: int = Field(0, ge=0, lt=2**31, description="seed of weights, dropout and data order")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto takes bf16 where the hardware gains from it"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where to train")
    threads: int | None = Field(
        None, ge=1, description="CPU threads (default: all cores, and 1 for small networks)"
    )

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        given = [
            name for name in ("budget_s", "steps", "epochs") if getattr(self, name) is not None
        ]
        if len(given) > 1:
            raise ValueError(f"give only one of budget, steps and epochs, not {len(given)}")
        return self

    @property
    def sources(self) -> tuple[Path, ...]:
        """The files this run reads."""
        return ()

    def anchored(self) -> Self:
        """The same settings with absolute paths, to be read from any folder."""
        return self.model_copy(
            update={"models": self.models.absolute(), "runs": self.runs.absolute()}
        )

    def public(self) -> dict[str, Any]:
        """The settings without the folders of this machine, for a model's provenance."""
        hidden = {"models", "runs", "device", "threads"}
        settings: dict[str, Any] = self.model_dump(mode="json", exclude=hidden)
        return {key: _without_folders(value, self.sources) for key, value in settings.items()}


class CharConfig(TrainingConfig):
    """Next-character prediction on text."""

    task: Literal["char"] = "char"
    name: ModelName = "char"
    text: tuple[Path, ...] = Field((), description="a UTF-8 text file; repeat for several")
    stdlib: bool = Field(
        False, description="train on the text of Python's own standard library and manual"
    )
    limit_characters: int | None = Field(
        None, ge=1, description="use at most so many characters (standard library: 2500000)"
    )
    embedding: int = Field(96, ge=1, le=8192, description="width of the character embedding")
    dropout: float = Field(
        0.1, ge=0, lt=1, description="dropout between layers and before the head"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.text) == self.stdlib:
            raise ValueError("give either text files or stdlib")
        return self

    @property
    def sources(self) -> tuple[Path, ...]:
        """The text files."""
        return self.text

    def anchored(self) -> Self:
        """The same settings with absolute paths."""
        text = tuple(path.absolute() for path in self.text)
        return super().anchored().model_copy(update={"text": text})


class SeriesConfig(TrainingConfig):
    """The distribution of a series' next value."""

    task: Literal["series"] = "series"
    name: ModelName = "series"
    csv: Path | None = Field(None, description="a CSV file with a header")
    value: str | None = Field(None, description="the CSV column to predict")
    date: str | None = Field(
        None, description="the CSV column to sort by (found by itself when named like a date)"
    )
    synthetic: int | None = Field(
        None, ge=100, le=10_000_000, description="rows of a generated price series instead of a CSV"
    )
    transform: Literal["auto"] | Transform = Field(
        "auto", description="auto, log-return or difference; auto takes log-return for positives"
    )
    decay: float = Field(0.94, gt=0, lt=1, description="decay of the running variance, per step")
    horizon: int = Field(30, ge=1, le=10_000, description="steps in the sample forecast")
    hidden: int = Field(32, ge=1, le=8192, description="units per layer")
    batch: int = Field(32, ge=1, description="parallel streams")
    window: int = Field(32, ge=2, description="steps per truncated back-propagation window")
    learning_rate: float = Field(2e-3, gt=0, description="peak learning rate")
    weight_decay: float = Field(1.0, ge=0, description="AdamW's weight decay")
    dropout: float = Field(
        0.3, ge=0, lt=1, description="dropout between layers and before the head"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.csv is None) == (self.synthetic is None):
            raise ValueError("give either a csv file or a number of synthetic rows")
        if self.csv is not None and self.value is None:
            raise ValueError("name the csv column to predict: value")
        return self

    @property
    def sources(self) -> tuple[Path, ...]:
        """The CSV file."""
        return () if self.csv is None else (self.csv,)

    def anchored(self) -> Self:
        """The same settings with absolute paths."""
        path = None if self.csv is None else self.csv.absolute()
        return super().anchored().model_copy(update={"csv": path})


AnyConfig = CharConfig | SeriesConfig
_READER: TypeAdapter[AnyConfig] = TypeAdapter(Annotated[AnyConfig, Field(discriminator="task")])


def parse_config(settings: dict[str, Any]) -> AnyConfig:
    """Check settings; ``task`` chooses between char and series.

    Raises:
        ConfigError: a setting is wrong; the message names each one.
    """
    try:
        return _READER.validate_python(settings)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from error


def read_config(text: str, *, where: str) -> AnyConfig:
    """Read the settings of an earlier run from JSON.

    Raises:
        ConfigError: it is not what a run writes.
    """
    try:
        return _READER.validate_json(text)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_explain(error)}") from error


def write_config(config: AnyConfig) -> str:
    """The settings as JSON that `read_config` reads."""
    return json.dumps(config.model_dump(mode="json"), indent=2) + "\n"


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        path = [str(part) for part in problem["loc"] if part not in ("char", "series")]
        message = problem["msg"].removeprefix("Value error, ")
        if not path:
            lines.append(message)
            continue
        field = path[0].removesuffix("_s").replace("_", "-")
        lines.append(f"{field}: {message} (it is {problem['input']!r})")
    return "; ".join(lines)


def _without_folders(value: Any, sources: tuple[Path, ...]) -> Any:
    if isinstance(value, list):
        return [_without_folders(item, sources) for item in value]
    if isinstance(value, str) and Path(value) in sources:
        return Path(value).name
    return value
