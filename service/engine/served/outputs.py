"""Checks what a caller wants back against what the model predicts."""

from dataclasses import replace

from models.manifest import Manifest, PredictionKind
from service.engine.work.columns import NOTHING, Outputs
from service.engine.work.sampling import Sampling
from service.errors import BadInputError

DEFAULT_LEVELS = (0.1, 0.5, 0.9)


def check_outputs(
    manifest: Manifest, outputs: Outputs, sampling: Sampling | None, *, max_levels: int
) -> Outputs:
    """The outputs to compute, with the model's default where nothing was chosen.

    Raises:
        BadInputError: the model cannot give one of them; the message names the field.
    """
    kind = manifest.prediction.kind
    if outputs.every_step and not manifest.prediction.per_step:
        raise BadInputError(
            "outputs.every_step", "the model predicts once for each sequence: leave it out"
        )
    if outputs.last_only == NOTHING:
        default = {
            PredictionKind.LOGITS: Outputs(argmax=True),
            PredictionKind.LABELS: Outputs(argmax=True),
            PredictionKind.DISTRIBUTION: Outputs(quantiles=DEFAULT_LEVELS),
            PredictionKind.RAW: Outputs(raw=True),
        }[kind]
        return replace(default, every_step=outputs.every_step)
    if kind not in (PredictionKind.LOGITS, PredictionKind.LABELS):
        for field in ("argmax", "top_k", "probabilities"):
            if getattr(outputs, field):
                raise BadInputError(
                    f"outputs.{field}",
                    f"the model predicts no tokens and no labels; it has: {_has(kind)}",
                )
    if kind is not PredictionKind.DISTRIBUTION and outputs.quantiles:
        raise BadInputError(
            "outputs.quantiles", f"the model predicts no distribution; it has: {_has(kind)}"
        )
    if kind in (PredictionKind.RAW, PredictionKind.LABELS) and outputs.sample:
        raise BadInputError("outputs.sample", f"nothing to draw from; the model has: {_has(kind)}")
    if outputs.top_k > manifest.prediction.width:
        raise BadInputError(
            "outputs.top_k",
            f"{outputs.top_k} is more than "
            + (
                f"the model's {manifest.prediction.width} labels"
                if kind is PredictionKind.LABELS
                else f"the vocabulary's {manifest.prediction.width} tokens"
            ),
        )
    check_levels("outputs.quantiles", outputs.quantiles, at_most=max_levels)
    if sampling is not None:
        sampling.check("outputs.sample")
    return outputs


def check_levels(field: str, levels: tuple[float, ...], *, at_most: int) -> None:
    """Quantile levels lie strictly between 0 and 1, and are not too many.

    Raises:
        BadInputError: one does not, or they are.
    """
    if len(levels) > at_most:
        raise BadInputError(field, f"{len(levels)} levels exceed the limit of {at_most}")
    for row, level in enumerate(levels):
        if not 0.0 < level < 1.0:
            raise BadInputError(field, f"{level} is not strictly between 0 and 1", row=row)


def _has(kind: PredictionKind) -> str:
    return {
        PredictionKind.LOGITS: "argmax, top_k, probabilities, sample, raw",
        PredictionKind.LABELS: "argmax, top_k, probabilities, raw",
        PredictionKind.DISTRIBUTION: "quantiles, sample, raw",
        PredictionKind.RAW: "raw",
    }[kind]


def prediction_bytes(manifest: Manifest, outputs: Outputs) -> int:
    """The most bytes that one prediction takes in a message."""
    wide = manifest.prediction.width * (outputs.probabilities + outputs.raw)
    tokens = outputs.argmax + outputs.sample + 2 * outputs.top_k
    # A token comes with its symbol, a label with its name.
    each = 16 + max((len(label.encode()) for label in manifest.prediction.labels), default=0)
    return 4 * (wide + len(outputs.quantiles)) + each * tokens + 8


def check_reply(
    manifest: Manifest, outputs: Outputs, steps: int, *, at_most: int, sequences: int = 1
) -> None:
    """Check before anything is applied that the reply to so many steps fits into a message.

    Raises:
        BadInputError: it would not.
    """
    predictions = steps if outputs.every_step else sequences
    size = predictions * prediction_bytes(manifest, outputs) + 1024
    if size > at_most:
        raise BadInputError(
            "outputs",
            f"the reply to {steps} steps may take {size:,} bytes, a message holds {at_most:,}: "
            "send fewer steps at once, or ask for less",
        )


def why_no_draws(manifest: Manifest) -> str | None:
    """Why what a model predicts cannot be its next step; ``None`` where it can.

    ``{}`` in it stands for what was to be made of it.
    """
    match manifest.prediction.kind:
        case PredictionKind.LABELS:
            return "labels sequences: no next step can be {} from a label"
        case PredictionKind.RAW:
            return "gives nothing to be {} from"
    if manifest.input.width != 1:
        return f"reads {manifest.input.width} values per step, predicts one"
    return None
