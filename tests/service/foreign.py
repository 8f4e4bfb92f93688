"""Models of somebody else's: a graph of a few operators, with its manifest beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.manifest import Manifest, Prediction, PredictionKind, State, ValuesInput

MANIFEST = Manifest(
    name="foreign",
    input=ValuesInput(name="x", features=("a",)),
    states=(State(input="s", output="s_next", shape=(2,)),),
    prediction=Prediction(output="y", kind=PredictionKind.RAW, width=2),
)


def publish_foreign(
    root: Path, name: str, *, version: int = 1, gain: float = 0.5, endless: bool = False
) -> Path:
    """Writes a model of two decaying sums; one that is ``endless`` never ends a run."""
    nodes = [
        helper.make_node("Mul", ["s", "gain"], ["kept"]),
        helper.make_node("Add", ["kept", "x"], ["s_next"]),
        helper.make_node("Identity", ["s_next"], ["y0" if endless else "y"]),
    ]
    if endless:
        body = helper.make_graph(
            [helper.make_node("Identity", ["c"], ["c_out"]), helper.make_node("Sin", ["v"], ["w"])],
            "body",
            [value("i", TensorProto.INT64), value("c", TensorProto.BOOL), row("v")],
            [value("c_out", TensorProto.BOOL), row("w")],
        )
        nodes.append(helper.make_node("Loop", ["", "true", "y0"], ["y"], body=body))
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1]), row("s")],
        [row("y"), row("s_next")],
        [
            numpy_helper.from_array(np.array(gain, np.float32), "gain"),
            *([numpy_helper.from_array(np.array(True), "true")] if endless else []),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    folder = root / name / str(version)
    folder.mkdir(parents=True)
    onnx.save_model(model, str(folder / "model.onnx"))
    (folder / "manifest.json").write_text(MANIFEST.model_dump_json(), "utf-8")
    return folder / "model.onnx"


def row(name: str) -> onnx.ValueInfoProto:
    """A tensor of two numbers per session."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2])


def value(name: str, dtype: int) -> onnx.ValueInfoProto:
    """A scalar."""
    return helper.make_tensor_value_info(name, dtype, [])
