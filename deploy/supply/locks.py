"""What the locks of the images say: packages, their versions, and in which image they are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ROOT / "deploy" / "locks"
IMAGES = ("cpu", "cuda")

_PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)(?: ; ([^\\]+?))? \\$", re.MULTILINE)
_ELSEWHERE = "platform_machine != 'x86_64' or sys_platform != 'linux'"


@dataclass(frozen=True, slots=True, order=True)
class Locked:
    """A package of a lock.

    Attributes:
        name: in lower case, with hyphens.
        version: the one that is installed.
    """

    name: str
    version: str


def normal(name: str) -> str:
    """A package's name as the index compares names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def lock(name: str) -> Path:
    """The file of a lock."""
    return LOCKS / f"{name}.txt"


def locked(name: str) -> set[Locked]:
    """What a lock installs on linux, x86-64: what the images are made for."""
    found = _PIN.findall(lock(name).read_text("utf-8"))
    return {
        Locked(normal(each), version) for each, version, marker in found if marker != _ELSEWHERE
    }
