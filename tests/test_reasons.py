"""Wherever reasons of failures are kept, they are those of ``ErrorReason``: no more, no fewer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import grpc
import pytest

from cellar import errors as client_errors
from cellar.calls import status as client_status
from cellar.v1 import errors_pb2, session_pb2
from service import errors
from service.rpc import status
from tests import reasons
from tests.client.test_session import KINDS
from tests.reasons import ROOT

REASONS = reasons.read()
PREFIX = "ERROR_REASON_"


def kinds(root: type[errors.CellarError]) -> Iterator[type[errors.CellarError]]:
    """The errors below a root."""
    for kind in root.__subclasses__():
        if kind.__module__ == errors.__name__:
            yield kind
            yield from kinds(kind)


def test_the_enum_is_what_its_comments_are_about() -> None:
    enum = {name: number for name, number in errors_pb2.ErrorReason.items() if number}
    assert {PREFIX + each.name: each.number for each in REASONS} == enum
    assert all(each.words.endswith(".") for each in REASONS)


def test_the_server_has_one_error_for_each_reason() -> None:
    assert Counter(kind.reason for kind in kinds(errors.CellarError)) == Counter(
        each.name for each in REASONS
    )


@pytest.mark.parametrize("reason", REASONS, ids=lambda each: each.name)
def test_server_and_client_agree_on_a_reason(reason: reasons.Reason) -> None:
    kind = next(kind for kind in kinds(errors.CellarError) if kind.reason == reason.name)
    error = kind.__new__(kind)
    assert status.code_of(error).name == reason.status
    assert status.code_number(error) == grpc.StatusCode[reason.status].value[0]
    # A code that says nothing, so that only the reason can have told.
    row = session_pb2.RowError(reason=reason.name, code=grpc.StatusCode.UNKNOWN.value[0])
    found = client_status.from_row(row)
    assert found.reason == reason.name
    if reason.name not in ("CANCELLED", "REPLY_LOST"):  # rows have server errors only
        assert type(found) not in (client_errors.ServerError, client_errors.CellarError)


def test_the_tables_hold_nothing_else() -> None:
    names = {each.name for each in REASONS}
    assert set(client_status._BY_REASON) == set(status._CODES_BY_NAME) == names
    # Statuses of other values would be lines that nothing reads.
    assert set(client_status._KINDS) == set(status._CODES) == {each.number for each in REASONS}
    assert set(KINDS) == names - {"CANCELLED"}


def test_the_page_has_the_table_of_the_proto() -> None:
    shown = reasons.PAGE.read_text("utf-8")
    assert shown == reasons.page(), "mend it with: make proto"
    assert shown.count("\n| `") == len(REASONS)


def test_no_other_module_of_the_server_names_a_status_code() -> None:
    naming = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "service").rglob("*.py")
        if re.search(r"\bStatusCode\b", file.read_text("utf-8"))
    }
    assert naming == {"service/rpc/status.py"}
