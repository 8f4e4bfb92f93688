"""The Dockerfile and the files of compose: confined, and consistent with the server."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from deploy.supply.locks import IMAGES
from service.settings.values import seconds
from tests.deploy.manifests import (
    DEPLOY,
    DOCKERFILE,
    KUBERNETES,
    least_stop_s,
    of_image,
    settings,
    variables,
)
from tests.documents import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "docker-compose.yml").read_text("utf-8"))
WITH_TLS: dict[str, Any] = yaml.safe_load((DEPLOY / "docker-compose.tls.yml").read_text("utf-8"))
SERVERS = ("cellar", "cellar-cuda")
of_each_server = pytest.mark.parametrize("name", SERVERS)


# ---- the image ----


@pytest.mark.parametrize("instruction", ["ENTRYPOINT", "CMD"])
def test_neither_start_nor_health_check_wants_a_shell(instruction: str) -> None:
    found = re.findall(rf"^\s*{instruction} (.*)$", DOCKERFILE, re.MULTILINE)
    (words,) = map(json.loads, found)
    assert {"sh", "-c", "/bin/sh", "bash"}.isdisjoint(words)


def test_the_image_is_of_one_release_of_python_and_runs_as_a_number() -> None:
    (base,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", base)
    users = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert users == ["10001:10001"]
    # Nothing after it is root's work.
    assert "RUN" not in DOCKERFILE[DOCKERFILE.index("\nUSER ") :]


def test_what_serves_cannot_install() -> None:
    server = DOCKERFILE[DOCKERFILE.index(" AS server\n") :]
    assert re.search(r"pip uninstall --yes .*\bsetuptools wheel pip\b", server)
    assert "--without-pip" in (DEPLOY / "make-venv.sh").read_text("utf-8")


def test_everything_that_is_fetched_has_to_have_its_hash() -> None:
    script = (DEPLOY / "make-venv.sh").read_text("utf-8")
    commands = script.replace("\\\n", " ").splitlines()
    fetching = [line for line in commands if re.search(r"pip\b.* (install|wheel) ", line)]
    assert len(fetching) == 3
    assert all("--require-hashes" in line or "--no-index" in line for line in fetching)
    assert "COPY deploy/locks deploy/locks\n" in DOCKERFILE
    assert "!deploy/locks\n" in (ROOT / ".dockerignore").read_text("utf-8")
    assert {"build", *IMAGES} == {file.stem for file in (DEPLOY / "locks").iterdir()}


def test_the_variables_of_the_image_are_settings() -> None:
    assert of_image().keys() >= {"CELLAR_HOST", "CELLAR_PORT", "CELLAR_MODELS", "CELLAR_DEVICE"}
    assert settings().host == "0.0.0.0"


# ---- compose ----


@of_each_server
def test_a_container_may_do_nothing(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    (tmp,) = service["tmpfs"]
    assert set(tmp.partition(":")[2].split(",")) >= {"noexec", "nosuid", "nodev"}
    assert "privileged" not in service
    assert service["pids_limit"] > 0
    # Without swap: a server of which a part is on a disk answers nobody in time.
    assert service["mem_limit"] == service["memswap_limit"]
    assert "healthcheck" not in service  # the image's own


@of_each_server
def test_ports_are_those_of_the_server_and_for_this_machine(name: str) -> None:
    chosen = settings(COMPOSE["services"][name]["environment"])
    assert COMPOSE["services"][name]["ports"] == [
        f"${{BIND:-127.0.0.1}}:{port}:{port}" for port in (chosen.port, chosen.metrics_port)
    ]


@of_each_server
def test_a_container_is_not_killed_while_it_ends(name: str) -> None:
    service = COMPOSE["services"][name]
    chosen = settings(service["environment"])
    assert float(str(seconds(service["stop_grace_period"]))) > least_stop_s(chosen)
    assert 0 < chosen.drain_delay_s < chosen.drain_timeout_s


@of_each_server
def test_compose_says_what_kubernetes_says(name: str) -> None:
    base = variables(KUBERNETES / "base")
    given = WITH_TLS["services"][name]["environment"]
    assert settings(COMPOSE["services"][name]["environment"], given).store == settings(base).store
    tls = (KUBERNETES / "components" / "tls" / "kustomization.yaml").read_text("utf-8")
    assert set(given) == set(re.findall(r"- (CELLAR_\w+)=", tls))
    (mount,) = WITH_TLS["services"][name]["volumes"]
    source, target, mode = mount.split(":")
    assert mode == "ro"
    files = [value for value in given.values() if value.startswith("/")]
    assert [file.rpartition("/")[0] for file in files] == [target] * 3
    # What is there is nobody's but the operator's.
    ignored = (ROOT / ".gitignore").read_text("utf-8").splitlines()
    assert (DEPLOY / source).resolve().relative_to(ROOT).as_posix() + "/" in ignored
    assert not set(COMPOSE["services"][name]["environment"]) & set(given)
