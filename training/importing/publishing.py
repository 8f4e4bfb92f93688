"""Publishes an import that was proved, and tells what was inferred."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from rich.console import Console
from rich.table import Table

from models.errors import ModelError
from models.fit import check_fit
from models.manifest import Manifest
from models.repository import ModelRepository
from training.errors import ParityError
from training.importing.proof import Source, prove


@dataclass(frozen=True, slots=True, kw_only=True)
class Understood:
    """A source brought into servable form, and how it was understood."""

    proto: onnx.ModelProto
    manifest: Manifest
    source: Source
    facts: list[tuple[str, str]] = field(default_factory=list)
    """What was found or taken, for people."""


def publish(ways: Iterable[Understood], models: Path, *, file: Path, console: Console) -> Path:
    """Publish the first way of serving a model that computes what its source does, and say so.

    Raises:
        ParityError: none does; nothing is published.
        ModelError: it cannot be served.
    """
    failures: list[Exception] = []
    with console.status("checking"):
        for understood in ways:
            proto, manifest = understood.proto, understood.manifest
            try:
                check_fit(proto, manifest, where=str(file))
                gap = prove(proto, manifest, understood.source)
                break
            except (ModelError, ParityError) as error:
                failures.append(error)
        else:
            raise failures[0]
        path = ModelRepository(models).publish(proto, manifest)
    table = Table(title=f"{file.name}: what it is taken for", show_header=False)
    for what, fact in (*understood.facts, *_served(manifest)):
        table.add_row(what, fact)
    table.add_row("difference from the source", f"{gap:.1e} of the predictions' size")
    console.print(table)
    console.print(f"published {path}")
    console.print(f"serve it: cellar-serve --models {models}")
    return path


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
