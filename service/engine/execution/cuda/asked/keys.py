"""Which heads a model has, and what each is given and finds. Knows nothing of how they are run."""

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np

from models.manifest import Manifest
from service.engine.execution.cuda.stream.layout import Layout
from service.engine.execution.heads import DrawMode

USUAL_WIDTH = 1024
"""The largest vocabulary whose probabilities are recorded, and wait for no memory of the host."""

_USUAL_K, _USUAL_LEVELS = 64, 16  # the widest that are recorded

Shapes: TypeAlias = dict[str, tuple[tuple[int, ...], type[np.generic]]]
"""By name, of arrays: their shapes and types."""


class Key(NamedTuple):
    """A head at one width."""

    name: str
    width: int = 1


ARGMAX, PROBABILITIES, DRAWN = Key("argmax"), Key("probabilities"), Key("drawn")
RAW = Key("raw")  # no head: the predictions themselves
SAMPLED = {DrawMode.PLAIN: Key("sample"), DrawMode.FILTERED: Key("sample_filtered")}
_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "sample": ("uniform", "temperature"),
    "sample_filtered": ("uniform", "temperature", "top_k", "top_p"),
}


class Keys:
    """The heads of one model.

    Args:
        names: of the graphs.
    """

    def __init__(self, manifest: Manifest, names: Collection[str]) -> None:
        self._manifest = manifest
        self._names = names
        self.usual = tuple(self._usual())
        """Those that are recorded at the start; those asked for together are near each other."""

    def add_given(self, layout: Layout, size: int) -> None:
        """Add what the usual heads are given in runs of a size."""
        for key in self.usual:
            for name, (shape, dtype) in self.feeds(key, size).items():
                if name not in layout.fields:
                    layout.add(name, shape, dtype)

    def found(self, size: int) -> Layout:
        """What the usual heads find in runs of a size."""
        layout = Layout()
        for key in self.usual:
            self.add_found(layout, key, size)
        return layout

    def add_found(self, layout: Layout, key: Key, size: int) -> None:
        """Add what a head finds in runs of a size."""
        for name, (shape, dtype) in self.outputs(key, size).items():
            layout.add(field_of(key, name), shape, dtype)

    def top_k(self, wanted: int) -> tuple[int, Key]:
        """How many tokens there are of so many likeliest ones, and the head that finds them."""
        width = self._manifest.prediction.width
        k = min(wanted, width)
        return k, Key("top_k", min(_power_of_two(k), width))

    def quantiles(self, count: int) -> Key:
        """The head that finds so many quantiles."""
        return Key("quantiles", _power_of_two(count))

    def graph_of(self, key: Key) -> str:
        """The name of the graph of a head."""
        return "quantiles" if key == DRAWN else key.name

    def _usual(self) -> Iterator[Key]:
        width = self._manifest.prediction.width
        for key in (ARGMAX, *SAMPLED.values()):
            if key.name in self._names:
                yield key
        if "top_k" in self._names:
            widest = min(_USUAL_K, width)
            widths = {min(2**power, width) for power in range(widest.bit_length() + 1)}
            yield from (Key("top_k", k) for k in sorted(widths) if k <= _USUAL_K)
        if "probabilities" in self._names and width <= USUAL_WIDTH:
            yield PROBABILITIES
        if "quantiles" in self._names:
            yield DRAWN
            yield from (Key("quantiles", 2**n) for n in range(_USUAL_LEVELS.bit_length()))

    def feeds(self, key: Key, size: int) -> Shapes:
        """What a head is given beside predictions: the fields, with their shapes and types."""
        match key.name:
            case "drawn":
                return {"uniform": ((size, 1), np.float32)}
            case "quantiles":
                return {f"levels_{key.width}": ((size, key.width), np.float32)}
        types = {"top_k": np.int64}
        return {
            name: ((size, 1), types.get(name, np.float32)) for name in _PARAMETERS.get(key.name, ())
        }

    def input_of(self, key: Key, field: str) -> str:
        """What the graph of a head calls a field."""
        if key.name in ("drawn", "quantiles"):
            assert self._manifest.quantiles is not None, "it has the head"
            return self._manifest.quantiles.levels
        return field

    def outputs(self, key: Key, size: int) -> Shapes:
        """The outputs of a head, with their shapes and types."""
        match key.name:
            case "argmax":
                return {"argmax": ((size,), np.int32)}
            case "top_k":
                return {
                    "top_tokens": ((size, key.width), np.int32),
                    "top_probabilities": ((size, key.width), np.float32),
                }
            case "probabilities":
                return {"probabilities": ((size, self._manifest.prediction.width), np.float32)}
            case "quantiles" | "drawn":
                assert self._manifest.quantiles is not None, "it has the head"
                return {self._manifest.quantiles.output: ((size, 1, key.width), np.float32)}
        return {"sample": ((size,), np.int32)}


def field_of(key: Key, output: str) -> str:
    """What an output of a head is called in a layout."""
    return f"{key.name} {key.width} {output}"


def _power_of_two(count: int) -> int:
    """The smallest one that is not less: few widths serve all."""
    return 1 << (count - 1).bit_length()
