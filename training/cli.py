"""`cellar-train`: train a model from the command line."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from training.config import TrainingConfig, parse_config
from training.data.synthetic import write_csv
from training.errors import ConfigError, DataError, RunError, TrainingError
from training.families import FAMILIES
from training.fit import resume, train

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
        if command == "resume":
            run = resume(given["folder"], console=console)
        else:
            run = train(parse_config({"task": command, **given}), console=console)
    except (ConfigError, DataError, RunError) as error:
        print(f"cellar-train: {error}", file=sys.stderr)
        return EXIT_USAGE
    except TrainingError as error:
        print(f"cellar-train: {error}", file=sys.stderr)
        return EXIT_FAILED
    return 0 if run.finished else EXIT_STOPPED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cellar-train",
        description="Train a recurrent network and publish it, ready to serve.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, family in FAMILIES.items():
        summary = family.summary
        _add_options(commands.add_parser(name, help=summary, description=summary), family.config)
    go_on = commands.add_parser("resume", help="go on with a run that was stopped")
    go_on.add_argument("folder", type=Path, metavar="RUN", help="the run's folder")
    generate = commands.add_parser("synthetic", help="write a generated price series as a CSV file")
    generate.add_argument("csv", type=Path, metavar="FILE")
    generate.add_argument("--rows", type=int, default=5000)
    generate.add_argument("--seed", type=int, default=0)
    return parser


def _add_options(parser: argparse.ArgumentParser, config: type[TrainingConfig]) -> None:
    """One option per setting; pydantic checks the values, so everything stays text here."""
    fields = config.model_fields
    own = [name for name in fields if name not in TrainingConfig.model_fields]
    for name in own + [name for name in fields if name not in own]:
        if name == "task":
            continue
        field = fields[name]
        flag = "--" + name.removesuffix("_s").replace("_", "-")
        shown = "" if field.default in (None, (), False) else f" (default: {field.default})"
        options: dict[str, Any] = {
            "dest": name,
            "default": argparse.SUPPRESS,
            "help": f"{field.description}{shown}".replace("%", "%%"),
        }
        if field.annotation is bool:
            options["action"] = "store_true"
        elif field.default == ():
            options |= {"action": "append", "metavar": "FILE"}
        else:
            options["metavar"] = name.removesuffix("_s").upper()
        parser.add_argument(flag, **options)


if __name__ == "__main__":
    sys.exit(main())
