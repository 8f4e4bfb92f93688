"""`cellar-train`: train a model from the command line.

What a command needs is imported when it runs: torch takes seconds, and help, completion and a
mistyped option need none of it.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel
from rich.console import Console

from training.compare.options import add_options as add_compare_options
from training.errors import (
    ConfigError,
    DataError,
    RunError,
    StoppedError,
    TrainingError,
    shortened,
)
from training.families.parsing import parse_config, parse_further
from training.families.registry import FAMILIES
from training.importing.options import add_options as add_import_options
from training.importing.options import options_of
from training.run.options import add_export_options
from training.run.signals import terminating_interrupts
from training.settings import Cell, Further, TrainingConfig, flag_of

EXIT_FAILED, EXIT_USAGE, EXIT_KEPT, EXIT_STOPPED = 1, 2, 3, 130
SHELLS = ("bash", "zsh", "fish", "tcsh")
PATHS = ("FILE", "FILE.onnx", "RUN", "FROM", "MODELS", "RUNS", "CSV", "DATA", "TEST", "LABELLED")
"""What stands for a file or a folder in the help."""

Given = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code.

    2 for wrong settings or data, 3 for a model that was not published, 130 when stopped, 1 for
    whatever else ends a command.
    """
    given = vars(_parser().parse_args(arguments))
    code = _run(given, given.pop("command"))
    _leave_others(code)
    return code


def _run(given: Given, command: str) -> int:
    console = Console()
    try:
        with terminating_interrupts():
            return _COMMANDS.get(command, _train)(given, command, console)
    except TrainingError as error:
        return _failed(error, given, command)
    except KeyboardInterrupt:
        return _end("stopped before anything was written", EXIT_STOPPED)
    except OSError as error:
        where = error.filename2 or error.filename
        place = "" if where is None else f"{where}: "
        return _end(f"{place}{error.strerror or error}", EXIT_FAILED)


def _leave_others(code: int) -> None:
    """End a process that shared a run, here and now.

    Gloo's threads bring down a process at Python's own end, now and then (SIGABRT), and asked to
    let go of its group before, it may wait for ever: one of them wants the lock that the wait has.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _train(given: Given, command: str, console: Console) -> int:
    config = parse_config({"task": command, **given})
    from training.run.fit import train

    _quieten()
    return _code(train(config, console=console))


def _resume(given: Given, _command: str, console: Console) -> int:
    folder = given.pop("folder")
    further = parse_further(given)
    from training.run.fit import resume

    _quieten()
    return _code(resume(folder, further=further, console=console))


def _export(given: Given, _command: str, console: Console) -> int:
    from training.run.ends.republish import export_run

    _quieten()
    export_run(**given, console=console)
    return 0


def _compare(given: Given, _command: str, console: Console) -> int:
    cells = [name.strip() for name in given.pop("cells").split(",")]
    if unknown := [name for name in cells if name not in tuple(Cell)]:
        raise ConfigError(f"cells: there is no '{unknown[0]}'; there are {', '.join(Cell)}")
    options = {name: given.pop(name) for name in ("seeds", "publish")}
    from training.compare.command import compare

    _quieten()
    compare(given, cells=[Cell(name) for name in cells], **options, console=console)
    return 0


def _import(given: Given, _command: str, console: Console) -> int:
    options = options_of(given)
    from training.importing.command import import_model

    import_model(options, console=console)
    return 0


def _synthetic(given: Given, _command: str, console: Console) -> int:
    rows, path = given["rows"], given["csv"]
    if rows < 1:
        raise ConfigError(f"rows: at least 1 (it is {rows})")
    if given["seed"] < 0:
        raise ConfigError(f"seed: at least 0 (it is {given['seed']})")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {path.parent}; make it first")
    from training.data.series.synthetic import write_csv

    write_csv(path, rows, seed=given["seed"])
    console.print(f"wrote {rows} rows of a synthetic series to {path}", markup=False)
    return 0


def _complete(given: Given, _command: str, _console: Console) -> int:
    import shtab

    parser = _parser()
    for each in _parsers(parser):
        for action in each._actions:
            if action.metavar in PATHS:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, given["shell"]))
    return 0


def _parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and those of its commands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from _parsers(each)


_COMMANDS: dict[str, Callable[[Given, str, Console], int]] = {
    "resume": _resume,
    "export": _export,
    "compare": _compare,
    "import": _import,
    "synthetic": _synthetic,
    "completion": _complete,
}
"""Every other command trains."""


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with a line, and what was probably meant."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """A command refuses itself what it does not know: it knows what is near."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown and self._subparsers is None:
            near = self._near(unknown[0].partition("=")[0], "option_strings")
            self.error(f"there is no {' '.join(unknown)}{near}")
        return found, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            near = self._near(str(value), "choices")
            self.error(f"there is no {value!r}{near or '; there are ' + ', '.join(action.choices)}")

    def _near(self, word: str, kind: str) -> str:
        there = [str(each) for action in self._actions for each in getattr(action, kind) or ()]
        near = get_close_matches(word, there, n=1)
        return f"; did you mean {near[0]}?" if near else ""

    def error(self, message: str) -> NoReturn:
        """Ends with 2."""
        self.exit(EXIT_USAGE, f"{self.prog}: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
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
        add_compare_options(rival)
        _add_options(rival, family.config, without=("cell", "publish", "from_run"))
    summary = "go on with a run that was stopped, or train a finished one further"
    go_on = commands.add_parser("resume", help=summary, description=summary)
    go_on.add_argument("folder", type=Path, metavar="RUN", help="the run's folder")
    _add_options(go_on, Further)
    summary = "publish the best weights of a run again"
    add_export_options(commands.add_parser("export", help=summary, description=summary))
    summary = "make a servable model of a torch state_dict or an external ONNX file"
    add_import_options(commands.add_parser("import", help=summary, description=summary))
    summary = "write a generated price series as a CSV file"
    generate = commands.add_parser("synthetic", help=summary, description=summary)
    generate.add_argument("csv", type=Path, metavar="FILE")
    generate.add_argument("--rows", type=int, default=5000)
    generate.add_argument("--seed", type=int, default=0)
    summary = "write a script that lets a shell complete this command"
    shells = commands.add_parser("completion", help=summary, description=summary)
    shells.add_argument("shell", choices=SHELLS)
    return parser


def _code(run: Any) -> int:
    """The exit code of a `TrainedRun`."""
    if not run.finished:
        return EXIT_STOPPED
    return 0 if run.kept is None else EXIT_KEPT


def _quieten() -> None:
    """Once it is imported: it sets its own level then."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)


def _failed(error: TrainingError, given: Given, command: str) -> int:
    """Say what is wrong, in one line of bounded length."""
    if isinstance(error, StoppedError):
        return _end(str(error), EXIT_STOPPED)
    is_mistake = isinstance(error, (ConfigError, DataError, RunError))
    code = _end(str(error), EXIT_USAGE if is_mistake else EXIT_FAILED)
    if command == "import":
        from training.importing.command import full_reason

        reason = full_reason(error)
        if reason is not None:
            verbose = given.get("verbose", False)
            print(reason if verbose else "--verbose says in full why.", file=sys.stderr)
    return code


def _end(text: str, code: int) -> int:
    print(f"cellar-train: {shortened(text)}", file=sys.stderr)
    return code


def _add_options(
    parser: argparse.ArgumentParser, settings: type[BaseModel], *, without: Sequence[str] = ()
) -> None:
    """One option per setting; pydantic checks the values, so everything stays text here."""
    fields = settings.model_fields
    own = [name for name in fields if name not in TrainingConfig.model_fields]
    for name in own + [name for name in fields if name not in own]:
        if name == "task" or name in without:
            continue
        field = fields[name]
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
            options["metavar"] = flag_of(name).removeprefix("--").replace("-", "_").upper()
        parser.add_argument(flag_of(name), **options)


if __name__ == "__main__":
    sys.exit(main())
