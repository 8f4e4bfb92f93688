"""The commands start, or say in one line why not; and what is packed for whom."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import service
from cellar import cli
from tests.reasons import ROOT

# What the scripts of an installation do.
SERVE = "import sys; from cellar.commands import serve; sys.exit(serve())"
STORE = "import sys; from cellar.commands import store; sys.exit(store())"
TRAIN = "import sys; from cellar.commands import train; sys.exit(train())"
COMMANDS = {"cellar-serve": SERVE, "cellar-store": STORE, "cellar-train": TRAIN}
MODULES = {
    "cellar-serve": "service.server",
    "cellar-store": "service.store.tool",
    "cellar-train": "training.cli",
}


def run(
    *arguments: str, path: tuple[Path, ...] = (ROOT,), at: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Python in a folder, with other folders on its path."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("GRPC_")}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=at,
        env={**mine, "PYTHONPATH": os.pathsep.join(map(str, path))},
        capture_output=True,
        text=True,
        timeout=50,
    )


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of modules that are called as ours are, and end whoever imports them."""
    folder = tmp_path_factory.mktemp("hostile")
    for name in ("models", "service", "training"):
        (folder / f"{name}.py").write_text(f"raise SystemExit('the {name}.py of the user')\n")
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_starts_among_modules_of_the_same_names(command: str, hostile: Path) -> None:
    done = run("-c", COMMANDS[command], "--version", path=(hostile, ROOT), at=hostile)
    assert (done.stdout, done.stderr) == (f"{command} {version('cellar')}\n", "")
    assert done.returncode == 0


@pytest.mark.parametrize("command", MODULES)
def test_a_module_starts_beside_a_models_py(command: str, hostile: Path, tmp_path: Path) -> None:
    shutil.copy(hostile / "models.py", tmp_path)
    done = run("-m", MODULES[command], "--version", at=tmp_path)
    assert (done.stdout, done.stderr) == (f"{command} {version('cellar')}\n", "")
    # A module of the very name is what `python -m` was asked for, unless it is told not to look.
    done = run("-P", "-m", MODULES[command], "--version", at=hostile)
    assert (done.stdout, done.stderr) == (f"{command} {version('cellar')}\n", "")


def test_the_path_stays_as_it_was_where_nothing_is_in_the_way(tmp_path: Path) -> None:
    look = "import sys; before = list(sys.path); import {}; print(sys.path == before)"
    for name in ("service", "training"):
        assert run("-c", look.format(name), at=tmp_path).stdout == "True\n"


SPOKEN = "import os; print([os.environ.get(f'GRPC_{x}') for x in ('EXPERIMENTS', 'VERBOSITY')]);"


def test_the_server_tells_grpc_how_to_run_before_it_is_imported() -> None:
    asked = "import cellar.commands, sys; print('grpc' in sys.modules);"
    done = run("-c", asked + SPOKEN + SERVE, "--version")
    assert done.stdout.splitlines() == [
        "False",
        "[None, None]",
        f"cellar-serve {version('cellar')}",
    ]


def test_where_grpc_is_imported_already_the_server_begins_anew() -> None:
    done = run("-c", "import grpc;" + SPOKEN + SERVE, "--version")
    assert done.stdout.splitlines() == [
        "[None, None]",
        str([service.GRPC_EXPERIMENTS, service.GRPC_VERBOSITY]),
        f"cellar-serve {version('cellar')}",
    ]


def test_every_name_of_the_client_is_there_when_it_is_asked_for() -> None:
    look = (
        "import sys, cellar; print('grpc' in sys.modules);"
        "print(all(getattr(cellar, name) is not None for name in cellar.__all__));"
        "from cellar import *; print(set(cellar.__all__) <= set(globals()) & set(dir(cellar)));"
        "print(cellar.aio.connect.__module__, hasattr(cellar, 'nonsense'))"
    )
    assert run("-c", look).stdout.split() == [
        "False",
        "True",
        "True",
        "cellar.aio.connecting",
        "False",
    ]


@pytest.mark.parametrize(
    ("command", "missing", "extra"),
    [
        ("cellar-serve", "onnxruntime", "serve"),
        ("cellar-serve", "pydantic", "serve"),
        ("cellar-serve", "grpc_health", "serve"),
        ("cellar-store", "lmdb", "serve"),
        ("cellar-train", "torch", "train"),
        ("cellar-train", "lightning_fabric", "train"),
    ],
)
def test_a_missing_extra_is_one_line(command: str, missing: str, extra: str) -> None:
    without = f"import sys; sys.modules['{missing}'] = None;"
    # What trains is imported when it is wanted: not for --version.
    arguments = ["char", "--stdlib"] if command == "cellar-train" else ["--version"]
    done = run("-c", without + COMMANDS[command], *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{command}: needs the extra '{extra}' (there is no {missing}")
    assert f"pip install -e '.[{extra}]'" in line


def test_a_module_of_our_own_that_is_missing_is_our_fault() -> None:
    done = run("-c", "import sys; sys.modules['training.compare'] = None;" + TRAIN, "--version")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_the_client_alone_says_what_to_install(command: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "cellar", tmp_path / "cellar")
    done = run("-c", COMMANDS[command], "--help", path=(tmp_path,), at=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{command}: only Cellar's client is installed here: pip install -e")


def test_the_client_tells_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"cellar {version('cellar')}\n"


_WATCHED = """
import runpy, signal, sys

class Watch:
    def find_spec(self, name, *_):
        if name in ("grpc", "numpy", "onnxruntime", "pydantic", "structlog"):
            print(name, getattr(signal.getsignal(signal.SIGTERM), "__module__", None))

sys.meta_path.insert(0, Watch())
"""


@pytest.mark.parametrize(
    "start",
    [SERVE, "runpy.run_module('service.server', run_name='__main__', alter_sys=True)"],
    ids=["command", "module"],
)
def test_signals_are_ours_before_anything_that_takes_long_is_imported(start: str) -> None:
    seen = run("-c", _WATCHED + start, "--version").stdout.splitlines()
    assert seen.pop() == f"cellar-serve {version('cellar')}"
    imports = dict(line.split() for line in seen)
    assert set(imports) >= {"grpc", "onnxruntime"}
    assert set(imports.values()) == {"service.process"}
