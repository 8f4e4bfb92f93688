"""What a character model's report says of it."""

import math

import numpy as np
import pytest
import torch

from training.families.char.activations import Reading, Unit, choose, coloured, pictures, read
from training.families.char.counting import counting_nats
from training.families.char.evaluation import cold256
from training.families.char.network import CharNetwork
from training.families.char.report import cold_losses, sections
from training.settings import Cell

LINE = 'He said "how are you" and left (at ten).\n'


def network(cell: Cell = Cell.LSTM, vocabulary: str = "\nab") -> CharNetwork:
    torch.manual_seed(0)
    return CharNetwork(vocabulary=vocabulary, cell=cell, layers=2, hidden=6, embedding=4).eval()


def test_units_are_found_by_what_they_follow() -> None:
    dice = np.random.default_rng(1)
    texts = tuple(LINE[n:] + LINE * 5 + LINE[:n] for n in range(6))
    noise = dice.uniform(-1, 1, (6, len(texts[0]), 5)).astype(np.float32)
    ends = range(1, len(texts[0]) + 1)
    inside = np.array([[text[:end].count('"') % 2 for end in ends] for text in texts])
    noise[..., 3] = 0.2 * noise[..., 3] - inside  # a unit that goes down inside quotes
    noise[..., 1] = np.linspace(-1, 1, len(texts[0]))  # one that hardly changes
    found = choose(Reading(texts=texts, activations=noise))
    assert [unit.number for unit in found] == [3, 1]
    assert found[0].reason.startswith("inside double quotes (r = -0.9")
    assert found[1].reason.startswith("the slowest (r = +")


def test_units_that_follow_nothing_are_not_shown() -> None:
    noise = np.random.default_rng(2).uniform(-1, 1, (4, 400, 3)).astype(np.float32)
    (only,) = choose(Reading(texts=(LINE * 9 + LINE[:31],) * 4, activations=noise))
    assert isinstance(only, Unit)
    assert only.reason.startswith("the slowest")


@pytest.mark.parametrize("cell", Cell)
def test_activations_are_those_of_the_last_layer(cell: Cell) -> None:
    model = network(cell)
    tokens = torch.tensor([0, 1, 2, 1] * 40)
    found = read(model, tokens)
    count, length = 2, 80  # of 160 characters: two texts, half of each to warm up
    assert found.activations.shape == (count, length - 40, 6)
    with torch.no_grad():
        _, state = model(tokens[None, :length], model.initial_state(1))
    last = torch.tanh(state[-1]) if cell is Cell.LSTM else state[-1]
    np.testing.assert_allclose(found.activations[0, -1], last[0].numpy(), atol=1e-6)


def test_coloured_text_is_escaped_and_shows_what_does_not_show() -> None:
    html = coloured("<b>\n\0", np.array([1.0, 1.0, 0.0, -1.0, -0.5], np.float32))
    assert html == "<pre><i class=p9>&lt;b</i>&gt;<i class=n9>↵\n</i><i class=n4>␀</i></pre>"


def test_losses_by_position_average_to_the_score() -> None:
    model = network()
    tokens = torch.randint(3, (2 * 256 + 1,))
    losses = cold_losses(model, tokens)
    assert losses.nats.shape == losses.tokens.shape == losses.guesses.shape == (2, 256)
    expected = cold256(model, model.initial_state, tokens)
    assert losses.nats.mean() == pytest.approx(expected, abs=1e-6)
    assert losses.tokens[0].tolist() == tokens[1:257].tolist()


def test_sections_hold_no_markup_from_the_text() -> None:
    model = network(vocabulary="\n<&")
    tokens = torch.randint(3, (700,))
    made = sections(model, tokens, [(0.5, "<script>&")])
    html = "".join(section.html for section in made)
    assert "&lt;script&gt;&amp;" in html
    assert "<script" not in html
    assert "<&" not in html
    assert "characters it needs" in made[1].text
    assert pictures(model, tokens) in html


def test_counting_is_scored_as_the_formulas_say() -> None:
    train = torch.tensor([0, 1, 0, 1, 0, 2])
    held_out = torch.tensor([0, 1, 1])
    found = counting_nats(train, held_out, symbols=3)
    single = [3 / 9, 3 / 9]  # one more than counted
    assert found.characters == pytest.approx(-np.log(single).mean())
    after = [(2 + single[0]) / (3 + 1), (0 + single[1]) / (2 + 1)]
    assert found.pairs == pytest.approx(-sum(map(math.log, after)) / 2)


def test_symbols_of_several_characters_are_coloured_as_one() -> None:
    torch.manual_seed(0)
    model = CharNetwork(vocabulary=("a", "b", "\n", "<x>"), hidden=8, embedding=4).eval()
    tokens = torch.randint(4, (1200,), generator=torch.Generator().manual_seed(1))
    assert "&lt;x&gt;" in pictures(model, tokens)
