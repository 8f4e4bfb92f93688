"""Imports an external ONNX file."""

from collections.abc import Iterator
from dataclasses import replace

import onnx

from models.manifest import Manifest, Prediction, PredictionKind, TokensInput
from training.errors import DataError
from training.importing.from_onnx.adapting import Adapted, Shape, adapt, closed, opened, own_names
from training.importing.from_onnx.external import ExternalGraph, read_onnx
from training.importing.from_onnx.original import Original
from training.importing.from_onnx.probing import (
    DeclaredState,
    Form,
    Layout,
    Probe,
    Time,
    find_layout,
)
from training.importing.from_onnx.reading import read_stack
from training.importing.from_onnx.roles import Roles, find_roles
from training.importing.from_onnx.steps import Steps, find_steps
from training.importing.meaning import predicted
from training.importing.options import Ask, ImportOptions
from training.importing.publishing import Understood
from training.importing.stack import model_of


def understand(options: ImportOptions, ask: Ask, *, name: str) -> Iterator[Understood]:
    """Find out what a graph takes and gives; yield the ways it might be served, best first.

    Raises:
        DataError: the file is not readable, or is no recurrent model.
        ConfigError: something has to be named by an option.
    """
    graph = read_onnx(options.file)
    roles = find_roles(graph, options, ask)
    steps = find_steps(graph, roles, options, ask)
    probe = _probe(graph, roles, steps)
    layout = find_layout(_servable(graph, roles), probe)
    if layout is None:
        raise DataError(
            f"{options.file}: no layout gives each row of a batch a prediction of its own: if its "
            "batch is fixed, export it with an open one (torch.onnx.export(…, dynamic_axes=…)); "
            "if its tensors are mistaken, name them with --input, --output and --state"
        )
    prediction = predicted(options, ask, inputs=steps.inputs, width=layout.width, per_step=True)
    facts = _facts(steps, roles, layout)
    plain = graph.without_softmax(roles.prediction)
    if plain is not None and prediction.kind is not PredictionKind.RAW:
        graph = plain
        facts.append(("softmax", "taken off: its input are the scores"))
    keep = roles.pairs if roles.obstacle is None else {}
    source = Original(closed(graph, roles, keep=keep), probe, layout, one_hot=steps.one_hot).run
    servable = _servable(graph, roles)
    if roles.obstacle is None:
        stack = read_stack(servable, steps=roles.steps, prediction=roles.prediction)
        if stack is not None:
            model, manifest = model_of(
                stack, steps.inputs.model_copy(update={"name": "tokens"}), prediction, name=name
            )
            yield Understood(proto=model, manifest=manifest, source=source, facts=facts)
    for with_lengths, streams in _ways(roles, layout):
        shape = Shape(
            one_hot=steps.one_hot,
            with_lengths=with_lengths,
            is_tokens=isinstance(steps.inputs, TokensInput),
            width=steps.size,
        )
        start = servable if streams else closed(graph, roles, keep={})
        chosen = layout if streams else replace(layout, states=())
        adapted = adapt(start, graph, roles, chosen, shape)
        manifest = _manifest(adapted, steps, prediction, chosen, name=name)
        yield Understood(proto=adapted.proto, manifest=manifest, source=source, facts=facts)


def _servable(graph: ExternalGraph, roles: Roles) -> onnx.ModelProto:
    return opened(graph, roles) if roles.obstacle is None else closed(graph, roles, keep={})


def _probe(graph: ExternalGraph, roles: Roles, steps: Steps) -> Probe:
    states = [_declared(graph, before, after) for before, after in roles.pairs.items()]
    for own in roles.own:
        before, after = own_names(graph, own)
        dims = (1, None, graph.hidden(own.place.node))
        states.append(DeclaredState(input=before, output=after, dims=dims, initial=own.initial))
    return Probe(
        steps=roles.steps,
        prediction=roles.prediction,
        lengths=roles.lengths,
        symbols=steps.symbols,
        width=steps.size,
        rank=steps.rank,
        states=tuple(states) if roles.obstacle is None else (),
    )


def _declared(graph: ExternalGraph, before: str, after: str) -> DeclaredState:
    """A state as the graph declares it, with what its operators say of open axes."""
    dims = graph.dims(before)
    nodes = [p.node for p in graph.places if graph.origin(graph.initial(p)) == before]
    if len(dims) == 3 and nodes:
        dims[0] = dims[0] or len(nodes)
        dims[2] = dims[2] or graph.hidden(nodes[0])
    return DeclaredState(input=before, output=after, dims=tuple(dims))


def _ways(roles: Roles, layout: Layout) -> Iterator[tuple[bool, bool]]:
    """With lengths or not, in sessions or as whole sequences: what is worth trying, in order."""
    if roles.obstacle is None:
        if layout.time is Time.MANY and layout.form is not Form.WHOLE:
            yield True, True
        if roles.lengths is None:
            yield False, True
    if layout.time is Time.MANY:
        yield True, False
        if roles.lengths is None:
            yield False, False


def _manifest(
    adapted: Adapted, steps: Steps, prediction: Prediction, layout: Layout, *, name: str
) -> Manifest:
    per_step = bool(layout.states) or layout.form is not Form.WHOLE
    return Manifest(
        name=name,
        task="foreign",
        input=steps.inputs.model_copy(update={"name": adapted.steps}),
        lengths=adapted.lengths,
        states=layout.states,
        prediction=prediction.model_copy(
            update={"output": adapted.prediction, "per_step": per_step}
        ),
    )


def _facts(steps: Steps, roles: Roles, layout: Layout) -> list[tuple[str, str]]:
    what = (
        f"{steps.size} symbols" if isinstance(steps.inputs, TokensInput) else f"{steps.size} wide"
    )
    if steps.is_one_hot:
        what += ", one-hot"
    axes = {
        Time.NONE: "one step, without a time axis",
        Time.ONE: "one step at a time",
        Time.MANY: "(batch, time)" if layout.batch_first else "(time, batch)",
    }[layout.time]
    facts = [("steps", f"'{roles.steps}', {what}, {axes}")]
    facts += [("state", f"'{before}' -> '{after}'") for before, after in roles.pairs.items()]
    if roles.own:
        brought = f"{len(roles.own)} brought out of the graph, where they began anew each time"
        facts.append(("states", brought))
    facts.append(("prediction", f"'{roles.prediction}', {layout.form.value}"))
    if roles.obstacle is not None:
        facts.append(("no sessions", roles.obstacle))
    return facts
