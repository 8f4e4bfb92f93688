"""Graphs that take several steps, made of the graph that takes one.

Control flow cannot be recorded, so that the steps stand one behind the other: the nodes between the
reads of the arena and the writes to it are there once per step, and the weights once in all. Each
node is one of the single step's, with the same shapes, so that the bits are those of single steps.

Knows nothing of how a graph is run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import helper

from models.compile.serving import PREDICTION, PREFIX, ArenaTensor
from models.graph.builder import FLOAT, INT32, INT64
from models.manifest import Manifest, TokensInput

NEXT = PREFIX + "next"


def step_input(number: int) -> str:
    """What a step reads: tokens (batch,), or values (batch, 1, width)."""
    return f"{PREFIX}input_{number}"


def step_uniform(number: int) -> str:
    """The noise that a step's draw takes, (batch, 1)."""
    return f"{PREFIX}uniform_{number}"


def step_drawn(number: int) -> str:
    """What is drawn after a step: tokens (batch,) int32, or values (batch, 1, 1)."""
    return f"{PREFIX}drawn_{number}"


class NotUnrolledError(Exception):
    """A graph of single steps is not built as those that Cellar writes."""


def unrolled(step: bytes, manifest: Manifest, arena: Sequence[ArenaTensor], count: int) -> bytes:
    """A graph of ``count`` steps: it reads `step_input` of each -> ``PREDICTION`` after the last.

    Raises:
        NotUnrolledError: the graph cannot be cut.
    """
    cut = _Cut.of(step, manifest, arena)
    return cut.build([step_input(number) for number in range(count)], None, manifest)


def unrolled_decode(
    step: bytes,
    head: bytes,
    manifest: Manifest,
    arena: Sequence[ArenaTensor],
    count: int,
    *,
    bounds: tuple[float, float] | None = None,
) -> bytes:
    """A graph that reads `step_input` 0, draws, reads that, and so on, ``count`` times.

    It takes `step_uniform` of each step and the head's parameters, and gives `step_drawn` of each,
    and ``NEXT``: the last one again, as what a next run reads first.

    Args:
        step: the graph of a single step.
        head: the graph that draws: one of tokens, or that of quantiles.
        manifest: as the graphs name their inputs.
        arena: the tensors that the step reads and writes.
        count: how many steps.
        bounds: what drawn values are kept within; ``None`` for tokens.

    Raises:
        NotUnrolledError: the graphs cannot be joined.
    """
    cut = _Cut.of(step, manifest, arena)
    draw = _Draw(onnx.load_from_string(head), manifest, bounds)
    if _standard_opset(draw.model) != _standard_opset(cut.model):
        raise NotUnrolledError("the graphs are of two versions of the operators")
    inputs = [step_input(0), *(f"{PREFIX}fed_{number}" for number in range(1, count)), NEXT]
    return cut.build(inputs[:count], draw, manifest, then=inputs[1:])


@dataclass(slots=True, kw_only=True)
class _Cut:
    """A graph of a single step, cut at its reads and writes of the arena."""

    model: onnx.ModelProto
    input: onnx.ValueInfoProto
    before: list[onnx.NodeProto]  # reads, and what hangs on nothing that a step reads
    inner: list[onnx.NodeProto]
    after: list[onnx.NodeProto]  # writes
    states: dict[str, str]  # what is read of the arena -> what is written in its place

    @classmethod
    def of(cls, step: bytes, manifest: Manifest, arena: Sequence[ArenaTensor]) -> "_Cut":
        """Cut a graph.

        Raises:
            NotUnrolledError: something reads the arena, or writes to it, in a way of its own.
        """
        model = onnx.load_from_string(step)
        name = manifest.input.name
        (found,) = [value for value in model.graph.input if value.name == name]
        by_input = {tensor.input: tensor for tensor in arena}
        outputs = {tensor.output: tensor for tensor in arena}
        reads: dict[str, str] = {}  # of a tensor: what is read of it
        written: dict[str, str] = {}
        hangs = {name}  # on what a step reads
        before, inner, after = [], [], []
        for node in model.graph.node:
            touched = [own for own in node.input if own in by_input]
            if node.output[0] in outputs and touched == [outputs[node.output[0]].input]:
                if node.op_type != "ScatterElements" or set(node.input[:2]) & hangs:
                    raise NotUnrolledError(f"{node.op_type} writes to the arena")
                written[touched[0]] = node.input[2]
                after.append(node)
            elif touched:
                if node.op_type != "Gather" or node.input[0] in reads or node.input[1] in hangs:
                    raise NotUnrolledError(f"{node.op_type} reads the arena")
                reads[node.input[0]] = node.output[0]
                hangs.add(node.output[0])
                before.append(node)
            elif hangs.intersection(node.input):
                hangs.update(node.output)
                inner.append(node)
            else:
                before.append(node)
        if len(after) != len(arena) or not {*written.values(), PREDICTION} <= hangs:
            raise NotUnrolledError("not all of the arena is written from what was read")
        return cls(
            model=model,
            input=found,
            before=before,
            inner=inner,
            after=after,
            states={read: written[tensor] for tensor, read in reads.items()},
        )

    def build(
        self,
        inputs: Sequence[str],
        draw: "_Draw | None",
        manifest: Manifest,
        *,
        then: Sequence[str] = (),
    ) -> bytes:
        """The steps one behind the other; each reads one of ``inputs``, and draws one of ``then``.

        The last one keeps the names of the single step's.
        """
        graph, last = self.model.graph, len(inputs) - 1
        nodes = list(self.before)
        state = {read: read for read in self.states}
        inside = {output for node in self.inner for output in node.output}
        for number, own in enumerate(inputs):
            prefix = "" if number == last else f"{PREFIX}step_{number}."
            names = {**state, manifest.input.name: own}
            names |= {output: prefix + output for output in inside}
            nodes += [_renamed(node, names, prefix) for node in self.inner]
            state = {read: names[written] for read, written in self.states.items()}
            if draw is not None:
                nodes += draw.nodes(number, names[PREDICTION], then[number])
        given = [_like(self.input, own) for own in (inputs if draw is None else inputs[:1])]
        outputs = list(graph.output)
        initializers = list(graph.initializer)
        if draw is not None:
            given += draw.given(len(inputs))
            outputs += draw.outputs(len(inputs))
            initializers += draw.initializers
        model = helper.make_model(
            helper.make_graph(
                [*nodes, *self.after],
                graph.name,
                [*(value for value in graph.input if value is not self.input), *given],
                outputs,
                initializer=initializers,
            ),
            opset_imports=list({own.domain: own for own in _opsets(self.model, draw)}.values()),
            ir_version=self.model.ir_version,
            producer_name="cellar",
        )
        return model.SerializeToString()


class _Draw:
    """A head that draws, and how its draws become what the next step reads."""

    def __init__(
        self, model: onnx.ModelProto, manifest: Manifest, bounds: tuple[float, float] | None
    ) -> None:
        self.model = model
        self._bounds = bounds
        self._is_tokens = isinstance(manifest.input, TokensInput)
        self._source, self._uniform, self._output = "logits", "uniform", ""
        if not self._is_tokens:
            assert manifest.quantiles is not None, "a distribution has quantiles"
            self._source = manifest.prediction.output
            self._uniform = manifest.quantiles.levels
        (found,) = model.graph.output
        self._output = found.name
        self.initializers = [
            onnx.TensorProto.FromString(own.SerializeToString()) for own in model.graph.initializer
        ]
        for own in self.initializers:
            own.name = _HEAD + own.name
        if bounds is not None:
            for name, bound in zip(_BOUNDS, bounds, strict=True):
                self.initializers.append(helper.make_tensor(name, FLOAT, [], [bound]))
            self.initializers.append(helper.make_tensor(_AXIS, INT64, [1], [1]))

    def given(self, count: int) -> list[onnx.ValueInfoProto]:
        """The graph's inputs for so many draws."""
        found = []
        for value in self.model.graph.input:
            if value.name == self._uniform:
                found += [
                    helper.make_tensor_value_info(step_uniform(number), FLOAT, ["batch", 1])
                    for number in range(count)
                ]
            elif value.name != self._source:
                dtype = value.type.tensor_type.elem_type
                found.append(helper.make_tensor_value_info(value.name, dtype, ["batch", 1]))
        return found

    def outputs(self, count: int) -> list[onnx.ValueInfoProto]:
        """The graph's outputs for so many draws."""
        shape: list[str | int | None] = ["batch"] if self._is_tokens else ["batch", 1, 1]
        drawn, read = (INT32, INT64) if self._is_tokens else (FLOAT, FLOAT)
        return [
            *(helper.make_tensor_value_info(step_drawn(n), drawn, shape) for n in range(count)),
            helper.make_tensor_value_info(NEXT, read, shape),
        ]

    def nodes(self, number: int, prediction: str, then: str) -> list[onnx.NodeProto]:
        """Draw from a step's prediction (batch, width), under the name of what reads it next."""
        prefix = f"{_HEAD}{number}."
        source, drawn = prediction, step_drawn(number)
        found: list[onnx.NodeProto] = []
        if not self._is_tokens:
            source = prefix + "prediction"
            found.append(helper.make_node("Unsqueeze", [prediction, _AXIS], [source]))
        graph = self.model.graph
        names: dict[str, str] = {own.name: _HEAD + own.name for own in graph.initializer}
        names |= {output: prefix + output for node in graph.node for output in node.output}
        names |= {self._source: source, self._uniform: step_uniform(number)}
        if self._is_tokens:
            names[self._output] = drawn
        found += [_renamed(node, names, prefix) for node in graph.node]
        if self._is_tokens:
            found.append(helper.make_node("Cast", [drawn], [then], to=INT64))
        else:
            found.append(helper.make_node("Clip", [names[self._output], *_BOUNDS], [drawn]))
            found.append(helper.make_node("Identity", [drawn], [then]))
        return found


_HEAD = PREFIX + "head."
_BOUNDS = (_HEAD + "lowest", _HEAD + "highest")
_AXIS = _HEAD + "axis"


def _renamed(node: onnx.NodeProto, names: Mapping[str, str], prefix: str) -> onnx.NodeProto:
    found = onnx.NodeProto.FromString(node.SerializeToString())
    found.input[:] = [names.get(own, own) for own in node.input]
    found.output[:] = [names.get(own, own) for own in node.output]
    found.name = prefix + node.name if node.name else ""
    return found


def _like(value: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    found = onnx.ValueInfoProto.FromString(value.SerializeToString())
    found.name = name
    return found


def _opsets(model: onnx.ModelProto, draw: _Draw | None) -> list[onnx.OperatorSetIdProto]:
    return [*model.opset_import, *(() if draw is None else draw.model.opset_import)]


def _standard_opset(model: onnx.ModelProto) -> int:
    (found,) = [own.version for own in model.opset_import if own.domain in ("", "ai.onnx")]
    return found
