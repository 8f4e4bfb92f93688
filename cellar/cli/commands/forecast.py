"""``cellar forecast``: the values of a series to come."""

from __future__ import annotations

import argparse
import sys

from cellar.cli.arguments import UsageError
from cellar.cli.given import open_session
from cellar.cli.numbers import parse_row
from cellar.cli.shown import new_table, percent, print_json, print_table
from cellar.reading.options import DATE_ORDERS, ReadingOptions
from cellar.reading.series_table import read_future, read_past
from cellar.sync.client import Client
from cellar.values.model_info import InputKind, ModelInfo


def run_forecast(client: Client, options: argparse.Namespace) -> None:
    """Forecast, and show quantiles."""
    if bool(options.values) == (options.csv is not None):
        raise UsageError("give the series either as values or as --csv FILE")
    model = client.model(options.model)
    if model.input is not InputKind.VALUES:
        raise UsageError(
            f"model {options.model!r} is not of a series: use cellar "
            + ("predict" if model.labels else "generate")
        )
    _check_future(model, options)
    reading = _reading(options)
    past = None if options.csv is None else read_past(options.csv, options.value, model, reading)
    if past is None:
        values = enumerate(options.values, 1)
        rows = [parse_row(each, model, f"value {n}") for n, each in values]
    else:
        rows = past.rows
    future = None
    if options.future is not None:
        future = read_future(
            options.future, model, past=past, horizon=options.horizon, options=reading
        )
    for read in (past, future):
        for note in () if read is None else read.notes:
            print(f"cellar: {note}", file=sys.stderr)
    with open_session(client, options) as session:
        session.feed(rows)
        forecast = session.forecast(
            options.horizon,
            paths=options.paths,
            quantiles=options.quantiles,
            seed=options.seed,
            future=None if future is None else future.rows,
        )
    if options.json:
        return print_json(
            {
                "position": forecast.position,
                "levels": forecast.levels,
                "quantiles": forecast.quantiles.tolist(),
                "mean": forecast.mean.tolist(),
            }
        )
    shown = new_table("#ahead", "#mean", *(f"#{percent(level)}" for level in forecast.levels))
    for ahead, (mean, row) in enumerate(zip(forecast.mean, forecast.quantiles, strict=True), 1):
        shown.add_row(str(ahead), f"{mean:.6g}", *(f"{value:.6g}" for value in row))
    print_table(shown)


def _reading(options: argparse.Namespace) -> ReadingOptions:
    """What is said of the files."""
    if options.date_form is not None and not (
        options.date_form in DATE_ORDERS or "%" in options.date_form
    ):
        raise UsageError(
            f"--date-form {options.date_form!r} is none: give {', '.join(DATE_ORDERS)}, or a form "
            "such as %d.%m.%Y"
        )
    told = options.decimal_comma or options.decimal_point
    return ReadingOptions(
        date=options.date,
        date_form=options.date_form,
        decimal_comma=options.decimal_comma if told else None,
        missing=tuple(options.missing),
        encoding=options.encoding,
    )


def _check_future(model: ModelInfo, options: argparse.Namespace) -> None:
    """Check that there is a future where the model reads one, and none where not."""
    if options.future is not None and not model.beside:
        raise UsageError(
            f"model {model.name!r} reads nothing beside the value that it predicts: leave out "
            "--future"
        )
    if options.future is None and model.beside and options.horizon > 1:
        raise UsageError(
            f"model {model.name!r} reads {', '.join(model.beside)} beside {model.features[0]}: "
            f"give them for the {options.horizon - 1} steps before the last, with --future FILE"
        )
