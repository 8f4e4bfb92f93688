"""What a person sees while a run trains: a bar with the loss, the speed and the time left."""

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

from training.run.loop import Loop


def watch(loop: Loop, steps: Iterator[None], console: Console) -> Iterator[None]:
    """Pass the steps of a loop on and draw a progress bar beside them."""
    per_step = loop.task.streams.per_step
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
    began, began_s = loop.step, loop.spent_s
    with bar:
        shown = bar.add_task(
            "measuring speed" if loop.total is None else "training",
            total=loop.total,
            completed=loop.step,
            loss="…",
            speed="…",
        )
        for _ in steps:
            yield
            if loop.step % 10 and not loop.finished:
                continue
            seconds = max(loop.spent_s - began_s, 1e-9)
            speed = (loop.step - began) * per_step / seconds
            bar.update(
                shown,
                description="training" if loop.total is not None else "measuring speed",
                completed=loop.step,
                total=loop.total,
                loss=f"{loop.loss:.4f}",
                speed=f"{speed:,.0f} {loop.task.unit}/s",
            )
