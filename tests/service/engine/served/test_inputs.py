"""Characters that a vocabulary lacks: refused, or taken as its unknown symbol."""

import numpy as np
import pytest
from pydantic import ValidationError

from models.manifest import Manifest, Prediction, PredictionKind, State, TokensInput
from service.engine.served.inputs import InputReader
from service.errors import BadInputError
from tests.foreign import foreign_case


def reader(*, unknown: int | None, vocabulary: str = "\nabc\ufffd") -> InputReader:
    return InputReader(
        Manifest(
            name="model",
            input=TokensInput(vocabulary=tuple(vocabulary), unknown=unknown),
            states=(State(input="h", output="h_next", shape=(4,)),),
            prediction=Prediction(
                output="logits", kind=PredictionKind.LOGITS, width=len(vocabulary)
            ),
        )
    )


@pytest.mark.parametrize("stranger", ["z", "`", "\0", "é", "\uffff", "🙂", "\U0010ffff"])
def test_strangers_are_the_unknown_symbol(stranger: str) -> None:
    taken = reader(unknown=4)
    assert taken.text(f"a{stranger}\n").require().tolist() == [1, 4, 0]
    assert taken.text(stranger).require().tolist() == [4]
    assert stranger not in taken.single_tokens


@pytest.mark.parametrize("stranger", ["z", "`", "\0", "é", "\uffff", "🙂", "\U0010ffff"])
def test_strangers_are_refused_without_one(stranger: str) -> None:
    strict = reader(unknown=None)
    checked = strict.text(f"a{stranger}\n")
    assert checked.bad.tolist() == [False, True, False]
    with pytest.raises(BadInputError, match=f"row 1: .*U\\+{ord(stranger):04X}"):
        checked.require()
    assert stranger not in strict.single_tokens


@pytest.mark.parametrize("unknown", [None, 4])
def test_the_vocabulary_is_itself_either_way(unknown: int | None) -> None:
    either = reader(unknown=unknown)
    assert either.text("\nabc\ufffd").require().tolist() == [0, 1, 2, 3, 4]
    assert [either.single_tokens[symbol] for symbol in "\nabc\ufffd"] == [0, 1, 2, 3, 4]
    assert "".join(either.symbols[token] for token in [1, 4]) == "a\ufffd"


def test_an_unknown_symbol_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"unknown is token 5, .* has 5 symbols"):
        reader(unknown=5)


def test_empty_inputs_say_where_steps_belong() -> None:
    with pytest.raises(BadInputError, match=r"in inputs\.text or inputs\.tokens\.ids"):
        reader(unknown=None).text("").require()


def test_values_beyond_what_the_model_can_read_are_refused() -> None:
    limited = InputReader(foreign_case().manifest, largest=1e30)
    rows = np.array([[1, -1e30], [1e30, 0], [3, -2e30], [np.nan, 0], [np.inf, 0]], np.float32)
    checked = limited.values(rows.ravel())
    assert checked.bad.tolist() == [False, False, True, True, True]
    assert [limited.one_row(row) is None for row in rows] == checked.bad.tolist()
    error = checked.explain(2)
    assert str(error) == (
        "inputs.values, row 2: b is -2e+30: beyond 1e+30 the session's state "
        "would hold no numbers any more"
    )
    assert "a is inf: it must be finite" in str(checked.explain(4))
