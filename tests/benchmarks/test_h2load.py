"""What h2load is asked, and what is read of its words."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from benchmarks.errors import UnmeasuredError
from benchmarks.h2load.tool import Tool, drive, framed
from cellar.v1 import session_pb2
from service.errors import OverloadedError
from service.rpc.status import to_status

SAYS = """#!/bin/sh
for each in "$@"; do
  case "$each" in
    --log-file=*) log=${each#--log-file=} ;;
    --rps=*) test "${each#--rps=}" = 50 || exit 3 ;;
  esac
done
printf '1\\t200\\t1000\\n2\\t200\\t3000\\n' > "$log"
cat <<'END'
[stream_id=1] :status: 200
[stream_id=1] content-type: application/grpc
[stream_id=3] :status: 200
[stream_id=3] grpc-status: 8
[stream_id=3] grpc-status-details-bin: DETAILS
[stream_id=3] grpc-message: the queue holds 200000 steps
requests: 4 total, 5 started, 3 done, 3 succeeded, 0 failed, 0 errored, 0 timeout
END
"""


@pytest.fixture
def tool(tmp_path: Path) -> Tool:
    program = tmp_path / "h2load"
    status = to_status(OverloadedError("the queue is full")).SerializeToString()
    details = base64.b64encode(status).decode().rstrip("=")
    program.write_text(SAYS.replace("DETAILS", details))
    program.chmod(0o755)
    return Tool(str(program), os.environ)


def test_a_message_is_framed() -> None:
    message = session_pb2.GetSessionRequest(session_id="abc")
    assert framed(message) == b"\0\0\0\0\5" + message.SerializeToString()


def test_answers_are_counted_by_status(tool: Tool, tmp_path: Path) -> None:
    heard = drive(tool, "http://x", [b"", b""], seconds=1, folder=tmp_path, rate=100)
    assert heard.started == 10
    assert dict(heard.ends) == {"RESOURCE_EXHAUSTED": 2, "OK": 4}
    assert heard.answered == 6
    assert heard.retryable == 2
    assert dict(heard.messages) == {"the queue holds … steps": 2}
    assert heard.percentile(50) == pytest.approx(2.0)


def test_a_tool_that_fails_is_no_measurement(tool: Tool, tmp_path: Path) -> None:
    with pytest.raises(UnmeasuredError, match="status 3"):
        drive(tool, "http://x", [b""], seconds=1, folder=tmp_path, rate=100)
