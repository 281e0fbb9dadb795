"""What the report says in words and small tables besides the verdict: comparisons, measures, the papers' numbers."""

from __future__ import annotations

from collections.abc import Sequence

from studies.formatting import in_points, interval, percent
from studies.literature.published_regret import judge_published
from studies.statistics.contrasts import Contrast, comparison_sentences
from studies.views.extra_metrics import MeasureRow, is_accuracy, measure_names
from studies.views.wording import method_name


def published_rows() -> list[tuple[str, ...]]:
    """Per published curve: data set, method, default, best, difference, and the noise that would explain it."""
    return [
        (
            row["dataset"],
            method_name(row["method"]),
            percent(row["default_ratio"]),
            percent(row["best_ratio"]),
            in_points(row["naive_regret"]),
            in_points(row["noise_to_explain"]),
        )
        for row in judge_published()
        if row["method"] in ("pmae", "mae")
    ]


def contrast_rows(found: Sequence[Contrast]) -> list[tuple[str, ...]]:
    """Rows of comparison, value, best ratio, accuracy, difference to the reference with its bounds, seeds."""
    return [
        (
            c.subject,
            c.value,
            percent(c.ratio),
            f"{100 * c.accuracy:.1f}",
            "reference" if c.difference is None else in_points(c.difference, True),
            interval(c.low, c.high, True),
            str(c.seeds),
        )
        for c in found
    ]


def measure_table(rows: list[MeasureRow]) -> tuple[list[str], list[tuple[str, ...]]] | None:
    """Headings and rows of everything measured, means over seeds; None where nothing was."""
    if not rows:
        return None
    names = measure_names(rows)
    titles = [name.replace("_", " ") + (" (%)" if is_accuracy(name) else "") for name in names]
    headings = ["data set", "setting", "masked", "split", "seeds", *titles]
    cells = [
        (
            row.setting.dataset,
            row.label.replace(" ", "\u00a0"),
            percent(row.ratio),
            row.split,
            str(row.seeds),
            *(_measured(name, row.values.get(name)) for name in names),
        )
        for row in rows
    ]
    return headings, cells


def _measured(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.1f}" if is_accuracy(name) else f"{value:.4g}"


def own_answer(found: Sequence[Contrast], shapes: Sequence[str]) -> str:
    """What a study of another question than the default found: its comparisons, the curves' shapes."""
    return " ".join([*comparison_sentences(found), *shapes]) or "No answer yet."
