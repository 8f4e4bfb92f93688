"""What the card makes of the same arithmetic by itself: torch's cuDNN and its products.

Imported only where there is a card. Knows nothing of Cellar.
"""

from collections.abc import Callable

import torch

from benchmarks.errors import UnmeasuredError
from benchmarks.gpu.timing import median_us

EMBEDDING, LAYERS = 64, 2
PRODUCTS = 20
"""Of one timing: one alone is shorter than what it takes to start it and to wait."""


def time_kernels(hidden: int, *, size: int, times: int) -> dict[str, float]:
    """Microseconds of one LSTM step of a batch, and of one layer's recurrent product.

    Raises:
        UnmeasuredError: this torch cannot use the card.
    """
    if not torch.cuda.is_available():
        raise UnmeasuredError("the torch that is installed sees no GPU")
    found = {}
    _round_factors(False)
    found["cudnn_lstm_step_us"] = median_us(_lstm(hidden, size), times)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        found[f"gemm_{name}_us"] = _product_us(hidden, size, dtype, times)
    _round_factors(True)
    found["gemm_tf32_us"] = _product_us(hidden, size, torch.float32, times)
    _round_factors(False)
    return found


def _lstm(hidden: int, size: int) -> Callable[[], None]:
    network = torch.nn.LSTM(EMBEDDING, hidden, LAYERS).cuda()
    x = torch.randn(1, size, EMBEDDING, device="cuda")  # (time, batch, embedding)
    state = torch.randn(LAYERS, size, hidden, device="cuda")  # (layers, batch, hidden)

    def work() -> None:
        with torch.no_grad():
            network(x, (state, state))
        torch.cuda.synchronize()

    return work


def _product_us(hidden: int, size: int, dtype: torch.dtype, times: int) -> float:
    left = torch.randn(size, hidden, device="cuda", dtype=dtype)
    right = torch.randn(hidden, 4 * hidden, device="cuda", dtype=dtype)

    def work() -> None:
        for _ in range(PRODUCTS):
            torch.matmul(left, right)
        torch.cuda.synchronize()

    return round(median_us(work, times) / PRODUCTS, 1)


def _round_factors(allowed: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


__all__ = ["time_kernels"]
