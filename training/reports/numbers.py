"""How numbers are written for people, on the terminal and on pages."""

import math

MANY_TIMES = 10.0
"""From so many times as much on, nobody counts in per cent."""
LEAST_OFF = 0.01
"""Per cent that are told."""


def percent(share: float, *, digits: int = 1) -> str:
    """A share as per cent; 0 and 100 are written only where they are meant."""
    if not math.isfinite(share):
        return "–"
    if share in (0.0, 1.0):
        return f"{100 * share:.0f} %"
    step = 10.0**-digits
    if 0 < share < 1:
        if 100 * share < step / 2:
            return f"under {step:.{digits}f} %"
        if 100 * (1 - share) < step / 2:
            return f"over {100 - step:.{digits}f} %"
    return f"{100 * share:.{digits}f} %"


def against(own: float, other: float, name: str) -> str:
    """How far a number is from another one that has a name: "1.1 % below the best"."""
    if own == other:
        return f"equal to {name}"
    if other <= 0 or own < 0 or not math.isfinite(own / other):
        return f"{figure(own)} against {figure(other)} of {name}"
    if own / other > MANY_TIMES:
        return f"{own / other:,.0f} times {name}"
    word = "below" if own < other else "above"
    off = 100 * abs(own / other - 1)
    if off < LEAST_OFF:
        return f"less than {LEAST_OFF} % {word} {name}"
    if own < other and off > 100 - LEAST_OFF:
        return f"more than {100 - LEAST_OFF} % {word} {name}"
    # Two digits that count, and of 99.97 % both behind the point: it is not 100 %.
    digits = 2 if off < 1 or 99 < off < 100 else 1 if off < 10 else 0
    return f"{off:.{digits}f} % {word} {name}"


def figure(number: float, *, digits: int = 4) -> str:
    """A number of any size, to so many digits that count."""
    if not math.isfinite(number):
        return "–"
    if number == 0:
        return "0"
    return f"{number:#.{digits}g}".removesuffix(".")


def duration(seconds: float) -> str:
    """Seconds, minutes or hours: 0.4 s, 19 s, 3.2 min, 45 min, 2 h 5 min."""
    if seconds < 120:
        return f"{seconds:.{0 if seconds >= 10 else 1}f} s"
    if seconds < 600:
        return f"{seconds / 60:.1f} min"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
