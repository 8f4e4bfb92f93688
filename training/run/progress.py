"""What a person sees while a run trains: a bar on a terminal, plain lines anywhere else."""

from collections.abc import Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from training.reports.numbers import duration
from training.run.steps.loop import LOG_EVERY, Loop

LINE_EVERY_S = 10.0
"""Seconds of training between two lines, at first."""
LINE_SHARE = 0.1
"""Later lines come after so much of the time so far, so that a long run does not fill a log."""


def watch(loop: Loop, steps: Iterator[None], console: Console) -> Iterator[None]:
    """Pass the steps of a loop on, and show how far it is."""
    if console.is_terminal and not console.is_dumb_terminal:
        return _with_bar(loop, steps, console)
    return _with_lines(loop, steps, console)


class _Speed:
    """How fast a loop has been since it was first looked at."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._began, self._began_s = loop.step, loop.spent_s

    @property
    def steps_per_s(self) -> float:
        loop = self._loop
        return (loop.step - self._began) / max(loop.spent_s - self._began_s, 1e-9)

    def __str__(self) -> str:
        streams = self._loop.task.streams
        return f"{self.steps_per_s * streams.per_step:,.0f} {self._loop.task.unit}/s"


def _with_lines(loop: Loop, steps: Iterator[None], console: Console) -> Iterator[None]:
    speed = _Speed(loop)
    told, next_s = loop.step, loop.spent_s + LINE_EVERY_S
    for _ in steps:
        yield
        if loop.spent_s >= next_s or loop.finished:
            console.print(_line(loop, speed), markup=False, highlight=False, soft_wrap=True)
            told = loop.step
            next_s = loop.spent_s + max(LINE_EVERY_S, LINE_SHARE * loop.spent_s)
    if loop.step != told:  # it was stopped
        console.print(_line(loop, speed), markup=False, highlight=False, soft_wrap=True)


def _line(loop: Loop, speed: _Speed) -> str:
    total = loop.total
    of = "" if total is None else f" of {total_of(loop)}"
    line = f"step {loop.step:,}{of}: loss {loop.loss:.4f}, {speed}"
    if total is None or loop.finished or not speed.steps_per_s:
        return line
    return f"{line}, {duration((total - loop.step) / speed.steps_per_s)} left"


def total_of(loop: Loop) -> str:
    """How many steps a run takes in all, if that is known; of a budget, about."""
    about = "about " if loop.plan.limit_s is not None and not loop.finished else ""
    return "" if loop.total is None else f"{about}{loop.total:,}"


def _with_bar(loop: Loop, steps: Iterator[None], console: Console) -> Iterator[None]:
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TextColumn("{task.fields[speed]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )
    speed = _Speed(loop)
    with bar:
        shown = bar.add_task("training", total=loop.total, completed=loop.step, loss="…", speed="…")
        for _ in steps:
            yield
            if loop.step % LOG_EVERY and not loop.finished:
                continue
            bar.update(
                shown,
                completed=loop.step,
                total=loop.total,
                loss=f"{loop.loss:.4f}",
                speed=str(speed),
            )
