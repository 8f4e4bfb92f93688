"""``cellar generate``: text or values that a model goes on with."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from cellar.cli.given import open_session, read_prompt
from cellar.cli.shown import print_json
from cellar.sync.client import Client
from cellar.sync.session import Session
from cellar.values.model_info import InputKind
from cellar.values.results import Piece


def run_generate(client: Client, options: argparse.Namespace) -> None:
    """Generate, and show each piece as it comes; in several ways, each as it ends."""
    with open_session(client, options) as session:
        if options.n is not None:
            _run_many(session, options)
            return
        reads_values = session.model.input is InputKind.VALUES
        generation = session.generate(read_prompt(options.prompt, session.model), **_how(options))
        pieces = []
        for piece in generation:
            pieces.append(piece)
            if not options.json:
                print(_shown(piece, reads_values), end="", flush=True)
    if options.json:
        print_json({**_whole(pieces), "position": session.position})
    elif not reads_values:
        print()


def _run_many(session: Session, options: argparse.Namespace) -> None:
    """Each has a line before it that says which it is; the session stays where it is."""
    reads_values = session.model.input is InputKind.VALUES
    prompt = read_prompt(options.prompt, session.model)
    with session.generate(prompt, n=options.n, **_how(options)) as generations:
        found: list[list[Piece]] = [[] for _ in generations.each]
        for number, piece in generations:
            found[number].append(piece)
    if options.json:
        each = [{**_whole(pieces), "position": pieces[-1].position} for pieces in found if pieces]
        print_json({"generations": each, "position": session.position})
        return
    for number, pieces in enumerate(found):
        print(f"-- {number + 1}")
        text = "".join(_shown(piece, reads_values) for piece in pieces)
        print(text, end="" if reads_values else "\n")


def _how(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "max_steps": options.steps,
        "temperature": options.temperature,
        "top_k": options.top_k,
        "top_p": options.top_p,
        "seed": options.seed,
        "stop": options.stop,
    }


def _shown(piece: Piece, reads_values: bool) -> str:
    return (
        "".join(f"{value:g}\n" for value in piece.values.tolist()) if reads_values else piece.text
    )


def _whole(pieces: Sequence[Piece]) -> dict[str, Any]:
    return {
        "text": "".join(piece.text for piece in pieces),
        "tokens": [token for piece in pieces for token in piece.tokens.tolist()],
        "values": [value for piece in pieces for value in piece.values.tolist()],
        "finish_reason": pieces[-1].finish_reason if pieces else None,
    }
