"""Publishes an import that was proved, and tells what was inferred."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from rich.console import Console
from rich.table import Table

from models.errors import ModelError
from models.fit import check_fit
from models.manifest import Manifest
from models.repository import ModelRepository
from training.errors import DataError, ParityError
from training.importing.isolated.runtime import RefusedError
from training.importing.proof import Open, Source, prove
from training.importing.starts import Start


@dataclass(frozen=True, slots=True, kw_only=True)
class Understood:
    """A source brought into servable form, and how it was understood."""

    proto: onnx.ModelProto
    manifest: Manifest
    source: Source
    starts: Mapping[str, Start]
    """Where each state of the manifest starts, and how that is known."""
    facts: list[tuple[str, str]] = field(default_factory=list)
    """What was found or taken, for people."""


def publish(
    ways: Iterable[Understood], models: Path, *, file: Path, open_graph: Open, console: Console
) -> Path:
    """Publish the first way of serving a model that computes what its source does, and say so.

    Raises:
        ParityError: none does; nothing is published.
        ModelError: it cannot be served.
        RefusedError: ONNX Runtime does not take it.
        DataError: it cannot be written.
    """
    failures: list[Exception] = []
    with console.status("checking"):
        for understood in ways:
            proto, manifest = understood.proto, understood.manifest
            try:
                check_fit(proto, manifest, where=str(file))
                gap = prove(proto, manifest, understood.source, open_graph=open_graph)
                break
            except (ModelError, ParityError, RefusedError) as error:
                failures.append(error)
        else:
            raise (
                failures[0]
                if failures
                else DataError(
                    f"{file}: it reads one step at a time and has no recurrent state: there is no "
                    "sequence to serve; if an input of it is a state, name it: --state INPUT=OUTPUT"
                )
            )
        try:
            path = ModelRepository(models).publish(proto, manifest)
        except OSError as error:
            raise DataError(f"--models {models}: cannot be written to: {error.strerror}") from error
    table = Table(title=f"{file.name}: what it is taken for", show_header=False)
    for what, fact in (*understood.facts, *_served(manifest)):
        table.add_row(what, fact)
    table.add_row("difference from the source", f"{gap:.1e} of the predictions' size")
    console.print(table)
    _print_starts(manifest, understood.starts, console)
    console.print(f"published {path}")
    console.print(f"serve it: cellar-serve --models {models}")
    return path


def _print_starts(manifest: Manifest, starts: Mapping[str, Start], console: Console) -> None:
    """Where sessions start, and what of that is only a guess."""
    if not manifest.states:
        return
    table = Table(title="where sessions start")
    for heading in ("state", "shape", "dtype", "starts at"):
        table.add_column(heading)
    for state in manifest.states:
        start = starts[state.input]
        table.add_row(state.input, str(list(state.shape)), "float32", str(start))
    console.print(table)
    if taken := [state.input for state in manifest.states if starts[state.input].is_taken]:
        console.print(
            f"taken, not found: {', '.join(taken)}. If the network starts elsewhere, say so: "
            f"--initial {taken[0]}=VALUE",
            soft_wrap=True,
        )


def _served(manifest: Manifest) -> list[tuple[str, str]]:
    steps = "chunks and single steps" if manifest.lengths is not None else "one step at a time"
    prediction = manifest.prediction
    return [
        ("states", ", ".join(state.input for state in manifest.states) or "none"),
        ("prediction", f"{prediction.kind}, {prediction.width} columns"),
        (
            "served",
            f"in sessions, {steps}" if manifest.is_streamable else "whole sequences only (Predict)",
        ),
        ("compiled anew", "yes" if manifest.task == "char" else "no: its own operators"),
    ]
