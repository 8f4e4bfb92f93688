"""ModelService: what is served, and predictions for whole sequences."""

from typing import Any

from cellar.v1 import model_pb2 as pb
from cellar.v1 import model_pb2_grpc
from service.auth.principal import Role, calling
from service.engine.calls.predict import predict
from service.engine.engine import Engine
from service.rpc.calls import Calls
from service.rpc.native import decode, encode


class ModelServicer(model_pb2_grpc.ModelServiceServicer):
    """Models over gRPC."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> Any:
        self._engine.check_ready()
        registry, may_use = self._engine.registry, calling.get().grant.may_use
        models = [
            encode.model(self._engine, served, complete=False)
            for served in registry.all()
            if may_use(served.name)
        ]
        models += [
            encode.unavailable(self._engine, model)
            for model in registry.unavailable()
            if may_use(model.name)
        ]
        models.sort(key=lambda model: (model.name, model.version))
        return pb.ListModelsResponse(models=models)

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> Any:
        self._engine.check_ready()
        served = self._engine.registry.find(request.name, request.version)
        model = encode.model(self._engine, served, complete=True)
        if not calling.get().grant.has(Role.READ):
            model.ClearField("provenance_json")
        return pb.GetModelResponse(model=model)

    async def Predict(self, request: pb.PredictRequest, context: Any) -> Any:
        self._engine.check_ready()
        served = self._engine.registry.find(request.model, request.model_version)
        outputs, sampling = decode.outputs(request.outputs)
        result = await predict(
            self._engine,
            served,
            decode.inputs(request.inputs, served.reader, self._engine.settings),
            decode.column(request.steps),
            outputs=outputs,
            sampling=sampling,
        )
        names = served.names if request.inputs.HasField("text") else served.labels
        return encode.predicted(result, served, outputs, names)


def add_to(calls: Calls, engine: Engine) -> None:
    """Register the service."""
    model_pb2_grpc.add_ModelServiceServicer_to_server(ModelServicer(engine), calls)
