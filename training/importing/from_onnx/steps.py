"""What an external graph reads at each step: symbols, one-hot symbols or values."""

from dataclasses import dataclass

from models.graph.builder import FLOAT, INT32, INT64
from models.manifest import TokensInput, ValuesInput
from training.errors import DataError
from training.importing.from_onnx.external import ExternalGraph
from training.importing.from_onnx.roles import Roles
from training.importing.meaning import tokens_of, values_of
from training.importing.options import Ask, ImportOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """The input that takes the steps."""

    inputs: TokensInput | ValuesInput
    rank: int
    size: int
    """Symbols to choose from, or numbers per step."""
    is_one_hot: bool
    """The graph takes values, and is given symbols."""

    @property
    def one_hot(self) -> int | None:
        """How many one-hot symbols it reads, if it does."""
        return self.size if self.is_one_hot else None

    @property
    def symbols(self) -> int | None:
        """How many symbols the graph itself chooses from, if it does."""
        is_tokens = isinstance(self.inputs, TokensInput) and not self.is_one_hot
        return self.size if is_tokens else None


def find_steps(graph: ExternalGraph, roles: Roles, options: ImportOptions, ask: Ask) -> Steps:
    """Tell symbols from values by the type of the input, and one-hot symbols by the options.

    Raises:
        ConfigError: symbols or names are missing.
        DataError: the input is of a type or shape that steps do not have.
    """
    name, file = roles.steps, options.file
    dims, dtype = graph.dims(name), graph.dtype(name)
    if dtype in (INT32, INT64) and len(dims) in (1, 2):
        size = graph.symbols(name) or next(reversed(graph.dims(roles.prediction)), None)
        if size is None:
            raise DataError(
                f"{file}: input '{name}' holds tokens, and the graph does not say how many symbols "
                f"there are: declare the last axis of '{roles.prediction}'"
            )
        beside = {entry.key: entry.value for entry in graph.proto.metadata_props}
        tokens = tokens_of(options, ask, size=size, beside=beside, name=name)
        return Steps(inputs=tokens, rank=len(dims), size=size, is_one_hot=False)
    if not graph.has_shape(name):
        raise DataError(f"{file}: input '{name}' is declared without a shape: declare its axes")
    if dtype != FLOAT or len(dims) not in (2, 3):
        axes = f"{len(dims)} ax{'i' if len(dims) == 1 else 'e'}s"
        raise DataError(
            f"{file}: input '{name}' is {graph.kind(name)} with {axes}; steps are int64 tokens "
            "(batch, time) or float32 values (batch, time, width)"
        )
    named = options.features.split(",") if options.features else ()
    width = dims[-1] or graph.width_inside(name) or len(named)
    if not width:
        raise DataError(
            f"{file}: input '{name}' does not say how many numbers a step has: give --features, "
            "or declare its last axis"
        )
    inputs: TokensInput | ValuesInput
    if options.vocabulary:
        inputs = tokens_of(options, ask, size=width, beside={})
    else:
        inputs = values_of(options, ask, width=width, name=name)
    return Steps(
        inputs=inputs, rank=len(dims), size=width, is_one_hot=options.vocabulary is not None
    )
