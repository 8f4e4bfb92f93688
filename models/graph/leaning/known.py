"""A graph that is rewritten, and what is known of its tensors."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, MutableSequence, Sequence

import onnx
from onnx import helper, numpy_helper

from models.graph.builder import CONTRIB, OPSET, GraphBuilder, constants_of


class KnownGraph:
    """A graph that is rewritten in place, with what is known of its tensors."""

    def __init__(self, graph: onnx.GraphProto, prefix: str) -> None:
        self.proto = graph
        self.builder = GraphBuilder(prefix)
        self.producers = {name: node for node in graph.node for name in node.output if name}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self.readers[name].append(node)
        self.constants = {
            name: numpy_helper.to_array(tensor) for name, tensor in constants_of(graph).items()
        }
        self.shapes = _shapes(graph)

    def made(self, name: str, op: str) -> onnx.NodeProto | None:
        """The node that makes a tensor, if it is of this kind."""
        node = self.producers.get(name)
        return node if node is not None and node.op_type == op else None

    def scalar(self, name: str) -> float | None:
        """The value of a constant with one number."""
        found = self.constants.get(name)
        return float(found.reshape(())) if found is not None and found.size == 1 else None

    def ints(self, name: str) -> list[int] | None:
        """The numbers of a constant."""
        found = self.constants.get(name)
        return None if found is None else [int(number) for number in found.ravel()]

    def operands(self, name: str, op: str) -> tuple[str, str] | None:
        """What a node with two inputs that makes a tensor reads."""
        node = self.made(name, op)
        return None if node is None else (node.input[0], node.input[1])

    def by_constant(self, name: str, op: str) -> tuple[str, float] | None:
        """The other operand, and the constant, of a sum or a product with one number."""
        for one, other in both_ways(self.operands(name, op)):
            value = self.scalar(other)
            if value is not None and one not in self.constants:
                return one, value
        return None

    def size(self, name: str, axis: int) -> int | None:
        """How long a tensor is along an axis, if that never changes."""
        shape = self.shapes.get(name)
        found = None if shape is None else shape[axis]
        return found if isinstance(found, int) else None

    def axis(self, name: str, axis: int) -> int | None:
        """An axis counted from the first one."""
        shape = self.shapes.get(name)
        return None if shape is None else axis % len(shape)

    def laid_out(self, name: str, before: Sequence[int | str], after: Sequence[int | str]) -> str:
        """A tensor with its sizes of 1 in other places."""
        for op, shape in (("Squeeze", before), ("Unsqueeze", after)):
            axes = [axis for axis, size in enumerate(shape) if size == 1]
            if axes:
                name = self.builder.node(op, name, self.builder.constant(axes))
        return name

    def replace(self, changed: Mapping[str, str]) -> None:
        """Let other tensors stand for some; what made these is left to `prune`."""
        changed = dict(changed)

        def latest(name: str) -> str:
            while name in changed:
                name = changed[name]
            return name

        nodes = [*self.proto.node, *self.builder.nodes]
        for node in nodes:
            for place, name in enumerate(node.input):
                node.input[place] = latest(name)
        made = {name: node for node in self.builder.nodes for name in node.output}
        given = [value.name for value in self.proto.output if value.name in changed]
        for name in given:  # it is made otherwise now
            _rename(self.producers[name].output, name, self.builder.fresh("unused"))
            found = latest(name)
            if found in made:  # another name would be a copy of it
                _rename(made.pop(found).output, found, name)
                for node in nodes:
                    _rename(node.input, found, name)
                del changed[name]
                changed[found] = name
            else:
                nodes.append(helper.make_node("Identity", [found], [name]))
        self.proto.initializer.extend(self.builder.initializers)
        known = {tensor.name for tensor in self.proto.initializer}
        known |= {value.name for value in self.proto.input}
        nodes = [*_sorted(nodes, known)]
        del self.proto.node[:]
        self.proto.node.extend(nodes)

    def ancestors(self, names: Sequence[str]) -> set[str]:
        """All that some tensors hang on, they themselves included."""
        found: set[str] = set()
        left = list(names)
        while left:
            name = left.pop()
            if name not in found:
                found.add(name)
                if name in self.producers:
                    left.extend(self.producers[name].input)
        return found


def both_ways(pair: tuple[str, str] | None) -> list[tuple[str, str]]:
    """Two operands in either order."""
    return [] if pair is None else [pair, pair[::-1]]


def _rename(names: MutableSequence[str], old: str, new: str) -> None:
    for place, name in enumerate(names):
        if name == old:
            names[place] = new


def _sorted(nodes: Sequence[onnx.NodeProto], known: set[str]) -> Iterator[onnx.NodeProto]:
    """Nodes behind all that they read; none of these graphs has others inside."""
    waiting = list(nodes)
    while waiting:
        late = []
        for node in waiting:
            if all(name in known for name in node.input if name):
                known.update(node.output)
                yield node
            else:
                late.append(node)
        assert len(late) < len(waiting), "a tensor hangs on itself"
        waiting = late


def _shapes(graph: onnx.GraphProto) -> dict[str, list[int | str]]:
    """The shapes that can be inferred; a size that is not known is a name."""
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
    model = helper.make_model(graph, opset_imports=opsets)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    found: dict[str, list[int | str]] = {}
    for value in (*inferred.value_info, *inferred.input, *inferred.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape"):
            found[value.name] = [
                dim.dim_value if dim.HasField("dim_value") else dim.dim_param
                for dim in tensor.shape.dim
            ]
    for constant in graph.initializer:
        found[constant.name] = list(constant.dims)
    return found
