"""Looks for known vulnerabilities in what the images hold: ``make audit``.

``python -m deploy.supply.audit [IMAGE ...]`` exits with 0 where every package was looked up and
none is known to be vulnerable, with 1 where one is, and with 2 where it cannot tell: pip-audit by
itself passes over what its source does not know, and calls that no vulnerability.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from deploy.supply.locks import IMAGES, lock, locked

SOURCES = ("pypi", "osv")
"""Where pip-audit asks, in turn, until one knows every package."""


def judged(report: Mapping[str, Any], wanted: int) -> tuple[list[str], list[str]]:
    """What a report of pip-audit says.

    Args:
        report: its JSON.
        wanted: how many packages it was asked about.

    Returns:
        A line for each vulnerability; and one for each reason why it cannot tell.
    """
    looked_up = [each for each in report["dependencies"] if "skip_reason" not in each]
    found = [
        f"{each['name']} {each['version']}: {one['id']}, mended in "
        + (", ".join(one["fix_versions"]) or "no version")
        for each in looked_up
        for one in each["vulns"]
    ]
    missing = wanted - len(looked_up)
    return found, [f"{missing} of {wanted} packages are not known there"] if missing else []


def _asked(image: str, source: str) -> tuple[list[str], list[str]]:
    command = [
        *(sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"),
        *("--disable-pip", "--require-hashes", "--vulnerability-service", source),
        *("--requirement", str(lock(image))),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        said = done.stderr.strip().splitlines() or ["pip-audit said nothing"]
        return [], [said[-1].rpartition("Caused by ")[2][:200]]
    return judged(report, len(locked(image)))


def main(images: Sequence[str]) -> int:
    """The exit code."""
    status = 0
    for image in images or IMAGES:
        doubts = []
        for source in SOURCES:
            found, doubt = _asked(image, source)
            if found or not doubt:
                break
            doubts.append(f"  {source}: {doubt[0]}")
        if found:
            print("\n".join([f"{image}: vulnerable", *(f"  {line}" for line in found)]))
            status = 1
        elif doubt:
            print("\n".join([f"{image}: NOT audited: no source of vulnerabilities here", *doubts]))
            status = status or 2
        else:
            print(f"{image}: no known vulnerability in {len(locked(image))} packages ({source})")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
