"""What the server says of itself, in one place."""

import asyncio

from service.engine.engine import Engine
from service.health import STILL_S, Health, ModelState, Phase
from service.metrics import Metrics
from service.settings import Settings


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def made() -> tuple[Engine, Health, Clock]:
    clock = Clock()
    engine = Engine(Settings(), Metrics())
    return engine, Health(engine, clock=clock), clock


async def test_a_server_goes_from_phase_to_phase_and_tells_of_each_once() -> None:
    engine, health, _ = made()
    heard: list[Phase] = []
    health.listen(lambda: heard.append(health.state.phase))
    health.look()
    assert (health.state.phase, health.state.is_ready) == (Phase.LOADING, False)
    engine.loading = False
    for _ in range(2):
        health.look()
    assert (health.state.phase, health.state.is_ready) == (Phase.SERVING, True)
    assert health.state.reason == ""
    engine.draining = True
    health.look()
    assert (health.state.phase, health.state.is_ready) == (Phase.DRAINING, False)
    assert health.fault is None, "who drains is alive"
    assert heard == [Phase.SERVING, Phase.DRAINING]


async def test_a_device_that_failed_is_neither_ready_nor_alive() -> None:
    engine, health, _ = made()
    engine.loading = False
    engine.lose_device("letters/1", RuntimeError("illegal address"))
    health.look()
    assert (health.state.phase, health.state.is_ready) == (Phase.FAILED, False)
    assert health.fault == "a device has failed, and the server ends"
    assert health.state.reason == health.fault


async def test_models_are_told_with_their_reasons() -> None:
    engine, health, _ = made()
    engine.registry.awaited.update({("b", 2), ("a", None)})
    engine.registry.add_unavailable("a", 1, "a/1/model.onnx: is cut off")
    health.look()
    assert health.state.models == (
        ModelState(name="a", version=None, status="loading"),
        ModelState(name="a", version=1, status="unavailable", reason="a/1/model.onnx: is cut off"),
        ModelState(name="b", version=2, status="loading"),
    )


async def test_an_event_loop_that_stands_still_is_seen_from_outside() -> None:
    engine, health, clock = made()
    engine.loading = False
    health.look()
    faults = []
    for waited_s in (STILL_S, 1):
        clock.now += waited_s
        faults.append(health.fault)
    beat = asyncio.create_task(health.beat())
    await asyncio.sleep(0)
    faults.append(health.fault)
    beat.cancel()
    assert faults == [None, f"the event loop has stood still for {STILL_S + 1:.0f} s", None]
