"""The models that are loaded, each with what serves it."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from models.errors import ModelError
from models.manifest import Manifest, TokensInput
from service.engine.execution.cpu.runner import Runner
from service.engine.execution.stateless import WholeRunner
from service.engine.served.batcher import GatheringPredictor
from service.engine.served.decoder import Generations
from service.engine.served.inputs import InputReader
from service.engine.served.outputs import check_outputs, check_reply
from service.engine.served.predictor import Predictor, SteppingPredictor
from service.engine.shard.shard import Shard
from service.engine.work.lones import Encode, LoneKind
from service.engine.work.work import Outputs, Sampling
from service.errors import ModelUnknownError, NotStreamableError, SessionLimitError
from service.metrics import Metrics
from service.settings import MOST_SESSIONS, EngineSettings

_CHECKED_OUTPUTS = 1000  # remembered per model


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model that is loaded, with what serves it.

    ``predictor`` reads whole sequences; the shards, which a model without states has none of,
    hold its sessions.
    """

    name: str
    version: int
    manifest: Manifest
    fingerprint: str
    reader: InputReader
    shards: tuple[Shard, ...]
    generations: tuple[Generations, ...]  # of each shard
    predictor: Predictor
    limits: EngineSettings
    _lone_kinds: dict[tuple[Outputs, Encode], LoneKind] = field(default_factory=dict)
    _checked: dict[tuple[Outputs, int], Outputs] = field(default_factory=dict)

    def checked_outputs(
        self, outputs: Outputs, sampling: Sampling | None, *, steps: int
    ) -> Outputs:
        """The outputs to compute for a request of so many steps.

        Raises:
            BadInputError: the model cannot give one of them, or the reply would be too long.
        """
        key = (outputs, steps)
        known = self._checked.get(key) if sampling is None else None
        if known is None:
            limits = self.limits
            known = check_outputs(self.manifest, outputs, sampling, max_levels=limits.max_levels)
            check_reply(self.manifest, known, steps, at_most=limits.max_message_bytes)
            if sampling is None and len(self._checked) < _CHECKED_OUTPUTS:
                self._checked[key] = known
        return known

    def require_streamable(self) -> None:
        """Check that there can be sessions of the model.

        Raises:
            NotStreamableError: it has no states.
        """
        if not self.manifest.is_streamable:
            raise NotStreamableError(
                f"model: '{self.name}' has no sessions: it keeps no state between steps, but reads "
                "a whole sequence before it predicts, as whatever reads in both directions does; "
                "send whole sequences to ModelService.Predict"
            )

    def names(self, *, of_tokens: bool) -> tuple[str, ...]:
        """What the model's tokens or labels are called; of tokens only where that is wanted."""
        if self.manifest.prediction.labels:
            return self.manifest.prediction.labels
        read = self.manifest.input
        return read.vocabulary if of_tokens and isinstance(read, TokensInput) else ()

    def generations_of(self, shard: Shard) -> Generations:
        """What generates on a shard."""
        return self.generations[self.shards.index(shard)]

    def lone_kind(self, outputs: Outputs, encode: Encode) -> LoneKind:
        """The kind of lone steps with these outputs; mostly the same one for equal arguments."""
        known = self._lone_kinds.get((outputs, encode))
        if known is None:
            known = LoneKind(outputs, encode)
            if len(self._lone_kinds) < _CHECKED_OUTPUTS:
                self._lone_kinds[outputs, encode] = known
        return known

    @property
    def pending_steps(self) -> int:
        """Steps queued or running."""
        return sum(shard.pending_steps for shard in self.shards) + self.predictor.pending_steps

    def shard_for(self, session_id: str) -> Shard:
        """Where a new session goes: by the hash of its id, or where there is room if not there.

        Raises:
            SessionLimitError: every slot is taken.
        """
        home = zlib.crc32(session_id.encode("utf-8", "surrogatepass")) % len(self.shards)
        if self.shards[home].slots.free:
            return self.shards[home]
        roomy = max(self.shards, key=lambda shard: shard.slots.free)
        if not roomy.slots.free:
            capacity = sum(shard.slots.capacity for shard in self.shards)
            raise SessionLimitError(
                f"all {capacity} session slots are in use: close sessions, wait for idle ones to "
                "expire, or raise --max-sessions"
            )
        return roomy


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
        runners: Sequence[Runner],
    ) -> ServedModel:
        """Serve a model on runners, a shard each.

        The arena of runner ``i`` of n has ``arena_rows(settings, manifest, i, n)`` rows.
        """
        count, sessions = len(runners), capacity(self._settings, manifest)
        shards = tuple(
            Shard(
                f"{name}/{version}",
                runner,
                sessions=sessions_of(sessions, number, count),
                chunk_steps=self._settings.chunk_steps if manifest.lengths is not None else 1,
                metrics=self._metrics,
                settings=self._settings,
                clock=self._clock,
            )
            for number, runner in enumerate(runners)
        )
        reader = InputReader(manifest)
        served = ServedModel(
            name=name,
            version=version,
            manifest=manifest,
            fingerprint=fingerprint,
            reader=reader,
            shards=shards,
            generations=tuple(Generations(shard, reader, self._metrics) for shard in shards),
            predictor=SteppingPredictor(
                f"{name}/{version}", shards, metrics=self._metrics, settings=self._settings
            ),
            limits=self._settings,
        )
        self._put(served)
        return served

    def add_whole(
        self,
        *,
        name: str,
        version: int,
        manifest: Manifest,
        fingerprint: str,
        runner: WholeRunner,
        workers: int = 1,
    ) -> ServedModel:
        """Serve a model without states, by so many runs at once."""
        served = ServedModel(
            name=name,
            version=version,
            manifest=manifest,
            fingerprint=fingerprint,
            reader=InputReader(manifest),
            shards=(),
            generations=(),
            predictor=GatheringPredictor(
                f"{name}/{version}",
                runner,
                workers=workers,
                metrics=self._metrics,
                settings=self._settings,
            ),
            limits=self._settings,
        )
        self._put(served)
        return served

    def all(self) -> list[ServedModel]:
        """All models, by name and version."""
        return [self._models[key] for key in sorted(self._models)]

    def shards(self) -> list[Shard]:
        """The shards of all models."""
        return [shard for served in self.all() for shard in served.shards]

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

    def _put(self, served: ServedModel) -> None:
        self._models[served.name, served.version] = served
        self._show(served)

    def _show(self, served: ServedModel) -> None:
        """Let the gauges read the shards whenever they are read."""
        model = f"{served.name}/{served.version}"
        shards = served.shards
        session_bytes = served.manifest.session_bytes
        self._metrics.session_capacity.labels(model).set(
            sum(shard.slots.capacity for shard in shards)
        )
        self._metrics.sessions.labels(model, "device").set_function(
            lambda: sum(shard.slots.used for shard in shards)
        )
        self._metrics.state_bytes.labels(model, "device").set_function(
            lambda: session_bytes * sum(shard.slots.used for shard in shards)
        )
        self._metrics.pending_steps.labels(model).set_function(lambda: served.pending_steps)


def capacity(settings: EngineSettings, manifest: Manifest) -> int:
    """How many sessions of a model can be open.

    Raises:
        ModelError: the memory that was set does not hold one.
    """
    if settings.state_memory is None:
        return settings.max_sessions
    sessions = min(settings.state_memory // manifest.session_bytes, MOST_SESSIONS)
    if not sessions:
        raise ModelError(
            f"{manifest.name}: one session takes {manifest.session_bytes:,} bytes: raise "
            f"--state-memory above {settings.state_memory:,}"
        )
    return sessions


def sessions_of(sessions: int, number: int, shards: int) -> int:
    """How many of a model's sessions one of its shards can hold."""
    return (sessions + shards - 1 - number) // shards


def arena_rows(
    settings: EngineSettings, manifest: Manifest, number: int = 0, shards: int = 1
) -> int:
    """Rows of one shard's arena."""
    return Shard.rows(settings, sessions_of(capacity(settings, manifest), number, shards))
