"""The exported model in Triton's Python backend: what somebody without Cellar would write.

Triton's sequence batcher brings the steps of several sequences together and says which begin and
which end; their states are kept here, in arrays with a row per sequence. Answers with the most
likely next token, as Cellar does. Runs in Triton's environment, not in this project's.
"""

import json
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb  # type: ignore[import-not-found]

ROWS = 1024  # the batcher's max_candidate_sequences
STATES = ("h_0", "c_0")
OUTPUTS = ("logits", "h_0_next", "c_0_next")


class TritonPythonModel:
    """Triton finds it by this name."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model named in the configuration."""
        parameters = json.loads(args["model_config"])["parameters"]
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(
            parameters["onnx"]["string_value"], options, providers=["CPUExecutionProvider"]
        )
        widths = {value.name: value.shape[-1] for value in self._session.get_inputs()}
        self._states = {name: np.zeros((ROWS, widths[name]), np.float32) for name in STATES}
        self._rows: dict[int, int] = {}
        self._free = list(range(ROWS))

    def execute(self, requests: list[Any]) -> list[Any]:
        """One step of each sequence in a batch."""
        tokens = np.empty((len(requests), 1), np.int64)
        rows = np.empty(len(requests), np.int64)
        ending = []
        for index, request in enumerate(requests):
            sequence = int(_number(request, "CORRID"))
            if _number(request, "START"):
                row = self._rows[sequence] = self._free.pop()
                for state in self._states.values():
                    state[row] = 0
            rows[index] = self._rows[sequence]
            tokens[index] = _number(request, "tokens")
            if _number(request, "END"):
                ending.append(sequence)
        lengths = np.ones(len(requests), np.int32)
        states = {name: state[rows] for name, state in self._states.items()}
        feeds = {"tokens": tokens, "lengths": lengths, **states}
        logits, *following = self._session.run(OUTPUTS, feeds)  # logits (batch, 1, vocabulary)
        for state, new in zip(self._states.values(), following, strict=True):
            state[rows] = new
        for sequence in ending:
            self._free.append(self._rows.pop(sequence))
        best = logits[:, 0].argmax(axis=-1).reshape(-1, 1, 1)  # (batch, 1, 1)
        return [pb.InferenceResponse([pb.Tensor("next", token)]) for token in best]


def _number(request: Any, name: str) -> Any:
    return pb.get_input_tensor_by_name(request, name).as_numpy().flat[0]
