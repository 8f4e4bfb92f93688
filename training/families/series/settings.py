"""The settings of a series model."""

from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from cellar.reading.fields.dates import ORDERS
from training.data.encodings import EncodingName
from training.data.series.columns import Columns, Fill, Layout, TimeFeature
from training.settings import ModelName, Names, TrainingConfig


class Transform(StrEnum):
    """How a series' changes are measured."""

    LOG_RETURN = "log-return"
    DIFFERENCE = "difference"


class SeriesConfig(TrainingConfig):
    """The distribution of a series' next value."""

    task: Literal["series"] = "series"
    name: ModelName = "series"
    csv: Path | None = Field(
        None,
        description="a CSV file, or columns of numbers without a header; packed with gzip, or "
        "alone in an archive, as well",
    )
    encoding: EncodingName | None = Field(
        None, description="how the file is written where it is not UTF-8: cp1252, cp1251, shift_jis"
    )
    value: Names = Field(
        (),
        description="a column to predict; repeat it for several series, or say all (which a file "
        "without a header means); where each row is a series, a row",
    )
    feature: Names = Field(
        (), description="a further column to read, which clients then send too; repeatable"
    )
    time_feature: tuple[TimeFeature, ...] = Field(
        (),
        description="read hour, weekday (0: Monday), monthday or month of the date, which clients "
        "then send too; repeatable",
    )
    layout: Layout = Field(
        Layout.AUTO,
        description="columns: a row is a step; rows: a row is a series, and its columns are steps",
    )
    series_column: str | None = Field(
        None,
        description="the column that tells several series of a file in long form apart; none: "
        "whatever its columns look like, it is one series",
    )
    date: str | None = Field(
        None,
        description="the column of times to sort by (found by its content and name); none: the "
        "rows are in order",
    )
    date_form: str | None = Field(
        None,
        description="how dates are written: day-first, month-first, year-first, or as strptime "
        "takes it, such as %d.%m.%Y (found by what fits)",
    )
    decimal_comma: bool = Field(
        False, description="1.234,56 is a number (found by itself where one field tells)"
    )
    decimal_point: bool = Field(
        False, description="1,234.56 is a number (found by itself where one field tells)"
    )
    missing: Names = Field(
        (),
        description="a field or number that stands for no value, such as -200, beside the usual "
        "ones (empty, NA, null, ., ?, -); repeatable",
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
    future: Path | None = Field(
        None,
        description="a CSV file with the features at the steps after the end, for the forecast "
        "that the run leaves: its rows behind the last date, or all of them",
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

    shape: ClassVar[tuple[str, ...]] = (*TrainingConfig.shape, "season", "decay", "driftless")

    @model_validator(mode="after")
    def _future_is_of_features(self) -> Self:
        if self.future is not None and not self.feature:
            raise ValueError(
                "future has the columns of feature, and there is none (dates go on by themselves)"
            )
        return self

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.csv is None) == (self.synthetic is None):
            raise ValueError("give either a csv file or a number of synthetic rows")
        if self.synthetic is not None and (self.value or self.feature or self.series_column):
            raise ValueError("value, feature and series_column choose columns of a csv file")
        if self.synthetic is not None and self.encoding is not None:
            raise ValueError("encoding is for files: leave it out with synthetic")
        if self.decimal_comma and self.decimal_point:
            raise ValueError("give decimal_comma or decimal_point, not both")
        if self.date_form is not None and not (self.date_form in ORDERS or "%" in self.date_form):
            raise ValueError(
                f"date_form '{self.date_form}' is none: give {', '.join(ORDERS)}, or a form such "
                "as %d.%m.%Y"
            )
        if self.series_column is not None and len(self.value) > 1:
            raise ValueError(
                "several values are several series already: give one value with series_column"
            )
        columns = (*self.value, *self.feature, *self.time_feature)
        if twice := {name for name in columns if columns.count(name) > 1}:
            raise ValueError(f"column '{min(twice)}' is given twice")
        return self

    @property
    def columns(self) -> Columns:
        """What is wanted of the file."""
        return Columns(
            value=self.value,
            feature=self.feature,
            time_feature=self.time_feature,
            series_column=self.series_column,
            date=self.date,
            date_form=self.date_form,
            decimal_comma=self.decimal_comma,
            decimal_point=self.decimal_point,
            missing=self.missing,
            encoding=self.encoding,
            layout=self.layout,
            fill=self.fill,
        )

    @property
    def sources(self) -> tuple[Path, ...]:
        """The CSV files."""
        return tuple(path for path in (self.csv, self.future) if path is not None)

    def anchored(self) -> Self:
        """The same settings with absolute paths."""
        paths = {"csv": self.csv, "future": self.future}
        found = {name: path.absolute() for name, path in paths.items() if path is not None}
        return super().anchored().model_copy(update=found)
