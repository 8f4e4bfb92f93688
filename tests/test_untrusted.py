"""What a file of somebody else's could have executed: there is no such call in the whole source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documents import ROOT

PACKAGES = ("cellar", "models", "service", "training")
MODULES = {"cPickle", "cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve", "yaml"}
CALLS = {
    "compile", "eval", "exec", "__import__", "os.popen", "os.system", "pandas.read_pickle",
    "pd.read_pickle", "torch.jit.load",
}  # fmt: skip
# What a call has to say, or must not.
SAFE = {"torch.load": {"weights_only": True}, "np.load": {"allow_pickle": False}}
NEVER = {"shell": True, "allow_pickle": True, "weights_only": False}


def name_of(node: ast.expr) -> str:
    """The dotted name of what is called."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def findings(text: str) -> Iterator[str]:
    """What is dangerous in a source."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {node.module or ""}
        else:
            names = set()
        for name in names:
            if name.partition(".")[0] in MODULES:
                yield f"{node.lineno}: import of {name}"  # type: ignore[attr-defined]
        if not isinstance(node, ast.Call):
            continue
        called = name_of(node.func).replace("numpy.", "np.")
        if called in CALLS:
            yield f"{node.lineno}: call of {called}"
        said = {
            word.arg: word.value.value
            for word in node.keywords
            if isinstance(word.value, ast.Constant)
        }
        for word, wanted in SAFE.get(called, {}).items():
            if said.get(word) is not wanted:
                yield f"{node.lineno}: {called} without {word}={wanted}"
        for word, value in NEVER.items():
            if said.get(word) is value:
                yield f"{node.lineno}: {word}={value}"


SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def test_nothing_in_the_source_executes_what_it_reads() -> None:
    assert len(SOURCES) > 200
    found = {
        str(path.relative_to(ROOT)): found
        for path in SOURCES
        if (found := [*findings(path.read_text("utf-8"))])
    }
    assert found == {}


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from yaml import load",
        "eval('1')",
        "import os\nos.system('ls')",
        "subprocess.run('ls', shell=True)",
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "numpy.load(file)",
        "np.load(file, allow_pickle=True)",
    ],
)
def test_what_would_is_found(text: str) -> None:
    assert [*findings(text)]


def test_a_sound_source_has_none(tmp_path: Path) -> None:
    text = "import re\nre.compile('a')\nnetwork.eval()\nnp.load(file, allow_pickle=False)\n"
    assert [*findings(text)] == []
