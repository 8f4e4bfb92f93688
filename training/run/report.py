"""What a person gets to see of a run: a few tables on the terminal and one page."""

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from models.manifest import Manifest
from training.data.notes import Note
from training.errors import shortened
from training.families.task import Task
from training.reports import numbers, page
from training.reports.curves import clipping, points, training_curves
from training.reports.plots import figure_style
from training.reports.sections import Grid, Section, grid
from training.run import progress
from training.run.files.folder import REPORT, RunFolder, TrainedRun
from training.run.following import Stage
from training.run.steps.loop import LOG_EVERY, Loop
from training.settings import TrainingConfig

LEARNT_BY_HEART = 0.7
"""A loss on training data below this share of the held-out one is memory, not skill."""
ALIKE = 0.95
"""Above this share they are as good as the same."""
WORSE_AGAIN = 1.02
"""A validation that ends this much above its best is worth a sentence."""
LONGEST_DETAIL = 300
"""Characters of a note on the terminal; the report has all of them."""
NOTICED = 0.0001
"""Nats that a smaller cost is not worth telling of."""
ADVICE = "More data, more --dropout or a smaller --hidden would help."


def announce(task: Task, console: Console) -> None:
    """Say what will be trained, and what the data reader did."""
    weights = sum(parameter.numel() for parameter in task.network.parameters())
    config = task.config
    console.print(
        f"[bold]{config.name}[/bold]: {config.layers} x {config.hidden} {config.cell.value}, "
        f"{weights:,} weights{_start(config)}, on {task.streams.size:,} {task.unit} of "
        f"{escape(task.source)}"
    )
    tell_notes(task.notes, f"what was done to {task.source}", console)


def tell_notes(notes: Sequence[Note], title: str, console: Console) -> None:
    """Print what a reader did to the data, if it did anything."""
    if notes:
        table = _note_table(notes)
        table.title = escape(title)
        console.print(table)


def say(text: str, console: Console) -> None:
    """Print a line as it is: not wrapped, so that commands and paths in it can be copied."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def stopped(run: TrainedRun, console: Console) -> None:
    """Say how to go on with a run that was stopped."""
    say(f"stopped after step {run.steps}; go on with: cellar-train resume {run.folder}", console)


def kept_back(run: TrainedRun, shortfall: str, console: Console) -> None:
    """Say why a model was not published, where it is, and how to publish it."""
    say(f"NOT published: {shortfall}", console)
    say(f"it is kept as {run.kept}", console)
    say(f"train it further:        cellar-train resume {run.folder} --budget 10m", console)
    say(f"publish it all the same: cellar-train export {run.folder}", console)


def no_better(run: TrainedRun, step: int, console: Console) -> None:
    """Say that further training found nothing to publish."""
    say(
        f"nothing new was published: no weights validate better than those of step {step}, which "
        f"{run.model} has",
        console,
    )


def summarise(run: TrainedRun, samples: Path, config: TrainingConfig, console: Console) -> None:
    """Scores, where everything is, and what to do next."""
    console.print(run.task.score_table(run.scores))
    table = Table(show_header=False)
    if run.kept is None:
        table.add_row("model", str(run.model))
    else:
        table.add_row("model, not published", str(run.kept))
    table.add_row(
        "differs from ONNX by", f"{numbers.figure(run.scores['onnx_gap'], digits=2)} nats"
    )
    table.add_row("run", str(run.folder))
    table.add_row("report", str(run.folder / "report.html"))
    table.add_row("sample", str(samples))
    if run.model is not None:
        table.add_row("next", f"cellar-serve --models {config.models}")
    console.print(table)


def write_page(loop: Loop, manifest: Manifest, folder: RunFolder) -> None:
    """Write the report of a finished run as one HTML file.

    The network is the one that was kept, and ``manifest`` has its scores and its provenance.
    """
    task, config = loop.task, loop.config
    provenance = manifest.provenance
    assert provenance is not None, "a run has just made it"
    scores = task.score_table(manifest.scores)
    with figure_style():
        sections = [_training(loop), *task.sections()]
        parts = [page.part_of(section) for section in sections]
    content = page.render(
        "report.html",
        title=config.name,
        lead=f"{_what(loop)}, trained for {numbers.duration(loop.spent_s)} on {task.source}, "
        f"{provenance.created:%d %B %Y}",
        state=[],
        verdict=[caption for caption in [page.caption_of(scores)] if caption] + fit_verdict(loop),
        scores=replace(page.grid_of(scores), explained=True),
        checks=_checks(manifest, task),
        notes=page.grid_of(_note_table(task.notes, longest=None)),
        sections=parts,
        command=provenance.command,
        provenance=[
            ("data", provenance.data),
            ("data, SHA-256", provenance.data_sha256),
            ("steps", f"{provenance.steps:,}, weights of step {loop.best.step:,} kept"),
            ("seed", str(provenance.seed)),
            ("time", f"{numbers.duration(provenance.seconds)} on {loop.fabric.device.type}"),
            ("bytes per session", f"{manifest.session_bytes:,}"),
            ("versions", ", ".join(f"{k} {v}" for k, v in provenance.versions.items())),
        ],
        settings=page.settings_of(config, provenance.config),
    )
    folder.write(REPORT, content.encode())


def write_unfinished(
    loop: Loop,
    folder: RunFolder,
    command: str,
    stage: Stage,
    *,
    reason: str = "",
    now: datetime | None = None,
) -> None:
    """Write the report of a run as far as it is, over the one before.

    Args:
        loop: the run.
        folder: where it goes.
        command: the command line that repeats it.
        stage: what it is at.
        reason: why it was stopped, if it was.
        now: the time to say; None: the present.
    """
    task, config = loop.task, loop.config
    with figure_style():
        parts = [page.part_of(_training(loop))] if loop.history else []
    content = page.render(
        "report.html",
        title=config.name,
        lead=f"{_what(loop)}, on {task.source}",
        state=_state(loop, folder, stage, reason, now or datetime.now().astimezone()),
        verdict=[],
        scores=None,
        notes=page.grid_of(_note_table(task.notes, longest=None)),
        sections=parts,
        command=command,
        provenance=[("data", task.source), ("data, SHA-256", task.sha256)],
        settings=page.settings_of(config, config.public()),
    )
    folder.write(REPORT, content.encode())


def _state(loop: Loop, folder: RunFolder, stage: Stage, reason: str, now: datetime) -> list[str]:
    """What a run is at, in sentences."""
    total = "" if loop.total is None else f" of {progress.total_of(loop)}"
    where = f"step {loop.step:,}{total}, {numbers.duration(loop.spent_s)} of training"
    if math.isfinite(loop.loss):
        where += f"; loss of late: {loop.loss:.4f} {loop.task.loss_name}"
    when = f"As of {now:%d %B %Y, %H:%M:%S}"
    resume = f"cellar-train resume {folder.path}"
    if stage is Stage.STOPPED:
        return [f"NOT finished: it was stopped at {where}.", reason, f"{when}."]
    if stage is Stage.SCORING:
        first = f"NOT finished: training is over ({where}), the scores are to come."
    elif stage is Stage.BEGUN:
        begins = f"goes on from step {loop.step:,}" if loop.step else "has begun"
        first = f"NOT finished: training {begins}; this page grows after half a minute or so."
    else:
        first = f"NOT finished: it is training, at {where}."
    then = (
        f"{when}: reload this page to see how it goes on. If that is long ago, the training was "
        f"ended from outside; go on with: {resume}"
    )
    return [first, then]


def _what(loop: Loop) -> str:
    """The network in a few words."""
    config = loop.config
    weights = sum(parameter.numel() for parameter in loop.task.network.parameters())
    shape = f"{config.layers} x {config.hidden} {config.cell.upper()}"
    return f"{shape}, {weights:,} weights{_start(config)}"


def _start(config: TrainingConfig) -> str:
    """What sequences start from, where it is worth a word."""
    return ", an initial state that is learned" if config.learn_initial_state else ""


def fit_verdict(loop: Loop) -> list[str]:
    """What the losses say of the fit, in sentences."""
    best, unit = loop.best, loop.task.loss_name
    sentences = []
    steps, validation = points(loop.history, "validation")
    worse_again = len(validation) > 0 and validation[-1] > WORSE_AGAIN * best.loss > 0
    if worse_again:
        sentences.append(
            f"Overfitting set in: validation was best at step {best.step:,} of "
            f"{int(steps[-1]):,} and ended at {validation[-1]:.3f}; the weights of step "
            f"{best.step:,} were kept. {ADVICE}"
        )
    if (seen := loop.task.seen_loss()) is not None and 0 < best.loss < math.inf:
        figures = f"{seen:.3f} {unit} on data it trained on, {best.loss:.3f} on data it did not"
        if seen < LEARNT_BY_HEART * best.loss:
            sentences.append(f"It has learnt much by heart: {figures}. {ADVICE}")
        elif seen < ALIKE * best.loss:
            sentences.append(f"Some overfitting: {figures}.")
        elif not worse_again:
            sentences.append(
                f"No overfitting: {figures}; a larger network or a longer training may do better."
            )
    return sentences


def _training(loop: Loop) -> Section:
    clip, best = loop.config.clip, loop.best
    pictures = training_curves(
        loop.history,
        loss_name=loop.task.loss_name,
        clip=clip,
        kept_step=best.step if best.weights else None,
    )
    text = f"The gradient norm is the largest of every {LOG_EVERY} steps. "
    text += clipping(loop.history, clip=clip)
    if best.step:
        text = f"The weights of step {best.step:,} did best in validation and are kept. {text}"
    return Section(title="Training", text=text, pictures=pictures)


def _checks(manifest: Manifest, task: Task) -> Grid:
    """What the exported file was checked for."""
    rows = []
    if (gap := manifest.scores.get("onnx_gap")) is not None:
        shown = f"{numbers.figure(gap, digits=2)} {task.loss_name}"
        rows.append(("exported ONNX differs from the network by", shown))
    if (cost := manifest.scores.get("int8_nats_cost")) is not None:
        shown = f"{cost:.4f}" if abs(cost) >= NOTICED else f"less than {NOTICED}"
        rows.append(("serving with --precision int8 costs", f"{shown} {task.loss_name}"))
    return replace(grid(("check", "result"), rows, numbers=(1,)), explained=True)


def _note_table(notes: Sequence[Note], *, longest: int | None = LONGEST_DETAIL) -> Table:
    """What the reader did, one row each; names from data are text, never markup."""
    table = Table()
    table.add_column("what")
    table.add_column("rows", justify="right")
    table.add_column("detail")
    for note in notes:
        words = [note.what, note.detail]
        what, detail = (
            words if longest is None else [shortened(text, most=longest) for text in words]
        )
        table.add_row(Text(what), f"{note.rows:,}", Text(detail))
    return table
