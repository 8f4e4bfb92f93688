"""Predictions for whole sequences, checked and answered. Knows nothing of gRPC."""

from dataclasses import dataclass

import numpy as np

from service.engine.engine import Engine
from service.engine.served.inputs import CheckedSteps, no_step
from service.engine.served.predictor import Sequences
from service.engine.served.registry import ServedModel
from service.engine.work.columns import Answers, Ints, Outputs
from service.engine.work.memory import Held
from service.engine.work.sampling import Sampling
from service.errors import BadInputError
from service.settings import EngineSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictResult:
    """Answers for whole sequences, one sequence after the other."""

    counts: Ints | None  # (sequences,) answers for each; None: one each
    answers: Answers


async def predict(
    engine: Engine,
    served: ServedModel,
    steps: CheckedSteps,
    counts: Ints | None,
    *,
    outputs: Outputs,
    sampling: Sampling | None = None,
) -> PredictResult:
    """Read whole sequences from their beginning and predict; nothing is kept of them.

    Args:
        engine: the engine.
        served: the model.
        steps: the steps of all sequences, concatenated.
        counts: steps of each sequence, (sequences,); ``None`` is one sequence.
        outputs: what to compute, after each sequence's last step or after every step.
        sampling: how to draw.

    Raises:
        BadInputError: a sequence cannot be read; ``row`` says which. Or an output is not to be had.
        OverloadedError: too much is queued.
        DrainingError: the server is shutting down.
    """
    engine.check_ready()
    limits = engine.settings
    if not len(steps):
        raise no_step(steps.inputs)
    if counts is None:
        counts = np.array([len(steps)], np.int64)
    _check_counts(limits, counts, steps)
    outputs = served.check_outputs(outputs, sampling, steps=len(steps), sequences=len(counts))
    if steps.bad.any():
        raise _explained(steps, counts)
    predictions = len(steps) if outputs.every_step else len(counts)
    _check_room(served, limits, predictions)
    sequences = Sequences(inputs=steps.inputs, counts=counts)
    held = served.held_bytes(outputs, steps=len(steps), predictions=predictions)
    with engine.memory.holding(Held.REQUEST, held):
        answers = await served.predictor.predict(sequences, outputs, sampling, engine.flows.current)
    return PredictResult(counts=counts if outputs.every_step else None, answers=answers)


def _check_counts(limits: EngineSettings, counts: Ints, steps: CheckedSteps) -> None:
    if (counts < 1).any():
        raise BadInputError(
            "steps", "a sequence has at least one step", row=int((counts < 1).argmax())
        )
    # Summed with care: a count may be anything that the wire can carry.
    if (counts > len(steps)).any() or int(counts.sum()) != len(steps):
        total = sum(counts.tolist())
        raise BadInputError("steps", f"they sum to {total}, the inputs are {len(steps)} steps")
    if len(steps) > limits.max_frame_steps:
        raise BadInputError(
            "inputs",
            f"{len(steps)} steps exceed the limit of {limits.max_frame_steps} per request: send "
            "the sequences in several",
        )
    if (counts > limits.max_request_steps).any():
        row = int(counts.argmax())
        raise BadInputError(
            "inputs",
            f"{counts[row]} steps exceed the limit of {limits.max_request_steps} per sequence",
            row=row,
        )


def _check_room(served: ServedModel, limits: EngineSettings, predictions: int) -> None:
    """Whole predictions are kept until the last sequence is read, whatever is asked of them."""
    needed = 4 * served.manifest.prediction.width * predictions
    room = max(limits.max_history_bytes, limits.max_message_bytes)
    if needed > room:
        raise BadInputError(
            "inputs",
            f"{predictions} predictions of {served.manifest.prediction.width} numbers take "
            f"{needed:,} bytes, there is room for {room:,}: send the "
            "sequences in several requests",
        )


def _explained(steps: CheckedSteps, counts: Ints) -> BadInputError:
    """What is wrong with the first bad step, in the words of its sequence."""
    bad = int(steps.bad.argmax())
    stops = np.cumsum(counts)
    row = int(np.searchsorted(stops, bad, side="right"))
    step = bad - int(stops[row] - counts[row])
    error = steps.explain(bad)
    return BadInputError(error.field, f"step {step}: {error.message}", row=row)
