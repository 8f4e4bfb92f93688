"""The examples run as they are told to be run, and come to what they promise."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from examples.type_ahead import KEYS
from tests.documents import ROOT

RUN_S = 100


def said(name: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", f"examples.{name}", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_was_deleted_was_never_read() -> None:
    lines = [(line[:15].rstrip(), line[15:]) for line in said("type_ahead").splitlines()]
    typed = [text for text, _ in lines]
    assert len(lines) == len(KEYS)
    assert {"def mian", "def main(argz"} <= {*typed}
    assert typed[-1] == "def main(args)"
    for text in ("def m", "def mi", "def main(arg"):  # before the typo and after it
        assert typed.count(text) == 2
        assert len({ways for shown, ways in lines if shown == text}) == 1


def test_a_session_goes_on_elsewhere() -> None:
    texts = re.findall(r": +(['\"].*)$", said("two_servers"), re.MULTILINE)
    assert len(texts) in (2, 3)
    assert len({*texts}) == 1


@pytest.mark.long
def test_a_decoder_writes_what_an_encoder_has_read() -> None:
    words = ["bad", "head", "cafe", "ha", "edge", "feed"]
    _, *lines = said("encoder_decoder", *words).splitlines()
    right = [line for line in lines if line == f"{line.split()[0]} {line.split()[0][::-1]}"]
    assert len(lines) == len(words)
    assert len(right) >= len(words) - 1


@pytest.mark.long
def test_the_later_version_had_expected_more() -> None:
    found = re.search(r"version 1 ([\d.]+), version 2 ([\d.]+)", said("two_versions"))
    assert found is not None
    old, new = map(float, found.groups())
    assert 0 < new < old - 0.1
