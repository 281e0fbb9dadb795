"""The margin of a verdict, in points of accuracy or as a share of what training gains."""

from __future__ import annotations

import math
from dataclasses import dataclass

from studies.errors import StudyError
from studies.formatting import points


@dataclass(frozen=True)
class Margin:
    """Largest loss that still counts as holding up: points of accuracy, or a share of what training gains."""

    points: float | None
    share: float | None = None

    @classmethod
    def parse(cls, value: float | str) -> Margin:
        """A fraction of accuracy such as 0.01, or a share of the training gain such as ``"10%"``.

        Raises:
            StudyError: neither, or not strictly between 0 and 1.
        """
        text = str(value).strip()
        share = text.endswith("%")
        try:
            number = float(text.removesuffix("%")) / (100 if share else 1)
        except ValueError:
            number = math.nan
        if not 0 < number < 1:
            raise StudyError(
                f"margin is {value!r}; give a fraction of accuracy in (0, 1) such as 0.01 (one point), or a share of "
                "what training gains such as 10%"
            )
        return cls(None, number) if share else cls(number)

    @property
    def value(self) -> float | str:
        """What :meth:`parse` reads: a fraction of accuracy, or a share such as ``10%``."""
        return f"{100 * self.share:g}%" if self.share is not None else self.points or 0.0

    @property
    def text(self) -> str:
        """``1 point`` or ``10 % of the training gain``."""
        if self.share is not None:
            return f"{100 * self.share:g} % of what training gains"
        return points(self.points or 0.0)
