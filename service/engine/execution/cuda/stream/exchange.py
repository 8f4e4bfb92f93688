"""The memory that runs are given and found in: on the device once, on the host for each of two.

While the device works on one run, the host prepares the next one. The device's memory is there
once, since it takes one run after the other: a copy to it waits on the stream for the run before.
"""

import numpy as np

from service.engine.execution.cuda.stream.transfers import Bytes, Transfers, open_transfers
from service.engine.execution.runtime import Block, Place

AT_ONCE = 2
"""Runs that may be under way."""


class Flight:
    """One of the runs that may be under way."""

    def __init__(self, number: int, event: int) -> None:
        self.number = number
        self.event = event
        self.is_open = False  # it was taken, and has not departed
        self.is_under_way = False
        self.is_held = False  # somebody will look at what it brings


class Exchange:
    """A runner's stream, and who has it.

    Raises:
        DeviceError: CUDA's runtime cannot be found.
        CudaError: it does not work.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.transfers: Transfers = open_transfers(place)
        self.flights = tuple(Flight(number, self.transfers.event()) for number in range(AT_ONCE))
        self._turn = list(self.flights)

    @property
    def stream(self) -> int | None:
        """What to open sessions with."""
        return self.transfers.stream

    def take(self) -> Flight:
        """The flight of the next run: its memory on the host may be written to.

        Raises:
            CudaError: the last run that had it was never waited for, and has failed.
        """
        flight, *others = self._turn
        if flight.is_held:
            flight = next(own for own in others if not own.is_held)
            others = [own for own in self._turn if own is not flight]
        self._turn = [*others, flight]  # the one that has waited longest is the next
        if flight.is_open:  # that run failed midway: copies may be queued all the same
            self.depart(flight)
        if flight.is_under_way:
            self.land(flight)
        flight.is_open = True
        return flight

    def depart(self, flight: Flight) -> None:
        """All of a run is queued.

        Raises:
            CudaError: the end of it could not be marked.
        """
        self.transfers.mark(flight.event)
        flight.is_open, flight.is_under_way = False, True

    def land(self, flight: Flight) -> None:
        """Wait for the end of a run.

        Raises:
            CudaError: it has failed, or one before it.
        """
        flight.is_under_way = flight.is_held = False
        self.transfers.wait(flight.event)

    def has_landed(self, flight: Flight) -> bool:
        """Whether `land` would not wait; also where it would fail."""
        return self.transfers.is_reached(flight.event)


class Region:
    """A block of the device, with memory of the same layout on the host for each flight.

    Raises:
        MemoryError: the device has not that much.
    """

    def __init__(self, exchange: Exchange, size: int) -> None:
        self.block = Block(exchange.place, (size,), np.uint8)
        self._address = self.block.view().address
        self._transfers = exchange.transfers
        self._hosts: list[Bytes | None] = [None] * AT_ONCE
        self._addresses = [0] * AT_ONCE

    def host(self, flight: Flight) -> Bytes:
        """The host's memory for a run; it is taken when it is first wanted."""
        memory = self._hosts[flight.number]
        if memory is None:
            memory = self._transfers.pinned(self.block.shape[0])
            self._hosts[flight.number] = memory
            self._addresses[flight.number] = memory.ctypes.data
        return memory

    def upload(self, flight: Flight, start: int, stop: int) -> None:
        """Queue a copy of some bytes to the device; `host` was asked for them."""
        source = self._addresses[flight.number] + start
        self._transfers.to_device(self._address + start, source, stop - start)

    def download(self, flight: Flight, start: int, stop: int) -> None:
        """Queue a copy of some bytes to the host; `host` was asked for them."""
        target = self._addresses[flight.number] + start
        self._transfers.to_host(target, self._address + start, stop - start)
