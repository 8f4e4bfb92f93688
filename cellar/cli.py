"""The command ``cellar``: look at models, and try them, on any running server.

Exit status: 0 done; 1 the server said no, or could not be reached; 2 the command line, or the
file it names, is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from cellar.client import Client, connect
from cellar.connection import DEFAULT_SERVER
from cellar.errors import CellarError, ConnectionLostError
from cellar.inputs import StepInputs
from cellar.model_info import InputKind, ModelInfo
from cellar.outputs import DEFAULT_LEVELS, OutputOptions
from cellar.predictions import Prediction
from cellar.series_table import read_future, read_past
from cellar.session import Session
from cellar.tabular import TableError, parse_row, parse_rows

_SHOWN_CHARACTERS = 40  # of a sequence, in a table


class UsageError(Exception):
    """What was asked does not make sense."""


class _Parser(argparse.ArgumentParser):
    """Takes options before, between and after optional positionals, as people write them."""

    _inside = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses; the intermixed parsing of argparse comes back here for each half."""
        if self._inside:
            return super().parse_known_args(args, namespace)
        self._inside = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._inside = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parsed = _parser().parse_args(arguments)
    try:
        with connect(parsed.server, timeout_s=parsed.timeout) as client:
            parsed.run(client, parsed)
    except (UsageError, TableError, OSError) as error:
        print(f"cellar: {error}", file=sys.stderr)
        return 2
    except ConnectionLostError as error:
        hint = "is cellar-serve running there?"
        print(f"cellar: no answer from {parsed.server}; {hint} ({error.message})", file=sys.stderr)
        return 1
    except CellarError as error:
        reason = error.reason or error.code or type(error).__name__
        print(f"cellar: {reason}: {error.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cellar", description="A client of a Cellar server.")
    version = next((each.version for each in distributions(name="cellar")), "not installed")
    parser.add_argument("--version", action="version", version=f"cellar {version}")
    common = _Parser(add_help=False)
    server = os.environ.get("CELLAR_SERVER", DEFAULT_SERVER)
    common.add_argument("--server", default=server, help="host:port [CELLAR_SERVER, %(default)s]")
    common.add_argument("--timeout", type=_positive, default=30.0, help="seconds per request [30]")
    common.add_argument("--json", action="store_true", help="print JSON")
    one = _Parser(add_help=False, parents=[common])
    one.add_argument("model", help="the model's name")
    one.add_argument("--session", metavar="ID", help="continue this session, or begin it; keep it")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    models = commands.add_parser("models", parents=[common], help="list the models")
    models.set_defaults(run=_models)

    step = commands.add_parser("step", parents=[one], help="send steps, see predictions")
    step.add_argument("input", nargs="+", help="text, or a row of numbers (x or x,y,…)")
    step.add_argument("--top-k", type=_whole, default=0, help="show the k most likely tokens")
    step.set_defaults(run=_step)

    predict = commands.add_parser("predict", parents=[common], help="predict for whole sequences")
    predict.add_argument("model", help="the model's name")
    predict.add_argument(
        "input", nargs="+", help="one sequence each: text, or rows of numbers ('x,y x,y …')"
    )
    predict.add_argument("--top-k", type=_whole, default=0, help="show the k most likely")
    predict.add_argument("--every-step", action="store_true", help="predict after every step")
    predict.set_defaults(run=_predict)

    generate = commands.add_parser("generate", parents=[one], help="continue a sequence")
    generate.add_argument("prompt", nargs="*", help="text, or rows of numbers (x or x,y,…)")
    generate.add_argument("--steps", type=_whole, default=200, help="at most so many [200]")
    generate.add_argument("--temperature", type=_number, default=1.0, help="0 is greedy [1]")
    generate.add_argument("--top-k", type=_whole, default=0, help="among the k most likely")
    generate.add_argument("--top-p", type=_number, default=1.0, help="among the likely p [1]")
    generate.add_argument("--seed", type=_whole, help="repeatable draws")
    generate.add_argument("--stop", action="append", default=[], help="end after this text")
    generate.set_defaults(run=_generate)

    forecast = commands.add_parser("forecast", parents=[one], help="forecast a series")
    forecast.add_argument("values", nargs="*", help="the series so far")
    forecast.add_argument("--csv", type=Path, help="read the series from this file")
    forecast.add_argument("--value", metavar="COLUMN", help="from this column [the only one]")
    forecast.add_argument(
        "--future", type=Path, help="read the features' values at the steps ahead from this file"
    )
    forecast.add_argument("--horizon", type=_whole, default=12, help="steps ahead [12]")
    forecast.add_argument("--paths", type=_whole, default=0, help="sampled paths [the server's]")
    forecast.add_argument("--quantiles", type=_levels, default=DEFAULT_LEVELS, help="[.1,.5,.9]")
    forecast.add_argument("--seed", type=_whole, default=0, help="repeatable paths [0]")
    forecast.set_defaults(run=_forecast)
    return parser


def _models(client: Client, options: argparse.Namespace) -> None:
    models = client.models()
    if options.json:
        return _print_json([_model_json(model) for model in models])
    versions = Counter(model.name for model in models)
    headings = ["model", "version", "task", "reads", "predicts", "#bytes/session", "scores"]
    runs = any(model.rows_run_alone or model.steps_run_alone for model in models)
    table = _table(*headings, *(["runs"] if runs else []))
    for model in models:
        chosen = model.default_version and versions[model.name] > 1
        version = f"{model.version} (default)" if chosen else str(model.version or "?")
        if not model.available:
            table.add_row(model.name, version, "unavailable")
            continue
        table.add_row(
            model.name,
            version,
            model.task,
            f"{model.input} x {model.width}" if model.width > 1 else str(model.input),
            f"{len(model.labels)} labels" if model.labels else str(model.prediction),
            f"{model.session_bytes:,}" if model.streamable else "no sessions",
            ", ".join(f"{name} {score:.4g}" for name, score in sorted(model.scores.items())),
            *([_runs(model)] if runs else []),
        )
    _print_table(table)
    for model in models:
        if not model.available:
            version = f" {model.version}" if model.version else ""
            print(f"\n{model.name}{version} is unavailable: {model.unavailable_reason}")


def _runs(model: ModelInfo) -> str:
    """What of a model shares no run."""
    rows, steps = model.rows_run_alone, model.steps_run_alone
    ways = [name for name, alone in (("row by row", rows), ("step by step", steps)) if alone]
    return ", ".join(ways) or "in batches"


def _step(client: Client, options: argparse.Namespace) -> None:
    with _session(client, options) as session:
        wanted = OutputOptions(top_k=options.top_k) if options.top_k else OutputOptions()
        rows = [(text, _inputs(text, session.model)) for text in options.input]
        predictions = [(text, session.step(inputs, **wanted)) for text, inputs in rows]
    if options.json:
        return _print_json([{"input": text, **_json(each)} for text, each in predictions])
    levels = predictions[0][1].levels
    headings = [f"#{_percent(level)}" for level in levels] if levels else ["next"]
    table = _table("input", "#position", *headings)
    for text, each in predictions:
        table.add_row(text, str(each.position), *_words(each))
    _print_table(table)


def _predict(client: Client, options: argparse.Namespace) -> None:
    model = client.model(options.model)
    reads_values = model.input is InputKind.VALUES
    sequences = [
        parse_rows(text, model.width, f"sequence {number}") if reads_values else text
        for number, text in enumerate(options.input, 1)
    ]
    wanted = OutputOptions(top_k=options.top_k) if options.top_k else OutputOptions()
    found = client.predict(
        options.model, sequences, version=model.version, every_step=options.every_step, **wanted
    )
    rows = [(text, each) for text, own in zip(options.input, found, strict=True) for each in own]
    if options.json:
        return _print_json([{"input": text, **_json(each)} for text, each in rows])
    levels = found.predictions[0].levels
    headings = [f"#{_percent(level)}" for level in levels] or ["label" if model.labels else "next"]
    table = _table("input", "#steps", *headings)
    for text, each in rows:
        shown = text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 1]}…"
        table.add_row(shown, str(each.position), *_words(each))
    _print_table(table)


def _generate(client: Client, options: argparse.Namespace) -> None:
    with _session(client, options) as session:
        reads_values = session.model.input is InputKind.VALUES
        generation = session.generate(
            _prompt(options.prompt, session.model),
            max_steps=options.steps,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            seed=options.seed,
            stop=options.stop,
        )
        pieces = []
        for piece in generation:
            pieces.append(piece)
            if options.json:
                continue
            text = "".join(f"{value:g}\n" for value in piece.values.tolist())
            print(text if reads_values else piece.text, end="", flush=True)
    if options.json:
        _print_json(
            {
                "text": "".join(piece.text for piece in pieces),
                "tokens": [token for piece in pieces for token in piece.tokens.tolist()],
                "values": [value for piece in pieces for value in piece.values.tolist()],
                "position": session.position,
                "finish_reason": pieces[-1].finish_reason if pieces else None,
            }
        )
    elif not reads_values:
        print()


def _forecast(client: Client, options: argparse.Namespace) -> None:
    if bool(options.values) == (options.csv is not None):
        raise UsageError("give the series either as values or as --csv FILE")
    model = client.model(options.model)
    if model.input is not InputKind.VALUES:
        raise UsageError(f"model {options.model!r} is not of a series: use cellar generate")
    _check_future(model, options)
    past = None if options.csv is None else read_past(options.csv, options.value, model)
    if past is None:
        values = enumerate(options.values, 1)
        rows = [parse_row(each, model.width, f"value {n}") for n, each in values]
    else:
        rows = past.rows
    future = None
    if options.future is not None:
        future = read_future(options.future, model, past=past, horizon=options.horizon)
    for read in (past, future):
        for note in () if read is None else read.notes:
            print(f"cellar: {note}", file=sys.stderr)
    with _session(client, options) as session:
        session.feed(rows)
        forecast = session.forecast(
            options.horizon,
            paths=options.paths,
            quantiles=options.quantiles,
            seed=options.seed,
            future=None if future is None else future.rows,
        )
    if options.json:
        return _print_json(
            {
                "position": forecast.position,
                "levels": forecast.levels,
                "quantiles": forecast.quantiles.tolist(),
                "mean": forecast.mean.tolist(),
            }
        )
    table = _table("#ahead", "#mean", *(f"#{_percent(level)}" for level in forecast.levels))
    for ahead, (mean, row) in enumerate(zip(forecast.mean, forecast.quantiles, strict=True), 1):
        table.add_row(str(ahead), f"{mean:.6g}", *(f"{value:.6g}" for value in row))
    _print_table(table)


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


def _session(client: Client, options: argparse.Namespace) -> AbstractContextManager[Session]:
    session = client.session(options.model, id=options.session, resume=options.session is not None)
    return session if options.session is None else nullcontext(session)


def _inputs(text: str, model: ModelInfo) -> StepInputs:
    if model.input is InputKind.VALUES:
        return parse_row(text, model.width, "input")
    return _with_long_symbols(text, model.vocabulary)


def _prompt(words: list[str], model: ModelInfo) -> StepInputs | None:
    if model.input is not InputKind.VALUES:
        return _with_long_symbols(" ".join(words), model.vocabulary)
    rows = [parse_row(each, model.width, f"value {n}") for n, each in enumerate(words, 1)]
    return rows or None


def _with_long_symbols(text: str, vocabulary: tuple[str, ...]) -> StepInputs:
    """A text, as token ids where it has symbols of several characters in it: <label>."""
    longer = [symbol for symbol in vocabulary if len(symbol) > 1 and symbol in text]
    if not longer:
        return text
    pattern = "|".join(re.escape(symbol) for symbol in sorted(longer, key=len, reverse=True))
    symbols = re.findall(f"{pattern}|.", text, flags=re.DOTALL)
    if not set(symbols) <= set(vocabulary):
        return text  # the server says what is wrong with it
    return [vocabulary.index(symbol) for symbol in symbols]


def _words(prediction: Prediction) -> list[str]:
    """The cells of a prediction."""
    if prediction.quantiles is not None:
        return [f"{value:.6g}" for value in prediction.quantiles]
    if prediction.top:
        top = (
            f"{_name(each.symbol, each.token)} {each.probability:.3f}" for each in prediction.top
        )
        return ["  ".join(top)]
    if prediction.argmax is not None:
        return [_name(prediction.symbol, prediction.argmax)]
    return ["" if prediction.raw is None else "  ".join(f"{each:.6g}" for each in prediction.raw)]


def _percent(level: float) -> str:
    return f"{100 * level:.4g}%"


def _name(symbol: str | None, token: int) -> str:
    return str(token) if symbol is None else repr(symbol)


def _json(prediction: Prediction) -> dict[str, Any]:
    facts = {
        "position": prediction.position,
        "argmax": prediction.argmax,
        "symbol": prediction.symbol,
        "top": [[each.token, each.symbol, each.probability] for each in prediction.top] or None,
        "levels": prediction.levels or None,
        "quantiles": None if prediction.quantiles is None else prediction.quantiles.tolist(),
        "raw": None if prediction.raw is None else prediction.raw.tolist(),
    }
    return {name: fact for name, fact in facts.items() if fact is not None}


def _model_json(model: ModelInfo) -> dict[str, Any]:
    return {
        "name": model.name,
        "version": model.version,
        "default_version": model.default_version,
        "task": model.task,
        "input": model.input,
        "width": model.width,
        "features": model.features,
        "prediction": model.prediction,
        "labels": model.labels,
        "streamable": model.streamable,
        "rows_run_alone": model.rows_run_alone,
        "steps_run_alone": model.steps_run_alone,
        "largest_value": model.largest_value,
        "session_bytes": model.session_bytes,
        "fingerprint": model.fingerprint,
        "scores": dict(model.scores),
        "unavailable_reason": model.unavailable_reason,
    }


def _print_json(facts: object) -> None:
    print(json.dumps(facts, ensure_ascii=False))


def _table(*headings: str) -> Table:
    """A table; the columns whose heading begins with # hold numbers."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in headings:
        number = heading.startswith("#")
        table.add_column(heading.lstrip("#"), justify="right" if number else "left")
    return table


def _print_table(table: Table) -> None:
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(table)


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def _positive(text: str) -> float:
    number = _number(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _levels(text: str) -> tuple[float, ...]:
    return tuple(_number(level) for level in text.split(","))
