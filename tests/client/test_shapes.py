"""What replies tell of the shape of their columns is held against what was asked."""

from __future__ import annotations

import numpy as np
import pytest

from cellar.errors import ProtocolError
from cellar.v1 import values_pb2
from cellar.values.predictions import Predictions, decode


def decoded(message: values_pb2.Predictions, n: int, levels: tuple[float, ...]) -> Predictions:
    return decode(
        message,
        positions=np.arange(n, dtype=np.int64),
        replayed=np.zeros(n, np.bool_),
        vocabulary=(),
        levels=levels,
    )


def test_another_number_of_predictions_is_refused() -> None:
    message = values_pb2.Predictions(top_tokens=range(6), count=3)
    with pytest.raises(ProtocolError, match="3 predictions where 2"):
        decoded(message, 2, ())
    top = decoded(message, 3, ()).top_tokens
    assert top is not None
    assert top.shape == (3, 2)


def test_a_server_that_tells_no_number_is_believed() -> None:
    assert len(decoded(values_pb2.Predictions(argmax=range(2)), 2, ())) == 2


def test_levels_are_as_they_were_asked_unless_the_server_took_others() -> None:
    asked = (0.1, 0.123456789)  # floats of 32 bits cannot be told from these
    message = values_pb2.Predictions(quantiles=range(2), levels=asked, count=1)
    assert decoded(message, 1, asked).levels == asked
    assert decoded(message, 1, (0.25, 0.75)).levels == (0.1, 0.123457)
    message.ClearField("levels")
    assert decoded(message, 1, (0.25, 0.75)).levels == (0.25, 0.75)
