"""Answers computed on the device from predictions that lie there; only they come to the host.

Heads run over all lanes of a run, whichever rows are asked for, and over few widths: a row's bits
then depend on the size of its run alone, and every shape there is stays bound. What is asked of the
rows of one run is collected first, so that each head runs once, all of them are given what they
need in one copy, and what they find comes back in one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.manifest import Manifest, PredictionKind
from service.engine.execution.ahead.runner import Ask
from service.engine.execution.cuda.asked.collected import Collected, Head
from service.engine.execution.cuda.asked.keys import (
    ARGMAX,
    DRAWN,
    PROBABILITIES,
    SAMPLED,
    USUAL_WIDTH,
    Key,
    Keys,
    field_of,
)
from service.engine.execution.cuda.steps import Bucket
from service.engine.execution.cuda.stream.exchange import Exchange, Flight, Region
from service.engine.execution.cuda.stream.layout import Layout
from service.engine.execution.heads import DrawMode, Rows, draw_modes
from service.engine.execution.runtime import Bound, Session, View, open_session
from service.engine.work.columns import Answers, Floats
from service.engine.work.sampling import uniforms


class DeviceHeads:
    """The heads of one model.

    Args:
        graphs: each head as a graph.
        ours: they are Cellar's: the device can run them by itself, and record them. Those of
            somebody else's may need the CPU.
    """

    def __init__(
        self,
        graphs: Mapping[str, bytes],
        manifest: Manifest,
        exchange: Exchange,
        *,
        ours: bool = True,
        tf32: bool = False,
    ) -> None:
        self._manifest = manifest
        self._exchange = exchange
        self._ours = ours
        self._sessions: dict[str, Session] = {
            name: open_session(
                graph,
                exchange.place,
                captured=ours,
                gpu_only=ours,
                tf32=tf32,
                stream=exchange.stream,
            )
            for name, graph in graphs.items()
        }
        self.keys = Keys(manifest, self._sessions)
        self._bound: dict[tuple[Key, int], Head] = {}  # by size

    def record(self, buckets: Mapping[int, Bucket]) -> None:
        """Run the usual heads once in each size, which records them.

        They read predictions, whatever these are, and write what they find: nobody's state. While
        the server serves nothing is recorded: what other threads allocate meanwhile is forbidden to
        them. By the thread that will replay them.
        """
        for bucket in buckets.values():
            for flight in self._exchange.flights:
                bucket.found.host(flight)
                if self._manifest.prediction.width <= USUAL_WIDTH:
                    bucket.scores.host(flight)
                bucket.at(flight)  # zeros: what is on the device is anything
            flight = self._exchange.take()
            bucket.given.upload(flight, bucket.step_bytes, bucket.layout.size)
            for key in self.keys.usual:
                self._head(key, bucket).run()
            self._exchange.depart(flight)

    def collect(self, bucket: Bucket, flight: Flight, asks: Sequence[Ask]) -> Collected:
        """Fill in what heads are given, for what is asked of the rows of a run.

        An ask that cannot be met says so where it is answered: see `answers`.
        """
        collected = Collected(bucket=bucket, flight=flight, asks=asks, given_stop=bucket.step_bytes)
        kind = self._manifest.prediction.kind
        for number, ask in enumerate(asks):
            collected.raw |= ask.outputs.raw
            try:
                if kind in (PredictionKind.LOGITS, PredictionKind.LABELS):
                    self._collect_tokens(collected, number, ask)
                elif kind is PredictionKind.DISTRIBUTION:
                    self._collect_values(collected, ask)
            except Exception as fault:  # there is no memory for it, say
                collected.refused[number] = fault
        return collected

    def answer(self, bucket: Bucket, ask: Ask) -> Answers:
        """What is asked of predictions that lie in a bucket; returns once it is found.

        Raises:
            Exception: whatever the runtime throws.
        """
        flight = self._exchange.take()
        collected = self.collect(bucket, flight, [ask])
        if collected.given_stop > bucket.step_bytes:
            bucket.at(flight)
            bucket.given.upload(flight, bucket.step_bytes, collected.given_stop)
        collected.run()
        self._exchange.depart(flight)
        self._exchange.land(flight)
        return self.answers(collected, 0)

    def answers(self, collected: Collected, number: int) -> Answers:
        """What was asked by one of the asks, once the run has ended.

        Raises:
            Exception: why it could not be computed; what others ask can be all the same.
        """
        if number in collected.refused:
            raise collected.refused[number]
        ask = collected.asks[number]
        rows, outputs = ask.rows, ask.outputs
        found: dict[str, NDArray[Any]] = {}
        if outputs.raw:
            found["raw"] = collected.predictions()[rows].copy()
        if outputs.argmax:
            found["argmax"] = collected.column(ARGMAX, "argmax")[rows].copy()
        if outputs.top_k:
            k, key = self.keys.top_k(outputs.top_k)
            for name in ("top_tokens", "top_probabilities"):
                found[name] = collected.column(key, name)[rows, :k].copy()
        if outputs.probabilities:
            found["probabilities"] = collected.column(PROBABILITIES, "probabilities")[rows].copy()
        if outputs.quantiles:
            count = len(outputs.quantiles)
            key = self.keys.quantiles(count)
            found["quantiles"] = self._values(collected, key)[rows, 0, :count].copy()
        if outputs.sample and ask.draws is not None:
            if (modes := collected.modes.get(number)) is None:
                found["sampled_values"] = self._values(collected, DRAWN)[rows, 0, 0].copy()
            else:
                found["sampled_tokens"] = _sampled(collected, rows, modes)
        return Answers(found)

    def _collect_tokens(self, collected: Collected, number: int, ask: Ask) -> None:
        outputs = ask.outputs
        if outputs.argmax:
            self._want(collected, ARGMAX)
        if outputs.top_k:
            self._want(collected, self.keys.top_k(outputs.top_k)[1])
        if outputs.probabilities:
            self._want(collected, PROBABILITIES)
        if not outputs.sample or ask.draws is None:
            return
        modes = draw_modes(ask.draws, vocabulary=self._manifest.prediction.width)
        collected.modes[number] = modes
        fields, rows = collected.bucket.at(collected.flight).heads, ask.rows
        noise: Floats | None = None
        for mode, _ in modes:
            if mode is DrawMode.GREEDY:
                self._want(collected, ARGMAX)
                continue
            self._want(collected, SAMPLED[mode])
            # Of all rows, with the parameters of each: those of another way are not used.
            if noise is None:
                noise = uniforms(ask.draws.seed, ask.positions)
                fields["uniform"][rows] = noise
                fields["temperature"][rows] = ask.draws.temperature
            if mode is DrawMode.FILTERED:
                fields["top_k"][rows] = ask.draws.top_k
                fields["top_p"][rows] = ask.draws.top_p

    def _collect_values(self, collected: Collected, ask: Ask) -> None:
        if ask.outputs.quantiles:
            key = self.keys.quantiles(len(ask.outputs.quantiles))
            self._put(collected, key, ask.rows, np.array(ask.outputs.quantiles, np.float32))
        if ask.outputs.sample and ask.draws is not None:
            column = uniforms(ask.draws.seed, ask.positions)[:, None]
            self._put(collected, DRAWN, ask.rows, column)

    def _put(self, collected: Collected, key: Key, rows: slice, levels: NDArray[Any]) -> None:
        """Want quantiles at levels (rows, k) or (k,), of the width of ``key`` at most."""
        head = collected.heads.get(key) or self._head(key, collected.bucket)
        (own,) = head.feeds.values()
        own.array(head.given.host(collected.flight))[rows, : levels.shape[-1]] = levels
        collected.want(key, head)  # now that it is given something

    def _want(self, collected: Collected, key: Key) -> None:
        if key not in collected.heads:
            collected.want(key, self._head(key, collected.bucket))

    def _values(self, collected: Collected, key: Key) -> NDArray[Any]:
        assert self._manifest.quantiles is not None, "a distribution has quantiles"
        return collected.column(key, self._manifest.quantiles.output)

    def _head(self, key: Key, bucket: Bucket) -> Head:
        head = self._bound.get((key, bucket.size))
        if head is None:
            head = self._bound[key, bucket.size] = self._bind(key, bucket)
        return head

    def _bind(self, key: Key, bucket: Bucket) -> Head:
        is_usual = key in self.keys.usual
        size, width = bucket.size, self._manifest.prediction.width
        given, fed, found = bucket.given, bucket.layout, bucket.found
        outputs = self.keys.found(size)
        if not is_usual:  # memory of its own, of which there is none until somebody asks
            fed, outputs = Layout(), Layout()
            for name, (shape, dtype) in self.keys.feeds(key, size).items():
                fed.add(name, shape, dtype)
            self.keys.add_found(outputs, key, size)
            given, found = (Region(self._exchange, max(own.size, 1)) for own in (fed, outputs))
        feeds = {name: fed.fields[name] for name in self.keys.feeds(key, size)}
        source, view = "logits", bucket.predictions
        if key.name in ("quantiles", "drawn"):
            source = self._manifest.prediction.output
            view = bucket.scores.block.part(0, (size, 1, width), view.dtype)
        inputs: dict[str, View | NDArray[Any]] = {source: view}
        for name, own in feeds.items():
            inputs[self.keys.input_of(key, name)] = own.view(given.block)
        if key.name == "top_k":
            inputs["k"] = np.array([key.width], np.int64)  # which the CPU reads
        fields = {
            name: outputs.fields[field_of(key, name)] for name in self.keys.outputs(key, size)
        }
        bound = Bound(
            self._sessions[self.keys.graph_of(key)],
            inputs,
            {name: own.view(found.block) for name, own in fields.items()},
            number=len(self._bound) + 1,
            waits=not self._ours,
        )
        return Head(bound, given, feeds, found, fields, is_recorded=is_usual and self._ours)


def _sampled(
    collected: Collected, rows: slice, modes: Sequence[tuple[DrawMode, Rows]]
) -> NDArray[np.int32]:
    """Each row's token, by the way in which it is drawn: (rows,)."""
    columns = []
    for mode, chosen in modes:
        greedy = mode is DrawMode.GREEDY
        key, output = (ARGMAX, "argmax") if greedy else (SAMPLED[mode], "sample")
        columns.append((chosen, collected.column(key, output)[rows]))
    if len(columns) == 1:
        return columns[0][1].copy()
    tokens = np.empty(rows.stop - rows.start, np.int32)
    for chosen, column in columns:
        tokens[chosen] = column[chosen]
    return tokens
