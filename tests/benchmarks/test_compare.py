"""A commit against another: when a difference counts, and whose code is measured."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from benchmarks.compare import trees
from benchmarks.compare.comparison import Compared
from benchmarks.compare.trees import Tree, checked_out
from benchmarks.compare.verdict import Interval, Verdict, judge, tolerance
from benchmarks.errors import UnmeasuredError
from benchmarks.rounds import Sample, Series, rotated

ROUNDS = 20


def noisy(ratio: float, spread: float, seed: int) -> Interval:
    noise = np.random.default_rng(seed).normal(0, spread, ROUNDS)
    return Interval.of((ratio * np.exp(noise)).tolist())


def series(cpu_us: float, spread: float, seed: int) -> Series:
    noise = np.random.default_rng(seed).normal(0, spread, ROUNDS)
    return Series(
        case="one",
        contestant="some",
        model="",
        samples=[
            Sample(
                steps=1000,
                messages=1000,
                wall_s=1.0,
                p50_ms=1.0,
                p99_ms=1.0,
                server_cpu_s=1e-3 * cpu_us * float(np.exp(each)),
                load_cpu_s=0.1,
            )
            for each in noise
        ],
    )


def test_the_interval_holds_the_median_about_as_often_as_it_says() -> None:
    held = 0
    for seed in range(200):
        found = noisy(1.0, 0.05, seed)
        assert found.low <= found.median <= found.high
        held += found.low <= 1.0 <= found.high
    assert 180 <= held <= 199


def test_the_interval_is_the_same_for_the_same_rounds() -> None:
    assert noisy(1.02, 0.05, 7) == noisy(1.02, 0.05, 7)
    assert Interval.of([2.0]) == Interval(median=2.0, low=2.0, high=2.0)


def test_what_the_commit_does_to_itself_is_the_tolerance() -> None:
    itself = Interval(median=0.99, low=0.96, high=1.01)
    assert tolerance(itself) == pytest.approx(1 / 0.96)
    assert tolerance(Interval(median=1.0, low=0.99, high=1.03)) == 1.03

    def verdict(low: float, high: float) -> Verdict:
        return judge(Interval(median=(low + high) / 2, low=low, high=high), itself)

    assert verdict(1.05, 1.07) is Verdict.WORSE
    assert verdict(1.03, 1.09) is Verdict.NO_WORSE, "it may lie within the tolerance"
    assert verdict(1.03, 1.04) is Verdict.NO_WORSE, "cheaper by chance is dearer by chance"
    assert verdict(0.97, 1.0) is Verdict.NO_WORSE
    assert verdict(0.90, 0.95) is Verdict.BETTER


def test_a_quiet_machine_shows_what_a_loud_one_hides() -> None:
    """4 % dearer, beside what the same code is to itself."""
    assert judge(noisy(1.04, 0.01, 1), noisy(1.0, 0.01, 2)) is Verdict.WORSE
    assert judge(noisy(1.04, 0.15, 1), noisy(1.0, 0.15, 2)) is Verdict.NO_WORSE


def test_the_new_code_is_held_against_the_base() -> None:
    base, again = series(100.0, 0.01, 1), series(100.0, 0.01, 2)
    dearer = Compared(base=base, again=again, new=series(110.0, 0.01, 3))
    cheaper = Compared(base=base, again=again, new=series(90.0, 0.01, 3))
    assert dearer.verdict is Verdict.WORSE
    assert dearer.cpu.median == pytest.approx(1.1, rel=0.02)
    assert dearer.itself.median == pytest.approx(1.0, rel=0.02)
    assert cheaper.verdict is Verdict.BETTER


def test_a_slow_moment_of_the_machine_falls_out_of_a_pair() -> None:
    base, again, new = (series(100.0, 0.0, seed) for seed in range(3))
    for each in (base, again, new):
        moments = zip(each.samples, np.linspace(1, 3, ROUNDS), strict=True)
        each.samples = [
            Sample(
                steps=sample.steps,
                messages=sample.messages,
                wall_s=sample.wall_s,
                p50_ms=sample.p50_ms,
                p99_ms=sample.p99_ms,
                server_cpu_s=sample.server_cpu_s * slow,
                load_cpu_s=sample.load_cpu_s,
            )
            for sample, slow in moments
        ]
    found = Compared(base=base, again=again, new=new)
    assert (found.cpu.low, found.cpu.high) == pytest.approx((1.0, 1.0))


class Someone:
    """A contestant that is only asked for when it comes."""

    def __init__(self, name: str) -> None:
        self.series = Series(case="", contestant=name, model="")

    def round(self, seconds: float) -> Sample:
        raise NotImplementedError


def test_everybody_comes_first_and_after_everybody_else_as_often() -> None:
    contestants = [Someone(name) for name in "abc"]
    orders = [
        "".join(each.series.contestant for each in rotated(contestants, number))
        for number in range(6)
    ]
    assert sorted(orders) == ["abc", "acb", "bac", "bca", "cab", "cba"]
    assert [order[0] for order in orders[:3]] == ["a", "b", "c"]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two commits with a package ``service`` each."""
    root = tmp_path / "repository"
    (root / "service").mkdir(parents=True)
    monkeypatch.setattr(trees, "ROOT", root)
    _git(root, "init", "--quiet")
    for number in (1, 2):
        (root / "service" / "__init__.py").write_text(f"NUMBER = {number}\n", "utf-8")
        _git(root, "add", ".")
        _git(root, "commit", "--quiet", "-m", str(number))
    return root


def test_a_commit_lies_in_a_tree_of_its_own_for_a_while(repository: Path) -> None:
    with checked_out("HEAD~1") as tree:
        assert (tree.folder / "service" / "__init__.py").read_text("utf-8") == "NUMBER = 1\n"
        assert len(tree.revision) == 40
        tree.check()
    assert not tree.folder.exists()
    assert _git(repository, "worktree", "list").count("\n") == 1


def test_the_tree_goes_when_the_measurement_fails(repository: Path) -> None:
    with pytest.raises(UnmeasuredError, match="no"), checked_out("HEAD") as tree:
        raise UnmeasuredError("no")
    assert not tree.folder.exists()
    assert _git(repository, "worktree", "list").count("\n") == 1


@pytest.mark.parametrize("name", ["nothing", "--all", "HEAD~9"])
def test_a_commit_that_there_is_not_is_refused(name: str, repository: Path) -> None:
    with pytest.raises(UnmeasuredError, match="there is no commit"), checked_out(name):
        pass


def test_code_from_elsewhere_is_refused(tmp_path: Path) -> None:
    """Such as the code that the environment has installed."""
    with pytest.raises(UnmeasuredError, match="not what its server would run"):
        Tree(folder=tmp_path, revision="some").check()


def _git(root: Path, *command: str) -> str:
    who = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.com")
    done = subprocess.run(
        ["git", *who, *command], cwd=root, capture_output=True, text=True, check=True
    )
    return done.stdout
