"""Numbers and methods in words: every accuracy, ratio, bound and duration that is shown is formatted here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

METHOD_NAMES = {"pmae": "PMAE", "mae": "MAE", "untrained": "untrained encoder", "pixels": "raw pixels"}
SHARE_OF = {"pmae": "of the variance", "mae": "of the patches"}


def method_name(method: str) -> str:
    """The method's name as the papers write it."""
    return METHOD_NAMES.get(method, method)


def share_of(method: str) -> str:
    """``of the variance`` or ``of the patches``."""
    return SHARE_OF.get(method, "")


def is_number(value: float | None) -> bool:
    """Whether there is a value, and a finite one."""
    return value is not None and math.isfinite(value)


def ratio_list(ratios: Iterable[float]) -> str:
    """``5, 10 and 35 %``."""
    numbers = [_in_percent(ratio) for ratio in ratios]
    return " and ".join(filter(None, (", ".join(numbers[:-1]), *numbers[-1:]))) + " %"


def percent(fraction: float) -> str:
    """``20 %``, ``87.5 %``: whole where that is within 0.15 of it, since achieved ratios scatter by that much."""
    return f"{_in_percent(fraction)} %"


def _in_percent(fraction: float) -> str:
    value = 100 * fraction
    return f"{value:.0f}" if abs(value - round(value)) < 0.15 and value >= 1 else f"{value:.3g}"


def accuracy(fraction: float | None) -> str:
    """``75.9 %``; empty where there is none."""
    return f"{100 * fraction:.1f} %" if fraction is not None and is_number(fraction) else ""


def in_points(fraction: float | None, signed: bool = False) -> str:
    """``0.3``: points of accuracy with one decimal, without a sign on zero; empty where there is none."""
    if fraction is None or not is_number(fraction):
        return ""
    value = round(100 * fraction, 1) + 0.0
    return f"{value:+.1f}" if signed and value else f"{value:.1f}"


def points(fraction: float) -> str:
    """``0.3 points``, ``1 point``, ``2 points``."""
    value = in_points(fraction).removesuffix(".0")
    return f"{value} point" if value == "1" else f"{value} points"


def at_most(fraction: float) -> str:
    """An upper bound in points, rounded up: 1.02 is ``1.1 points``, since ``1 point`` would promise too much."""
    return points(_rounded(fraction, math.ceil))


def at_least(fraction: float) -> str:
    """A lower bound in points, rounded down."""
    return points(_rounded(fraction, math.floor))


def interval(low: float | None, high: float | None, signed: bool = False) -> str:
    """``-0.4 to 1.1``, in points of accuracy, rounded outwards; empty where a bound is missing."""
    if low is None or high is None or not (is_number(low) and is_number(high)):
        return ""
    return f"{in_points(_rounded(low, math.floor), signed)} to {in_points(_rounded(high, math.ceil), signed)}"


def _rounded(fraction: float, to_integer: Callable[[float], int]) -> float:
    return to_integer(round(1000 * fraction, 6)) / 1000


def count(number: int, noun: str) -> str:
    """``1 seed``, ``5 seeds``, ``1,295 images``."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def duration(seconds: float) -> str:
    """``45 s``, ``3 min``, ``2 h 10 min`` or ``3 days``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{round(hours / 24)} days"
