"""The whole road once: train, export, serve, stream, with the project's own commands.

Run it with ``make demo``; ``make demo TEXT=book.txt CSV=prices.csv`` uses data of your own.
"""

import argparse
import contextlib
import csv
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import numpy as np
from rich.console import Console
from rich.table import Table

import cellar
from training.data.series.columns import Columns
from training.data.series.reading import read_panel

mpl.use("Agg")
from matplotlib import pyplot as plt

FOLDER = Path("demo-output")
MODELS = FOLDER / "models"
RUNS = FOLDER / "runs"
COMMANDS = Path(sys.executable).parent
HORIZON = 30
console = Console(highlight=False)


def main() -> int:
    """Run the demo; returns the exit code."""
    # What the commands print must come in its place, in a file as on a terminal.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    arguments = parse_arguments()
    began = time.monotonic()
    FOLDER.mkdir(exist_ok=True)
    try:
        text = ["--text", arguments.text] if arguments.text else ["--stdlib"]
        prices, column = series_data(arguments.csv, arguments.value)
        console.rule("[bold]1. train a next-character LSTM, export it to ONNX")
        train("char", *text, "--name", "text", "--budget", arguments.budget)
        console.rule("[bold]2. train a model of a series' next value")
        if not arguments.csv:
            console.print("The prices are [bold]synthetic[/bold]: a generated random walk.")
        series = ("--csv", str(prices), "--value", column, "--name", "series")
        train("series", *series, "--budget", arguments.series_budget)
        with server() as address, cellar.connect(address) as client:
            console.rule("[bold]4. two sessions, interleaved: each keeps its own state")
            talk(client)
            console.rule("[bold]5. stream the series in, forecast what comes next")
            values, dates = read_column(prices, column)
            ahead = forecast(client, values, column)
            title = column if arguments.csv else "synthetic prices"
            picture = draw(values, dates, ahead, title)
    except DemoError as error:
        console.print(f"[red]{error}")
        return 1
    console.rule(f"[bold]done in {time.monotonic() - began:.0f} s")
    say_what_is_where(picture)
    return 0


class DemoError(Exception):
    """The demo cannot go on."""


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", help="a text of your own, UTF-8")
    parser.add_argument("--csv", help="a series of your own")
    parser.add_argument("--value", help="its column; needed where the CSV has several")
    parser.add_argument("--budget", default="60s", help="training time of the text model")
    parser.add_argument("--series-budget", default="15s", help="training time of the series model")
    return parser.parse_args()


def run(*command: str) -> None:
    """Run one of the project's commands, as a user would."""
    console.print(f"[dim]$ {shlex.join(command)}")
    done = subprocess.run([str(COMMANDS / command[0]), *command[1:]], check=False)
    if done.returncode:
        raise DemoError(f"{command[0]} ended with exit code {done.returncode}; it says why above")


def train(*arguments: str) -> None:
    """Train and publish a model."""
    # --publish: a demo in a hurry serves what it has, however little that has learnt.
    folders = ("--models", str(MODELS), "--runs", str(RUNS))
    run("cellar-train", *arguments, "--publish", *folders)


def series_data(given: str | None, column: str | None) -> tuple[Path, str]:
    """The CSV to train on and its column: the user's, or a generated one."""
    if given is None:
        path = FOLDER / "synthetic-prices.csv"
        run("cellar-train", "synthetic", str(path))
        return path, "Close"
    path = Path(given)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            columns = next(csv.reader(file), [])
    except OSError as error:
        raise DemoError(f"CSV={given}: {error.strerror}") from error
    if column is None:
        likely = [name for name in columns if name.strip().lower() in ("close", "value", "price")]
        if len(likely) != 1:
            raise DemoError(f"CSV={given}: say which column, VALUE=… of: {', '.join(columns)}")
        (column,) = likely
    elif column not in columns:
        raise DemoError(f"CSV={given}: no column '{column}', there are: {', '.join(columns)}")
    return path, column


def read_column(path: Path, column: str) -> tuple[list[float], list[str]]:
    """The numbers of a column, oldest first, and their dates, if the file has any.

    They are read as training reads them.
    """
    (series,) = read_panel(path, Columns(value=(column,))).series
    labels = list(series.labels)
    return series.values.tolist(), [] if labels[0].startswith("line ") else labels


@contextlib.contextmanager
def server() -> Iterator[str]:
    """The real server on a free port; yields its address, and stops it with SIGTERM."""
    command = (
        "cellar-serve",
        f"--models={MODELS}",
        "--port=0",
        "--metrics-port=0",
        "--log-format=json",
    )
    console.rule("[bold]3. serve both models over gRPC")
    console.print(f"[dim]$ {shlex.join(command)}")
    process = subprocess.Popen(
        [str(COMMANDS / command[0]), *command[1:]], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None, "stdout is a pipe"
    try:
        for line in process.stdout:
            entry = json.loads(line)
            if entry["event"] == "serving":
                models = ", ".join(entry["models"])
                console.print(f"serving {models} on port {entry['port']}")
                yield f"127.0.0.1:{entry['port']}"
                break
        else:
            raise DemoError("the server did not start; it says why above")
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def talk(client: cellar.Client) -> None:
    """Interleave two sessions, then let each of them write."""
    alphabet = set(client.model("text").vocabulary)
    first, second = (
        "".join(symbol for symbol in text if symbol in alphabet)
        for text in ("return the ", "import sys; ")
    )
    with client.session("text") as left, client.session("text") as right:
        table = Table("step", "left reads", "expects", "right reads", "expects")
        for number, (a, b) in enumerate(zip(first, second, strict=False), start=1):
            after_a = left.step(a, top_k=2)
            after_b = right.step(b, top_k=2)
            table.add_row(str(number), repr(a), likely(after_a), repr(b), likely(after_b))
        console.print(table)
        for seed, (name, session) in enumerate((("left", left), ("right", right))):
            console.print(f"[bold]{name}[/bold] goes on, token by token:")
            for piece in session.generate(max_steps=240, temperature=0.8, seed=seed):
                console.out(piece.text, end="", highlight=False)
                console.file.flush()
            console.print("\n")


def likely(prediction: cellar.Prediction) -> str:
    """The most likely next characters."""
    return "  ".join(f"{c.symbol!r} {c.probability:.0%}" for c in prediction.top)


def forecast(client: cellar.Client, values: list[float], column: str) -> cellar.Forecast:
    """Stream a series in, value by value at the end, and forecast what follows."""
    with client.session("series") as session:
        *history, last = values[: -HORIZON or None]
        if history:
            session.feed(history)
        after = session.step(last, quantiles=[0.1, 0.5, 0.9])
        assert after.quantiles is not None, "quantiles were asked for"
        low, middle, high = after.quantiles
        console.print(
            f"after {session.position} values, the last {last:.2f}: next {column} {middle:.2f}, "
            f"between {low:.2f} and {high:.2f} with 80 %"
        )
        ahead = session.forecast(HORIZON, paths=400, quantiles=[0.1, 0.5, 0.9])
    truth = values[-HORIZON:]
    table = Table("ahead", "10 %", "median", "90 %", "truth (held back)", "inside")
    rows = list(zip(ahead.quantiles, truth, strict=True))
    for number, ((low, middle, high), value) in enumerate(rows, start=1):
        if number in (1, 2, 3, 5, 10, 20, HORIZON):
            inside = "yes" if low <= value <= high else "no"
            numbers = [f"{x:.2f}" for x in (low, middle, high, value)]
            table.add_row(str(number), *numbers, inside)
    console.print(table)
    inside_count = sum(low <= value <= high for (low, _, high), value in rows)
    console.print(f"{inside_count} of {HORIZON} values lie inside the 80 % interval.")
    return ahead


def draw(values: list[float], dates: list[str], ahead: cellar.Forecast, title: str) -> Path:
    """Draw the forecast over the truth, joined to its past; ``dates`` may be missing."""
    shown = 4 * HORIZON
    figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    recent, truth = values[-shown - HORIZON : -HORIZON], values[-HORIZON:]
    past = np.arange(1 - len(recent), 1)  # 0: the last value streamed in
    future = np.arange(HORIZON + 1)  # what is to come begins where the past ends
    low, middle, high = ([recent[-1], *ahead.quantile(level)] for level in (0.1, 0.5, 0.9))
    axes.plot(past, recent, color="black", label="streamed in")
    axes.plot(future, [recent[-1], *truth], color="black", ls=":", label="truth, held back")
    axes.fill_between(future, low, high, alpha=0.25, label="80 % interval")
    axes.plot(future, middle, label="median of 400 sampled paths")
    axes.set(title=f"Forecast: {title}", xlabel="steps ahead", ylabel="value")
    if dates:
        places = [past[0], 0, HORIZON]
        axes.set_xticks(places, [dates[place - HORIZON - 1] for place in places])
        axes.set_xlabel("date")
    axes.legend(loc="best")
    path = FOLDER / "forecast.png"
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def say_what_is_where(picture: Path) -> None:
    """The last words: what was made, and what to type next."""
    table = Table(show_header=False)
    for name in ("text", "series"):
        newest = max((MODELS / name).glob("*/model.onnx"), key=lambda path: path.stat().st_mtime)
        table.add_row(f"model '{name}'", str(newest))
        reports = RUNS.glob(f"{name}-*/report.html")
        report = max(reports, key=lambda path: path.stat().st_mtime)
        table.add_row("  its report", str(report))
    table.add_row("forecast", str(picture))
    console.print(table)
    console.print("Next, in two terminals:")
    console.print(f"  .venv/bin/cellar-serve --models {MODELS}")
    console.print("  .venv/bin/cellar generate text 'def ' --steps 300 --temperature 0.7")
    console.print("Your own data: make demo TEXT=book.txt CSV=prices.csv VALUE=Close")


if __name__ == "__main__":
    sys.exit(main())
