"""Sessions and steps, as the command line gives them."""

from __future__ import annotations

import argparse
import re
import zipfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cellar.cli.arguments import UsageError
from cellar.cli.numbers import parse_row
from cellar.sync.client import Client
from cellar.sync.session import Session
from cellar.values.inputs import StepInputs
from cellar.values.model_info import InputKind, ModelInfo


def open_session(client: Client, options: argparse.Namespace) -> AbstractContextManager[Session]:
    """The session that was asked for: it is kept where it has an id, and closed where not."""
    session = client.session(
        options.model,
        id=options.session,
        initial_state=_read_states(options.initial_state),
        resume=options.session is not None,
    )
    return session if options.session is None else nullcontext(session)


def _read_states(path: Path | None) -> dict[str, npt.NDArray[Any]] | None:
    """The arrays of an .npz file, by name; None where no file is given.

    Raises:
        UsageError: it is no such file.
    """
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            found = np.load(file, allow_pickle=False)
            if not isinstance(found, np.lib.npyio.NpzFile):
                raise ValueError("one array, without a name")
            return dict(found)
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise UsageError(
            f"{path}: it is no .npz file of arrays ({error}): write one with "
            "numpy.savez(file, h_0=...)"
        ) from None


def read_inputs(text: str, model: ModelInfo, place: str) -> StepInputs:
    """The steps of one argument; ``place`` says which it is."""
    if model.input is InputKind.VALUES:
        return parse_row(text, model, place)
    return _with_long_symbols(text, model.vocabulary)


def read_prompt(words: list[str], model: ModelInfo) -> StepInputs | None:
    """The steps of a prompt; None where there is none."""
    if model.input is not InputKind.VALUES:
        return _with_long_symbols(" ".join(words), model.vocabulary)
    rows = [parse_row(each, model, f"value {n}") for n, each in enumerate(words, 1)]
    return rows or None


def _with_long_symbols(text: str, vocabulary: tuple[str, ...]) -> StepInputs:
    """A text, as token ids where it has symbols of several characters in it: <label>."""
    longer = [symbol for symbol in vocabulary if len(symbol) > 1 and symbol in text]
    if not longer:
        return text
    pattern = "|".join(re.escape(symbol) for symbol in sorted(longer, key=len, reverse=True))
    symbols = re.findall(f"{pattern}|.", text, flags=re.DOTALL)
    if not set(symbols) <= set(vocabulary):
        return text  # the server says what is wrong with it
    return [vocabulary.index(symbol) for symbol in symbols]
