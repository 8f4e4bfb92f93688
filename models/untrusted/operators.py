"""Which operators a model may use: those that are built into ONNX Runtime, and its own functions.

Knows nothing of tensors.
"""

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet

import onnx

from models.errors import ModelError
from models.graph.builder import CONTRIB, STANDARD_DOMAINS
from models.untrusted.walking import MOST_NODES, Inside

DOMAINS = (*STANDARD_DOMAINS, "ai.onnx.ml", CONTRIB)
"""Of which ONNX Runtime has the operators built in."""
_OPAQUE = ("EPContext", "ATen", "ExternalOp", "PyOp", "PythonOp")
"""Operators that stand for code or files outside the model, wherever they are built in."""


def functions_of(proto: onnx.ModelProto) -> frozenset[tuple[str, str]]:
    """Domain and name of each local function of a model."""
    return frozenset((function.domain, function.name) for function in proto.functions)


def check_operators(part: Inside, functions: AbstractSet[tuple[str, str]], *, where: str) -> None:
    """Check that every operator of a graph is built in, or one of the model's ``functions``.

    Raises:
        ModelError: one is neither; the message names it and its domain.
    """
    for node in part.graph.node:
        if (node.domain, node.op_type) in functions:
            continue
        if node.domain not in DOMAINS:
            raise ModelError(
                f"{where}: {_named(node)} is of the domain '{node.domain}': custom operators are "
                "code of somebody else's and are not loaded; export it with the operators of "
                "ai.onnx, ai.onnx.ml and com.microsoft"
            )
        if node.op_type in _OPAQUE:
            raise ModelError(
                f"{where}: {_named(node)} stands for what is not in the model: export the network "
                "itself"
            )


def _named(node: onnx.NodeProto) -> str:
    name = node.name or next(iter(node.output), "")
    return f"operator {node.op_type} '{name}'"


def check_functions(proto: onnx.ModelProto, *, where: str) -> None:
    """Check what a model's local functions come to once their bodies stand in place of the calls.

    Raises:
        ModelError: a function calls itself, or there would be too many operators.
    """
    functions = {(one.domain, one.name): one for one in proto.functions}
    sizes: dict[tuple[str, str], int] = {}
    open_: set[tuple[str, str]] = set()
    # By hand, not by recursion: functions may call one another as deep as there are functions.
    left: list[tuple[tuple[str, str], bool]] = [(name, False) for name in functions]
    while left:
        name, called = left.pop()
        if called:
            open_.discard(name)
            sizes[name] = sum(sizes.get(call, 1) for call in _calls(functions[name].node))
            _check_size(sizes[name], where)
        elif name in open_:
            raise ModelError(f"{where}: its local function {name[1]} calls itself")
        elif name not in sizes:
            open_.add(name)
            left.append((name, True))
            left += [(call, False) for call in set(_calls(functions[name].node)) & functions.keys()]
    _check_size(sum(sizes.get(call, 1) for call in _calls(proto.graph.node)), where)


def _calls(nodes: Iterable[onnx.NodeProto]) -> Iterator[tuple[str, str]]:
    """Domain and name of each operator, those of inner graphs with them."""
    left = [*nodes]
    while left:
        node = left.pop()
        yield node.domain, node.op_type
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                left += body.node


def _check_size(nodes: int, where: str) -> None:
    if nodes > MOST_NODES:
        raise ModelError(
            f"{where}: its local functions come to more than {MOST_NODES:,} operators: export it "
            "without them"
        )
