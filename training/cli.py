"""`cellar-train`: train a model from the command line."""

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from rich.console import Console

from training.compare import command as comparing
from training.data.series.synthetic import write_csv
from training.errors import ConfigError, DataError, RunError, StoppedError, TrainingError
from training.families.parsing import parse_config
from training.families.registry import FAMILIES
from training.importing import command as importing
from training.importing.options import options_of
from training.run import republish
from training.run.fit import resume, train
from training.settings import Cell, TrainingConfig

EXIT_FAILED, EXIT_USAGE, EXIT_STOPPED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 2 for wrong settings or data, 130 when stopped."""
    parser = _parser()
    given = vars(parser.parse_args(arguments))
    command = given.pop("command")
    console = Console()
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    try:
        if command == "synthetic":
            write_csv(given["csv"], given["rows"], seed=given["seed"])
            console.print(f"wrote {given['rows']} rows of a synthetic series to {given['csv']}")
            return 0
        if command == "import":
            importing.import_model(options_of(given), console=console)
            return 0
        if command == "export":
            republish.export_run(**given, console=console)
            return 0
        if command == "compare":
            _compare(given, console)
            return 0
        if command == "resume":
            run = resume(given["folder"], console=console)
        else:
            run = train(parse_config({"task": command, **given}), console=console)
    except TrainingError as error:
        verbose = given.get("verbose", False) if command == "import" else None
        return _failed(error, verbose=verbose)
    return 0 if run.finished else EXIT_STOPPED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cellar-train",
        description="Train a recurrent network and publish it, ready to serve.",
    )
    version = next((each.version for each in distributions(name="cellar")), "not installed")
    parser.add_argument("--version", action="version", version=f"cellar-train {version}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, family in FAMILIES.items():
        summary = family.summary
        _add_options(commands.add_parser(name, help=summary, description=summary), family.config)
    summary = "train several cells on the same data and budget, and say which does best"
    versus = commands.add_parser("compare", help=summary, description=summary)
    tasks = versus.add_subparsers(dest="task", required=True, metavar="TASK")
    for name, family in FAMILIES.items():
        rival = tasks.add_parser(name, help=family.summary, description=f"{summary}: {name}")
        comparing.add_options(rival)
        _add_options(rival, family.config, without=("cell",))
    go_on = commands.add_parser("resume", help="go on with a run that was stopped")
    go_on.add_argument("folder", type=Path, metavar="RUN", help="the run's folder")
    publish = commands.add_parser("export", help="publish the best weights of a run again")
    republish.add_options(publish)
    summary = "make a servable model of a torch state_dict or an external ONNX file"
    importing.add_options(commands.add_parser("import", help=summary, description=summary))
    generate = commands.add_parser("synthetic", help="write a generated price series as a CSV file")
    generate.add_argument("csv", type=Path, metavar="FILE")
    generate.add_argument("--rows", type=int, default=5000)
    generate.add_argument("--seed", type=int, default=0)
    return parser


def _failed(error: TrainingError, *, verbose: bool | None) -> int:
    """Say what is wrong; ``verbose`` is ``None`` where the command has no such option."""
    print(f"cellar-train: {error}", file=sys.stderr)
    reason = None if verbose is None else importing.full_reason(error)
    if reason is not None:
        print(reason if verbose else "--verbose says in full why.", file=sys.stderr)
    if isinstance(error, StoppedError):
        return EXIT_STOPPED
    return EXIT_USAGE if isinstance(error, (ConfigError, DataError, RunError)) else EXIT_FAILED


def _compare(given: dict[str, Any], console: Console) -> None:
    cells = [name.strip() for name in given.pop("cells").split(",")]
    if unknown := [name for name in cells if name not in tuple(Cell)]:
        raise ConfigError(f"cells: there is no '{unknown[0]}'; there are {', '.join(Cell)}")
    options = {name: given.pop(name) for name in ("seeds", "publish")}
    comparing.compare(given, cells=[Cell(name) for name in cells], **options, console=console)


def _add_options(
    parser: argparse.ArgumentParser, config: type[TrainingConfig], *, without: Sequence[str] = ()
) -> None:
    """One option per setting; pydantic checks the values, so everything stays text here."""
    fields = config.model_fields
    own = [name for name in fields if name not in TrainingConfig.model_fields]
    for name in own + [name for name in fields if name not in own]:
        if name == "task" or name in without:
            continue
        field = fields[name]
        flag = "--" + name.removesuffix("_s").replace("_", "-")
        shown = "" if field.default in (None, (), False) else f" (default: {field.default})"
        shown = "" if field.is_required() else shown
        options: dict[str, Any] = {
            "dest": name,
            "required": field.is_required(),
            "default": argparse.SUPPRESS,
            "help": f"{field.description}{shown}".replace("%", "%%"),
        }
        if field.annotation is bool:
            options["action"] = "store_true"
        elif field.default == ():
            metavar = "FILE" if "Path" in str(field.annotation) else name.upper()
            options |= {"action": "append", "metavar": metavar}
        else:
            options["metavar"] = name.removesuffix("_s").upper()
        parser.add_argument(flag, **options)


if __name__ == "__main__":
    sys.exit(main())
