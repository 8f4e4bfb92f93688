"""``cellar step`` and ``cellar predict``: steps of a session, and whole sequences."""

from __future__ import annotations

import argparse

from cellar.cli.given import open_session, read_inputs
from cellar.cli.numbers import parse_rows
from cellar.cli.shown import json_of, new_table, percent, print_json, print_table, words
from cellar.sync.client import Client
from cellar.values.model_info import InputKind
from cellar.values.outputs import OutputOptions

_SHOWN_CHARACTERS = 40  # of a sequence, in a table


def run_step(client: Client, options: argparse.Namespace) -> None:
    """Send steps, and show the predictions."""
    with open_session(client, options) as session:
        wanted = OutputOptions(top_k=options.top_k) if options.top_k else OutputOptions()
        rows = [
            (text, read_inputs(text, session.model, f"input {place}"))
            for place, text in enumerate(options.input, 1)
        ]
        predictions = [(text, session.step(inputs, **wanted)) for text, inputs in rows]
    if options.json:
        return print_json([{"input": text, **json_of(each)} for text, each in predictions])
    levels = predictions[0][1].levels
    headings = [f"#{percent(level)}" for level in levels] if levels else ["next"]
    shown = new_table("input", "#position", *headings)
    for text, each in predictions:
        shown.add_row(text, str(each.position), *words(each))
    print_table(shown)


def run_predict(client: Client, options: argparse.Namespace) -> None:
    """Predict for whole sequences."""
    model = client.model(options.model)
    reads_values = model.input is InputKind.VALUES
    sequences = [
        parse_rows(text, model, f"sequence {number}") if reads_values else text
        for number, text in enumerate(options.input, 1)
    ]
    wanted = OutputOptions(top_k=options.top_k) if options.top_k else OutputOptions()
    found = client.predict(
        options.model, sequences, version=model.version, every_step=options.every_step, **wanted
    )
    rows = [(text, each) for text, own in zip(options.input, found, strict=True) for each in own]
    if options.json:
        return print_json([{"input": text, **json_of(each)} for text, each in rows])
    levels = found.predictions[0].levels
    headings = [f"#{percent(level)}" for level in levels] or ["label" if model.labels else "next"]
    shown = new_table("input", "#steps", *headings)
    for text, each in rows:
        short = text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 1]}…"
        shown.add_row(short, str(each.position), *words(each))
    print_table(shown)
