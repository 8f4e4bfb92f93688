"""``cellar models``: what a server has."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from typing import Any

from cellar.cli.shown import new_table, print_json, print_table
from cellar.sync.client import Client
from cellar.values.model_info import InputKind, ModelInfo

_MOST_NAMED = 4  # features, in a table
_MOST_SCORES = 3


def run_models(client: Client, options: argparse.Namespace) -> None:
    """List the models."""
    models = client.models()
    if options.json:
        return print_json([_model_json(model) for model in models])
    versions = Counter(model.name for model in models)
    if not models:
        print("the server has no models", file=sys.stderr)
        return None
    headings = ["model", "version", "task", "reads", "predicts", "#state/session", "scores"]
    runs = any(model.rows_run_alone or model.steps_run_alone for model in models)
    shown = new_table(*headings, *(["runs"] if runs else []))
    for model in models:
        chosen = model.default_version and versions[model.name] > 1
        version = f"{model.version} (default)" if chosen else str(model.version or "?")
        if not model.available:
            shown.add_row(model.name, version, "unavailable")
            continue
        shown.add_row(
            model.name,
            version,
            model.task,
            _reads(model),
            f"{len(model.labels)} labels" if model.labels else str(model.prediction),
            _size(model.session_bytes) if model.streamable else "no sessions",
            _scores(model),
            *([_runs(model)] if runs else []),
        )
    print_table(shown)
    for model in models:
        if not model.available:
            version = f" {model.version}" if model.version else ""
            print(f"\n{model.name}{version} is unavailable: {model.unavailable_reason}")


def _reads(model: ModelInfo) -> str:
    """What a step of a model is: tokens, or the numbers of its features."""
    if model.input is InputKind.TOKENS:
        return "tokens"
    names = model.features or tuple(str(place) for place in range(1, model.width + 1))
    if len(names) > _MOST_NAMED:
        return f"{len(names)} values: {', '.join(names[: _MOST_NAMED - 1])}, …"
    return f"{len(names)} values: {', '.join(names)}" if len(names) > 1 else f"value: {names[0]}"


def _scores(model: ModelInfo) -> str:
    """The first scores; those of what it was compared with are for --json."""
    own = [(name, score) for name, score in sorted(model.scores.items()) if "." not in name]
    shown = ", ".join(f"{name} {score:.4g}" for name, score in own[:_MOST_SCORES])
    return f"{shown}, …" if len(own) > _MOST_SCORES else shown


def _size(count: int) -> str:
    """Bytes, for people."""
    size, units = float(count), iter(("B", "KiB", "MiB", "GiB"))
    unit = next(units)
    while size >= 1024 and unit != "GiB":
        size, unit = size / 1024, next(units)
    return f"{size:.4g} {unit}"


def _runs(model: ModelInfo) -> str:
    """What of a model shares no run."""
    rows, steps = model.rows_run_alone, model.steps_run_alone
    ways = [name for name, alone in (("row by row", rows), ("step by step", steps)) if alone]
    return ", ".join(ways) or "in batches"


def _model_json(model: ModelInfo) -> dict[str, Any]:
    return {
        "name": model.name,
        "version": model.version,
        "default_version": model.default_version,
        "task": model.task,
        "input": model.input,
        "width": model.width,
        "features": model.features,
        "prediction": model.prediction,
        "labels": model.labels,
        "streamable": model.streamable,
        "rows_run_alone": model.rows_run_alone,
        "steps_run_alone": model.steps_run_alone,
        "largest_value": model.largest_value,
        "session_bytes": model.session_bytes,
        "fingerprint": model.fingerprint,
        "scores": dict(model.scores),
        "unavailable_reason": model.unavailable_reason,
    }
