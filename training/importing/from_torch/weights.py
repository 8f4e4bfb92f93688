"""Reads a torch ``state_dict`` and finds the network in it by the names and shapes of its tensors.

Knows the names that torch's own recurrent modules give their weights; the prefixes before them, and
the names of embedding and head, do not matter.
"""

import itertools
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.errors import ConfigError, DataError
from training.importing.isolated.files import other_kind
from training.settings import Cell

_RECURRENT = re.compile(
    r"^(?P<module>.*?)(?P<kind>weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)"
    r"(?:_l(?P<layer>\d+)(?P<reverse>_reverse)?)?$"
)
_CELLS = {4: Cell.LSTM, 3: Cell.GRU, 1: Cell.RNN}
_ENTRIES = ("state_dict", "model_state_dict", "model", "network", "net", "weights")
_WHOLE = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)
_TO_ONNX = "export it with torch.onnx.export and import that file instead"


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """The tensors of a file, and what else lies beside them."""

    tensors: Mapping[str, Tensor]
    beside: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Direction:
    """The weights of one layer in one direction, in torch's order of gates."""

    weight_ih: Tensor  # (gates * hidden, inputs)
    weight_hh: Tensor  # (gates * hidden, hidden)
    bias_ih: Tensor  # (gates * hidden,)
    bias_hh: Tensor  # (gates * hidden,)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoundLayer:
    """One recurrent layer; two directions where it is bidirectional."""

    name: str
    cell: Cell
    directions: tuple[Direction, ...]

    @property
    def inputs(self) -> int:
        """Numbers per step that it reads."""
        return self.directions[0].weight_ih.shape[1]

    @property
    def hidden(self) -> int:
        """Units per direction."""
        return self.directions[0].weight_hh.shape[1]

    @property
    def width(self) -> int:
        """Numbers per step that it gives."""
        return len(self.directions) * self.hidden


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoundMatrix:
    """An embedding (vocabulary, inputs), or a head (outputs, inputs) with its bias."""

    name: str
    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoundNetwork:
    """What a state_dict holds."""

    embedding: FoundMatrix | None
    layers: tuple[FoundLayer, ...]
    head: FoundMatrix | None


def read_weights(file: Path) -> Weights:
    """Read a ``.pt``, ``.pth`` or ``.safetensors`` file; nothing in it is executed.

    Raises:
        DataError: it is not readable, or holds no state_dict.
    """
    if file.suffix == ".safetensors":
        return _read_safetensors(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an exception says it better
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for what it does not take
        raise DataError(f"{file}: {_why_not(file, str(error))}") from error
    if isinstance(content, Mapping):
        if {"format", "network", "optimisers"} <= content.keys():
            raise DataError(
                f"{file}: a checkpoint of cellar-train: publish it with "
                f"cellar-train export {file.parent}"
            )
        if _is_state_dict(content):
            return Weights(tensors=_checked(content, file), beside={})
        inside = {key: value for key, value in content.items() if _is_state_dict(value)}
        named = [key for key in _ENTRIES if key in inside]
        if named or len(inside) == 1:
            chosen = named[0] if named else next(iter(inside))
            beside = {key: value for key, value in content.items() if key not in inside}
            return Weights(tensors=_checked(inside[chosen], file), beside=beside)
        if inside:
            raise DataError(
                f"{file}: it holds several networks ({', '.join(map(str, inside))}): save the "
                "state_dict of one by itself"
            )
    raise DataError(
        f"{file}: it holds no weights of torch's LSTM, GRU or RNN (weight_ih_l0 and so on)"
    )


def _why_not(file: Path, reason: str) -> str:
    """What keeps a file from being loaded, by what torch says of it."""
    save = "save the weights with torch.save(model.state_dict(), 'weights.pt')"
    if (kind := other_kind(file, but=file.suffix)) is not None:
        return f"it is {kind}"
    if "TorchScript" in reason:
        return f"it is a TorchScript archive, and not weights alone: {save}"
    if match := re.search(r"GLOBAL ([\w.]+)", reason):
        name = match[1]
        what = "it is a whole pickled module" if name.startswith("torch.nn") else "it is a pickle"
        return (
            f"{what}, and not a file of tensors alone: loading it would run code ({name}), so it "
            f"is not loaded: {save}"
        )
    if "central directory" in reason or "zip archive" in reason:
        return "it is cut off or damaged: copy or save it again"
    return f"it is not a file of tensors alone, as torch.save writes: {save}"


def _checked(tensors: Mapping[str, Tensor], file: Path) -> Mapping[str, Tensor]:
    """The tensors, all of real numbers that are there.

    Raises:
        DataError: one is of another kind; the message names it.
    """
    for name, tensor in tensors.items():
        if tensor.is_quantized or not (tensor.is_floating_point() or tensor.dtype in _WHOLE):
            kind = str(tensor.dtype).removeprefix("torch.")
            raise DataError(
                f"{file}: {name} is {kind}: what is served are real numbers in float32: save the "
                "network as it was before it was quantised or converted"
            )
        if tensor.layout is not torch.strided or tensor.is_meta:
            kind = "without numbers (on the device meta)" if tensor.is_meta else "sparse"
            raise DataError(f"{file}: {name} is {kind}: save it as an ordinary tensor")
        if not tensor.isfinite().all():
            raise DataError(f"{file}: {name} holds numbers that are not finite (NaN or infinite)")
        if 0 in tensor.shape:
            raise DataError(f"{file}: {name} is empty: {_shape(tensor)}")
    return tensors


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a number"


def find_network(tensors: Mapping[str, Tensor], *, where: Path) -> FoundNetwork:
    """Recognise embedding, recurrent layers and head.

    Raises:
        DataError: a tensor belongs to none of them, or they do not fit together.
    """
    layers = _layers(tensors, where)
    for below, above in itertools.pairwise(layers):
        if above.inputs != below.width:
            raise DataError(
                f"{where}: {above.name} reads {above.inputs} numbers where {below.name} gives "
                f"{below.width}: they are not one stack; {_TO_ONNX}"
            )
    matrices = _matrices(tensors, where)
    before = set(itertools.takewhile(lambda name: not _RECURRENT.match(name), tensors))
    embedding = _choose_embedding(matrices, layers[0], layers[-1], before)
    rest = [matrix for matrix in matrices if matrix is not embedding]
    head = next((matrix for matrix in rest if matrix.weight.shape[1] == layers[-1].width), None)
    left = [matrix for matrix in rest if matrix is not head]
    if left:
        shape = _shape(left[0].weight)
        raise DataError(
            f"{where}: {left[0].name} ({shape}) is neither an embedding of {layers[0].inputs} "
            f"numbers nor the one linear head on {layers[-1].width}, and a state_dict does not say "
            f"what lies between: {_TO_ONNX}"
        )
    return FoundNetwork(embedding=embedding, layers=tuple(layers), head=head)


def _read_safetensors(file: Path) -> Weights:
    try:
        from safetensors import safe_open  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise ConfigError(
            f"{file}: reading it needs the package safetensors: pip install safetensors"
        ) from error
    try:
        with safe_open(file, framework="pt") as content:
            names = list(content.keys())
            tensors = {name: content.get_tensor(name) for name in names}
            beside = dict(content.metadata() or {})
    except Exception as error:  # the package raises its own kinds
        raise DataError(f"{file}: not a readable safetensors file: {error}") from error
    return Weights(tensors=_checked(tensors, file), beside=beside)


def _is_state_dict(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(key, str) for key in value)
        and all(isinstance(entry, Tensor) for entry in value.values())
        and any(_RECURRENT.match(key) for key in value)
    )


def _layers(tensors: Mapping[str, Tensor], where: Path) -> list[FoundLayer]:
    """The recurrent layers: modules in the file's order, layers of one in their own."""
    parts: dict[str, dict[int, dict[bool, dict[str, Tensor]]]] = {}
    for name, tensor in tensors.items():
        match = _RECURRENT.match(name)
        if match is None:
            continue
        if match["kind"] == "weight_hr":
            raise DataError(f"{where}: {name}: an LSTM with proj_size has no ONNX operator")
        module = parts.setdefault(match["module"].removesuffix("."), {})
        layer = module.setdefault(int(match["layer"] or 0), {})
        layer.setdefault(match["reverse"] is not None, {})[match["kind"]] = tensor.float()
    return [
        _layer(f"{module or 'layer'} {number}", parts[module][number], where)
        for module in parts
        for number in sorted(parts[module])
    ]


def _layer(name: str, parts: dict[bool, dict[str, Tensor]], where: Path) -> FoundLayer:
    directions = []
    for reverse in sorted(parts):
        own = parts[reverse]
        if False not in parts or "weight_ih" not in own or "weight_hh" not in own:
            raise DataError(f"{where}: {name} lacks weight_ih or weight_hh")
        for kind, tensor in own.items():
            axes = 2 if kind.startswith("weight") else 1
            rows = own["weight_ih"].shape[0]
            if tensor.dim() != axes or tensor.shape[0] != rows:
                wanted = f"{rows} rows" if axes == 2 else f"{rows} numbers"
                raise DataError(
                    f"{where}: {kind} of {name} is {_shape(tensor)}, and beside its weight_ih it "
                    f"must have {wanted}"
                )
        rows, hidden = own["weight_hh"].shape
        gates = rows // hidden
        if rows % hidden or gates not in _CELLS or own["weight_ih"].shape[0] != rows:
            raise DataError(
                f"{where}: {name}: weight_hh is {rows}×{hidden}; an LSTM has 4 rows per column, a "
                "GRU 3, a plain RNN 1"
            )
        zeros = torch.zeros(rows)
        directions.append(
            Direction(
                weight_ih=own["weight_ih"],
                weight_hh=own["weight_hh"],
                bias_ih=own.get("bias_ih", zeros),
                bias_hh=own.get("bias_hh", zeros),
            )
        )
    return FoundLayer(name=name, cell=_CELLS[gates], directions=tuple(directions))


def _matrices(tensors: Mapping[str, Tensor], where: Path) -> list[FoundMatrix]:
    """What is left, as matrices with their biases."""
    rest = {name: t.float() for name, t in tensors.items() if _RECURRENT.match(name) is None}
    found = []
    for name in [name for name, tensor in rest.items() if tensor.dim() == 2]:
        bias = rest.pop(name.removesuffix("weight") + "bias", None)
        weight = rest.pop(name)
        if bias is not None and bias.shape != weight.shape[:1]:
            raise DataError(f"{where}: {name} and its bias do not fit together")
        found.append(FoundMatrix(name=name, weight=weight, bias=bias))
    if rest:
        name, tensor = next(iter(rest.items()))
        shape = _shape(tensor)
        raise DataError(
            f"{where}: {name} ({shape}) belongs to neither an embedding, a recurrent layer nor a "
            f"linear head: {_TO_ONNX}"
        )
    return found


def _choose_embedding(
    matrices: list[FoundMatrix], first: FoundLayer, last: FoundLayer, before: set[str]
) -> FoundMatrix | None:
    """The table the first layer reads from, if there is one."""
    tables = [m for m in matrices if m.bias is None and m.weight.shape[1] == first.inputs]
    heads = [m for m in matrices if m.weight.shape[1] == last.width]
    if len(tables) == 1 and len(heads) == 1 and tables[0] is heads[0]:
        # Alone it could be either: modules are saved in the order they are made in.
        return tables[0] if tables[0].name in before else None
    sure = [m for m in tables if m not in heads or len(tables) == 1]
    if sure:
        return sure[0]
    return next((m for m in tables if m.name in before), tables[0] if tables else None)
