"""What only a run can tell of a model: the server says it by the name of the file."""

from pathlib import Path

import pytest
from onnx import helper, numpy_helper

from models.errors import ModelError
from models.repository import ModelRepository
from service.server import Server
from service.settings import Settings
from tests.models.test_arena import decaying_sum


def settings(root: Path) -> Settings:
    return Settings(
        models=root,
        port=0,
        metrics_port=None,
        max_sessions=8,
        spare_slots=8,
        max_paths=8,
        default_paths=8,
    )


async def refusal(root: Path) -> str:
    server = Server(settings(root))
    with pytest.raises(ModelError) as caught:
        await server.start()
    return str(caught.value)


async def test_a_first_run_that_fails_names_the_file(tmp_path: Path) -> None:
    model = decaying_sum(0)
    graph = model.proto.graph
    graph.node[-1].output[0] = "once"
    graph.node.append(helper.make_node("Concat", ["once", "once"], ["y"], axis=1))
    graph.output[0].type.tensor_type.shape.dim[1].dim_param = "twice"  # 4, the manifest says 2
    path = ModelRepository(tmp_path).publish(model.proto, model.manifest)
    assert f"{path}: cannot be run: " in await refusal(tmp_path)


async def test_an_operator_that_the_runtime_lacks_names_the_file(tmp_path: Path) -> None:
    model = decaying_sum(0)
    model.proto.graph.node[0].domain = "com.microsoft"
    model.proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    path = ModelRepository(tmp_path).publish(model.proto, model.manifest)
    assert f"{path}: cannot be run: " in await refusal(tmp_path)


async def test_a_model_that_cannot_be_compiled_names_the_file_once(tmp_path: Path) -> None:
    model = decaying_sum(0)
    half = numpy_helper.to_array(model.proto.graph.initializer[0])
    model.proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(half, "cellar.half"))
    model.proto.graph.node[0].input[1] = "cellar.half"
    path = ModelRepository(tmp_path).publish(model.proto, model.manifest)
    assert (await refusal(tmp_path)).startswith(f"{path}: tensor 'cellar.half': ")
