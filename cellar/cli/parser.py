"""The command line: its commands and their options. What people need first stands first."""

from __future__ import annotations

import argparse
import os
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from cellar.cli.access import add_access
from cellar.cli.arguments import duration, levels, model, number, positive, whole
from cellar.cli.commands.completion import SHELLS, run_completion
from cellar.cli.commands.copies import run_export, run_fork, run_import
from cellar.cli.commands.forecast import run_forecast
from cellar.cli.commands.generate import run_generate
from cellar.cli.commands.models import run_models
from cellar.cli.commands.move import run_move
from cellar.cli.commands.sessions import (
    run_close,
    run_reset,
    run_rewind,
    run_sessions,
    run_upgrade,
)
from cellar.cli.commands.steps import run_predict, run_step
from cellar.cli.line import Parser
from cellar.outputs import DEFAULT_LEVELS
from cellar.reading.options import DATE_ORDERS
from cellar.variables import default_server


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
    _add_connection(models)

    step = commands.add_parser(
        "step",
        help="send steps, see predictions",
        description="Send steps to a session, and see what is predicted after each input.",
        examples=(
            "cellar step stdlib-text 'impor' --top-k 3",
            "cellar step prices 101.2 100.9 --session today",
        ),
    )
    _add_model(step)
    step.add_argument(
        "input", nargs="+", help="text, or the numbers of one step: 1.5, or 1.5,2 for two features"
    )
    step.add_argument(
        "--top-k", type=whole, default=0, metavar="K", help="show the K most likely tokens"
    )
    _add_session(step)
    step.set_defaults(run=run_step)
    _add_connection(step)

    predict = commands.add_parser(
        "predict",
        help="predict for whole sequences",
        description="Predict for whole sequences, each read from its beginning; no session.",
        examples=(
            "cellar predict reviews 'what a film' 'never again'",
            "cellar predict vowels '1.5,2 1.6,2.1' --top-k 2",
        ),
    )
    _add_model(predict)
    predict.add_argument(
        "input", nargs="+", help="one sequence each: text, or steps of numbers ('1.5,2 1.6,2.1')"
    )
    predict.add_argument(
        "--top-k", type=whole, default=0, metavar="K", help="show the K most likely"
    )
    predict.add_argument("--every-step", action="store_true", help="predict after every step")
    predict.set_defaults(run=run_predict)
    _add_connection(predict)

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

    _add_sessions(commands)
    _add_copies(commands)

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
    _add_model(generate)
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
    _add_session(generate)
    generate.set_defaults(run=run_generate)
    _add_connection(generate)


def _add_forecast(forecast: argparse.ArgumentParser) -> None:
    _add_model(forecast)
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
    _add_session(forecast)
    forecast.set_defaults(run=run_forecast)
    _add_connection(forecast)


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", help="the model's name")


def _add_owner(command: argparse.ArgumentParser) -> None:
    command.add_argument("--owner", metavar="PRINCIPAL", help="for admins: sessions of this one")


def _add_sessions(commands: Any) -> None:
    """The commands for sessions that are open, whoever has opened them."""
    sessions = commands.add_parser(
        "sessions",
        help="list the open sessions",
        description="List the sessions that are open on the server, of all its clients. Where the "
        "server asks for tokens: those of the token's principal, and of all for an admin.",
        examples=("cellar sessions", "cellar sessions --model prices --idle-for 1h"),
    )
    sessions.add_argument("--model", type=model, metavar="NAME[/VERSION]", help="only of this one")
    sessions.add_argument("--idle-for", type=duration, metavar="TIME", help="idle so long: 90s, 1h")
    _add_owner(sessions)
    sessions.set_defaults(run=run_sessions)
    _add_connection(sessions)

    close = commands.add_parser(
        "close",
        help="close sessions",
        description="Close sessions of yours, whichever client has opened them; their state is "
        "gone then.",
        examples=("cellar close today", "cellar close --model prices --all --idle-for 1h"),
    )
    close.add_argument("ids", nargs="*", metavar="ID", help="a session's id")
    close.add_argument("--all", action="store_true", help="all sessions of --model")
    close.add_argument("--model", type=model, metavar="NAME[/VERSION]", help="with --all: whose")
    close.add_argument(
        "--idle-for", type=duration, metavar="TIME", help="with --all: idle so long: 90s, 1h"
    )
    _add_owner(close)
    close.add_argument("--yes", action="store_true", help="with --all: do not ask")
    close.set_defaults(run=run_close, refuse=close.error)
    _add_connection(close)

    reset = commands.add_parser(
        "reset",
        help="put sessions back to their beginning",
        description="Put sessions back to position 0, with their initial state.",
        examples=("cellar reset today",),
    )
    reset.add_argument("ids", nargs="+", metavar="ID", help="a session's id")
    reset.set_defaults(run=run_reset)
    _add_connection(reset)

    rewind = commands.add_parser(
        "rewind",
        help="put a session back to an earlier position",
        description="Put a session back to an earlier position, as if it had read no more. The "
        "server has to keep its history, but for the session's last generation.",
        examples=("cellar rewind today --to 1200", "cellar rewind today --steps 10"),
    )
    rewind.add_argument("id", metavar="ID", help="the session's id")
    where = rewind.add_mutually_exclusive_group(required=True)
    where.add_argument("--to", type=whole, metavar="POSITION", help="where it is to stand")
    where.add_argument("--steps", type=whole, metavar="N", help="how many steps are taken back")
    rewind.set_defaults(run=run_rewind)
    _add_connection(rewind)

    upgrade = commands.add_parser(
        "upgrade",
        help="let a session go on with another version of its model",
        description="Let a session go on with another version of its model, which reads all that "
        "the session has read. The server has to keep its whole history.",
        examples=("cellar upgrade today", "cellar upgrade today --version 2"),
    )
    upgrade.add_argument("id", metavar="ID", help="the session's id")
    upgrade.add_argument(
        "--version", type=whole, default=0, metavar="N", help="which; the highest by default"
    )
    upgrade.set_defaults(run=run_upgrade)
    _add_connection(upgrade)


def _add_copies(commands: Any) -> None:
    """The commands that hold a session's state."""
    export = commands.add_parser(
        "export",
        help="write a session's state to a file",
        description="Write all that a session has come to into a file, a snapshot; the session "
        "stays as it is.",
        examples=("cellar export today --out today.snapshot",),
    )
    export.add_argument("id", metavar="ID", help="the session's id")
    export.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="the file to write; - is stdout"
    )
    export.set_defaults(run=run_export)
    _add_connection(export)

    importing = commands.add_parser(
        "import",
        help="open a session from such a file",
        description="Open a session that stands where a snapshot was taken, on this server or on "
        "another one that has the model's file.",
        examples=("cellar import today.snapshot --session again",),
    )
    importing.add_argument("file", type=Path, metavar="FILE", help="the snapshot; - is stdin")
    importing.add_argument("--session", metavar="ID", help="its id [the one that it had]")
    importing.set_defaults(run=run_import)
    _add_connection(importing)

    fork = commands.add_parser(
        "fork",
        help="open a session where another stands",
        description="Open a session that stands where another one stands, which stays as it is.",
        examples=("cellar fork today --as tomorrow", "cellar fork today --model prices/2"),
    )
    fork.add_argument("id", metavar="ID", help="the session's id")
    fork.add_argument("--as", dest="new_id", metavar="ID", help="the new one's id [a random one]")
    fork.add_argument(
        "--position", type=whole, metavar="N", help="where the new one stands [where it stands]"
    )
    fork.add_argument(
        "--model", type=model, metavar="NAME[/VERSION]", help="the new one's [the same]"
    )
    fork.set_defaults(run=run_fork)
    _add_connection(fork)
    _add_move(commands)


def _add_move(commands: Any) -> None:
    move = commands.add_parser(
        "move",
        help="move a session to another server",
        description="Move a session to another server, which has the model's file. At every moment "
        "one of the two has it; where anything fails, run the same again to go on.",
        examples=(
            "cellar move today --to other:50051 --to-token-file other.token",
            "cellar move today --cancel",
        ),
    )
    move.add_argument("id", metavar="ID", help="the session's id")
    move.add_argument("--to", metavar="SERVER", help="the server that it moves to")
    move.add_argument(
        "--cancel", action="store_true", help="let it step again here, if it was not released"
    )
    there = move.add_argument_group("the other server", "As the options of this one, below.")
    there.add_argument("--to-tls", action="store_true", default=None, help="speak TLS")
    there.add_argument("--to-ca", metavar="FILE", help="the authorities to trust")
    there.add_argument("--to-cert", metavar="FILE", help="the certificate to show")
    there.add_argument("--to-key", metavar="FILE", help="its key")
    there.add_argument("--to-server-name", metavar="NAME", help="what its certificate is for")
    there.add_argument("--to-token-file", metavar="FILE", help="a file with the token")
    there.add_argument("--to-token", metavar="TOKEN", help="the token itself")
    there.add_argument(
        "--to-header", action="append", default=[], metavar="NAME:VALUE", help="further metadata"
    )
    move.set_defaults(run=run_move)
    _add_connection(move)


def _add_session(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--session", metavar="ID", help="go on with this session, or begin it; it is kept"
    )
    command.add_argument(
        "--initial-state",
        type=Path,
        metavar="FILE",
        help="the state to begin with: an .npz file, with an array for each of the model's states",
    )


def _add_connection(command: argparse.ArgumentParser) -> None:
    """The options that every command has, which come last."""
    command.add_argument("--json", action="store_true", help="print JSON")
    server = default_server(os.environ)
    command.add_argument(
        "--server",
        default=server,
        metavar="ADDRESS",
        help="host:port or unix:PATH, or the variable CELLAR_SERVER [%(default)s]",
    )
    command.add_argument(
        "--timeout", type=positive, default=30.0, metavar="S", help="seconds per request [30]"
    )
    add_access(command)
