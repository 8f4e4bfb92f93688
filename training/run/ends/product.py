"""What a run makes: its best weights as a scored and checked ONNX model."""

from dataclasses import dataclass

import onnx
import torch

from models.manifest import Manifest
from training.export import parity
from training.export.exporter import export
from training.export.parity import Parity
from training.families.parsing import AnyConfig
from training.run.ends.provenance import provenance_of
from training.run.steps.loop import Loop


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """A model that may be published."""

    proto: onnx.ModelProto
    manifest: Manifest
    parity: Parity

    def embedded(self) -> onnx.ModelProto:
        """The model with its manifest inside."""
        self.manifest.embed(self.proto)
        return self.proto

    @property
    def scores(self) -> dict[str, float]:
        """The scores in its manifest."""
        return self.manifest.scores


def finished_product(config: AnyConfig, loop: Loop) -> Product:
    """Score and export the best weights of a loop, and compare the graph with the network.

    Raises:
        ParityError: the exported graph is not the network.
    """
    task = loop.task
    loop.keep_best()
    task.to(torch.device("cpu"))
    network = task.network.cpu().eval()
    scores = task.scores()
    proto, manifest = export(network, name=config.name)
    agreement = parity.measure(task, proto, manifest)
    parity.require(agreement)
    scores |= {"onnx_gap": agreement.nats} | task.exported_scores(proto, manifest)
    provenance = provenance_of(config, loop)
    manifest = manifest.model_copy(update={"scores": scores, "provenance": provenance})
    return Product(proto=proto, manifest=manifest, parity=agreement)
