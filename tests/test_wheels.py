"""The wheels, built and installed: what they hold, and beside what they run."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models.repository import ModelRepository
from service.settings import ZOO
from tests.e2e.process import ServerProcess, running
from tests.reasons import ROOT

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

STEPS_BESIDE_TRITON = """
import sys

import cellar
import google.protobuf
import tritonclient.grpc

print(google.protobuf.__version__.partition(".")[0])
with tritonclient.grpc.InferenceServerClient(sys.argv[1]) as other:
    try:
        other.is_server_live()
    except tritonclient.utils.InferenceServerException as error:
        assert "UNIMPLEMENTED" in error.status(), error
with cellar.connect(sys.argv[1]) as client, client.session("stdlib-text") as session:
    print(session.step("impor", top_k=1).top[0].symbol)
    try:
        session.step("\\0")
    except cellar.BadInputError as error:
        print(error.reason, error.field)
"""


class Environment:
    """A virtual environment of its own.

    Attributes:
        folder: where it is.
    """

    def __init__(self, folder: Path) -> None:
        """Makes it."""
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)

    def run(self, program: str, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """Runs one of its programs, with nothing of this environment at hand."""
        ours = ("PYTHONPATH", "CELLAR_PACKAGES")
        mine = {name: value for name, value in os.environ.items() if name not in ours}
        return subprocess.run(
            [self.folder / "bin" / program, *arguments],
            cwd=more.pop("cwd", self.folder),
            env=mine | more.pop("environment", {}),
            capture_output=True,
            text=True,
            **more,
        )

    def pip(self, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """Runs its pip."""
        return self.run("pip", "--disable-pip-version-check", *arguments, **more)

    def install(self, *wanted: str) -> None:
        """Installs packages, and has pip check that they go together."""
        done = self.pip("install", "--quiet", *wanted)
        assert done.returncode == 0, done.stderr
        done = self.pip("check")
        assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Where wheels are built."""
    environment = Environment(tmp_path_factory.mktemp("workshop"))
    backend = pyproject()["build-system"]["requires"]
    done = environment.pip("download", "--no-deps", "--dest", str(environment.folder), *backend)
    if done.returncode:
        pytest.skip(f"pip reaches no package index: {done.stderr.strip().splitlines()[-1]}")
    return environment


@pytest.fixture(scope="module")
def wheel(workshop: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What other programs import."""
    return build(workshop, tmp_path_factory.mktemp("client"))


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """A server of this checkout, with the small models."""
    with running(ZOO) as server:
        yield server


def pyproject() -> dict[str, Any]:
    """What pyproject.toml says."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def build(workshop: Environment, folder: Path, **environment: str) -> Path:
    """Builds a wheel of this checkout."""
    done = workshop.pip(
        "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), ".",
        cwd=ROOT, environment=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


def names(wheel: Path) -> set[str]:
    """The files of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_is_the_client(wheel: Path) -> None:
    held = names(wheel)
    (facts,) = {name.partition("/")[0] for name in held} - {"cellar"}
    assert facts.endswith(".dist-info")
    assert f"{facts}/licenses/LICENSE" in held
    code = {str(file.relative_to(ROOT)) for file in (ROOT / "cellar").rglob("*.py")}
    protos = {str(file.relative_to(ROOT / "proto")) for file in (ROOT / "proto").rglob("*.proto")}
    assert len(protos) >= 4
    assert code | protos | {"cellar/py.typed", "cellar/v1/session_pb2.pyi"} <= held
    assert not [name for name in held if "__pycache__" in name]


def test_a_server_has_a_wheel_of_its_own(
    workshop: Environment, wheel: Path, tmp_path: Path
) -> None:
    held = names(build(workshop, tmp_path, CELLAR_PACKAGES="server"))
    assert names(wheel) < held
    wanted = {
        str(file.relative_to(ROOT))
        for package in ("models", "service", "training")
        for file in (ROOT / package).rglob("*.py")
    }
    wanted |= {
        str(path.relative_to(ROOT))
        for name in ModelRepository(ZOO).names()
        for path in (ZOO / name).rglob("model.onnx")
    }
    assert wanted | {"training/reports/pages/base.html"} <= held
    assert not [name for name in held if "__pycache__" in name]


def test_a_word_that_means_nothing_is_refused(workshop: Environment, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="say client or server"):
        build(workshop, tmp_path, CELLAR_PACKAGES="all")


def test_the_client_runs_beside_tritonclient(
    wheel: Path, server: ServerProcess, tmp_path: Path
) -> None:
    environment = Environment(tmp_path)
    environment.install(str(wheel), "tritonclient[grpc]")
    done = environment.run("python", "-c", STEPS_BESIDE_TRITON, server.address)
    assert (done.stdout.split(), done.stderr) == (["6", "t", "BAD_INPUT", "inputs.text"], "")
    shown = environment.run("cellar", "models", "--server", server.address)
    assert "stdlib-text" in shown.stdout, shown.stderr
    for command in ("cellar-serve", "cellar-store", "cellar-train"):
        done = environment.run(command)
        assert done.returncode == 1
        assert done.stderr.startswith(f"{command}: only Cellar's client is installed here")


@pytest.mark.parametrize("protobuf", ["oldest", "newest"])
def test_the_client_runs_on_what_it_says(protobuf: str, wheel: Path, tmp_path: Path) -> None:
    wanted = pyproject()["project"]["dependencies"]
    if protobuf == "oldest":
        wanted = [each.partition(",")[0].replace(">=", "==") for each in wanted]
        assert all("==" in each for each in wanted)
    environment = Environment(tmp_path)
    # The tests see the checkout's cellar, which is the wheel's; what it stands on is this one's.
    tools = ("hypothesis", "pytest", "pytest-asyncio", "pytest-timeout", "trustme")
    pins = [line for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if line]
    chosen = [pin for pin in pins if pin.partition("==")[0] in tools]
    assert len(chosen) == len(tools)
    environment.install(str(wheel), *wanted, *chosen)
    done = environment.run(
        "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/client",
        cwd=ROOT, environment={"PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
