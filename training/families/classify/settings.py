"""The settings of a classifier."""

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from training.data.encodings import EncodingName
from training.data.labelled.tables.columns import Columns
from training.settings import Cell, ModelName, Names, TrainingConfig


class ClassifyConfig(TrainingConfig):
    """The label of a sequence."""

    reads_whole: ClassVar[bool] = True

    task: Literal["classify"] = "classify"
    name: ModelName = "classify"
    data: Path = Field(
        description="labelled sequences: a folder with a folder of texts per label, or with a text "
        "file per label and a sequence per line; a CSV, TSV or .ts table; a ZIP or tar archive of "
        "one. Parts named train, test and validation are kept"
    )
    test: Path | None = Field(None, description="sequences to score on, instead of a share")
    encoding: EncodingName | None = Field(
        None, description="how text is written where it is not UTF-8: cp1252, cp1251, shift_jis"
    )
    group: str | None = Field(
        None,
        description="table: the column of what a sequence was recorded from; files: a regular "
        "expression that finds it in their paths. Nothing of one group is on both sides of a split",
    )
    header: Literal["auto", "yes", "no"] = Field(
        "auto", description="table: whether the first row names the columns"
    )
    wide: bool = Field(False, description="table: each row is a sequence of numbers")
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

    shape: ClassVar[tuple[str, ...]] = (*TrainingConfig.shape, "embedding")

    @model_validator(mode="after")
    def _something_to_score_on(self) -> Self:
        if self.test is None and not self.test_share:
            raise ValueError("nothing to score on: give a test file or a test-share above 0")
        return self

    @property
    def columns(self) -> Columns:
        """What is said of the columns of tables."""
        return Columns(
            text=self.text_column,
            label=self.label_column,
            sequence=self.sequence_column,
            step=self.step_column,
            features=self.feature,
            wide=self.wide,
            header={"auto": None, "yes": True, "no": False}[self.header],
            group=self.group,
        )

    @property
    def sources(self) -> tuple[Path, ...]:
        """The data, and the test."""
        return (self.data,) if self.test is None else (self.data, self.test)

    def anchored(self) -> Self:
        """The same settings with absolute paths."""
        test = None if self.test is None else self.test.absolute()
        update = {"data": self.data.absolute(), "test": test}
        return super().anchored().model_copy(update=update)
