"""The models that are loaded, each with what serves it.

Knows nothing of sessions or gRPC.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from models.errors import ModelError
from models.manifest import Manifest
from service.auth.principal import calling
from service.engine.execution.probe import SHARED, Findings
from service.engine.execution.runner import Runner
from service.engine.execution.stateless import StatelessRunner
from service.engine.log.commit_log import CommitLog
from service.engine.served.dynamic_batcher import DynamicBatcher
from service.engine.served.inputs import InputReader, bounds
from service.engine.served.outputs import (
    check_outputs,
    check_reply,
    prediction_bytes,
    why_no_draws,
)
from service.engine.served.predictor import Predictor, StatefulPredictor
from service.engine.sessions.table.status import SessionTier
from service.engine.shard.history.memory import HistoryMemory
from service.engine.shard.shard import Shard, Usage
from service.engine.work.columns import Outputs
from service.engine.work.flow import Flows, asked_model
from service.engine.work.memory import STEP_BYTES, BufferMemory
from service.engine.work.replies import Encode
from service.engine.work.request import SingleKind
from service.engine.work.sampling import Sampling
from service.errors import (
    BadInputError,
    ModelUnavailableError,
    ModelUnknownError,
    NotStreamableError,
    SessionLimitError,
)
from service.metrics import Metrics
from service.settings import MOST_SESSIONS, EngineSettings

_REMEMBERED = 1000  # outputs that were checked, per model


@dataclass(slots=True, kw_only=True, eq=False)
class ServedModel:
    """A model that is loaded, with what serves it.

    Attributes:
        findings: how it may be run.
        predictor: reads whole sequences.
        shards: hold its sessions; a model without states has none.
        arithmetic: digest of what its sessions' bits depend on beside their inputs, see
            `service.engine.execution.arithmetic`; empty where there are none.
        label: name and version, for metrics and logs.
        no_draws: why what it predicts cannot be its next step; ``None`` where it can.
        labels: what its labels are called, if it predicts labels.
        names: what its labels are called, or else its tokens.
        single_kinds: by outputs that were checked for one step, and by who encodes them.
    """

    name: str
    version: int
    manifest: Manifest
    fingerprint: str
    findings: Findings
    reader: InputReader
    shards: tuple[Shard, ...]
    predictor: Predictor
    limits: EngineSettings
    arithmetic: str = ""
    label: str = field(init=False)
    no_draws: str | None = field(init=False)
    labels: tuple[str, ...] = field(init=False)
    names: tuple[str, ...] = field(init=False)
    single_kinds: dict[tuple[Outputs, Encode], SingleKind] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.label = f"{self.name}/{self.version}"
        self.no_draws = why_no_draws(self.manifest)
        self.labels = self.manifest.prediction.labels
        self.names = self.labels or self.reader.symbols

    def check_outputs(
        self, outputs: Outputs, sampling: Sampling | None, *, steps: int, sequences: int = 1
    ) -> Outputs:
        """The outputs to compute for a request of so many steps.

        Raises:
            BadInputError: the model cannot give one of them, or the reply would be too long.
        """
        found = check_outputs(self.manifest, outputs, sampling, max_levels=self.limits.max_levels)
        room = self.limits.max_message_bytes
        check_reply(self.manifest, found, steps, sequences=sequences, at_most=room)
        return found

    def held_bytes(self, outputs: Outputs, *, steps: int, predictions: int) -> int:
        """Memory that a request of so many steps takes until it is answered, about."""
        width = self.manifest.prediction.width
        each = 4 * width + prediction_bytes(self.manifest, outputs)
        return steps * (8 + 4 * self.manifest.input.width) + predictions * each

    def single_kind(
        self, outputs: Outputs, sampling: Sampling | None, encode: Encode
    ) -> SingleKind:
        """The kind of single steps with these outputs; mostly the same one for equal arguments.

        Raises:
            BadInputError: as `check_outputs`.
        """
        kind = self.single_kinds.get((outputs, encode))
        if kind is not None:
            if sampling is not None:
                sampling.check("outputs.sample")
            return kind
        found = self.check_outputs(outputs, sampling, steps=1)
        kind = self.single_kinds.get((found, encode)) or SingleKind(found.last_only, encode)
        if len(self.single_kinds) < _REMEMBERED:
            self.single_kinds[found, encode] = self.single_kinds[outputs, encode] = kind
        return kind

    def check_can_draw(self, what: str) -> None:
        """Check that what the model predicts can be its next step.

        Raises:
            BadInputError: it cannot; ``what`` is what was to be made of it.
        """
        if self.no_draws is not None:
            reason = self.no_draws.format(what)
            raise BadInputError("session_id", f"the session's model {reason}")

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

    @property
    def usage(self) -> Usage:
        """What is taken of it; whole sequences that wait or run are pending, too."""
        own = Usage(0, 0, 0, self.predictor.pending_steps)
        return Usage(*map(sum, zip(own, *(shard.usage for shard in self.shards), strict=True)))

    async def drained(self) -> None:
        """Wait until nothing is queued or running."""
        await self.predictor.drained()
        for shard in self.shards:
            await shard.drained()

    def warm_up(self) -> None:
        """Learn what runs of each size cost."""
        for shard in self.shards:
            shard.warm_up()

    def sessions_in(self, tier: SessionTier) -> int:
        """How many open sessions have their state there, as `SessionInfo.tier` says."""
        return sum(shard.sessions_in(tier) for shard in self.shards)

    def bytes_in(self, tier: SessionTier) -> int:
        """Bytes of their states."""
        return self.manifest.session_bytes * self.sessions_in(tier)

    def shard_for(self, session_id: str) -> Shard:
        """Where a new session goes: by the hash of its id, or where there is room if not there.

        Raises:
            SessionLimitError: every slot is taken.
        """
        home = zlib.crc32(session_id.encode("utf-8", "surrogatepass")) % len(self.shards)
        if self.shards[home].slots.sessions.free:
            return self.shards[home]
        roomy = max(self.shards, key=lambda shard: shard.slots.sessions.free)
        if not roomy.slots.sessions.free:
            raise SessionLimitError(
                f"all {self.usage.capacity} session slots are in use: close sessions, wait for "
                "idle ones to expire, or raise --max-sessions, --host-memory or --max-open-sessions"
            )
        return roomy


@dataclass(frozen=True, slots=True, kw_only=True)
class UnavailableModel:
    """A version of a model that is in the repository and cannot be served.

    Attributes:
        version: ``None`` where no number can be told.
    """

    name: str
    version: int | None
    reason: str


class Registry:
    """Finds models by name and version, and knows which are not to be had.

    Attributes:
        awaited: by name and version, those that are still to be loaded.
        history: what sessions' histories take.
    """

    def __init__(
        self,
        settings: EngineSettings,
        metrics: Metrics,
        flows: Flows,
        memory: BufferMemory,
        clock: Callable[[], float],
        device_lost: Callable[[str, Exception], None],
        log: CommitLog | None = None,
    ) -> None:
        self.awaited: set[tuple[str, int | None]] = set()
        self._log = log
        self._memory = memory
        self.history = HistoryMemory(settings.history_memory)
        self._settings = settings
        self._metrics = metrics
        self._flows = flows
        self._clock = clock
        self._device_lost = device_lost
        self._models: dict[tuple[str, int], ServedModel] = {}
        self._unavailable: dict[tuple[str, int | None], UnavailableModel] = {}

    def add(
        self,
        *,
        name: str,
        version: int,
        manifest: Manifest,
        fingerprint: str,
        runners: Sequence[Runner] = (),
        stateless: Sequence[StatelessRunner] = (),
        findings: Findings = SHARED,
        arithmetic: str = "",
    ) -> ServedModel:
        """Serve a model.

        Args:
            name: how it is asked for.
            version: the same.
            manifest: what its file says of it.
            fingerprint: of its file.
            runners: of a model with states, a shard each; the arena of runner ``i`` of n has
                ``arena_rows(settings, manifest, i, n)`` rows.
            stateless: of a model without states, a runner for each run that may overlap.
            findings: how it may be run.
            arithmetic: see `ServedModel`, where it is known before.
        """
        label, metrics = f"{name}/{version}", self._metrics
        settings = _fitting(self._settings, manifest)
        resident = 0 if stateless else capacity(settings, manifest)
        host = settings.host_memory // max(1, manifest.session_bytes)
        sessions = _open_sessions(settings, resident, host, has_store=self._log is not None)
        device_lost = partial(self._device_lost, label)
        takes_chunks = manifest.lengths is not None and not findings.steps_run_alone
        chunk_steps = settings.chunk_steps if takes_chunks else 1
        shards = tuple(
            Shard(
                label,
                runner,
                sessions=sessions_of(sessions, number, len(runners)),
                resident=sessions_of(resident, number, len(runners)),
                host_rows=sessions_of(host, number, len(runners)),
                chunk_steps=chunk_steps,
                bounds=bounds(manifest),
                memory=self._memory,
                history=self.history,
                metrics=metrics,
                settings=settings,
                flows=self._flows,
                clock=self._clock,
                device_lost=device_lost,
                log=self._log,
            )
            for number, runner in enumerate(runners)
        )
        predictor: Predictor = (
            StatefulPredictor(label, shards, metrics=metrics, settings=settings)
            if not stateless
            else DynamicBatcher(
                label,
                stateless,
                metrics=metrics,
                settings=settings,
                device_lost=device_lost,
            )
        )
        served = ServedModel(
            name=name,
            version=version,
            manifest=manifest,
            fingerprint=fingerprint,
            findings=findings,
            reader=InputReader(manifest, largest=findings.largest),
            shards=shards,
            predictor=predictor,
            limits=settings,
            arithmetic=arithmetic,
        )
        for shard in shards:
            shard.chronicles.arithmetic = arithmetic
        self._models[name, version] = served
        self._show(served)
        return served

    def add_unavailable(self, name: str, version: int | None, reason: str) -> None:
        """List a model that cannot be served."""
        self._unavailable[name, version] = UnavailableModel(
            name=name, version=version, reason=reason
        )
        label = name if version is None else f"{name}/{version}"
        self._metrics.model_available.labels(label).set(0)

    def remove(self, name: str, version: int) -> None:
        """Serve a model no longer, if it is served: it was found bad after it was added."""
        served = self._models.pop((name, version), None)
        if served is not None:
            served.predictor.stop()
            for shard in served.shards:
                shard.stop()
            self._hide(served)

    def all(self) -> list[ServedModel]:
        """All models that are served, by name and version."""
        return [self._models[key] for key in sorted(self._models)]

    def unavailable(self) -> list[UnavailableModel]:
        """All that are not, by name and version."""
        found = self._unavailable.values()
        return sorted(found, key=lambda model: (model.name, model.version or 0))

    def shards(self) -> list[Shard]:
        """The shards of all models."""
        return [shard for served in self.all() for shard in served.shards]

    def find(self, name: str, version: int) -> ServedModel:
        """One model; version 0 is the highest there is, an empty name the only one.

        What is unavailable counts, so that nobody is given another model, or an older version,
        than would be meant if it were sound. What the caller may not use does not.

        Raises:
            ModelUnknownError: no such model.
            ModelUnavailableError: it cannot be served.
        """
        may_use = calling.get().grant.may_use
        known = {name for name, _ in (*self._models, *self._unavailable)}
        names = sorted(filter(may_use, known))
        if not name:
            if len(names) != 1:
                raise ModelUnknownError(f"model: name one of: {', '.join(names) or 'none loaded'}")
            name = names[0]
        if name not in names:
            known_names = ", ".join(names) or "none"
            raise ModelUnknownError(f"model: '{name}' is not served; there is: {known_names}")
        versions = self._versions(name)
        served = self._models.get((name, version or max(versions, default=0)))
        if served is not None:
            asked_model.set(served.label)
            return served
        if version and version not in versions and versions:
            numbers = ", ".join(map(str, versions))
            raise ModelUnknownError(f"model_version: '{name}' has {numbers}, not {version}")
        raise self._why_unavailable(name, version)

    def default_version(self, name: str) -> int:
        """The version that requests without one get, or are refused for; 0: there is none."""
        return max(self._versions(name), default=0)

    def missing_defaults(self) -> list[tuple[str, int, list[int]]]:
        """Names whose default version is unavailable, with it and the versions that are served."""
        return [
            (name, default, served)
            for name in sorted({known for known, _ in self._models})
            if (served := self._served_versions(name))[-1]
            != (default := self.default_version(name))
        ]

    def _versions(self, name: str) -> list[int]:
        """The numbers of a model's versions, served or not, ascending."""
        keys = (*self._models, *self._unavailable)
        return sorted(version for known, version in keys if known == name and version is not None)

    def _served_versions(self, name: str) -> list[int]:
        return sorted(version for known, version in self._models if known == name)

    def _why_unavailable(self, name: str, version: int) -> ModelUnavailableError:
        number = version or self.default_version(name) or None
        entry = self._unavailable.get((name, number)) or self._unavailable[name, None]
        label = name if entry.version is None else f"{name}/{entry.version}"
        others = ", ".join(map(str, self._served_versions(name)))
        instead = ""
        if others and not version:
            instead = f"; name an older version to be served by that: {others}"
        return ModelUnavailableError(
            f"model: '{label}' is unavailable: {entry.reason}{instead}",
            model=name,
            version=entry.version,
        )

    def _show(self, served: ServedModel) -> None:
        """Let the gauges read the shards whenever they are read."""
        model = f"{served.name}/{served.version}"
        self._metrics.model_available.labels(model).set(1)
        self._metrics.session_capacity.labels(model).set(served.usage.capacity)
        for tier in SessionTier:
            self._metrics.sessions.labels(model, tier).set_function(
                partial(served.sessions_in, tier)
            )
            self._metrics.state_bytes.labels(model, tier).set_function(
                partial(served.bytes_in, tier)
            )
        self._metrics.pending_steps.labels(model).set_function(lambda: served.usage.pending_steps)

    def _hide(self, served: ServedModel) -> None:
        """Take back what `_show` did: the gauges keep the arena alive."""
        model, metrics = f"{served.name}/{served.version}", self._metrics
        metrics.session_capacity.remove(model)
        for tier in SessionTier:
            metrics.sessions.remove(model, tier)
            metrics.state_bytes.remove(model, tier)
        metrics.pending_steps.remove(model)


def _fitting(settings: EngineSettings, manifest: Manifest) -> EngineSettings:
    """The settings with no more steps in a queue than a half of the memory has room for.

    Single steps are counted by their number alone.
    """
    step = 4 * (manifest.input.width + manifest.prediction.width) + STEP_BYTES
    most = max(1, settings.buffer_memory // 2 // step)
    return settings.model_copy(update={"max_pending_steps": min(settings.max_pending_steps, most)})


def _open_sessions(settings: EngineSettings, resident: int, host: int, *, has_store: bool) -> int:
    """How many sessions of a model can be open, wherever their states are."""
    if not has_store and resident + host < settings.max_open_sessions:
        return resident + host
    return max(resident, settings.max_open_sessions)


def capacity(settings: EngineSettings, manifest: Manifest) -> int:
    """How many sessions of a model can have their state on the device.

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
