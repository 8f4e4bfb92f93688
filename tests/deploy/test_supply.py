"""What the images hold: locked as it is pinned, with licences that may be there, and audited."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

import pytest
from packaging.requirements import Requirement

from deploy.supply.audit import judged
from deploy.supply.expressions import declared, permitted
from deploy.supply.licences import BUNDLED, PAGE, page, refused, rows
from deploy.supply.locks import IMAGES, Locked, lock, locked, normal
from tests.documents import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
LINUX = {"sys_platform": "linux", "platform_machine": "x86_64", "extra": ""}
EXTRAS = {"cpu": ("serve-cpu",), "cuda": ("serve", "cuda")}
LICENCES = {row.package: row.licence for row in rows(PAGE.read_text("utf-8"))}


def wanted(image: str) -> list[Requirement]:
    """What the wheel in an image asks for, by its own metadata."""
    project = PROJECT["project"]
    extras = [*EXTRAS[image], "serve-base"]
    texts = [
        *project["dependencies"],
        *(text for name in extras for text in project["optional-dependencies"][name]),
    ]
    found = map(Requirement, texts)
    return [r for r in found if r.name != "cellar" and (not r.marker or r.marker.evaluate(LINUX))]


@pytest.mark.parametrize("image", IMAGES)
def test_a_lock_has_what_the_server_asks_for(image: str) -> None:
    versions = {each.name: each.version for each in locked(image)}
    for each in wanted(image):
        assert each.specifier.contains(versions[normal(each.name)]), each


@pytest.mark.parametrize("name", [*IMAGES, "build"])
def test_a_lock_has_the_versions_that_are_pinned_and_hashes_of_all(name: str) -> None:
    text = lock(name).read_text("utf-8")
    pins = dict(
        re.findall(r"^([^#=\s]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    )
    pinned = {normal(each): version for each, version in pins.items()}
    for each in locked(name):
        # What builds is pinned by pyproject.toml, and by its lock alone.
        if name != "build" or each.name in pinned:
            assert pinned[each.name] == each.version, f"{each}: mend it with make lock"
    entries = re.split(r"^(?=[A-Za-z])", text, flags=re.MULTILINE)[1:]
    assert len(entries) >= len(locked(name))
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", each) for each in entries)
    assert "://" not in text  # whoever installs says from where


def test_what_builds_is_what_pyproject_says() -> None:
    (backend,) = map(Requirement, PROJECT["build-system"]["requires"])
    (version,) = [each.version for each in locked("build") if each.name == backend.name]
    assert str(backend.specifier) == f"=={version}"


def test_the_images_differ_by_runtime_and_cuda() -> None:
    cpu, cuda = ({each.name for each in locked(image)} for image in IMAGES)
    assert cpu - cuda == {"onnxruntime"}
    assert {name for name in cuda - cpu if not name.startswith("nvidia-")} == {"onnxruntime-gpu"}


# ---- licences ----


def test_the_page_has_all_packages_of_the_images() -> None:
    held = {image: locked(image) for image in IMAGES}
    assert set(LICENCES) == set.union(*held.values()), "write it anew: make licences"
    assert page(LICENCES) == PAGE.read_text("utf-8"), "write it anew: make licences"


def test_every_licence_may_be_in_an_image() -> None:
    assert refused(LICENCES) == []


def test_the_page_says_what_packages_say() -> None:
    seen = 0
    for package, licence in LICENCES.items():
        try:
            there = distribution(package.name)
        except PackageNotFoundError:  # of the other image
            continue
        if there.version == package.version:
            meta = there.metadata
            expression, text = (
                (meta.get_all(name) or [None])[0] for name in ("License-Expression", "License")
            )
            classifiers = meta.get_all("Classifier") or []
            assert declared(expression, text, classifiers) == licence, package
            seen += 1
    assert seen > 20


def test_libraries_inside_of_wheels_are_named() -> None:
    found = set()
    for package in LICENCES:
        try:
            files = distribution(package.name).files or ()
        except PackageNotFoundError:
            continue
        folders = [file for file in files if file.parts[0].endswith(".libs")]
        found |= {(file.name.partition("-")[0], package.name) for file in folders}
    assert found <= {(library, package) for library, (package, _) in BUNDLED.items()}


@pytest.mark.parametrize(
    ("licence", "may"),
    [
        ("MIT", True),
        ("BSD-3-Clause AND 0BSD AND MIT", True),
        ("GPL-3.0-or-later OR MIT", True),
        ("MIT AND (GPL-2.0-only OR Apache-2.0)", True),
        ("GPL-3.0-or-later", False),
        ("LGPL-2.1-or-later", False),
        ("AGPL-3.0-only", False),
        ("MPL-2.0", False),
        ("MIT AND GPL-2.0-only", False),
        ("(MIT OR ISC) AND (MPL-2.0 OR EUPL-1.2)", False),
        ("GPL-3.0-or-later WITH GCC-exception-3.1", False),
        ("LicenseRef-NVIDIA-Proprietary", False),
        ("BUSL-1.1", False),
    ],
)
def test_copyleft_is_refused(licence: str, may: bool) -> None:
    assert permitted("some-package", licence) is may
    package = Locked("some-package", "1.0")
    assert refused({package: licence}) == ([] if may else [f"some-package 1.0: {licence}"])


def test_an_exception_is_of_one_package_and_one_licence() -> None:
    assert permitted("shtab", "MPL-2.0")
    assert not permitted("shtab", "GPL-3.0-only")
    assert permitted("nvidia-cublas", "LicenseRef-NVIDIA-Proprietary")
    assert not permitted("nvidia-cublas", "MPL-2.0")


@pytest.mark.parametrize("text", ["", "MIT AND", "MIT MIT", "(MIT", "MIT)", "AND MIT )("])
def test_what_is_no_expression_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="licence expression"):
        permitted("some-package", text)


def test_a_licence_is_read_from_what_a_package_has() -> None:
    apache = "License :: OSI Approved :: Apache Software License"
    mit = "License :: OSI Approved :: MIT License"
    assert declared("Apache-2.0", "MIT", [mit]) == "Apache-2.0"
    assert declared(None, "MIT License", [apache]) == "MIT"
    assert declared(None, "the whole text of\na licence", [mit, apache]) == "Apache-2.0 AND MIT"
    for nothing in (None, "as you like it"):
        with pytest.raises(ValueError, match="no licence"):
            declared(None, nothing, ["License :: OSI Approved :: GNU General Public License"])


# ---- audit ----


def report(*dependencies: dict[str, Any]) -> dict[str, Any]:
    return {"dependencies": list(dependencies), "fixes": []}


KNOWN = {"name": "h11", "version": "0.13.0", "vulns": []}
SKIPPED = {"name": "lmdb", "skip_reason": "Dependency not found"}
BROKEN = {**KNOWN, "vulns": [{"id": "GHSA-1", "fix_versions": ["0.16.0"]}]}


def test_what_was_not_looked_up_is_not_called_safe() -> None:
    assert judged(report(KNOWN, KNOWN), 2) == ([], [])
    assert judged(report(KNOWN, SKIPPED), 2) == ([], ["1 of 2 packages are not known there"])
    assert judged(report(), 2) == ([], ["2 of 2 packages are not known there"])


def test_a_vulnerability_is_told_with_what_mends_it() -> None:
    found, doubt = judged(report(BROKEN, SKIPPED), 2)
    assert found == ["h11 0.13.0: GHSA-1, mended in 0.16.0"]
    assert doubt
