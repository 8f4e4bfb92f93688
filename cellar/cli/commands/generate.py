"""``cellar generate``: text or values that a model goes on with."""

from __future__ import annotations

import argparse

from cellar.cli.given import open_session, read_prompt
from cellar.cli.shown import print_json
from cellar.client import Client
from cellar.model_info import InputKind


def run_generate(client: Client, options: argparse.Namespace) -> None:
    """Generate, and show each piece as it comes."""
    with open_session(client, options) as session:
        reads_values = session.model.input is InputKind.VALUES
        generation = session.generate(
            read_prompt(options.prompt, session.model),
            max_steps=options.steps,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            seed=options.seed,
            stop=options.stop,
        )
        pieces = []
        for piece in generation:
            pieces.append(piece)
            if options.json:
                continue
            text = "".join(f"{value:g}\n" for value in piece.values.tolist())
            print(text if reads_values else piece.text, end="", flush=True)
    if options.json:
        print_json(
            {
                "text": "".join(piece.text for piece in pieces),
                "tokens": [token for piece in pieces for token in piece.tokens.tolist()],
                "values": [value for piece in pieces for value in piece.values.tolist()],
                "position": session.position,
                "finish_reason": pieces[-1].finish_reason if pieces else None,
            }
        )
    elif not reads_values:
        print()
