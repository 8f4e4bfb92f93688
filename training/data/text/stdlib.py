"""Real text on every machine that has Python: its manual's topics and its own sources.

Reads, never writes. Only printable ASCII and line ends are kept, so the vocabulary stays small.
"""

import hashlib
import importlib
import re
import sysconfig
from pathlib import Path

from training.data.text.characters import Text
from training.errors import DataError

DEFAULT_LIMIT_CHARACTERS = 2_500_000
SOURCE = "the standard library of Python"
_SKIPPED = {
    "test",
    "tests",
    "idle_test",
    "site-packages",
    "dist-packages",
    "lib2to3",
    "__pycache__",
}
_FOREIGN = re.compile(r"[^\n -~]")


def read_stdlib(*, limit_characters: int | None = None) -> Text:
    """The manual's topics and the library's modules, mixed in a fixed order, up to a limit.

    Raises:
        DataError: this Python comes without both.
    """
    limit = limit_characters or DEFAULT_LIMIT_CHARACTERS
    pieces = {f"topic {name}": text for name, text in _topics().items()}
    used = sum(map(len, pieces.values()))
    for path in _modules():
        if used >= limit:
            break
        text = path.read_text(encoding="utf-8", errors="replace")
        pieces[f"module {path.name} {len(text)}"] = text
        used += len(text)
    # Mixed by the hash of the name: the held-out tail then resembles the rest.
    order = sorted(pieces, key=lambda name: hashlib.sha256(name.encode()).digest())
    text = "\n".join(_FOREIGN.sub("", pieces[name].expandtabs(4)) for name in order)
    if not text.strip():
        raise DataError("this Python carries no library sources; give --text FILE instead")
    return Text(characters=text[:limit], source=SOURCE)


def _topics() -> dict[str, str]:
    try:
        topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    except ImportError:
        return {}
    return topics


def _modules() -> list[Path]:
    root = Path(sysconfig.get_paths()["stdlib"])
    found = [
        path
        for path in root.rglob("*.py")
        if not _SKIPPED.intersection(path.relative_to(root).parts)
    ]
    return sorted(
        found, key=lambda path: hashlib.sha256(str(path.relative_to(root)).encode()).digest()
    )
