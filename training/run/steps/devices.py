"""Where a run trains: devices, processes, precision and threads, from its settings."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from lightning_fabric import Fabric
from rich.console import Console

from training.errors import ConfigError
from training.settings import Cell, TrainingConfig

SINGLE_THREAD_HIDDEN = 64
BF16_FROM_HIDDEN = 128
"""Narrower cells gain nothing from bf16 on CPUs."""


def fabric_of(config: TrainingConfig) -> Fabric:
    """One device; or, started by ``torchrun``, one per process, which share each batch."""
    cuda = torch.cuda.is_available()
    if config.device == "cuda" and not cuda:
        raise ConfigError("device: there is no CUDA device here; use --device cpu")
    device = ("cuda" if cuda else "cpu") if config.device == "auto" else config.device
    processes = _processes("WORLD_SIZE", 1)
    if processes == 1:
        return Fabric(accelerator=device, devices=1, precision=_precision(config))
    if config.batch % processes:
        raise ConfigError(
            f"batch: {config.batch} rows cannot be shared equally by {processes} processes"
        )
    here = _processes("LOCAL_WORLD_SIZE", processes)
    fabric = Fabric(
        accelerator=device,
        devices=here,
        num_nodes=processes // here,
        strategy="ddp",
        precision=_precision(config),
    )
    fabric.launch()
    return fabric


def _processes(variable: str, otherwise: int) -> int:
    """What ``torchrun`` says in a variable; an empty one says nothing.

    Raises:
        ConfigError: it is no number of processes.
    """
    said = os.environ.get(variable, "").strip()
    if not said:
        return otherwise
    if not (said.isascii() and said.isdigit() and int(said)):
        raise ConfigError(
            f"{variable} is {said!r}: torchrun sets it to a number of processes; unset it"
        )
    return int(said)


def console_of(fabric: Fabric, console: Console | None) -> Console:
    """The terminal, for the first process alone."""
    return console if console is not None and fabric.is_global_zero else Console(quiet=True)


def _precision(config: TrainingConfig) -> Literal["32-true", "bf16-mixed"]:
    if config.precision != "auto":
        return "32-true" if config.precision == "fp32" else "bf16-mixed"
    if config.cell is Cell.RNN or config.hidden < BF16_FROM_HIDDEN:
        return "32-true"
    return "bf16-mixed" if has_fast_bf16(config.device) else "32-true"


def has_fast_bf16(device: str) -> bool:
    """Whether the hardware gains from bf16; ``device`` is auto, cpu or cuda."""
    if device != "cpu" and torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


@contextmanager
def threads_of(config: TrainingConfig) -> Iterator[None]:
    """Use the threads the settings ask for; small networks are faster on one."""
    before = torch.get_num_threads()
    small = config.hidden <= SINGLE_THREAD_HIDDEN
    torch.set_num_threads(config.threads or (1 if small else before))
    try:
        yield
    finally:
        torch.set_num_threads(before)
