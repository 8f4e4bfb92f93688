"""The command line: its commands and their options. What people need first stands first."""

from __future__ import annotations

import argparse
from importlib.metadata import distributions
from pathlib import Path

from cellar.cli.arguments import levels, number, whole
from cellar.cli.commands.completion import SHELLS, run_completion
from cellar.cli.commands.forecast import run_forecast
from cellar.cli.commands.generate import run_generate
from cellar.cli.commands.models import run_models
from cellar.cli.commands.steps import run_predict, run_step
from cellar.cli.line import Parser
from cellar.cli.parsing.copies import add_copies
from cellar.cli.parsing.options import add_connection, add_model, add_session
from cellar.cli.parsing.sessions import add_sessions
from cellar.reading.options import DATE_ORDERS
from cellar.values.outputs import DEFAULT_LEVELS


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; ``run`` is what does a command."""
    top = Parser(
        prog="cellar",
        description="Look at the models of a Cellar server, and try them.",
        examples=(
            "cellar models",
            "cellar step stdlib-text 'impor' --top-k 3",
            "cellar generate stdlib-text 'def ' --steps 200",
            "cellar forecast prices --csv prices.csv --value close",
        ),
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)

    models = commands.add_parser(
        "models",
        help="list the models",
        description="List the models of a server: what each reads and predicts, and whether it is "
        "served.",
        examples=("cellar models", "cellar models --json | jq '.[].name'"),
    )
    models.set_defaults(run=run_models)
    add_connection(models)

    step = commands.add_parser(
        "step",
        help="send steps, see predictions",
        description="Send steps to a session, and see what is predicted after each input.",
        examples=(
            "cellar step stdlib-text 'impor' --top-k 3",
            "cellar step prices 101.2 100.9 --session today",
        ),
    )
    add_model(step)
    step.add_argument(
        "input", nargs="+", help="text, or the numbers of one step: 1.5, or 1.5,2 for two features"
    )
    step.add_argument(
        "--top-k", type=whole, default=0, metavar="K", help="show the K most likely tokens"
    )
    add_session(step)
    step.set_defaults(run=run_step)
    add_connection(step)

    predict = commands.add_parser(
        "predict",
        help="predict for whole sequences",
        description="Predict for whole sequences, each read from its beginning; no session.",
        examples=(
            "cellar predict reviews 'what a film' 'never again'",
            "cellar predict vowels '1.5,2 1.6,2.1' --top-k 2",
        ),
    )
    add_model(predict)
    predict.add_argument(
        "input", nargs="+", help="one sequence each: text, or steps of numbers ('1.5,2 1.6,2.1')"
    )
    predict.add_argument(
        "--top-k", type=whole, default=0, metavar="K", help="show the K most likely"
    )
    predict.add_argument("--every-step", action="store_true", help="predict after every step")
    predict.set_defaults(run=run_predict)
    add_connection(predict)

    _add_generate(
        commands.add_parser(
            "generate",
            help="continue a sequence",
            description="Go on with a sequence, and show what comes as it comes.",
            examples=(
                "cellar generate stdlib-text 'def ' --steps 200 --temperature 0.5",
                "cellar generate stdlib-text 'import ' --stop $'\\n' --seed 1",
                "cellar generate stdlib-text 'def ' --stop '(' --n 4",
            ),
        )
    )
    _add_forecast(
        commands.add_parser(
            "forecast",
            help="forecast a series",
            description="Forecast a series: mean and quantiles of each step ahead.",
            examples=(
                "cellar forecast prices 101.2 100.9 101.7 --horizon 5",
                "cellar forecast prices --csv prices.csv --value close",
                "cellar forecast sales --csv sales.csv --future calendar.csv --horizon 30",
            ),
        )
    )

    add_sessions(commands)
    add_copies(commands)

    completion = commands.add_parser(
        "completion",
        help="let a shell complete this command",
        description="Write a script that lets a shell complete this command.",
        examples=(
            'eval "$(cellar completion bash)"',
            "cellar completion zsh > ~/.zfunc/_cellar",
            "cellar completion fish > ~/.config/fish/completions/cellar.fish",
        ),
    )
    completion.add_argument("shell", choices=SHELLS)
    completion.set_defaults(run=run_completion, needs_server=False, parser=top)

    version = next((each.version for each in distributions(name="cellar")), "not installed")
    top.add_argument("--version", action="version", version=f"cellar {version}")
    return top


def _add_generate(generate: argparse.ArgumentParser) -> None:
    add_model(generate)
    generate.add_argument("prompt", nargs="*", help="text, or the numbers of a step each")
    generate.add_argument(
        "--steps", type=whole, default=200, metavar="N", help="at most so many [200]"
    )
    generate.add_argument(
        "--temperature", type=number, default=1.0, metavar="T", help="0 is greedy [1]"
    )
    generate.add_argument("--stop", action="append", default=[], help="end after this text")
    generate.add_argument("--seed", type=whole, metavar="N", help="the same draws each time")
    generate.add_argument(
        "--n", type=whole, metavar="N", help="in N ways, with the seed and those that follow"
    )
    generate.add_argument(
        "--top-k", type=whole, default=0, metavar="K", help="draw among the K most likely"
    )
    generate.add_argument(
        "--top-p", type=number, default=1.0, metavar="P", help="draw among the likely P [1]"
    )
    add_session(generate)
    generate.set_defaults(run=run_generate)
    add_connection(generate)


def _add_forecast(forecast: argparse.ArgumentParser) -> None:
    add_model(forecast)
    forecast.add_argument("values", nargs="*", help="the series so far; or give a file with --csv")
    forecast.add_argument("--horizon", type=whole, default=12, metavar="N", help="steps ahead [12]")
    forecast.add_argument(
        "--quantiles", type=levels, default=DEFAULT_LEVELS, metavar="Q,Q", help="[.1,.5,.9]"
    )
    forecast.add_argument(
        "--paths", type=whole, default=0, metavar="N", help="sampled paths [the server's number]"
    )
    forecast.add_argument(
        "--seed", type=whole, default=0, metavar="N", help="the same paths each time [0]"
    )
    files = forecast.add_argument_group(
        "files", "Read as cellar-train reads them; what it reads and this cannot is refused."
    )
    files.add_argument("--csv", type=Path, metavar="FILE", help="the series so far")
    files.add_argument(
        "--value", metavar="COLUMN", help="its values [the column named as the model's]"
    )
    files.add_argument(
        "--future", type=Path, metavar="FILE", help="the features at the steps ahead"
    )
    files.add_argument("--date", metavar="COLUMN", help="its times; none: rows are in order")
    files.add_argument(
        "--date-form",
        metavar="FORM",
        help=f"{', '.join(DATE_ORDERS)}, or as strptime writes it: %%d.%%m.%%Y",
    )
    marks = files.add_mutually_exclusive_group()
    marks.add_argument("--decimal-comma", action="store_true", help="1,5 is one and a half")
    marks.add_argument("--decimal-point", action="store_true", help="1,500 is a thousand and more")
    files.add_argument(
        "--missing",
        action="append",
        default=[],
        metavar="MARK",
        help="stands for no value, beside the usual marks",
    )
    files.add_argument("--encoding", metavar="NAME", help="how they are written [utf-8]")
    add_session(forecast)
    forecast.set_defaults(run=run_forecast)
    add_connection(forecast)
