"""Which ends are ends: those that docs/errors.md names, and no others."""

import re
from dataclasses import dataclass

from benchmarks.fuzz.messages.cases import METHODS, Case
from benchmarks.fuzz.senders.calls import Code, Outcome
from cellar.v1 import errors_pb2

OURS = frozenset(each.containing_service.full_name for each in METHODS)
"""Services whose errors carry a reason."""
_REASONS = frozenset(
    name.removeprefix("ERROR_REASON_")
    for name, number in errors_pb2.ErrorReason.items()
    if number != errors_pb2.ERROR_REASON_UNSPECIFIED
)
_NEVER = frozenset({"INTERNAL", "STATE_LOST", "DRAINING", "LOADING", "CANCELLED"})
"""Reasons that no caller may bring about."""
_DOCUMENTED = frozenset(
    {
        Code.OK,
        Code.INVALID_ARGUMENT,
        Code.NOT_FOUND,
        Code.ALREADY_EXISTS,
        Code.ABORTED,
        Code.FAILED_PRECONDITION,
        Code.RESOURCE_EXHAUSTED,
    }
)
_OF_THE_CALLER = frozenset({Code.CANCELLED, Code.DEADLINE_EXCEEDED})
_OF_GRPC = frozenset({Code.UNIMPLEMENTED, Code.NOT_FOUND, Code.OK, Code.INVALID_ARGUMENT})


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that should not be.

    Attributes:
        what: the kind of fault, the same for all of its kind.
        where: the method, or the part of the server.
        how: how to see it again, or what else is known.
    """

    what: str
    where: str
    how: str


def findings(case: Case, outcome: Outcome) -> list[Finding]:
    """What is wrong with the way a case ended."""
    ours = case.method.containing_service.full_name in OURS
    faults = list(outcome.faults)
    if outcome.code is None:
        faults.append("the call has no end")
    elif not (outcome.left and outcome.code in _OF_THE_CALLER):
        documented = _DOCUMENTED if ours else _OF_GRPC
        # Another caller may have settled the session: that ends its generations.
        settled = case.method.name == "Generate" and outcome.reason == "CANCELLED"
        if not settled and (outcome.code not in documented or outcome.reason in _NEVER):
            faults.append(f"{outcome.code.name}: {_general(outcome.message)}")
        elif ours and outcome.code is not Code.OK and outcome.reason not in _REASONS:
            faults.append(f"{outcome.code.name} without a reason: {_general(outcome.message)}")
        if case.kind == "large" and _is_refusal_of_size(outcome):
            faults = []
    how = f"--case {case.key} ({case.kind}, {len(case.messages)} sent)"
    return [Finding(fault, case.method.name, how) for fault in faults]


def is_counted(case: Case, outcome: Outcome) -> bool:
    """Whether the server has surely seen this call, so that its metrics must know it."""
    ours = case.method.containing_service.full_name in OURS
    return ours and not outcome.left and (outcome.code is Code.OK or outcome.reason is not None)


def _is_refusal_of_size(outcome: Outcome) -> bool:
    return outcome.code is Code.RESOURCE_EXHAUSTED and "larger than max" in outcome.message


def _general(message: str) -> str:
    """A message without what differs from case to case."""
    return re.sub(r"'[^']*'|\d+", "…", message)[:120]


__all__ = ["OURS", "Finding", "findings", "is_counted"]
