"""The commands of the server and of training are completed by a real shell."""

import subprocess
import sys

import pytest

from tests.reasons import ROOT


@pytest.mark.parametrize(
    ("command", "asked", "word"),
    [
        ("cellar-serve", "--print-completion bash", "--max-sess"),
        ("cellar-store", "--print-completion bash", "ver"),
        ("cellar-train", "completion bash", "ser"),
    ],
)
def test_the_commands_are_completed(command: str, asked: str, word: str) -> None:
    name = command.removeprefix("cellar-")
    code = f"import sys; from cellar.commands import {name}; sys.exit({name}())"
    script = f"""
eval "$({sys.executable} -c '{code}' {asked})"
complete -p {command} > /dev/null || exit 1
COMP_WORDS=({command} {word}); COMP_CWORD=1; COMPREPLY=()
$(complete -p {command} | sed -E 's/.* -F ([^ ]+).*/\\1/') {command} {word} {command}
echo "${{COMPREPLY[*]}}"
"""
    done = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False, timeout=50
    )
    assert done.stderr == ""
    found = done.stdout.split()
    assert found
    assert all(each.startswith(word) for each in found)
