"""ModelService: what is served."""

from typing import Any

from cellar.v1 import model_pb2 as pb
from cellar.v1 import model_pb2_grpc
from service.engine.engine import Engine
from service.rpc import encode
from service.rpc.calls import Calls


class ModelServicer(model_pb2_grpc.ModelServiceServicer):
    """Models over gRPC."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> Any:
        """See the service's definition."""
        self._engine.check_ready()
        models = [encode.model(self._engine, m, whole=False) for m in self._engine.catalog.all()]
        return pb.ListModelsResponse(models=models)

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> Any:
        """See the service's definition."""
        self._engine.check_ready()
        served = self._engine.catalog.find(request.name, request.version)
        return pb.GetModelResponse(model=encode.model(self._engine, served, whole=True))


def add_to(calls: Calls, engine: Engine) -> None:
    """Register the service."""
    model_pb2_grpc.add_ModelServiceServicer_to_server(ModelServicer(engine), calls)
