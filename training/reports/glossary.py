"""The words of a page that not everybody knows: linked where they stand, told at its end."""

import re
from dataclasses import dataclass

from markupsafe import Markup, escape


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """A word and what it means."""

    name: str
    meaning: str
    spellings: tuple[str, ...] = ()
    """Regular expressions of what else stands for it."""

    @property
    def anchor(self) -> str:
        """Where on the page its meaning stands."""
        return "term-" + re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


class Glossary:
    """The terms that one page uses."""

    def __init__(self) -> None:
        self._used: set[str] = set()

    def link(self, text: str) -> Markup:
        """Text with each term's first occurrence linked to its meaning; all else is escaped."""
        pieces, end = [], 0
        seen: set[str] = set()
        for match in _PATTERN.finditer(text):
            term = _BY_GROUP[match.lastgroup or ""]
            if term.name in seen:
                continue
            seen.add(term.name)
            pieces.append(escape(text[end : match.start()]))
            pieces.append(Markup('<a href="#{}">{}</a>').format(term.anchor, match[0]))
            end = match.end()
        self._used |= seen
        return Markup("").join([*pieces, escape(text[end:])])

    @property
    def terms(self) -> list[Term]:
        """Those that were linked, by name."""
        return [term for term in TERMS if term.name in self._used]


def _term(name: str, meaning: str, *spellings: str) -> Term:
    return Term(name=name, meaning=meaning, spellings=spellings)


_ALL = (
    _term(
        "80 % interval",
        "The range that the model gives with 80 % probability: good ones hold 80 % of the truths, "
        "neither fewer nor more.",
        "in 80 %",
    ),
    _term("accuracy", "The share of sequences whose label is right."),
    _term("backtest", "Forecasts from places in the past, each held against what came after."),
    _term(
        "baseline", "A forecast that needs no training: what a network has to beat.", "baselines"
    ),
    _term("carried", "Loss over held-out text in one pass, with memory kept all along."),
    _term(
        "clipped",
        "Where the gradient norm is above the limit (--clip), the change is scaled down to it, so "
        "that one odd batch does not undo what was learnt.",
        "clipping",
    ),
    _term(
        "cold256",
        "Mean loss over stretches of 256 characters of held-out text, each begun without memory.",
    ),
    _term("commonest label", "The label that most training sequences have."),
    _term("correlation", "How closely two things go together: 1 or -1 wholly, 0 not at all."),
    _term(
        "counting",
        "A model with next to no memory: each character by its share of the training text, or by "
        "its share after the one before (pairs).",
    ),
    _term(
        "EWMA",
        "Exponentially weighted moving average: a mean of the past that forgets; with .94, each "
        "step counts 6 % less than the one after it.",
    ),
    _term(
        "gradient norm",
        "How strongly the loss would change with the weights. One that dies away teaches nothing; "
        "one that jumps up tells of an unstable training.",
    ),
    _term(
        "GRU",
        "Gated recurrent unit: a recurrent cell with two gates that say what is kept of the state.",
    ),
    _term("held-out", "Data that training never saw. Scores are of it.", "held out"),
    _term("int8", "Serving with whole numbers of 8 bits: faster, and a little less exact."),
    _term(
        "Johnson SU",
        "A bell-shaped distribution with a skew and tails of its own; the network's forecasts of "
        "the next change are of this form.",
    ),
    _term("last value", "The forecast that nothing changes."),
    _term("learning rate", "How far each training step moves the weights."),
    _term(
        "loss",
        "What training makes smaller: how unlikely the model held what came, in nats.",
        "losses",
    ),
    _term(
        "LSTM",
        "Long short-term memory: a recurrent cell with a memory of its own and three gates that "
        "say what is written to it, kept in it and read from it.",
    ),
    _term(
        "MASE",
        "Mean absolute scaled error: the median forecast's error in units of the change from one "
        "step (or season) to the next in the past. Lower is better.",
    ),
    _term("median", "The middle forecast: the truth is as likely above it as below."),
    _term(
        "nats",
        "The unit of surprise: what was given probability p costs -ln p, which is 0.69 for one "
        "half and 2.30 for one tenth. Fewer are better.",
        "nat",
    ),
    _term(
        "nll",
        "Negative log-likelihood: the mean surprise at the next value, in nats. Lower is better; "
        "below zero is nothing special, since a narrow density is above one.",
    ),
    _term(
        "ONNX", "The open format of the model file; any ONNX runtime computes it, without torch."
    ),
    _term(
        "overfitting",
        "Learning the training data by heart instead of what it has in common with other data.",
    ),
    _term(
        "precision",
        "Of the sequences that the model gives a label, the share that have it.",
    ),
    _term(
        "quantile",
        "The value that the truth is at or below with a given probability: 10 % for the lowest "
        "one here, 90 % for the highest.",
        "quantiles",
    ),
    _term(
        "quantile loss",
        "How far the forecast's quantiles are from the truth, as a share of the values' size "
        "(mean_wQuantileLoss, here wQL). Lower is better; 0 is a perfect forecast.",
        "wQL",
        "mean_wQuantileLoss",
    ),
    _term(
        "random walk",
        "The forecast that changes have no direction, only a size: it widens from the last value.",
        "random walks",
        "walk",
    ),
    _term("recall", "Of the sequences that have a label, the share that the model gives it."),
    _term("RNN", "The plain recurrent cell: a state that is mixed with each new input."),
    _term("running spread", "How large the changes have been of late; the network reads in it."),
    _term("seasonal naive", "The forecast that all is as it was a season ago."),
    _term("seed", "The number that all chance of a run is drawn from: weights, order, dropout."),
    _term("session", "One sequence that a server remembers the state of."),
    _term("SHA-256", "A fingerprint of the data: other data has another one."),
    _term(
        "temperature",
        "How daring the drawing is: below 1 prefers the likely, 1 is the model's own "
        "probabilities.",
    ),
    _term(
        "validation",
        "A look at held-out data while training goes on; the weights that do best there are kept.",
        "validates",
    ),
    _term(
        "weights", "The numbers inside the network that training changes; all that it has learnt."
    ),
    _term(
        "Welch's t test",
        "Tells whether two means differ by more than the scatter of their runs explains.",
    ),
)
TERMS = tuple(sorted(_ALL, key=lambda term: term.name.lower()))
"""In the order of the alphabet."""

_BY_GROUP = {f"t{place}": term for place, term in enumerate(TERMS)}


def _pattern() -> re.Pattern[str]:
    """One group for each term; those that others begin with come last."""
    found = [
        (len(spelling), group, spelling)
        for group, term in _BY_GROUP.items()
        for spelling in (re.escape(term.name), *term.spellings)
    ]
    by_group: dict[str, list[str]] = {}
    for _, group, spelling in sorted(found, reverse=True):
        by_group.setdefault(group, []).append(spelling)
    longest = sorted(by_group, key=lambda group: -max(map(len, by_group[group])))
    parts = [f"(?P<{group}>{'|'.join(by_group[group])})" for group in longest]
    return re.compile(rf"(?<![\w-])(?:{'|'.join(parts)})(?![\w-])", re.IGNORECASE)


_PATTERN = _pattern()
