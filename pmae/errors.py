"""Errors shown to users: user mistakes are ValueErrors, a diverged training is a :class:`DivergedError`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class ConfigError(ValueError):
    """A setting that cannot work. The message names the value, what is allowed and the way out."""


class DataError(ValueError):
    """Images, labels or files that cannot be used. The message names the file or value and the way out."""


class DivergedError(ArithmeticError):
    """The loss stopped being finite in ``epoch``, at optimizer ``step`` (both from 0, over the whole training).

    ``history`` has the entries of the epochs before, see :class:`pmae.training.loop.Training`.
    """

    def __init__(self, epoch: int, step: int, value: float, history: Iterable[dict[str, Any]] = ()) -> None:
        self.epoch, self.step, self.value, self.history = epoch, step, value, list(history)
        super().__init__(
            f"the training loss became {value} at step {step} (epoch {epoch}); "
            "try a lower learning_rate, a longer warm-up, clip_grad_norm=1.0 or precision='fp32'"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # The default would call __init__ with the message alone when the error crosses processes.
        return type(self), (self.epoch, self.step, self.value, self.history)


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """``" (did you mean 'x'?)"`` when an allowed name is close to ``name``, else an empty string."""
    close = difflib.get_close_matches(name, list(allowed), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
