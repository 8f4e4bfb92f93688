"""The model of a stack: its graph, and the manifest that gets it compiled if it can be."""

import onnx

from models.compile.recognition import char_network
from models.errors import ModelError
from models.manifest import Manifest, Prediction, PredictionKind, TokensInput, ValuesInput
from training.importing.stack import Stack, write


def model_of(
    stack: Stack, inputs: TokensInput | ValuesInput, prediction: Prediction, *, name: str
) -> tuple[onnx.ModelProto, Manifest]:
    """Write a stack with its manifest.

    Its task is ``char`` where the arena compiler knows such networks and writes them anew, and
    ``foreign``, served with its own operators, otherwise.
    """
    proto = write(stack, name=name, output=prediction.output)
    manifest = Manifest(
        name=name,
        task="foreign",
        input=inputs,
        lengths="lengths",
        states=stack.states,
        prediction=prediction,
    )
    if prediction.kind is PredictionKind.LOGITS and manifest.is_streamable:
        as_char = manifest.model_copy(update={"task": "char"})
        try:
            char_network(proto.graph, as_char)
        except ModelError:
            return proto, manifest
        return proto, as_char
    return proto, manifest
