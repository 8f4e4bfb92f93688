"""Imports an external ONNX file."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from models.manifest import Manifest, Prediction, PredictionKind, TokensInput
from training.errors import DataError
from training.importing.from_onnx.adapting import Adapted, Shape, adapt, closed, opened, own_names
from training.importing.from_onnx.external import ExternalGraph, Place, read_onnx
from training.importing.from_onnx.original import Original, default_start, found_start
from training.importing.from_onnx.probing import (
    Cause,
    DeclaredState,
    Form,
    Layout,
    MisfitError,
    Probe,
    Time,
    find_layout,
)
from training.importing.from_onnx.reading import read_stack
from training.importing.from_onnx.roles import Roles, find_roles, optional_states
from training.importing.from_onnx.steps import Steps, find_steps
from training.importing.isolated.reasons import of_running
from training.importing.isolated.runtime import RefusedError, Runtime
from training.importing.meaning import predicted
from training.importing.options import Ask, ImportOptions
from training.importing.publishing import Understood
from training.importing.stack import model_of
from training.importing.starts import SAID, ZERO, Start, told_starts, with_starts


def understand(
    options: ImportOptions, ask: Ask, *, name: str, runtime: Runtime
) -> Iterator[Understood]:
    """Find out what a graph takes and gives; yield the ways it might be served, best first.

    Raises:
        DataError: the file is not readable, or is no recurrent model.
        ConfigError: something has to be named by an option.
    """
    file = options.file
    graph = read_onnx(file, runtime)
    optional = optional_states(graph, options)
    defaults = {one: numpy_helper.to_array(graph.constants[one]) for one in optional}
    graph = graph.with_inputs(optional)
    roles = find_roles(graph, options, ask)
    found, roles = _found_starts(graph, roles, runtime)
    steps = find_steps(graph, roles, options, ask)
    probe = _probe(graph, roles, steps)
    layout = _layout(graph, roles, probe, runtime, file)
    found |= _default_starts(layout, defaults, file)
    starts = told_starts(options, layout.states, found)
    layout = replace(layout, states=with_starts(layout.states, starts))
    prediction = predicted(options, ask, inputs=steps.inputs, width=layout.width, per_step=True)
    facts = _facts(steps, roles, layout)
    plain = graph.without_softmax(roles.prediction)
    if plain is not None and prediction.kind is not PredictionKind.RAW:
        graph = plain
        facts.append(("softmax", "taken off: its input are the scores"))
    else:
        plain = None
    said = _said(graph, roles, layout, starts)
    original, compared = _original(
        graph, roles, runtime, probe, layout, one_hot=steps.one_hot,
        file=None if plain is not None or said else file, said=said,
    )  # fmt: skip
    facts.append(("compared with", compared))
    understood = partial(Understood, source=original.run, facts=facts)
    servable = _servable(graph, roles)
    if roles.obstacle is None:
        stack = read_stack(servable, steps=roles.steps, prediction=roles.prediction)
        if stack is not None:
            model, manifest = model_of(
                stack, steps.inputs.model_copy(update={"name": "tokens"}), prediction, name=name
            )
            renamed = _renamed_starts(manifest, layout, starts)
            if renamed is not None:
                states = with_starts(manifest.states, renamed)
                manifest = manifest.model_copy(update={"states": states})
                yield understood(proto=model, manifest=manifest, starts=renamed)
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
        yield understood(proto=adapted.proto, manifest=manifest, starts=starts if streams else {})


def _found_starts(
    graph: ExternalGraph, roles: Roles, runtime: Runtime
) -> tuple[dict[str, Start], Roles]:
    """What the states that the graph keeps to itself start from, and whether all of that is known.

    Returns the starts by the names that the states get, and the roles.
    """
    starts = {}
    for state in roles.own:
        name, before = own_names(graph, state)[0], graph.initial(state.place)
        if state.source:
            starts[name] = Start(origin=f"taken: no output follows input '{state.source}'")
        elif not before:
            starts[name] = ZERO
        else:
            initial = found_start(graph, before, runtime)
            if initial is None:
                node = graph.node(state.place.node)
                obstacle = (
                    f"the initial state of its {node.op_type} '{node.name}' is not the same for "
                    "every sequence of a batch"
                )
                return {}, replace(roles, own=(), obstacle=obstacle)
            starts[name] = Start(initial=initial, origin=f"found: '{graph.filling(before)}'")
    return starts, roles


def _default_starts(
    layout: Layout, defaults: Mapping[str, NDArray[np.generic]], file: Path
) -> dict[str, Start]:
    """The starts of states whose inputs have values of their own."""
    starts = {}
    for state in layout.states:
        if state.input not in defaults:
            continue
        array = defaults[state.input]
        initial = default_start(array, state.shape, state.batch_axis)
        if initial is None:
            raise DataError(
                f"{file}: the value that state '{state.input}' has in the file is "
                f"{list(array.shape)}, and one session's state {list(state.shape)}: make it the "
                "same for every sequence of a batch, and finite"
            )
        starts[state.input] = Start(initial=initial, origin="found: the value of its input")
    return starts


def _layout(
    graph: ExternalGraph, roles: Roles, probe: Probe, runtime: Runtime, file: Path
) -> Layout:
    try:
        return find_layout(runtime.open(_servable(graph, roles)), probe)
    except RefusedError as error:
        raise DataError(f"{file}: {of_running(str(error), graph.proto)}") from error
    except MisfitError as misfit:
        where = graph.not_finite() if misfit.cause is Cause.NOT_FINITE else None
        more = "" if where is None else f": the weights '{where}' hold such numbers"
        raise DataError(f"{file}: {misfit}{more}") from misfit


def _said(
    graph: ExternalGraph, roles: Roles, layout: Layout, starts: Mapping[str, Start]
) -> dict[Place, NDArray[np.float32]]:
    """What is said, and not found, of the states that the graph keeps to itself, (1, hidden)."""
    states = {state.input: state for state in layout.states}
    said = {}
    for own in roles.own:
        name = own_names(graph, own)[0]
        if name in states and (own.source or starts[name].origin == SAID):
            said[own.place] = states[name].start
    return said


def _original(
    graph: ExternalGraph,
    roles: Roles,
    runtime: Runtime,
    probe: Probe,
    layout: Layout,
    *,
    one_hot: int | None,
    file: Path | None,
    said: Mapping[Place, NDArray[np.float32]],
) -> tuple[Original, str]:
    """The graph to compare with, and what it is: the file as it came, where that can be run."""
    keep = roles.pairs if roles.obstacle is None else {}
    dropped = graph.inputs.keys() - {roles.steps, roles.lengths, *keep}
    if file is not None and not dropped:
        try:
            as_it_came = Original(runtime.open_file(file), probe, layout, one_hot=one_hot)
            as_it_came.try_out()
            return as_it_came, "the file as it came, in ONNX Runtime"
        except RefusedError:
            pass
    session = runtime.open(closed(graph, roles, keep=keep, starts=said))
    original = Original(session, probe, layout, one_hot=one_hot)
    return original, "its graph as rewritten for the import, in ONNX Runtime"


def _renamed_starts(
    manifest: Manifest, layout: Layout, starts: Mapping[str, Start]
) -> dict[str, Start] | None:
    """The starts by the names of a stack's states; ``None`` where they are not one for one."""
    told = [starts[state.input] for state in layout.states]
    if len({start.initial for start in told}) == 1:
        return dict.fromkeys((state.input for state in manifest.states), told[0])
    sizes = [state.shape[-1:] for state in manifest.states]
    if sizes != [state.shape[-1:] for state in layout.states]:
        return None
    return {state.input: start for state, start in zip(manifest.states, told, strict=True)}


def _servable(graph: ExternalGraph, roles: Roles) -> onnx.ModelProto:
    return opened(graph, roles) if roles.obstacle is None else closed(graph, roles, keep={})


def _probe(graph: ExternalGraph, roles: Roles, steps: Steps) -> Probe:
    states = [_declared(graph, before, after) for before, after in roles.pairs.items()]
    for own in roles.own:
        before, after = own_names(graph, own)
        dims = (1, None, graph.hidden(own.place.node))
        states.append(DeclaredState(input=before, output=after, dims=dims))
    return Probe(
        steps=roles.steps,
        prediction=roles.prediction,
        lengths=roles.lengths,
        symbols=steps.symbols,
        width=steps.size,
        rank=steps.rank,
        lengths_of_axes=tuple(graph.dims(roles.steps)),
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
    if roles.obstacle is None:
        facts += [("state", f"'{before}' -> '{after}'") for before, after in roles.pairs.items()]
    if roles.own:
        brought = f"{len(roles.own)} brought out of the graph, where they began anew each time"
        facts.append(("states", brought))
    facts.append(("prediction", f"'{roles.prediction}', {layout.form.value}"))
    if roles.obstacle is not None:
        facts.append(("no sessions", roles.obstacle))
    return facts
