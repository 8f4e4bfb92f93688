"""Which device is chosen, and what is said where it cannot be had. No GPU is needed here."""

import ctypes
import sys
from pathlib import Path

import pytest

from service.engine.execution import devices as choice
from service.engine.execution.devices import choose, probe
from service.engine.execution.runtime import CPU, DeviceError, Place, gpus, why_not_loaded
from service.settings import read_settings

MISSING = "libcublasLt.so.13: cannot open shared object file: No such file or directory"
DRIVER = "there is no NVIDIA driver"


def no_driver() -> int:
    raise DeviceError(DRIVER)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with two GPUs that work."""
    monkeypatch.setattr(choice, "gpus", lambda: 2)
    monkeypatch.setattr(choice, "cuda_is_built_in", lambda: True)
    monkeypatch.setattr(choice, "load_cuda", lambda: None)
    monkeypatch.setattr(choice, "probe", lambda place: None)
    monkeypatch.setattr(choice, "why_not_loaded", lambda: MISSING)
    return monkeypatch


def test_a_gpu_that_works_is_taken(machine: pytest.MonkeyPatch) -> None:
    assert choose("auto").places == (Place("cuda", 0),)
    assert choose("auto").reason is None
    assert choose("cpu").places == (CPU,)
    assert choose("cuda").places == (Place("cuda", 0),)
    assert choose("cuda:1").places == (Place("cuda", 1),)
    assert choose("cuda:0,cuda:1").places == (Place("cuda", 0), Place("cuda", 1))
    assert list(map(str, choose("cuda:0,cuda:1").places)) == ["cuda:0", "cuda:1"]


def test_without_one_auto_takes_the_cpu_and_says_why(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(choice, "gpus", no_driver)
    assert choose("auto").places == (CPU,)
    assert choose("auto").reason == DRIVER
    assert choose("cpu").reason is None


def test_the_driver_alone_is_not_enough(machine: pytest.MonkeyPatch) -> None:
    """A GPU that ONNX Runtime cannot use: it would run on the CPU, and not say so."""
    machine.setenv("CUDA_VISIBLE_DEVICES", "")
    machine.setattr(choice, "probe", probe)
    with pytest.raises(DeviceError, match=r"cannot load its CUDA provider|does not run on cuda:1"):
        choose("cuda:1")
    assert choose("auto").places == (CPU,)


def silent_fallback(place: Place) -> None:
    raise DeviceError("it would run on the CPU")


def broken(place: Place) -> None:
    raise RuntimeError("CUDA failure 35\nat some line")


@pytest.mark.parametrize(
    ("name", "fault", "asked", "words"),
    [
        ("gpus", no_driver, "cuda:0", DRIVER),
        ("gpus", lambda: 1, "cuda:3", "no cuda:3, the driver shows 1 GPU to"),
        ("gpus", lambda: 2, "cuda:0,cuda:2", "no cuda:2, the driver shows 2 GPUs to"),
        ("cuda_is_built_in", lambda: False, "cuda", "built without CUDA"),
        ("probe", silent_fallback, "cuda", "cannot load its CUDA provider"),
        ("probe", silent_fallback, "cuda", MISSING),
        ("probe", broken, "cuda:1", "does not run on cuda:1 (CUDA failure 35)"),
    ],
)
def test_what_is_missing_is_said_in_one_line_with_the_way_out(
    machine: pytest.MonkeyPatch, name: str, fault: object, asked: str, words: str
) -> None:
    machine.setattr(choice, name, fault)
    with pytest.raises(DeviceError) as caught:
        choose(asked)
    message = str(caught.value)
    assert message.startswith(f"--device {asked}: ")
    assert "\n" not in message
    for word in (words, "--device cpu", "driver", "onnxruntime-gpu", "CUDA 13", "cuDNN 9"):
        assert word in message


def test_a_gpu_that_is_there_and_cannot_be_used_is_told_from_none(
    machine: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine.setattr(choice, "probe", silent_fallback)
    machine.setattr(choice, "_SIGNS", ((str(tmp_path), "nvidia*"),))
    machine.setenv("PATH", str(tmp_path / "bin"))
    machine.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert choose("auto").sign is None
    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.touch(0o755)
    assert choose("auto").sign == str(tool)
    (tmp_path / "nvidia0").touch()
    found = choose("auto")
    assert found.sign == str(tmp_path / "nvidia0")
    assert MISSING in str(found.reason)
    assert choose("cpu").sign is None
    for hidden in ("", "-1"):
        machine.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert choose("auto").sign is None, "that is meant so"


def test_the_loader_says_itself_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ending = "dll" if sys.platform == "win32" else "so"
    library = tmp_path / "capi" / f"libonnxruntime_providers_cuda.{ending}"
    monkeypatch.setattr("onnxruntime.__file__", str(tmp_path / "__init__.py"))
    assert why_not_loaded() is None
    library.parent.mkdir()
    library.write_text("this is no library")
    assert library.name in str(why_not_loaded())

    def no_library(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", no_library)
    with pytest.raises(DeviceError, match=r"no NVIDIA driver \(.*cannot open shared object file"):
        gpus()


@pytest.mark.parametrize("given", ["auto", "cpu", "cuda", "cuda:1", "cuda:0,cuda:1"])
def test_devices_that_can_be_asked_for(given: str) -> None:
    assert read_settings([f"--device={given}"]).device == given


@pytest.mark.parametrize("given", ["gpu", "cuda:", "cuda:-1", "cuda:0,cpu", "cuda,cuda:0", ""])
def test_devices_that_cannot(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        read_settings([f"--device={given}"])
    assert caught.value.code == 2
    assert "--device" in capsys.readouterr().err
