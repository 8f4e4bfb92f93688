"""Log lines go to files that are slow, full or gone, and nobody waits or fails for it."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

import pytest
import structlog

from service.logs import Lines, Repeats, configure_logs
from service.settings import Settings

SOON_S = 10.0


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The ends to read from and to write to."""
    ends = os.pipe()
    yield ends
    for end in ends:
        with suppress(OSError):  # a test has closed it
            os.close(end)


def fill(end: int) -> int:
    """Fills a pipe; returns with how many bytes."""
    os.set_blocking(end, False)
    filling = 0
    while True:
        try:
            filling += os.write(end, bytes(4096))
        except BlockingIOError:
            os.set_blocking(end, True)
            return filling


def read(end: int, until: bytes) -> bytes:
    """All that comes, up to the line that ends so."""
    found = b""
    while not found.endswith(until):
        found += os.read(end, 65_536)
    return found


def test_lines_come_in_order(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        lines = Lines(file.fileno())
        for number in range(1000):
            print("line", number, file=lines, flush=True)
        assert lines.settle(SOON_S)
    assert (tmp_path / "log").read_text() == "".join(f"line {n}\n" for n in range(1000))


def test_a_reader_that_sleeps_costs_lines_and_no_time(pipe: tuple[int, int]) -> None:
    filling = fill(pipe[1])
    lines = Lines(pipe[1], backlog=10_000, dropped="{} are lost\n".format)
    line = "x" * 999 + "\n"
    began = time.monotonic()
    for _ in range(1000):
        lines.write(line)
    assert not lines.settle(0.01), "it cannot be written"
    assert time.monotonic() - began < SOON_S
    while filling:
        filling -= len(os.read(pipe[0], filling))
    assert lines.settle(SOON_S)
    lines.write("the end\n")
    found = read(pipe[0], b"the end\n").decode().splitlines(keepends=True)
    assert 1 < found.count(line) < 12
    told = sum(int(each.split()[0]) for each in found if each.endswith("lost\n"))
    assert found.count(line) + told == 1000, "each line is written or counted"
    assert lines.settle(SOON_S)


def test_a_pipe_that_does_not_block_gets_every_line(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    lines = Lines(pipe[1])
    for number in range(200):
        lines.write(f"{number:0999}\n")
    lines.write("the end\n")
    assert len(read(pipe[0], b"the end\n")) == 200 * 1000 + len("the end\n")


def test_a_closed_pipe_is_no_matter(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    lines = Lines(pipe[1])
    for _ in range(100):
        lines.write("nobody hears this\n")
    assert lines.settle(SOON_S)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_what_a_full_disk_did_not_take_is_told_when_there_is_room(tmp_path: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    lines = Lines(full, dropped="{} are lost\n".format)
    lines.write("one\n")
    lines.write("two\n")
    assert lines.settle(SOON_S)
    with (tmp_path / "log").open("wb") as file:
        os.dup2(file.fileno(), full)
    lines.write("three\n")
    assert lines.settle(SOON_S)
    os.close(full)
    assert (tmp_path / "log").read_text() == "three\n2 are lost\n"


@pytest.fixture
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


@pytest.mark.usefixtures("logging_as_it_was")
def test_what_libraries_log_is_an_entry_that_quotes_little(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        lines = Lines(file.fileno())
        configure_logs(Settings(), lines)
        logging.getLogger("grpc.somewhere").error("of /%s\nforged: line", "\x1b[31m" + 999 * "x")
        assert lines.settle(SOON_S)
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert "library=grpc.somewhere" in line
    assert r"\x1b[31mxxx" in line
    assert "forged" not in line
    assert len(line) < 700


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize(
    "fault",
    [
        KeyError("dear diary"),
        ValueError(f"could not convert {'dear diary'!r} to a number"),
        ValueError("""it says "dear diary, it's me" here"""),
        UnicodeError(b"dear diary"),
        ExceptionGroup("several", [KeyError("dear diary")]),
    ],
)
@pytest.mark.usefixtures("logging_as_it_was")
def test_what_a_fault_quotes_is_not_in_its_traceback(
    form: Literal["json", "console"], fault: Exception, tmp_path: Path
) -> None:
    with (tmp_path / "log").open("wb") as file:
        lines = Lines(file.fileno())
        configure_logs(Settings(log_format=form), lines)
        try:
            try:
                raise fault
            except Exception as error:
                raise RuntimeError("the device caught fire") from error
        except RuntimeError:
            structlog.get_logger().exception("call failed")
        assert lines.settle(SOON_S)
    told = (tmp_path / "log").read_text()
    assert "caught fire" in told
    assert type(fault).__name__ in told
    assert "test_logs.py" in told
    assert "diary" not in told


def test_what_repeats_has_one_entry_per_period_that_says_how_often() -> None:
    now = [0.0]
    repeats = Repeats(10, lambda: now[0])
    assert [repeats.next("a") for _ in range(3)] == [{}, None, None]
    assert repeats.next("b") == {}
    now[0] = 10
    assert [repeats.next("a") for _ in range(2)] == [{"left_out": 2}, None]
    assert repeats.next("b") == {}
