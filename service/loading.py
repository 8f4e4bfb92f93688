"""From a model repository to models that are served: compiled, on their devices, warmed up.

A bad model is one bad model: it is listed with its reason, and the others are served.

Knows nothing of gRPC.
"""

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import numpy as np
import structlog

from models.compile.arena import ServingGraph, compile_model
from models.compile.serving import Device, Precision
from models.compile.stateless import compile_stateless
from models.errors import ModelError, plain
from models.repository import Entry, Model, ModelRepository
from service.engine.engine import Engine
from service.engine.execution.arithmetic import arithmetic, joined
from service.engine.execution.cpu.runner import CpuRunner
from service.engine.execution.cuda.runner import CudaRunner
from service.engine.execution.executor import measure
from service.engine.execution.probe import Findings, probe
from service.engine.execution.runner import Runner
from service.engine.execution.runtime import CPU, Place
from service.engine.execution.stateless import StatelessRunner
from service.engine.served.registry import ServedModel, arena_rows
from service.settings import ZOO, Settings
from service.trials import Trials, TrialsClosedError

T = TypeVar("T")

# A full batch that runs for less gains nothing from a second shard: the shards' batches are
# smaller, and every tick costs its share of the event loop.
_WORTH_A_CORE_S = 0.010
_log = structlog.get_logger("cellar")


class Loader:
    """Adds the models of a repository to an engine.

    Args:
        places: the devices.
        executor: where the work is done, so that the event loop stays free.
    """

    def __init__(
        self, engine: Engine, settings: Settings, places: Sequence[Place], executor: Executor
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._places = tuple(places)
        self._executor = executor
        self._trials = Trials(
            limit_s=settings.load_timeout_s,
            most_memory=settings.load_memory,
            most_bytes=settings.max_model_bytes,
        )

    async def load(self, repository: ModelRepository) -> None:
        """Load every version of every model, and list those that cannot be.

        Raises:
            ModelError: none can be served, or there is none, or one cannot be and ``strict`` is
                set.
            OSError: the repository cannot be read.
        """
        entries = await self._do(repository.entries)
        if not entries:
            raise ModelError(
                f"no model in {repository.root}: expected <name>/<version>/model.onnx; "
                "train one with cellar-train, or leave --models out to serve the zoo"
            )
        reasons: list[str] = []
        awaited = self._engine.registry.awaited
        awaited.update((entry.name, entry.version) for entry in entries)
        try:
            for entry in entries:
                reason = entry.fault or await self._fault_of(entry, repository)
                reason = None if reason is None else plain(reason)
                awaited.discard((entry.name, entry.version))
                if reason is not None:
                    self._leave_out(entry, reason, repository)
                    reasons.append(reason)
        finally:
            self._trials.close()
        if not self._engine.registry.all():
            if len(reasons) == 1:
                raise ModelError(reasons[0])
            raise ModelError(
                f"none of the {len(reasons)} models in {repository.root} can be served; the log "
                f"names them all, the first is {reasons[0]}"
            )
        self._warn_of_defaults()

    async def _fault_of(self, entry: Entry, repository: ModelRepository) -> str | None:
        """Serve a version of a model; why it cannot be, if so."""
        assert entry.version is not None, "what has no number has a fault"
        try:
            await self._serve(entry.name, entry.version, repository)
        except ModelError as error:
            reason = str(error)
        except TrialsClosedError:
            raise
        except MemoryError as error:  # which may be about its size, or about the settings
            reason = (
                f"{entry.path}: there is not enough memory for {self._settings.max_sessions} "
                f"sessions of it: lower --max-sessions ({_first_line(error)})"
            )
        except Exception as error:  # whatever a file makes its readers throw
            reason = f"{entry.path}: cannot be loaded: {_first_line(error)}"
        else:
            return None
        self._engine.registry.remove(entry.name, entry.version)
        return reason

    def _leave_out(self, entry: Entry, reason: str, repository: ModelRepository) -> None:
        """Go on without a model.

        Raises:
            ModelError: it is not to be gone on without.
        """
        if self._settings.strict:
            raise ModelError(reason)
        version = "" if entry.version is None else f"/{entry.version}"
        _log.error("model unavailable", model=f"{entry.name}{version}", reason=reason)
        # Callers learn what is wrong, and not where the server keeps its files.
        told = reason.replace(f"{repository.root}{os.sep}", "")
        self._engine.registry.add_unavailable(entry.name, entry.version, told)

    def _warn_of_defaults(self) -> None:
        """Say whose callers get nothing unless they name a version."""
        for name, version, served in self._engine.registry.missing_defaults():
            _log.error(
                "default version unavailable",
                model=f"{name}/{version}",
                says="requests that name no version are refused, not answered by an older one",
                served=served,
            )

    async def _serve(self, name: str, version: int, repository: ModelRepository) -> None:
        model = await self._do(lambda: self._read(name, version, repository))
        streams = model.manifest.is_streamable
        facts = await (self._add(model) if streams else self._add_stateless(model))
        _log.info(
            "model loaded",
            model=str(model),
            path=str(model.path),
            device=",".join(map(str, self._places)),
            **facts,
        )

    def _read(self, name: str, version: int, repository: ModelRepository) -> Model:
        """Read a model, once it is known that its file may be loaded.

        Nothing that a file says of itself spares it the trial: whoever wrote it wrote that, too.
        """
        settings = self._settings
        if repository.root.resolve() != ZOO.resolve():  # as much ours as this line
            self._trials.attempt(
                repository.path(name, version),
                precision=settings.precision,
                max_batch=settings.max_batch,
                chunk_steps=settings.chunk_steps,
            )
        return repository.read(name, version).check()

    async def _add(self, model: Model) -> dict[str, object]:
        """Serve a model that has states; returns what the log says of it."""
        graph, runners, findings = await self._do(lambda: self._build(model))
        served = self._engine.registry.add(
            name=model.name,
            version=model.version,
            manifest=model.manifest,
            fingerprint=model.fingerprint,
            runners=runners,
            findings=findings,
        )
        await self._do(lambda: _warm_up(model, served))
        served.arithmetic = await self._do(lambda: self._arithmetic(model, graph, served))
        return {
            "shards": len(runners),
            "sessions": served.usage.capacity,
            "bytes_per_session": model.manifest.session_bytes,
            "rows_share_runs": not findings.rows_run_alone,
            "steps_share_runs": not findings.steps_run_alone,
            **self._quality(model),
        }

    async def _add_stateless(self, model: Model) -> dict[str, object]:
        """Serve a model without states; returns what the log says of it."""
        runners = await self._do(lambda: self._build_stateless(model))
        shares_runs = not any(runner.isolated for runner in runners)
        self._engine.registry.add(
            name=model.name,
            version=model.version,
            manifest=model.manifest,
            fingerprint=model.fingerprint,
            stateless=runners,
            findings=Findings(rows_run_alone=not shares_runs),
        )
        return {
            "sessions": 0,
            "workers": len(runners),
            "sequences_share_runs": shares_runs,
            "precision": self._settings.precision,
        }

    async def _do(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def _build(self, model: Model) -> tuple[ServingGraph, list[Runner], Findings]:
        with _faults_of(model):
            graph = compile_model(
                model,
                precision=Precision(self._settings.precision),
                device=Device(self._places[0].kind),
            )
            return (graph, *self._runners(model, graph))

    def _arithmetic(self, model: Model, graph: ServingGraph, served: ServedModel) -> str:
        """What the bits of a model's sessions depend on, looked for once on each device."""
        settings = self._settings
        found: dict[Place, str] = {}
        for number, shard in enumerate(served.shards):
            place = self._places[number % len(self._places)]
            if place in found:
                continue
            look = partial(
                arithmetic,
                graph=graph,
                findings=served.findings,
                fingerprint=model.fingerprint,
                precision=settings.precision,
                place=place,
                max_batch=settings.max_batch,
                tf32=settings.tf32,
                deterministic=settings.deterministic,
            )
            with _faults_of(model):
                found[place] = shard.examine(look)
        return joined(list(found.values()))

    def _build_stateless(self, model: Model) -> list[StatelessRunner]:
        """A runner for each run that may overlap: one on all cores, or one on each GPU."""
        with _faults_of(model):
            graph = compile_stateless(model, precision=Precision(self._settings.precision))
        with _faults_of(model), _named(model):
            runners = [
                StatelessRunner(
                    graph,
                    place=place,
                    # A GPU's bits depend on the size of a run, unless that is always the same.
                    isolated=True if place != CPU and self._settings.deterministic else None,
                    tolerance=self._tolerance,
                    tf32=self._settings.tf32,
                )
                for place in self._places
            ]
        if self._places != (CPU,):
            return runners
        return runners * (_cores() if self._settings.shards == "auto" else self._settings.shards)

    def _runner(self, graph: ServingGraph, number: int, count: int) -> Runner:
        """The runner of one of a model's shards."""
        slots = arena_rows(self._settings, graph.manifest, number, count)
        max_batch = self._settings.max_batch
        place = self._places[number % len(self._places)]
        if place == CPU:
            return CpuRunner(graph, slots=slots, max_batch=max_batch)
        return CudaRunner(
            graph,
            slots=slots,
            max_batch=max_batch,
            place=place,
            deterministic=self._settings.deterministic,
            tf32=self._settings.tf32,
        )

    def _runners(self, model: Model, graph: ServingGraph) -> tuple[list[Runner], Findings]:
        """The runners of a model, one per shard, and how it may be run."""
        if self._settings.shards != "auto":
            count = self._settings.shards
        else:
            count = 1 if self._places == (CPU,) else len(self._places)
        first = self._runner(graph, 0, count)
        with _named(model):
            findings = self._probe(first, graph, count)
        if self._settings.shards == "auto" and self._places == (CPU,) and _cores() > 1:
            scratch = arena_rows(self._settings, graph.manifest) - 1
            seconds = measure(first, rows=self._settings.max_batch, scratch=scratch)
            if seconds > _WORTH_A_CORE_S:
                count = _cores()
                first = self._runner(graph, 0, count)
        runners = [first, *(self._runner(graph, number, count) for number in range(1, count))]
        for runner in runners:
            runner.rows_run_alone = findings.rows_run_alone
        return runners, findings

    def _probe(self, runner: Runner, graph: ServingGraph, shards: int) -> Findings:
        """Find out how a model may be run."""
        settings, place = self._settings, self._places[0]
        if place != CPU and graph.step is not None:
            return Findings()  # compiled here, and recorded by the thread that runs it first
        scratch = arena_rows(settings, graph.manifest, 0, shards) - 1
        return probe(
            runner,
            graph.manifest,
            slots=np.arange(scratch - settings.max_batch, scratch),  # spare ones of chunks
            max_batch=settings.max_batch,
            chunk_steps=settings.chunk_steps,
            tolerance=self._tolerance,
        )

    @property
    def _tolerance(self) -> float:
        """How far apart a row's numbers may be in runs of other sizes."""
        if self._places[0] == CPU:
            return 0.0
        return 1e-2 if self._settings.tf32 else 1e-3

    def _quality(self, model: Model) -> dict[str, object]:
        """What the precision costs, for the log."""
        if self._settings.precision == "fp32" or model.manifest.task != "char":
            return {"precision": self._settings.precision}
        lost = model.manifest.scores.get("int8_nats_cost")
        told = "unknown: it was not measured when the model was exported"
        return {"precision": "int8", "nats_lost": told if lost is None else round(lost, 5)}


def _warm_up(model: Model, served: ServedModel) -> None:
    with _faults_of(model):
        served.warm_up()


@contextmanager
def _named(model: Model) -> Iterator[None]:
    """What is found out about a model is said of its file."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{model.path}: {error}") from error


def _cores() -> int:
    """The cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _faults_of(model: Model) -> Iterator[None]:
    """Whatever the runtime throws here is about this model's file."""
    try:
        yield
    except (ModelError, MemoryError):  # too little memory is about the settings
        raise
    except Exception as error:
        raise ModelError(f"{model.path}: cannot be run: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
