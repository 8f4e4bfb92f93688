"""What a person gets to see of a run: a few tables on the terminal and one page."""

import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from models.manifest import Manifest
from training.data.notes import Note
from training.errors import shortened
from training.families.task import Task
from training.reports import page
from training.reports.curves import clipped_share, points, training_curves
from training.reports.sections import Section
from training.run.files.folder import TrainedRun
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
        f"{weights:,} weights, on {task.streams.size:,} {task.unit} of {escape(task.source)}"
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
    table.add_row("differs from ONNX by", f"{run.scores['onnx_gap']:.1e} nats")
    table.add_row("run", str(run.folder))
    table.add_row("report", str(run.folder / "report.html"))
    table.add_row("sample", str(samples))
    if run.model is not None:
        table.add_row("next", f"cellar-serve --models {config.models}")
    console.print(table)


def write_page(loop: Loop, manifest: Manifest, path: Path) -> None:
    """Write the report of a finished run as one HTML file.

    The network is the one that was kept, and ``manifest`` has its scores and its provenance.
    """
    task, config = loop.task, loop.config
    provenance = manifest.provenance
    assert provenance is not None, "a run has just made it"
    scores = task.score_table(manifest.scores)
    weights = sum(parameter.numel() for parameter in task.network.parameters())
    with page.figure_style():
        sections = [_training(loop), *task.sections()]
        parts = [page.part_of(section) for section in sections]
    content = page.render(
        "report.html",
        title=config.name,
        lead=(
            f"{config.layers} x {config.hidden} {config.cell.upper()}, {weights:,} weights, "
            f"trained for {_time(loop.spent_s)} on {task.source}, {provenance.created:%d %B %Y}"
        ),
        verdict=[caption for caption in [page.caption_of(scores)] if caption] + fit_verdict(loop),
        scores=page.grid_of(scores),
        checks=_checks(manifest, task),
        notes=page.grid_of(_note_table(task.notes, longest=None)),
        sections=parts,
        command=provenance.command,
        provenance=[
            ("data", provenance.data),
            ("data, SHA-256", provenance.data_sha256),
            ("steps", f"{provenance.steps:,}, weights of step {loop.best.step:,} kept"),
            ("seed", str(provenance.seed)),
            ("time", f"{provenance.seconds:,.1f} s on {loop.fabric.device.type}"),
            ("bytes per session", f"{manifest.session_bytes:,}"),
            ("versions", ", ".join(f"{k} {v}" for k, v in provenance.versions.items())),
        ],
        settings=page.pairs_of(provenance.config),
    )
    path.write_text(content, encoding="utf-8")


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
    clip = loop.config.clip
    share = clipped_share(loop.history, clip=clip)
    clipped = f"in {share:.0%} of them above {clip:g}, and clipped" if share else "never clipped"
    figure = training_curves(
        loop.history, loss_name=loop.task.loss_name, clip=clip, kept_step=loop.best.step
    )
    return Section(
        title="Training",
        text=f"The weights of step {loop.best.step:,} did best on held-out data and were kept. "
        f"The gradient norm is the largest of every {LOG_EVERY} steps, {clipped}.",
        figure=figure,
    )


def _checks(manifest: Manifest, task: Task) -> page.Grid:
    """What the exported file was checked for."""
    rows = []
    if (gap := manifest.scores.get("onnx_gap")) is not None:
        rows.append(("exported ONNX differs from the network by", f"{gap:.1e} {task.loss_name}"))
    if (cost := manifest.scores.get("int8_nats_cost")) is not None:
        shown = f"{cost:.4f}" if abs(cost) >= NOTICED else f"less than {NOTICED}"
        rows.append(("serving with --precision int8 costs", f"{shown} {task.loss_name}"))
    return page.grid(("check", "result"), rows, numbers=(1,))


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


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
