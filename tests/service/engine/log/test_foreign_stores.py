"""Stores of somebody else's, whose checksums hold: what they say is checked all the same."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import structlog

from service.engine.log.keys import APPLIED, SESSION
from service.errors import CellarError
from service.store.records import DamagedError, Section, pack, unpack
from service.store.store import StoreError
from tests.service.engine.fakes import DecodingRunner
from tests.service.engine.houses import Fakes, fakes_on
from tests.service.engine.wires import RAW
from tests.service.store.fake import FakeStore

_VALUES: tuple[Any, ...] = (
    -1, 0, 1, 2**31, 2**62, 2**63, 2**64, 10**400, 1.5, float("nan"), None, True, "", "x" * 5000,
    "a\n\x1b[2J", "a", [], {}, [[1, 2, 3]], {"a": 1},
)  # fmt: skip


async def written() -> FakeStore:
    """A store with a session that has a checkpoint, and others that have not.

    Two were opened with a state of their own: one is in the table by then.
    """
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store) as house:
        house.open("d", initial=3)
        for name in "abc":
            house.open(name)
            await read(house, name, 1, 2, 3)
        upkeep = house.engine._upkeep
        assert upkeep is not None
        await upkeep.checkpoints.save(house.served.shards[0], np.array([house.find("a").slot]))
        await read(house, "a", 4)
        await house.engine.reset("b")
        house.open("e", initial=4)
        await read(house, "e", 1, 2)
        await house.settle()
        return store.crash()


async def read(house: Fakes, name: str, *tokens: int) -> None:
    await house.engine.step(name, house.served.reader.tokens(np.array(tokens)), outputs=RAW)


def changed(store: FakeStore, dice: random.Random) -> str:
    """Write one record of a store anew, with something else in it; returns what that is."""
    rows, groups = dict(store.rows()), dict(store.groups())
    keys: list[bytes | int] = [*rows, *groups]
    key = dice.choice(keys)
    data = rows[key] if isinstance(key, bytes) else groups[key]
    sections = unpack(data)
    at = dice.randrange(len(sections))
    told, sections[at] = another(sections[at], dice)
    if dice.random() < 0.1:
        sections.append(dice.choice(sections))
    new = pack([section for section in sections if section is not None])
    if isinstance(key, bytes):
        store._rows[key] = store._durable_rows[key] = new
    else:
        store._groups[key] = store._durable_groups[key] = new
    return f"{key!r}: {told}"


def another(section: Section, dice: random.Random) -> tuple[str, Section]:
    meta, columns = dict(section.meta), dict(section.columns)
    if "json" in columns:
        events = json.loads(columns["json"].tobytes())
        if not (isinstance(events, list) and events and isinstance(events[0], dict)):
            return "nothing", section  # it has been changed before
        event = dice.choice(events)
        name, value = dice.choice([*event, "new"]), dice.choice(_VALUES)
        event[name] = value
        text = json.dumps(dice.choice((events, events, events, value))).encode()
        columns["json"] = np.frombuffer(text, np.uint8)
        return f"{name}={str(value)[:20]}", replace(section, columns=columns)
    if columns and dice.random() < 0.7:
        name = dice.choice([*columns])
        column = columns[name]
        way = dice.randrange(6)
        if way == 0:
            del columns[name]
        elif way == 1:
            columns[name] = column[:-1] if column.ndim else column
        elif way == 2:
            columns[name] = np.full(column.shape, dice.choice((2**62, 2**63 - 1, -1, 0)), np.int64)
        elif way == 3:
            columns[name] = column.astype(dice.choice(("f8", "c8", "M8[s]", "?", "u1")))
        elif way == 4:
            columns[name] = np.concatenate([np.atleast_1d(column)] * 3)
        else:
            columns[name] = np.zeros((0, 5), np.float32)
        return f"{name}, in way {way}", replace(section, columns=columns)
    if dice.random() < 0.2:
        kind = dice.choice(("steps", "events", "moved", "began", "session", "checkpoint", "x"))
        return f"kind {kind}", replace(section, kind=kind)
    name, value = dice.choice([*meta, "new"]), dice.choice(_VALUES)
    meta[name] = value
    return f"{name}={str(value)[:20]}", replace(section, meta=meta)


async def play(seed: int, store: FakeStore) -> str:
    """What becomes of a store once it is changed: refused, or served."""
    dice = random.Random(seed)
    told = f"seed {seed}: " + "; ".join(changed(store, dice) for _ in range(dice.choice((1, 2))))
    try:
        async with fakes_on(DecodingRunner, store=store.crash()) as house:
            for name in "abcde":
                try:
                    await house.engine.describe(name)
                    await read(house, name, 5)
                    await house.engine.reset(name)
                    await read(house, name, 6)
                except CellarError:
                    continue  # it is lost, and its callers are told
            house.open("new")
            await read(house, "new", 1, 2)
    except StoreError as error:
        text = str(error)
        assert text.isprintable(), told
        assert len(text) < 600, told
        return "refused"
    except Exception as error:
        raise AssertionError(f"{told}: {type(error).__name__}: {error}") from error
    return "served"


async def plays(seeds: range) -> None:
    wrong, outcomes = [], set[str]()
    sound = await written()
    with structlog.testing.capture_logs():
        for seed in seeds:
            try:
                outcomes.add(await play(seed, sound.crash()))
            except AssertionError as error:
                wrong.append(str(error))
    assert not wrong, "\n".join([f"{len(wrong)} of {len(seeds)}", *wrong[:20]])
    assert outcomes == {"refused", "served"}


async def test_changed_stores_are_refused_in_one_line_or_served() -> None:
    await plays(range(30))


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_thousands_of_changed_stores() -> None:
    await plays(range(100, 4000))


@pytest.mark.parametrize(
    ("key", "change", "words"),
    [
        (SESSION, {"idle_timeout_s": float("nan")}, "idle_timeout_s cannot be nan"),
        (SESSION, {"id": "a\x1b[2J"}, "id cannot be"),
        (SESSION, {"number": -1}, "number cannot be -1"),
        (SESSION, {"other": 1}, "its catalogue is not what Cellar writes"),
        (APPLIED, {"group": "x"}, "its catalogue is not what Cellar writes"),
    ],
)
async def test_what_cannot_be_ends_the_start_with_its_name(
    key: bytes, change: dict[str, Any], words: str
) -> None:
    store = await written()
    found = dict(store.rows(key))
    name, value = next(iter(found.items())) if found else (key, b"")
    section = unpack(value)[0]
    store._rows[name] = pack([replace(section, meta={**section.meta, **change})])
    with pytest.raises(StoreError, match=words):
        async with fakes_on(DecodingRunner, store=store):
            pass


async def test_steps_that_would_need_far_more_than_there_is_are_refused() -> None:
    """A few bytes may say that an entry has 2^62 steps."""
    store = await written()
    for number, data in store.groups():
        sections = unpack(data)
        for at, section in enumerate(sections):
            if section.kind == "steps":
                rows = len(section.columns["session"])
                columns = {**section.columns, "steps": np.full(rows, 2**62)}
                sections[at] = replace(section, columns=columns)
        store._groups[number] = pack(sections)
    with pytest.raises(StoreError, match="its journal is not what Cellar writes"):
        async with fakes_on(DecodingRunner, store=store):
            pass


@pytest.mark.parametrize(
    "header",
    [
        [["s", {}, [["a", "|O", [1]]]]],
        [["s", {}, [["a", "<i4,<i4", [1]]]]],
        [["s", {}, [["a", "<i8", [-1]]]]],
        [["s", {}, [["a", "<i8", [2**62, 2**62]]]]],
        [["s", {}, [["a", "<i8", "x"]]]],
        [["s", [], [["a", "<i8", [1]]]]],
        [["s", {}]],
        [["s", {}, []]],
        {"a": 1},
        5,
        None,
    ],
)
def test_a_header_that_describes_nothing_is_damage(
    header: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "service.store.records._encode", lambda _: json.dumps(header, separators=(",", ":"))
    )
    name = f"other{len(json.dumps(header))}"  # what has been encoded before is remembered
    data = pack([Section(name, {"n": 1.5}, {"a": np.zeros(1, np.int64)})])
    with pytest.raises(DamagedError):
        unpack(data)
