"""What errors become on the wire."""

import pytest

from service.auth.principal import Grant, Principal, Quota
from service.engine.quotas.allowance import Allowance
from service.errors import QuotaExceededError
from service.rpc import status


def test_when_to_come_again_is_a_time_however_slow_a_rate_is() -> None:
    quota = Quota(max_steps_per_s=1e-6)
    slow = Allowance(Principal("slow", Grant(quota=quota)), 1, clock=lambda: 0.0)
    slow.charge(10_000_000)  # such as a long forecast: the rest is owed
    with pytest.raises(QuotaExceededError) as caught:
        slow.charge(1)
    assert caught.value.retry_after_s is not None
    assert caught.value.retry_after_s > 1e12
    delay = status.retry_delay(caught.value)
    assert delay is not None
    assert delay.ToTimedelta().days == 366
