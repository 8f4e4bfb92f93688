"""Answers computed on the device from predictions that lie there; only they come to the host.

Heads run over all lanes of a run, whichever rows are asked for, and over few widths: a row's bits
then depend on the size of its run alone, and every shape there is stays bound.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.manifest import Manifest
from service.engine.execution.cuda import graphs as device_graphs
from service.engine.execution.cuda.predictions import OnDevice
from service.engine.execution.heads import DrawMode, HeadsOf, draw_modes, parameters
from service.engine.execution.runtime import Block, Bound, Place, Session, View, open_session
from service.engine.work.columns import Floats, Ints, Outputs
from service.engine.work.sampling import Draws, uniforms

_MIDDLE = 0.5  # a level or a share that any lane may be given


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """A head bound to the predictions of one block."""

    bound: Bound
    feeds: Mapping[str, Block]
    found: Mapping[str, Block]

    def run(self, feeds: Mapping[str, NDArray[Any]], rows: slice) -> dict[str, NDArray[Any]]:
        """Feed some rows and run all; returns what was found for these rows."""
        for name, block in self.feeds.items():
            whole = np.full(block.shape, _MIDDLE, block.dtype)
            whole[rows] = feeds[name]
            block.write(whole)
        self.bound.run()
        return {name: block.read()[rows] for name, block in self.found.items()}


class DeviceHeads(HeadsOf[OnDevice]):
    """The heads of one model.

    Args:
        graphs: each head as a graph.
        gpu_only: see `open_session`; heads of somebody else's may need the CPU.
    """

    def __init__(
        self,
        graphs: Mapping[str, bytes],
        manifest: Manifest,
        place: Place,
        *,
        gpu_only: bool = True,
        tf32: bool = False,
    ) -> None:
        super().__init__(manifest)
        self._place = place
        self._sessions: dict[str, Session] = {
            name: open_session(device_graphs.runnable(graph), place, gpu_only=gpu_only, tf32=tf32)
            for name, graph in graphs.items()
        }
        self._bound: dict[tuple[str, int, int], _Head] = {}  # by head, address and width

    def _answer_tokens(
        self,
        found: dict[str, Any],
        logits: OnDevice,
        outputs: Outputs,
        draws: Draws | None,
        positions: Ints,
    ) -> None:
        if outputs.argmax:
            found["argmax"] = self._argmax(logits)
        if outputs.top_k:
            width = logits.shape[1]
            k = min(outputs.top_k, width)
            top = self._run("top_k", logits, {}, k=min(_power_of_two(k), width))
            found["top_tokens"] = top["top_tokens"][:, :k].copy()
            found["top_probabilities"] = top["top_probabilities"][:, :k].copy()
        if outputs.probabilities:
            found["probabilities"] = self._run("probabilities", logits, {})["probabilities"]
        if outputs.sample and draws is not None:
            found["sampled_tokens"] = self._sample(logits, draws, positions)

    def _argmax(self, logits: OnDevice) -> NDArray[np.int32]:
        return self._run("argmax", logits, {})["argmax"]

    def _sample(self, logits: OnDevice, draws: Draws, positions: Ints) -> NDArray[np.int32]:
        """(rows, vocabulary) -> (rows,)."""
        tokens = np.empty(len(logits), np.int32)
        uniform = uniforms(draws.seed, positions)[:, None]
        for mode, rows in draw_modes(draws, vocabulary=logits.shape[1]):
            if mode is DrawMode.GREEDY:
                drawn = self._argmax(logits)
            else:  # of all rows, with the parameters of each: those of another way are not used
                feeds = {"uniform": uniform, **parameters(draws, mode)}
                drawn = self._run(mode.value, logits, feeds)["sample"]
            tokens[rows] = drawn[rows]
        return tokens

    def _quantiles(self, predictions: OnDevice, levels: Floats) -> Floats:
        """(rows, width), (rows, k) -> (rows, k)."""
        names = self._manifest.quantiles
        assert names is not None, "the manifest says that a distribution has quantiles"
        count = levels.shape[1]
        wide = np.full((len(levels), _power_of_two(count)), _MIDDLE, np.float32)
        wide[:, :count] = levels
        found = self._run("quantiles", predictions, {names.levels: wide}, k=wide.shape[1])
        values: Floats = found[names.output][:, 0, :count]
        return values

    def _run(
        self, head: str, predictions: OnDevice, feeds: Mapping[str, NDArray[Any]], *, k: int = 1
    ) -> dict[str, NDArray[Any]]:
        view = predictions.block.view()
        key = head, view.address, k
        bound = self._bound.get(key)
        if bound is None:
            bound = self._bound[key] = self._bind(head, view, feeds, k)
        return bound.run(feeds, slice(predictions.start, predictions.stop))

    def _bind(self, head: str, view: View, feeds: Mapping[str, NDArray[Any]], k: int) -> _Head:
        size, width = view.shape
        blocks = {
            name: Block(self._place, (size, *array.shape[1:]), array.dtype.type)
            for name, array in feeds.items()
        }
        found = {
            name: Block(self._place, shape, dtype)
            for name, (shape, dtype) in self._shapes(head, size, width, k).items()
        }
        source = "logits"
        if head == "quantiles":
            source = self._manifest.prediction.output
            view = view.block.view(0, (size, 1, width))
        inputs: dict[str, View | NDArray[Any]] = {
            source: view,
            **{name: block.view() for name, block in blocks.items()},
        }
        if head == "top_k":
            inputs["k"] = np.array([k], np.int64)  # which the CPU reads
        outputs = {name: block.view() for name, block in found.items()}
        return _Head(bound=Bound(self._sessions[head], inputs, outputs), feeds=blocks, found=found)

    def _shapes(
        self, head: str, size: int, width: int, k: int
    ) -> dict[str, tuple[tuple[int, ...], type[np.generic]]]:
        """The outputs of a head, with their shapes and types."""
        match head:
            case "argmax":
                return {"argmax": ((size,), np.int32)}
            case "top_k":
                return {
                    "top_tokens": ((size, k), np.int32),
                    "top_probabilities": ((size, k), np.float32),
                }
            case "probabilities":
                return {"probabilities": ((size, width), np.float32)}
            case "quantiles":
                assert self._manifest.quantiles is not None, "it has the head"
                return {self._manifest.quantiles.output: ((size, 1, k), np.float32)}
        return {"sample": ((size,), np.int32)}


def _power_of_two(count: int) -> int:
    """The smallest one that is not less: few widths serve all."""
    return 1 << (count - 1).bit_length()
