"""Bounded runs of ``make attack``: who is polite is served meanwhile. No times are held here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import benchmarks.attack.attacker  # noqa: F401 (it knows all attacks)
from benchmarks.attack.attack import ATTACKS, Attack
from benchmarks.attack.course import attacked
from benchmarks.attack.house import House, house_of
from benchmarks.attack.verdicts import MISSED, OK, is_missed, lines_of
from benchmarks.fuzz.messages.subjects import publish

BOUNDED = (  # some of each kind; `make attack` has them all
    "wrong tokens, many",
    "quota: opens",
    "quota: frames",
    "silent",
    "hello",
    "preface",
    "slow bodies",
    "half bodies",
    "continuations",
    "empty data",
)
Build = Callable[[Attack], House]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(tmp_path_factory.mktemp("models"))


@pytest.fixture
def build(models: Path, tmp_path: Path) -> Iterator[Build]:
    houses: list[House] = []

    def made(attack: Attack) -> House:
        flags = ["--handshake-timeout-s=2"]
        houses.append(house_of(tmp_path, models, quota=attack.quota, flags=flags))
        return houses[-1]

    yield made
    for house in houses:
        house.close()


async def run(build: Build, name: str, seconds: float) -> dict[str, Any]:
    attack = ATTACKS[name]
    found = await attacked(build(attack), name, attack, seconds)
    assert not found["died"]
    return found


async def test_wrong_tokens_are_refused_and_others_served(build: Build) -> None:
    found = await run(build, "wrong tokens", 1)
    assert found["per_s"]["refused"] > 100
    assert found["per_s"]["answered"] == 0
    assert found["per_s"]["cut"] == 0
    assert found["failed"] == 0
    assert found["beside"]["steps"] > 0


@pytest.mark.long
async def test_a_principal_at_100_times_its_quota_gets_its_quota(build: Build) -> None:
    found = await run(build, "quota: steps", 1)
    assert 0 < found["per_s"]["answered"] < 50  # of 10, and what was left of the second before
    assert found["per_s"]["refused"] > 100
    assert found["failed"] == 0


def test_a_verdict_is_of_the_p50_and_of_calls_that_failed() -> None:
    def measured(p50: float, failed: int) -> dict[str, Any]:
        beside = {"step_ms": [p50, 50.0], "new_ms": [5.0, 9.0], "steps": 10, "news": 1}
        alone = {**beside, "step_ms": [1.0, 2.0]}
        return {"alone": alone, "beside": beside, "failed": failed, "died": False}

    attack = ATTACKS["silent"]
    assert lines_of(attack, measured(3.0, 0))[0].verdict == OK
    assert not is_missed(attack, measured(3.0, 0))
    assert lines_of(attack, measured(3.1, 0))[0].verdict == MISSED
    assert is_missed(attack, measured(3.1, 0))
    assert is_missed(attack, measured(1.0, 1))
    nothing = measured(0.0, 0)
    nothing["beside"]["steps"] = 0
    assert is_missed(attack, nothing)
    assert is_missed(attack, {**measured(1.0, 0), "died": True})
    assert not is_missed(ATTACKS["rapid reset"], measured(30.0, 0))


@pytest.mark.long
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", BOUNDED)
async def test_nobody_dies_of_an_attack(build: Build, name: str) -> None:
    found = await run(build, name, 3)
    assert found["per_s"]["sent"] or found["open"]
    assert found["failed"] == 0
    assert found["grown_mb"] < 600
