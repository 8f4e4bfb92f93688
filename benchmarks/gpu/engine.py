"""The parts of the server that are examined. The one place here that knows where they are."""

from service.engine.execution.cpu.runner import CpuRunner
from service.engine.execution.cuda.runner import CudaRunner
from service.engine.execution.devices import choose
from service.engine.execution.runtime import CPU, DeviceError, Place
from service.engine.work.columns import Outputs
from service.engine.work.sampling import Draws, Sampling

__all__ = [
    "CPU",
    "CpuRunner",
    "CudaRunner",
    "DeviceError",
    "Draws",
    "Outputs",
    "Place",
    "Sampling",
    "choose",
]
