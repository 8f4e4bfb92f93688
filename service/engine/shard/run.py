"""A run: a batch, and what becomes of it."""

from dataclasses import dataclass, field

from service.engine.execution.ahead.steps import Answered, BegunSteps
from service.engine.work.batch import Batch
from service.engine.work.columns import Ints
from service.engine.work.request import Request


@dataclass(slots=True, eq=False, kw_only=True)
class Run:
    """A batch from when it is chosen until its callers are answered."""

    batch: Batch
    request: Request | None = None  # it is all of the batch, and applies its steps
    answers: list[Answered] = field(default_factory=list)  # of each part
    positions: list[Ints] = field(default_factory=list)  # of each part, that its replies tell
    fault: Exception | None = None
    """It failed: what it writes is in doubt, unless it is an `UnwrittenError`; of one row then."""
    pieces: "list[Run]" = field(default_factory=list)  # what became of its rows, if it failed so
    lost: bool = False  # it failed, and so will all others: the device is gone
    is_settled: bool = False  # its sessions have moved, or are marked as lost
    begun: BegunSteps | None = None  # it is under way, and will be finished
    began_s: float = 0.0
    seconds: float = 0.0
