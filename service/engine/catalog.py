"""The models that are loaded, each with the shard that serves it."""

from collections.abc import Callable
from dataclasses import dataclass

from models.manifest import Manifest
from service.engine.inputs import InputReader
from service.engine.runner import Runner
from service.engine.shard import Shard
from service.errors import ModelUnknownError
from service.metrics import Metrics
from service.settings import EngineSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model that is loaded, with the shard that serves it."""

    name: str
    version: int
    manifest: Manifest
    fingerprint: str
    reader: InputReader
    shard: Shard


class Catalog:
    """Finds models by name and version.

    Args:
        settings: limits.
        metrics: where to count.
        clock: seconds since the epoch.
    """

    def __init__(
        self, settings: EngineSettings, metrics: Metrics, clock: Callable[[], float]
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._models: dict[tuple[str, int], ServedModel] = {}

    def add(
        self,
        *,
        name: str,
        version: int,
        manifest: Manifest,
        fingerprint: str,
        runner: Runner,
    ) -> ServedModel:
        """Serve a model on a runner whose arena has ``Shard.rows(settings)`` rows."""
        shard = Shard(
            f"{name}/{version}",
            runner,
            chunk_steps=self._settings.chunk_steps if manifest.lengths is not None else 1,
            metrics=self._metrics,
            settings=self._settings,
            clock=self._clock,
        )
        served = ServedModel(
            name=name,
            version=version,
            manifest=manifest,
            fingerprint=fingerprint,
            reader=InputReader(manifest),
            shard=shard,
        )
        self._models[name, version] = served
        self._show(served)
        return served

    def all(self) -> list[ServedModel]:
        """All models, by name and version."""
        return [self._models[key] for key in sorted(self._models)]

    def find(self, name: str, version: int) -> ServedModel:
        """One model; version 0 is the highest, an empty name the only one there is.

        Raises:
            ModelUnknownError: no such model.
        """
        exact = self._models.get((name, version))  # every step of a unary caller comes by here
        if exact is not None:
            return exact
        names = sorted({known for known, _ in self._models})
        if not name:
            if len(names) != 1:
                raise ModelUnknownError(f"model: name one of: {', '.join(names) or 'none loaded'}")
            name = names[0]
        versions = [number for known, number in self._models if known == name]
        if not versions:
            known_names = ", ".join(names) or "none"
            raise ModelUnknownError(f"model: '{name}' is not served; there is: {known_names}")
        version = version or max(versions)
        if version not in versions:
            numbers = ", ".join(map(str, sorted(versions)))
            raise ModelUnknownError(f"model_version: '{name}' has {numbers}, not {version}")
        return self._models[name, version]

    def default_version(self, name: str) -> int:
        """The version that requests without one get."""
        return max(version for known, version in self._models if known == name)

    def _show(self, served: ServedModel) -> None:
        """Let the gauges read the shard whenever they are read."""
        model = f"{served.name}/{served.version}"
        slots, scheduler = served.shard.slots, served.shard.scheduler
        session_bytes = served.manifest.session_bytes
        self._metrics.session_capacity.labels(model).set(slots.capacity)
        self._metrics.sessions.labels(model, "device").set_function(lambda: slots.used)
        self._metrics.state_bytes.labels(model, "device").set_function(
            lambda: slots.used * session_bytes
        )
        self._metrics.pending_steps.labels(model).set_function(lambda: scheduler.pending_steps)
