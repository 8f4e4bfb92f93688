"""Writes docs/licences.md: ``python -m deploy.supply.licences``, or ``make licences``.

pip says what it would install by deploy/locks, and what the metadata of each package says, from
the package index; nothing is installed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from deploy.supply.expressions import EXCEPTIONS, declared, exception, permitted
from deploy.supply.locks import IMAGES, ROOT, Locked, lock, locked, normal

PAGE = ROOT / "docs" / "licences.md"
BUNDLED = {
    "libgfortran": ("numpy", "GPL-3.0-or-later WITH GCC-exception-3.1"),
    "libquadmath": ("numpy", "LGPL-2.1-or-later"),
    "libscipy_openblas64_": ("numpy", "BSD-3-Clause"),
}
"""Libraries inside of wheels that the licence of the package does not speak of."""
_HEAD = """\
# Licences

What the images hold beside their base image and Cellar itself (Apache-2.0), as deploy/locks says \
and as each package declares. `make licences` writes this page; `make test` refuses a package that \
is not on it, and every licence that is neither permissive nor an exception below.

| package | version | licence | images |
|---|---|---|---|
"""
_BESIDE = """\
What these have bundled in turn stands in their `ThirdPartyNotices.txt` and in \
`*.dist-info/licenses`, which the images hold too. The base image is Debian and Python (PSF-2.0), \
with tini (MIT); Debian's programs and libraries, of which many are under the GPL or the LGPL, run \
beside Cellar, and their licences are in `/usr/share/doc` of the image."""
_ROW = re.compile(r"^\| (\S+) \| (\S+) \| ([^|]+) \| (cpu|cuda|cpu, cuda) \|$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A package on the page.

    Attributes:
        package: its name and version.
        licence: an SPDX expression.
        images: those that hold it.
    """

    package: Locked
    licence: str
    images: tuple[str, ...]


def rows(text: str) -> list[Row]:
    """The packages on the page."""
    return [
        Row(package=Locked(name, version), licence=licence, images=tuple(images.split(", ")))
        for name, version, licence, images in _ROW.findall(text)
    ]


def page(licences: dict[Locked, str]) -> str:
    """The page for packages with these licences."""
    held = {image: locked(image) for image in IMAGES}
    lines = [
        f"| {each.name} | {each.version} | {licences[each]} "
        f"| {', '.join(image for image in IMAGES if each in held[image])} |"
        for each in sorted(set().union(*held.values()))
    ]
    return _HEAD + "\n".join([*lines, "", *_exceptions(licences), "", *_inside(), ""])


def refused(licences: dict[Locked, str]) -> list[str]:
    """A line for each package that may not be in an image."""
    return [
        f"{each.name} {each.version}: {licence}"
        for each, licence in sorted(licences.items())
        if not permitted(each.name, licence)
    ]


def _exceptions(licences: dict[Locked, str]) -> list[str]:
    used = {exception(each.name) for each in licences}
    return [
        "Exceptions, by name:",
        "",
        *(f"* `{n}`, {licence}: {why}" for n, (licence, why) in EXCEPTIONS.items() if n in used),
    ]


def _inside() -> list[str]:
    return [
        "Inside of wheels, as their own licence files say:",
        "",
        *(f"* `{library}` in {package}: {each}" for library, (package, each) in BUNDLED.items()),
        "",
        _BESIDE,
    ]


def _asked(image: str) -> dict[Locked, str]:
    command = [
        *(sys.executable, "-m", "pip", "install", "-qq", "--dry-run", "--ignore-installed"),
        *("--no-deps", "--only-binary", ":all:", "--require-hashes", "--report", "-"),
        *("--requirement", str(lock(image))),
    ]
    report = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    found = {}
    for each in (item["metadata"] for item in report["install"]):
        package = Locked(normal(each["name"]), each["version"])
        try:
            found[package] = declared(
                each.get("license_expression"), each.get("license"), each.get("classifier", [])
            )
        except ValueError as error:
            raise SystemExit(f"{package.name} {package.version}: {error}") from error
    return found


def main(target: Path = PAGE) -> None:
    """Write the page; ends with what is refused."""
    licences = {each: name for image in IMAGES for each, name in _asked(image).items()}
    if lines := refused(licences):
        raise SystemExit("\n".join(["may not be in an image:", *lines]))
    target.write_text(page(licences), "utf-8")
    print(f"{target.relative_to(ROOT)}: {len(licences)} packages")


if __name__ == "__main__":
    main()
