"""The page of a run while it trains: how often it is written, what it costs, what it says."""

import itertools
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from training.errors import TrainingError
from training.families.parsing import parse_config
from training.run import following
from training.run.files.folder import RunFolder, TrainedRun
from training.run.fit import resume, train
from training.run.following import LEAST_S, SHARE, Following, Stage
from training.run.report import write_unfinished
from training.run.steps.loop import Loop


class Page:
    """Takes its time to be written, and counts."""

    def __init__(self, *, cost_s: float, fails: bool = False) -> None:
        self.now_s = 0.0
        self.cost_s = cost_s
        self.fails = fails
        self.written: list[tuple[float, Stage, str]] = []

    def clock(self) -> float:
        return self.now_s

    def __call__(self, stage: Stage, *, reason: str = "") -> None:
        self.now_s += self.cost_s
        self.written.append((self.now_s, stage, reason))
        if self.fails:
            raise OSError(28, "full")

    @property
    def stages(self) -> list[Stage]:
        return [stage for _, stage, _ in self.written]


def followed(page: Page, *, first: bool = True) -> Following:
    loop = SimpleNamespace(fabric=SimpleNamespace(is_global_zero=first))
    return Following(cast(Loop, loop), page, clock=page.clock)


@pytest.mark.parametrize("cost_s", [0.01, 0.3, 5.0])
def test_the_rate_and_the_cost_are_bounded(cost_s: float) -> None:
    page = Page(cost_s=cost_s)
    found = followed(page)
    while page.now_s < 5000:
        page.now_s += 0.5  # a step
        found.write_if_due()
        if page.written and page.cost_s * len(page.written) > SHARE * page.now_s:
            assert len(page.written) == 1, "the first one alone may cost more than was thought"
    times = [time for time, _, _ in page.written]
    assert min(b - a for a, b in itertools.pairwise(times)) >= LEAST_S
    assert cost_s * len(times) <= SHARE * page.now_s
    assert len(times) >= 0.9 * min(5000 / (LEAST_S + 0.5 + cost_s), SHARE * 5000 / cost_s) - 1


def test_a_short_run_is_not_held_up() -> None:
    page = Page(cost_s=0.3)
    found = followed(page)
    with found.until_its_end(remedy="resume it"):
        for _ in range(9):
            page.now_s += 1.0
            found.write_if_due()
        found.scoring()
    assert page.stages == [Stage.BEGUN]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TrainingError("the loss is nan"), "the loss is nan; go on with: resume it"),
        (TrainingError("full; go on with: resume it"), "full; go on with: resume it"),
        (KeyboardInterrupt(), "go on with: resume it"),
    ],
)
def test_what_ends_a_run_stands_on_its_page(error: BaseException, reason: str) -> None:
    page = Page(cost_s=0.3)
    with (
        pytest.raises(type(error)),
        followed(page).until_its_end(remedy="go on with: resume it"),
    ):
        raise error
    assert page.written[-1][1:] == (Stage.STOPPED, reason)


def test_a_disk_that_takes_no_page_does_not_end_the_run() -> None:
    page = Page(cost_s=0.3, fails=True)
    found = followed(page)
    with found.until_its_end(remedy=""):
        page.now_s += 100
        found.write_if_due()
    assert page.stages == [Stage.BEGUN, Stage.TRAINING]


def test_the_first_of_several_processes_writes() -> None:
    page = Page(cost_s=0.3)
    found = followed(page, first=False)
    with found.until_its_end(remedy=""):
        page.now_s += 100
        found.write_if_due()
        found.stopped("")
    assert page.written == []


@pytest.fixture
def run_of(tmp_path: Path) -> Callable[..., TrainedRun]:
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox " * 400)

    def run(**options: Any) -> TrainedRun:
        settings = {
            "task": "char",
            "text": [text],
            "hidden": 16,
            "embedding": 8,
            "batch": 8,
            "window": 16,
            "steps": 60,
            "device": "cpu",
            "publish": True,
            "models": tmp_path / "models",
            "runs": tmp_path / "runs",
        }
        return train(parse_config(settings), **options)

    return run


def words_of(run: TrainedRun) -> str:
    html = (run.folder / "report.html").read_text(encoding="utf-8")
    assert html.rstrip().endswith("</html>")
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", html.partition("</style>")[2]))


def test_a_stopped_run_says_so_and_a_resumed_one_no_more(
    run_of: Callable[..., TrainedRun],
) -> None:
    run = run_of(stop_after=25)
    stopped = words_of(run)
    assert "NOT finished: it was stopped at step 25 of 60" in stopped
    assert f"go on with: cellar-train resume {run.folder}" in stopped
    assert "Loss: nats per character" in stopped
    assert "Scores" not in stopped
    finished = words_of(resume(run.folder))
    assert "NOT finished" not in finished
    assert "Scores" in finished


def test_a_run_in_the_middle_has_a_whole_page(
    run_of: Callable[..., TrainedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "LEAST_S", 0.0)
    monkeypatch.setattr(following, "SHARE", 1e9)
    seen: list[str] = []

    def draw(loop: Loop, folder: RunFolder, command: str, stage: Stage, **rest: Any) -> None:
        if loop.step in (0, 7, 12, 60):
            now = datetime(2026, 11, 29, 14, 3, 22)
            write_unfinished(loop, folder, command, stage, now=now, **rest)
            seen.append((folder.path / "report.html").read_text(encoding="utf-8"))
            assert not [path for path in folder.path.iterdir() if path.name.startswith(".")]

    monkeypatch.setattr("training.run.report.write_unfinished", draw)
    run_of()
    begun, early, middle = seen[:3]
    assert all(page.rstrip().endswith("</html>") for page in seen)
    assert "NOT finished: training has begun" in begun
    assert "NOT finished: it is training, at step 7 of 60" in early
    assert "NOT finished: it is training, at step 12 of 60" in middle
    assert "As of 29 November 2026, 14:03:22: reload this page" in middle
    assert middle.count("<img") == 3
    assert "the scores are to come" in seen[-1]
