"""What the report says in words and small tables: the verdict's rows, its aggregates, the shapes of the curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from studies.contrasts import Contrast, comparison_sentences
from studies.curves import RatioCurve, Setting, setting_labels
from studies.measures import MeasureRow, is_accuracy, measure_names
from studies.plateaus import Plateau
from studies.published import published_curves, published_trials
from studies.sentences import in_points, method_name, percent, points, row_sentence

KINDS = {"default": "the question", "rival": "a rival default", "mae_default": "MAE's default"}


@dataclass(frozen=True)
class VerdictRow:
    """One row of the verdict, ready to print."""

    dataset: str
    setting: str
    kind: str
    default: str
    best: str
    regret: str
    low: str
    high: str
    verdict: str
    seeds: str
    needed: str
    sentence: str


def numbers_of(curves: Sequence[RatioCurve]) -> tuple[tuple[str, ...], ...]:
    """Rows of setting, ratio, mean, interval and seeds for every confirmed point of ``curves``."""
    return tuple(
        (
            curve.label,
            percent(point.ratio),
            f"{100 * point.mean:.2f}",
            "" if point.interval is None else f"{100 * point.interval[0]:.2f} to {100 * point.interval[1]:.2f}",
            str(point.seeds),
        )
        for curve in curves
        for point in curve.confirmed
    )


def verdict_rows(verdict: dict[str, Any]) -> list[VerdictRow]:
    """The verdict's rows in its order, numbers in points of accuracy."""
    rows = verdict["rows"]
    settings = [Setting.of(row) for row in rows]
    labels = setting_labels(settings)
    return [
        VerdictRow(
            dataset=setting.dataset,
            setting=labels[setting],
            kind=KINDS.get(str(row.get("kind")), str(row.get("kind") or "")),
            default=percent(row["default_ratio"]),
            best="" if row.get("best_ratio") is None else percent(row["best_ratio"]),
            regret=_in_points(row.get("regret")),
            low=_in_points(row.get("ci_low")),
            high=_in_points(row.get("ci_high")),
            verdict=str(row.get("verdict") or "not known"),
            seeds=_count(row.get("seeds")),
            needed=_count(row.get("seeds_needed")),
            sentence=row_sentence(row),
        )
        for row, setting in zip(rows, settings, strict=True)
    ]


def aggregate_rows(verdict: dict[str, Any]) -> list[tuple[str, ...]]:
    """What holds over all comparisons of each default: its name, verdict, comparisons, typical regret, chance."""
    overall = verdict.get("overall") or {}
    named = [(f"the question ({_default_of(verdict, 'default')})", overall)]
    named += [(f"MAE's default ({_default_of(verdict, 'mae_default')})", overall.get("mae_default") or {})]
    named += [(f"a rival default ({percent(r['default_ratio'])})", r) for r in overall.get("rivals") or []]
    return [
        (
            name,
            str(joint["verdict"]),
            str(joint["comparisons"]),
            f"{in_points(joint['iqm'])} ({in_points(joint['iqm_low'])} to {in_points(joint['iqm_high'])})",
            percent(joint["probability_within_margin"]),
        )
        for name, joint in named
        if joint.get("iqm") is not None
    ]


def published_rows() -> list[tuple[str, ...]]:
    """The papers' curves through the same judge: data set, method, default, best, difference, what may be concluded."""
    from studies.verdict import judge

    curves: dict[tuple[str, str], dict[float, float]] = {}
    for point in published_curves():
        curves.setdefault((point.dataset, point.method), {}).setdefault(point.ratio, point.accuracy)
    rows: list[tuple[str, ...]] = []
    for row in judge(published_trials()).to_dict()["rows"]:
        curve = curves[row["dataset"], row["method"]]
        if row["kind"] == "rival":
            continue
        best = max(curve, key=lambda ratio: curve[ratio])
        lost = in_points(curve[best] - curve[round(row["default_ratio"], 6)])
        outcome = row["verdict"] if row["regret"] is not None else f"nothing: {row['reason']}"
        rows.append(
            (row["dataset"], method_name(row["method"]), percent(row["default_ratio"]), percent(best), lost, outcome)
        )
    return rows


def contrast_rows(found: Sequence[Contrast]) -> list[tuple[str, ...]]:
    """Rows of comparison, value, best ratio, accuracy, difference to the reference with its bounds, seeds."""
    return [
        (
            c.subject,
            c.value,
            percent(c.ratio),
            f"{100 * c.accuracy:.2f}",
            "reference" if c.difference is None else _in_points(c.difference),
            "" if c.low is None or c.high is None else f"{_in_points(c.low)} to {_in_points(c.high)}",
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
    return f"{100 * value:.2f}" if is_accuracy(name) else f"{value:.4g}"


def own_answer(found: Sequence[Contrast], fitted: Sequence[Plateau]) -> str:
    """What a study of another question than the default found: its comparisons, the curves' shape."""
    tested = [p for p in fitted if p.shape is not None]
    shown = sum(p.shape is not None and p.shape.p_value < 0.05 for p in tested)
    shape = f"Accuracy over the ratio is an inverted U for {shown} of {len(tested)} tested (two-lines test, p < 0.05)."
    return " ".join([*comparison_sentences(found), *([shape] if tested else [])]) or "No answer yet."


def shape_sentence(plateau: Plateau) -> str:
    """Whether accuracy over the ratio is an inverted U, as the theory has it (Kong et al. 2023), and the plateau."""
    fit, shape = plateau.fit, plateau.shape
    where = f"{plateau.setting.dataset}, {plateau.label}"
    reach = f"from {percent(fit.plateau_low)} to {percent(fit.plateau_high)}"
    wide = f"within {points(fit.margin)} of the best {reach}"
    if shape is None:
        return f"{where}: {wide}; too few trials to test for an inverted U."
    found = "an inverted U" if shape.p_value < 0.05 else "an inverted U is not shown"
    return f"{where}: {wide}; {found} (two-lines test, p = {shape.p_value:.2g})."


def _default_of(verdict: dict[str, Any], kind: str) -> str:
    return next((percent(row["default_ratio"]) for row in verdict["rows"] if row.get("kind") == kind), "not judged")


def _in_points(value: float | None) -> str:
    if value is None:
        return ""
    text = f"{100 * value:.2f}"
    return "0.00" if text == "-0.00" else text


def _count(value: Any) -> str:
    return "" if value is None else str(value)
