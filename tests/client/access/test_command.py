"""The command under TLS and tokens: options, variables, and what is said."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cellar.cli import main
from tests.client.access.certificates import Authority, Pair
from tests.client.fake import FakeServer
from tests.reasons import ROOT

TOKEN = "one.S3CRET"
COMMANDS = (
    "models",
    "step char abc",
    "predict char abc",
    "generate char a --steps 2",
    "forecast series 1 2 --horizon 2",
    "sessions",
    "close --model char --all --yes",
)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Any:
    """What a command line comes to, which shows no secret: its status, and its standard error."""

    def says(line: str | list[str]) -> tuple[int, str]:
        try:
            status = main(line.split() if isinstance(line, str) else line)
        except SystemExit as ended:
            status = int(ended.code or 0)
        out, err = capsys.readouterr()
        assert "S3CRET" not in out + err
        return status, err

    return says


@pytest.mark.parametrize("command", COMMANDS)
def test_by_options(
    command: str, mutual: FakeServer, authority: Authority, alice: Pair, token_file: Path
) -> None:
    mutual.tokens = {"one.SECRET1"}
    tls = f"--server {mutual.address} --ca {authority.file} --cert {alice.cert} --key {alice.key}"
    assert main(f"{command} {tls} --token-file {token_file} --header x-team:blue".split()) == 0
    assert mutual.metadata["x-team"] == "blue"


def test_by_variables(
    mutual: FakeServer,
    authority: Authority,
    alice: Pair,
    token_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mutual.tokens = {"one.SECRET1"}
    variables = {
        "SERVER": f"localhost:{mutual.port}",
        "TLS": "1",
        "CA": authority.file,
        "CERT": alice.cert,
        "KEY": alice.key,
        "SERVER_NAME": "127.0.0.1",
        "TOKEN_FILE": token_file,
    }
    for name, value in variables.items():
        monkeypatch.setenv(f"CELLAR_{name}", str(value))
    assert main(["models"]) == 0
    monkeypatch.delenv("CELLAR_TOKEN_FILE")
    assert main(["models"]) == 1
    monkeypatch.setenv("CELLAR_TOKEN", "one.SECRET1")
    assert main(["models"]) == 0


def test_options_go_before_variables(
    server: FakeServer, authority: Authority, token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.tokens = {"one.SECRET1"}
    monkeypatch.setenv("CELLAR_SERVER", server.address)
    monkeypatch.setenv("CELLAR_CA", str(authority.file))
    monkeypatch.setenv("CELLAR_TOKEN", "two.SECRET2")
    assert main(["models", "--no-tls", "--token", "one.SECRET1"]) == 0
    assert main(["models", "--no-tls", "--token-file", str(token_file)]) == 0
    assert main(["models", "--no-tls"]) == 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--ca /nowhere", "--ca: /nowhere: there is no such file"),
        ("--cert /nowhere", "--cert: /nowhere|--key: cert is named, and key is not"),
        ("--tls --server-name a:1", "--server-name: 'a:1' is no host's name"),
        ("--server-name a", "--server-name: without TLS no name is checked: add --tls"),
        ("--no-tls --ca /dev/null", "--tls: False contradicts ca"),
        (f"--token {TOKEN} --token-file x", "--token and --token-file: give one of the two"),
        ("--token-file /nowhere", "--token-file: /nowhere: there is no such file"),
        (
            f"--server a:1 --token {TOKEN}",
            "--token: whoever is on the way .* add --tls, or --ca FILE; or --allow-plaintext-token",
        ),
        (f"--token {TOKEN}ñ", "--token: it has a character that no token has"),
        (f"--header {TOKEN}", "--header: write NAME:VALUE"),
        ("--header te:x", "--header: 'te' is said by gRPC"),
        ("--header a:1 --header A:2", "--header: 'a' is given twice"),
        (f"--header a:{TOKEN}\x01", "--header 'a': character 11"),
        ("--server https://a:1", "--server: leave https:// out: say 'a:1'; TLS is spoken with"),
    ],
)  # fmt: skip
def test_options_that_are_wrong(line: str, says: str, said: Any) -> None:
    status, error = said(["models", *line.split(" ")])
    assert status == 2
    assert re.match(f"cellar: ({says})", error), error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"TLS": "maybe"}, "CELLAR_TLS: 'maybe' is neither 1 nor 0"),
        ({"TLS": "0", "CA": "x"}, "CELLAR_TLS: False contradicts ca"),
        ({"CA": "/nowhere"}, "CELLAR_CA: /nowhere: there is no such file"),
        ({"TOKEN": "a", "TOKEN_FILE": "b"}, "CELLAR_TOKEN and CELLAR_TOKEN_FILE: give one"),
        ({"TOKEN": f"Bearer {TOKEN}"}, "CELLAR_TOKEN: leave 'Bearer' out"),
        ({"SERVER": "a:1", "TOKEN": TOKEN}, "CELLAR_TOKEN: whoever is on the way"),
        ({"TOKEN_FILE": "/nowhere"}, "CELLAR_TOKEN_FILE: /nowhere"),
    ],
)
def test_variables_that_are_wrong(
    variables: dict[str, str], says: str, said: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"CELLAR_{name}", value)
    status, error = said("models")
    assert status == 2
    assert error.startswith(f"cellar: {says}")


def test_a_flag_that_says_no(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLAR_SERVER", server.address)
    for value in ("0", "no", "OFF", " "):
        monkeypatch.setenv("CELLAR_TLS", value)
        assert main(["models"]) == 0


def test_what_fails_is_said_in_one_line(secure: FakeServer, stranger: Authority) -> None:
    """Of gRPC's own log there is nothing beside it."""
    done = subprocess.run(
        [sys.executable, "-m", "cellar", "models", "--server", secure.address,
         "--ca", stranger.file, "--timeout", "1"],
        cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "is not trusted: --ca FILE names the authority" in line


def test_a_token_that_is_refused(server: FakeServer, said: Any) -> None:
    server.tokens = set()
    status, error = said(f"models --server {server.address} --token {TOKEN}")
    assert status == 1
    assert error.startswith("cellar: UNAUTHENTICATED: ")
    assert "--token-file FILE" in error


def test_the_help_has_a_group_for_them(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("models", "step", "sessions", "close", "reset", "forecast"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        shown = " ".join(capsys.readouterr().out.partition("TLS and tokens:")[2].split())
        for option in ("tls", "ca", "cert", "key", "server-name", "token", "token-file", "header"):
            assert f"--{option} " in shown or f"--{option}, " in shown
        assert "other users of this machine can see the command line" in shown


def test_help_shows_no_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CELLAR_TOKEN", TOKEN)
    with pytest.raises(SystemExit):
        main(["models", "--help"])
    assert "S3CRET" not in capsys.readouterr().out


def test_files_are_completed(tmp_path: Path) -> None:
    (tmp_path / "authority.pem").touch()
    script = f"""
eval "$({sys.executable} -m cellar completion bash)"
cd {tmp_path}
for words in "--ca auth" "--token-file auth" "--server-n"; do
  COMP_WORDS=(cellar models $words); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMPREPLY=()
  last=${{COMP_WORDS[$COMP_CWORD]}}
  $(complete -p cellar | sed -E 's/.* -F ([^ ]+).*/\\1/') cellar "$last" models
  echo "${{COMPREPLY[*]}}"
done
"""
    done = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=50
    )
    assert done.stdout.split() == ["authority.pem", "authority.pem", "--server-name"], done.stderr
