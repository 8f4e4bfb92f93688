"""Runs batches with ONNX Runtime. The only file that imports it.

The arena lives here: one buffer per recurrent tensor and one for the last predictions, bound to
the graph's inputs and outputs at once, so that a step writes in place and touches only the rows
of its batch. Calls on one runner must not overlap.
"""

from typing import Any, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.arena import (
    FRESH,
    PREDICTION,
    PREDICTIONS,
    READ_SLOTS,
    WRITE_SLOTS,
    ServingGraph,
)
from models.manifest import PredictionKind, TokensInput
from service.engine.batch import Answers, Draws, Floats, Inputs, Ints, Outputs
from service.engine.sampling import uniforms


class Runner(Protocol):
    """What the engine needs of a device."""

    def step(
        self,
        *,
        read: Ints,
        write: Ints,
        fresh: NDArray[np.bool_],
        inputs: Inputs,
        lengths: Ints,
        every_step: bool,
    ) -> Floats:
        """Advance rows and write their new state.

        Args:
            read: slot each row starts from, (rows,).
            write: slot each row ends in, (rows,).
            fresh: rows that start from the initial state instead, (rows,).
            inputs: (rows, time) token ids or (rows, time, width) values; padding is any valid one.
            lengths: valid steps of each row, (rows,), each at least 1.
            every_step: return all predictions instead of each row's last.

        Returns:
            Predictions (rows, width), or (rows, time, width); valid until the next call.
        """

    def blank(self, rows: int) -> Inputs:
        """One valid step for each of several rows, to measure with."""

    def peek(self, slots: Ints) -> Floats:
        """The resident predictions of some slots, (rows, width)."""

    def copy(self, read: int, write: Ints) -> None:
        """Copy one slot's rows to other slots."""

    def answer(
        self, predictions: Floats, outputs: Outputs, draws: Draws | None, positions: Ints
    ) -> Answers:
        """Turn predictions (rows, width) into answers.

        ``positions`` (rows,) are the positions the predictions stand at; with the seeds in
        ``draws`` they decide what is drawn.
        """


class OrtRunner:
    """A runner on the CPU.

    Args:
        graph: the compiled model.
        slots: rows of the arena, the scratch row included.
        max_batch: the most rows of a run, and the most time steps in all.
    """

    def __init__(self, graph: ServingGraph, *, slots: int, max_batch: int) -> None:
        manifest = graph.manifest
        self._manifest = manifest
        self._core = _session(graph.core)
        self._heads = {name: _session(head) for name, head in graph.heads.items()}
        # Untouched pages of a zeroed buffer cost no memory: an arena for a million sessions
        # takes what the sessions that were opened take.
        self.arena = [np.zeros((slots, *tensor.shape), np.float32) for tensor in graph.arena]
        self._arena_values = [_bindable(array) for array in self.arena]
        self._arena_tensors = graph.arena
        self._read = np.zeros(max_batch, np.int64)
        self._write = np.zeros(max_batch, np.int64)
        self._fresh = np.zeros(max_batch, np.bool_)
        self._lengths = np.ones(max_batch, np.int32)
        self._is_tokens = isinstance(manifest.input, TokensInput)
        width = manifest.input.width
        self._inputs: NDArray[Any] = (
            np.zeros(max_batch, np.int64)
            if self._is_tokens
            else np.zeros(max_batch * width, np.float32)
        )
        self._last = np.zeros((max_batch, manifest.prediction.width), np.float32)
        self._every = np.zeros((max_batch, manifest.prediction.width), np.float32)
        # Binding costs more than a small model runs: bind each shape once, over these buffers.
        self._bindings: dict[tuple[int, int, bool], ort.IOBinding] = {}
        self._max_batch = max_batch
        self._input_rank = next(
            len(value.shape)
            for value in self._core.get_inputs()
            if value.name == manifest.input.name
        )

    def step(
        self,
        *,
        read: Ints,
        write: Ints,
        fresh: NDArray[np.bool_],
        inputs: Inputs,
        lengths: Ints,
        every_step: bool,
    ) -> Floats:
        """See ``Runner.step``."""
        rows, time = inputs.shape[:2]
        if rows * time > self._max_batch:
            raise ValueError(f"{rows} rows of {time} steps exceed the batch of {self._max_batch}")
        self._read[:rows] = read
        self._write[:rows] = write
        self._fresh[:rows] = fresh
        self._lengths[:rows] = lengths
        self._inputs[: inputs.size] = inputs.ravel()
        key = (rows, time, every_step)
        binding = self._bindings.get(key)
        if binding is None:
            binding = self._bindings[key] = self._bind(rows, time, every_step)
        self._core.run_with_iobinding(binding)
        if every_step:
            return self._every[: rows * time].reshape(rows, time, -1)
        return self._last[:rows]

    def blank(self, rows: int) -> Inputs:
        """See ``Runner.blank``."""
        if self._is_tokens:
            return np.zeros((rows, 1), np.int64)
        return np.ones((rows, 1, self._manifest.input.width), np.float32)

    def peek(self, slots: Ints) -> Floats:
        """See ``Runner.peek``."""
        rows: Floats = self.arena[-1][slots]
        return rows

    def copy(self, read: int, write: Ints) -> None:
        """See ``Runner.copy``."""
        for array in self.arena:
            array[write] = array[read]

    def answer(
        self, predictions: Floats, outputs: Outputs, draws: Draws | None, positions: Ints
    ) -> Answers:
        """See ``Runner.answer``."""
        found: dict[str, Any] = {}
        if outputs.raw:
            found["raw"] = predictions.copy()
        if self._manifest.prediction.kind is PredictionKind.LOGITS:
            self._answer_tokens(found, predictions, outputs, draws, positions)
        elif self._manifest.prediction.kind is PredictionKind.DISTRIBUTION:
            if outputs.quantiles:
                levels = np.tile(np.array(outputs.quantiles, np.float32), (len(predictions), 1))
                found["quantiles"] = self._quantiles(predictions, levels)
            if outputs.sample and draws is not None:
                levels = uniforms(draws.seed, positions)[:, None]
                found["sampled_values"] = self._quantiles(predictions, levels)[:, 0]
        return Answers(**found)

    def _answer_tokens(
        self,
        found: dict[str, Any],
        logits: Floats,
        outputs: Outputs,
        draws: Draws | None,
        positions: Ints,
    ) -> None:
        feed = {"logits": logits}
        if outputs.argmax:
            (found["argmax"],) = self._heads["argmax"].run(None, feed)
        if outputs.top_k:
            k = np.array([outputs.top_k], np.int64)
            found["top_tokens"], found["top_probabilities"] = self._heads["top_k"].run(
                None, {**feed, "k": k}
            )
        if outputs.probabilities:
            (found["probabilities"],) = self._heads["probabilities"].run(None, feed)
        if outputs.sample and draws is not None:
            (found["sampled_tokens"],) = self._heads["sample"].run(
                None,
                {
                    **feed,
                    "temperature": draws.temperature[:, None],
                    "top_k": draws.top_k[:, None],
                    "top_p": draws.top_p[:, None],
                    "uniform": uniforms(draws.seed, positions)[:, None],
                },
            )

    def _quantiles(self, predictions: Floats, levels: Floats) -> Floats:
        """(rows, width), (rows, k) -> (rows, k)."""
        names = self._manifest.quantiles
        assert names is not None, "the manifest says that a distribution has quantiles"
        (found,) = self._heads["quantiles"].run(
            None, {self._manifest.prediction.output: predictions[:, None, :], names.levels: levels}
        )
        values: Floats = found[:, 0, :]
        return values

    def _bind(self, rows: int, time: int, every_step: bool) -> ort.IOBinding:
        binding = self._core.io_binding()
        manifest = self._manifest
        shape: tuple[int, ...] = (rows, time)
        if not self._is_tokens:
            shape = (rows, time, manifest.input.width)
        if manifest.lengths is None and self._input_rank < len(shape):
            shape = (rows, *shape[2:])  # a graph without a time axis
        size = int(np.prod(shape))
        wanted = {
            READ_SLOTS: self._read[:rows],
            WRITE_SLOTS: self._write[:rows, None],
            FRESH: self._fresh[:rows],
            manifest.input.name: self._inputs[:size].reshape(shape),
        }
        if manifest.lengths is not None:
            wanted[manifest.lengths] = self._lengths[:rows]
        for name, array in wanted.items():
            binding.bind_ortvalue_input(name, _bindable(array))
        for tensor, value in zip(self._arena_tensors, self._arena_values, strict=True):
            binding.bind_ortvalue_input(tensor.input, value)
            binding.bind_ortvalue_output(tensor.output, value)
        if every_step:
            every = self._every[: rows * time].reshape(rows, time, -1)
            binding.bind_ortvalue_output(PREDICTIONS, _bindable(every))
        else:
            binding.bind_ortvalue_output(PREDICTION, _bindable(self._last[:rows]))
        return binding


def _session(graph: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    # One thread per shard: small matrices gain nothing from more, and the arithmetic of a row
    # then cannot depend on how a batch was split.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _bindable(array: NDArray[Any]) -> ort.OrtValue:
    """Wrap an array without copying it: in-place writes hang on that."""
    value = ort.OrtValue.ortvalue_from_numpy(array)
    if value.data_ptr() != array.ctypes.data:
        raise RuntimeError("ONNX Runtime copied a buffer that must be shared")
    return value
