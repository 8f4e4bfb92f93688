"""What the images say of their device, and what the extra for CUDA brings."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, files

import pytest

from service.settings import read_settings
from tests.reasons import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
# Which package has which library; NVIDIA's own names.
PACKAGES = {
    "libcublas.so.13": "nvidia-cublas",
    "libcublasLt.so.13": "nvidia-cublas",
    "libcudart.so.13": "nvidia-cuda-runtime",
    "libcudnn.so.9": "nvidia-cudnn-cu13",
    "libcufft.so.12": "nvidia-cufft",
    "libcurand.so.10": "nvidia-curand",
    "libnvJitLink.so.13": "nvidia-nvjitlink",
    "libnvrtc.so.13": "nvidia-cuda-nvrtc",
}
# What the driver and the system have.
SYSTEM = re.compile(r"lib(cuda\.so\.1|[a-z_]+\.so\.[0-9]|stdc\+\+\.so\.6)")


@pytest.mark.parametrize(("variant", "device"), [("cpu", "cpu"), ("cuda", "cuda:0")])
def test_an_image_names_its_device(variant: str, device: str) -> None:
    """It would be served on the CPU otherwise, wherever the GPU cannot be used."""
    stages = dict(re.findall(r"^FROM \S+ AS (\w+)\n((?:(?!FROM).*\n)*)", DOCKERFILE, re.MULTILINE))
    assert f"ENV CELLAR_DEVICE={device}\n" in stages[variant]
    assert DOCKERFILE.rstrip().endswith("FROM ${VARIANT}")
    assert read_settings([f"--device={device}"]).device == device


def extra() -> dict[str, str]:
    """The packages of the extra `cuda`, with their markers."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = project["optional-dependencies"]["cuda"]
    return {re.split(r"[\[~>]", each)[0]: each.partition(";")[2].strip() for each in wanted}


def test_the_extra_names_every_library_and_one_platform() -> None:
    found = extra()
    assert set(found) == {*PACKAGES.values(), "onnxruntime-gpu"}
    assert set(found.values()) == {"sys_platform == 'linux' and platform_machine == 'x86_64'"}
    pins = (ROOT / "constraints.txt").read_text("utf-8")
    for package in found:
        assert re.search(rf"^{package}==", pins, re.MULTILINE), package


def test_the_extra_has_what_the_provider_is_linked_to() -> None:
    try:
        held = files("onnxruntime-gpu") or ()
    except PackageNotFoundError:
        pytest.skip("the CPU's build of ONNX Runtime is installed here")
    (provider,) = [each for each in held if each.name == "libonnxruntime_providers_cuda.so"]
    with open(provider.locate(), "rb") as library:
        head = library.read(16 * 2**20)  # the names it asks for are near its beginning
    needed = set(re.findall(rb"\0(lib[\w+]+\.so\.\d+)(?=\0)", head))
    names = {name.decode() for name in needed}
    assert {"libcublasLt.so.13", "libcudart.so.13"} <= names
    assert {name for name in names if not SYSTEM.fullmatch(name)} <= set(PACKAGES)
