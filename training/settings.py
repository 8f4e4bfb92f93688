"""The settings that all training runs have in common.

Every field's description is its ``--help`` text.
"""

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

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


class Optimiser(StrEnum):
    """What takes the steps."""

    AUTO = "auto"
    ADAMW = "adamw"
    MUON = "muon"


class Merge(StrEnum):
    """How the two directions of a bidirectional layer become one."""

    CONCAT = "concat"
    SUM = "sum"
    AVERAGE = "average"
    MULTIPLY = "multiply"


def flag_of(setting: str) -> str:
    """What a setting is called on the command line."""
    name = setting.removesuffix("_s").removesuffix("_run")
    return "--" + name.replace("_", "-")


def _duration(value: object) -> object:
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", value)
        if match is None:
            raise ValueError(f"'{value}' is no duration: write 90, 90s, 3m or 1h")
        return float(match[1]) * _UNITS[match[2]]
    return value


def _model_name(name: str) -> str:
    if re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name) is None:
        raise ValueError("small letters, digits, and behind the first '.', '_' and '-'; 64 at most")
    return name


ModelName = Annotated[
    str,
    AfterValidator(_model_name),
    Field(description="the model's name in the repository"),
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
    from_run: Path | None = Field(
        None,
        description="start from the best weights of this run (its folder), of the same vocabulary, "
        "columns or labels; its cells, layers and units are taken, too",
    )
    publish: bool = Field(
        False, description="publish the model even where it is worse than its simplest baseline"
    )

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
    learn_initial_state: bool = Field(
        False,
        description="learn the state that sequences start from, which is zeros otherwise; it is "
        "published with the model",
    )
    layers: int = Field(1, ge=1, le=16, description="stacked layers")
    hidden: int = Field(256, ge=1, le=8192, description="units per layer")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="dropout between layers and before the head"
    )

    batch: int = Field(64, ge=1, description="parallel streams")
    learning_rate: float = Field(4e-3, gt=0, description="peak learning rate")
    optimiser: Optimiser = Field(
        Optimiser.ADAMW,
        description="adamw; or muon for the cells' matrices and adamw for the rest; auto takes "
        "muon where the hardware is fast at bf16",
    )
    matrix_rate: float = Field(0.05, gt=0, description="muon's peak learning rate")
    warmup: int = Field(40, ge=0, description="steps of linear warm-up; cosine decay follows")
    weight_decay: float = Field(0.01, ge=0, description="decoupled weight decay")
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
    shape: ClassVar[tuple[str, ...]] = (
        "cell",
        "nonlinearity",
        "bidirectional",
        "merge",
        "learn_initial_state",
        "layers",
        "hidden",
    )
    """Settings that weights depend on: a run takes them from the run that it starts from."""

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
        if self.bidirectional and self.learn_initial_state:
            raise ValueError(
                "learn-initial-state is for models with sessions: leave it out with bidirectional"
            )
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
        start = None if self.from_run is None else self.from_run.absolute()
        update = {"models": self.models.absolute(), "runs": self.runs.absolute(), "from_run": start}
        return self.model_copy(update=update)

    def public(self) -> dict[str, Any]:
        """The settings without the folders of this machine, for a model's provenance."""
        hidden = {"models", "runs", "device", "threads", "checkpoint_s", "publish"}
        settings: dict[str, Any] = self.model_dump(mode="json", exclude=hidden)
        private = self.sources if self.from_run is None else (*self.sources, self.from_run)
        return {key: _without_folders(value, private) for key, value in settings.items()}


class Further(BaseModel):
    """How much longer a run is to train than it was meant to: one of these."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    budget_s: Duration | None = Field(
        None, gt=0, description="train for so much longer: 90, 90s, 3m, 1h"
    )
    steps: int | None = Field(None, ge=1, description="train for so many more windows")
    epochs: float | None = Field(None, gt=0, description="train for so many more passes")

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if len(self.given) != 1:
            raise ValueError(f"give one of budget, steps and epochs, not {len(self.given)}")
        return self

    @property
    def given(self) -> dict[str, float]:
        """What is given, by its name."""
        return self.model_dump(exclude_none=True)

    def __str__(self) -> str:
        """As on the command line."""
        return " ".join(f"{flag_of(name)} {value:g}" for name, value in self.given.items())


def _without_folders(value: Any, sources: tuple[Path, ...]) -> Any:
    if isinstance(value, list):
        return [_without_folders(item, sources) for item in value]
    if isinstance(value, str) and Path(value) in sources:
        return Path(value).name
    return value
