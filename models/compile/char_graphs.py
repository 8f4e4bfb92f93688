"""The graphs that serve a character model: one step, a chunk, a recalled prediction, a decoder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from models.compile.recognition import CharNetwork
from models.compile.serving import (
    DECODED,
    FIRST,
    HIDDEN,
    PREDICTION,
    PREDICTIONS,
    PREFIX,
    UNIFORM,
    ArenaAccess,
    ArenaTensor,
    Device,
)
from models.graph import heads
from models.graph.builder import FLOAT, INT32, INT64, GraphBuilder
from models.graph.cells import Arithmetic
from models.graph.scanning import Steps, last_steps, scan_layer
from models.manifest import Manifest


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CharGraphs:
    """Writes the graphs of one network."""

    network: CharNetwork
    manifest: Manifest
    arena: tuple[ArenaTensor, ...]
    arithmetic: Arithmetic
    device: Device

    def step(self) -> bytes:
        """Tokens (batch,) -> ``PREDICTION``: one step of every row, with no axis of time."""
        graph = GraphBuilder(PREFIX)
        access = ArenaAccess(graph, self.device)
        tokens = graph.input(self.manifest.input.name, INT64, ["batch"])
        before = [[access.read(self.arena[place]) for place in own] for own in self.network.states]
        after = self._advance(graph, tokens, before)
        self._write(access, after)
        self._predict(graph, after[-1][0])
        return graph.model("step").SerializeToString()

    def chunk(self) -> bytes:
        """Tokens (batch, time) and lengths -> ``PREDICTION`` and ``HIDDEN``, layer by layer."""
        graph = GraphBuilder(PREFIX)
        access = ArenaAccess(graph, self.device)
        tokens = graph.input(self.manifest.input.name, INT64, ["batch", "time"])
        assert self.manifest.lengths is not None, "cellar-train writes them"
        lengths = graph.input(self.manifest.lengths, INT32, ["batch"])
        by_time = graph.node("Transpose", tokens, perm=[1, 0])  # (time, batch)
        steps = Steps.of(graph, by_time, lengths)
        x = ""
        for number, layer in enumerate(self.network.layers):
            before = [access.read(self.arena[place]) for place in self.network.states[number]]
            if number == 0:
                projected = self.arithmetic.look_up(graph, layer, self.network.embedding, by_time)
            else:
                flat = steps.flat(graph, x)
                projected = steps.by_time(graph, self.arithmetic.project(graph, layer, flat))
            paths = scan_layer(
                graph,
                self.arithmetic,
                layer,
                projected,
                before,
                name=f"{PREFIX}layer_{number}",
            )
            x = paths[0]  # (time, batch, hidden)
            after = [last_steps(graph, path, steps) for path in paths]
            for place, new in zip(self.network.states[number], after, strict=True):
                access.write(self.arena[place], new)
        self._predict(graph, after[0])
        graph.node("Identity", x, output=HIDDEN)
        graph.output(HIDDEN, FLOAT, ["time", "batch", layer.hidden])
        return graph.model("chunk").SerializeToString()

    def every(self) -> bytes:
        """``HIDDEN`` (time, batch, hidden) -> ``PREDICTIONS`` (batch, time, width)."""
        graph = GraphBuilder(PREFIX)
        hidden = self.network.layers[-1].hidden
        graph.input(HIDDEN, FLOAT, ["time", "batch", hidden])
        steps = Steps.of(graph, HIDDEN, None)
        flat = self._head(graph, steps.flat(graph, HIDDEN))
        (found,) = steps.by_time(graph, [flat])
        graph.node("Transpose", found, output=PREDICTIONS, perm=[1, 0, 2])
        graph.output(PREDICTIONS, FLOAT, ["batch", "time", self.manifest.prediction.width])
        return graph.model("every").SerializeToString()

    def recall(self) -> bytes:
        """``PREDICTION`` of sessions at rest, from the top layer's h: the same product again."""
        graph = GraphBuilder(PREFIX)
        h = ArenaAccess(graph, self.device).read(self.arena[self.network.states[-1][0]])
        self._predict(graph, h)
        return graph.model("recall").SerializeToString()

    def decode(self) -> Mapping[str, bytes]:
        """Graphs that draw a token after each step and read it in the next, by the head they use.

        First tokens (batch,), uniform (steps, batch, 1), and the head's parameters (batch, 1)
        -> ``DECODED`` (steps, batch) int32.
        """
        names = ("sample", "sample_filtered", "argmax")
        return MappingProxyType({name: self._decode(name) for name in names})

    def _decode(self, head: str) -> bytes:
        graph = GraphBuilder(PREFIX)
        access = ArenaAccess(graph, self.device)
        first = graph.input(FIRST, INT64, ["batch"])
        uniform = graph.input(UNIFORM, FLOAT, ["steps", "batch", 1])
        if head != "argmax":
            heads.sampling_inputs(graph, filtered=head == "sample_filtered")
        places = [place for own in self.network.states for place in own]
        start = [access.read(self.arena[place]) for place in places]

        body = GraphBuilder("body.")
        token = body.input("body.token", INT64, ["batch"])
        before = [
            [
                body.input(f"body.state_{place}", FLOAT, ["batch", *self.arena[place].shape])
                for place in own
            ]
            for own in self.network.states
        ]
        uniform_t = body.input("body.uniform_t", FLOAT, ["batch", 1])
        after = self._advance(body, token, before)
        logits = self._head(body, after[-1][0])
        width = self.manifest.prediction.width
        if head == "argmax":
            drawn = body.node("ArgMax", logits, axis=1, keepdims=0)
        else:
            filtered = head == "sample_filtered"
            drawn = heads.add_draw(body, logits, uniform_t, vocabulary=width, filtered=filtered)
        body.output(drawn, INT64, ["batch"])
        for new, place in zip((h for own in after for h in own), places, strict=True):
            body.output(new, FLOAT, ["batch", *self.arena[place].shape])
        answer = body.node("Cast", drawn, to=INT32)
        body.output(answer, INT32, ["batch"])

        after_last = [f"decoded.state_{place}" for place in places]
        graph.nodes_with(
            "Scan",
            first,
            *start,
            uniform,
            outputs=["decoded.token", *after_last, DECODED],
            body=body.graph("decode_step"),
            num_scan_inputs=1,
        )
        graph.output(DECODED, INT32, ["steps", "batch"])
        for place, new in zip(places, after_last, strict=True):
            access.write(self.arena[place], new)
        return graph.model("decode").SerializeToString()

    def _advance(
        self, graph: GraphBuilder, tokens: str, before: Sequence[Sequence[str]]
    ) -> list[list[str]]:
        """One step of all layers: the states after it, layer by layer."""
        after: list[list[str]] = []
        for number, layer in enumerate(self.network.layers):
            if number == 0:
                projected = self.arithmetic.look_up(graph, layer, self.network.embedding, tokens)
            else:
                projected = self.arithmetic.project(graph, layer, after[-1][0])
            after.append(self.arithmetic.advance(graph, layer, projected, before[number]))
        return after

    def _write(self, access: ArenaAccess, after: Sequence[Sequence[str]]) -> None:
        for own, new in zip(self.network.states, after, strict=True):
            for place, rows in zip(own, new, strict=True):
                access.write(self.arena[place], rows)

    def _head(self, graph: GraphBuilder, h: str, output: str | None = None) -> str:
        network = self.network
        return self.arithmetic.head(graph, network.head_weights, network.head_bias, h, output)

    def _predict(self, graph: GraphBuilder, h: str) -> None:
        self._head(graph, h, PREDICTION)
        graph.output(PREDICTION, FLOAT, ["batch", self.manifest.prediction.width])
