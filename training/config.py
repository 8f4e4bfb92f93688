"""The settings of a training run: one definition for Python, the command line and the run folder.

Every field's description is its ``--help`` text.
"""

import json
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

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


class Nonlinearity(StrEnum):
    """What a plain RNN puts its sums through."""

    TANH = "tanh"
    RELU = "relu"


class Merge(StrEnum):
    """How the two directions of a bidirectional layer become one."""

    CONCAT = "concat"
    SUM = "sum"
    AVERAGE = "average"
    MULTIPLY = "multiply"


class Transform(StrEnum):
    """How a series' changes are measured."""

    LOG_RETURN = "log-return"
    DIFFERENCE = "difference"


class TimeFeature(StrEnum):
    """What a series model may read of a step's date, sent as a number after the value."""

    HOUR = "hour"
    WEEKDAY = "weekday"
    MONTHDAY = "monthday"
    MONTH = "month"


class Fill(StrEnum):
    """What stands in for values that are missing."""

    NONE = "none"
    FORWARD = "forward"


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
Names = Annotated[
    tuple[str, ...], BeforeValidator(lambda given: (given,) if isinstance(given, str) else given)
]


class TrainingConfig(BaseModel):
    """What every task has in common."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: ModelName
    models: Path = Field(Path("model-repository"), description="the repository to publish to")
    runs: Path = Field(Path("runs"), description="where run folders go")

    cell: Cell = Field(Cell.LSTM, description="recurrent cell: rnn, lstm or gru")
    nonlinearity: Nonlinearity = Field(
        Nonlinearity.TANH, description="tanh or relu; relu is for the rnn cell only"
    )
    bidirectional: bool = Field(
        False, description="read whole sequences from both ends; classify only"
    )
    merge: Merge = Field(
        Merge.CONCAT,
        description="how the directions of a bidirectional layer become one: concat, sum, "
        "average or multiply",
    )
    layers: int = Field(1, ge=1, le=16, description="stacked layers")
    hidden: int = Field(256, ge=1, le=8192, description="units per layer")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="dropout between layers and before the head"
    )

    batch: int = Field(64, ge=1, description="parallel streams")
    learning_rate: float = Field(4e-3, gt=0, description="peak learning rate")
    warmup: int = Field(40, ge=0, description="steps of linear warm-up; cosine decay follows")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's weight decay")
    clip: float = Field(1.0, gt=0, description="gradient norm above which gradients are scaled")

    budget_s: Duration | None = Field(
        None,
        gt=0,
        description="train for about so long: 90, 90s, 3m, 1h (default: 3m; series: 30s, "
        "and at most 100 epochs; classify: 1m, and at most 120)",
    )
    steps: int | None = Field(None, ge=1, description="train for so many windows (repeatable)")
    epochs: float | None = Field(None, gt=0, description="train for so many passes over the data")
    checkpoint_s: Duration = Field(
        60.0, gt=0, description="write a checkpoint so often: 30s, 5m (default: 60s)"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="seed of weights, dropout and data order")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto takes bf16 where the hardware gains from it"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where to train")
    threads: int | None = Field(
        None, ge=1, description="CPU threads (default: all cores, and 1 for small networks)"
    )

    reads_whole: ClassVar[bool] = False
    """Whether a model of this task may read a sequence from both ends."""

    @model_validator(mode="after")
    def _cell_fits(self) -> Self:
        if self.bidirectional and not self.reads_whole:
            raise ValueError(
                "bidirectional is for classify only: a model that predicts what comes next would "
                "read the answer"
            )
        if self.nonlinearity is Nonlinearity.RELU and self.cell is not Cell.RNN:
            raise ValueError(f"nonlinearity relu is for the rnn cell; {self.cell} has its own")
        if self.merge is not Merge.CONCAT and not self.bidirectional:
            raise ValueError(f"merge {self.merge} joins two directions: give bidirectional too")
        return self

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
        hidden = {"models", "runs", "device", "threads", "checkpoint_s"}
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
    min_count: int = Field(
        1,
        ge=1,
        description="characters seen fewer times become one symbol, <unk>; a model that has it "
        "takes any character a client sends",
    )
    symbols: int = Field(
        5000, ge=2, description="most symbols in the vocabulary; the rarest become <unk>"
    )
    normalise: Literal["none", "nfc"] = Field(
        "none",
        description="none takes letters and combining marks as they stand, each one a step; nfc "
        "composes them, and then every client has to do so too: a server cannot, as it takes "
        "one character at a time",
    )
    embedding: int = Field(96, ge=1, le=8192, description="width of the character embedding")
    window: int = Field(64, ge=2, description="steps per truncated back-propagation window")
    restart: int = Field(
        4, ge=0, description="windows after which a stream begins anew; 0: it is carried on"
    )
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
    csv: Path | None = Field(
        None, description="a CSV file, or columns of numbers without a header; .gz as well"
    )
    value: Names = Field(
        (),
        description="a column to predict; repeat it for several series (all columns of a file "
        "without a header, which are named 1, 2, …)",
    )
    feature: Names = Field(
        (), description="a further column to read, which clients then send too; repeatable"
    )
    time_feature: tuple[TimeFeature, ...] = Field(
        (),
        description="read hour, weekday (0: Monday), monthday or month of the date, which clients "
        "then send too; repeatable",
    )
    series_column: str | None = Field(
        None, description="the column that tells several series of a file in long form apart"
    )
    date: str | None = Field(
        None, description="the column to sort by (found by itself when named like a date)"
    )
    decimal_comma: bool = Field(
        False, description="1.234,56 is a number (found by itself where nothing else fits)"
    )
    fill: Fill = Field(
        Fill.NONE,
        description="none: rows without a value are dropped, and a gap in the dates is one step; "
        "forward: the last value stands in for both",
    )
    rows: int | None = Field(None, ge=1, description="use at most so many rows of each series")
    synthetic: int | None = Field(
        None, ge=100, le=10_000_000, description="rows of a generated price series instead of a CSV"
    )
    transform: Literal["auto"] | Transform = Field(
        "auto",
        description="auto, log-return or difference; auto takes log-return for positive values "
        "without a season",
    )
    season: int | None = Field(
        None, ge=2, le=10_000, description="measure changes from so many steps before, not from one"
    )
    driftless: bool = Field(
        False,
        description="up is as likely as down: learn only the spread and the tails of the next "
        "change; for prices, whose trends do not last",
    )
    decay: float = Field(
        0.94, gt=0, lt=1, description="decay of the running size of changes, per step"
    )
    horizon: int = Field(
        30, ge=1, le=10_000, description="steps ahead in the backtest and in the sample forecast"
    )
    windows: int = Field(20, ge=1, le=1000, description="windows in the backtest, at most")
    train_rows: int | None = Field(
        None, ge=1, description="train on at most so many rows, the last before those held out"
    )
    validation_rows: int | None = Field(
        None, ge=1, description="rows held out to choose the weights by (default: a tenth)"
    )
    test_rows: int | None = Field(
        None, ge=1, description="rows at the end held out for the scores (default: a tenth)"
    )
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
        if self.synthetic is not None and (self.value or self.feature or self.series_column):
            raise ValueError("value, feature and series_column choose columns of a csv file")
        if self.series_column is not None and len(self.value) > 1:
            raise ValueError(
                "several values are several series already: give one value with series_column"
            )
        columns = (*self.value, *self.feature, *self.time_feature)
        if twice := {name for name in columns if columns.count(name) > 1}:
            raise ValueError(f"column '{min(twice)}' is given twice")
        return self

    @property
    def sources(self) -> tuple[Path, ...]:
        """The CSV file."""
        return () if self.csv is None else (self.csv,)

    def anchored(self) -> Self:
        """The same settings with absolute paths."""
        path = None if self.csv is None else self.csv.absolute()
        return super().anchored().model_copy(update={"csv": path})


class ClassifyConfig(TrainingConfig):
    """The label of a sequence."""

    reads_whole: ClassVar[bool] = True

    task: Literal["classify"] = "classify"
    name: ModelName = "classify"
    data: Path = Field(
        description="labelled sequences: a folder with a folder of texts per label, or with a text "
        "file per label and a sequence per line; a tar archive of one; a CSV or TSV table"
    )
    test: Path | None = Field(None, description="sequences to score on, instead of a share")
    text_column: str | None = Field(None, description="table of texts: the column of the text")
    label_column: str | None = Field(None, description="table: the column of the label")
    sequence_column: str | None = Field(
        None, description="table with a row per step: the column that tells sequences apart"
    )
    step_column: str | None = Field(
        None, description="table with a row per step: the column to sort a sequence by"
    )
    feature: Names = Field(
        (), description="table with a row per step: a column of numbers; repeat (default: the rest)"
    )
    validation_share: float = Field(
        0.1, ge=0, le=0.5, description="share to choose the best weights by; 0: by training loss"
    )
    test_share: float = Field(0.1, ge=0, le=0.5, description="share to score on")
    longest: int = Field(
        1000, ge=1, description="steps of a sequence that are read; what follows is cut off"
    )
    rare: int = Field(
        2, ge=1, description="characters seen fewer times in training are taken for unknown ones"
    )
    embedding: int = Field(64, ge=1, le=8192, description="width of the character embedding")
    noise: float = Field(
        1.0, ge=0, description="noise on values in training, in their standard deviations"
    )
    early: float = Field(
        0.3, ge=0, le=1, description="share of the loss that is on the label so far, at every step"
    )
    cell: Cell = Field(Cell.GRU, description="recurrent cell: rnn, lstm or gru")
    hidden: int = Field(128, ge=1, le=8192, description="units per layer")
    batch: int = Field(32, ge=1, description="sequences per training step")
    dropout: float = Field(
        0.3, ge=0, lt=1, description="dropout between layers and before the head"
    )

    @model_validator(mode="after")
    def _something_to_score_on(self) -> Self:
        if self.test is None and not self.test_share:
            raise ValueError("nothing to score on: give a test file or a test-share above 0")
        return self

    @property
    def sources(self) -> tuple[Path, ...]:
        """The data, and the test."""
        return (self.data,) if self.test is None else (self.data, self.test)

    def anchored(self) -> Self:
        """The same settings with absolute paths."""
        test = None if self.test is None else self.test.absolute()
        update = {"data": self.data.absolute(), "test": test}
        return super().anchored().model_copy(update=update)


AnyConfig = CharConfig | SeriesConfig | ClassifyConfig
_READER: TypeAdapter[AnyConfig] = TypeAdapter(Annotated[AnyConfig, Field(discriminator="task")])


def parse_config(settings: dict[str, Any]) -> AnyConfig:
    """Check settings; ``task`` chooses between the kinds.

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
        path = [str(part) for part in problem["loc"] if part not in ("char", "series", "classify")]
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
