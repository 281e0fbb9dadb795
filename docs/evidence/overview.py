"""One Markdown page about several studies: verdicts, means over data sets, PMAE against MAE, noise, costs.

    python docs/evidence/overview.py runs --out overview.md

All intervals are two-sided 95 % Student intervals, each by itself. Over data sets the data set is the unit (random
effects), over seeds the seed is. Nothing here decides a verdict.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studies.errors import StudyError, StudyWriteError
from studies.figures.palette import GREEN, INK, MUTED, PAPER, VERDICT_COLORS
from studies.figures.style import PAGE, SMALL, as_bytes, paper_style, percent_ticks, place_inches, spread, subtitle
from studies.formatting import (
    METHOD_NAMES,
    accuracy,
    at_most,
    duration,
    in_points,
    interval,
    method_name,
    percent,
    ratio_list,
    share_of,
)
from studies.records import Study, read_studies
from studies.report.sections import published_rows
from studies.statistics.pairing import pair_trials, setting_name
from studies.statistics.ratio_curves import DEFAULT_RATIOS, RungPoint, Setting, ratio_curves, student_interval
from studies.statistics.regret import estimate_noise
from studies.storage.atomic import write_file
from studies.storage.rows import VerdictRow
from studies.storage.tables import rows_of, with_column
from studies.verdict import current_verdict
from studies.views.wording import judged_rows, row_label

STYLES = ("-", ":", "-.", "--")  # of the studies of one data set
COLORS = ("#0072b2", "#d55e00", "#007a5a", "#b07800", "#8a4f9e", "#5d6570")  # Okabe & Ito (2008), darkened
Line = tuple[str, str]  # color and style
LEFT, GAP, TOP, BOTTOM, HEIGHT = 0.42, 0.5, 0.34, 0.44, 2.1  # inches
Judged = list[tuple[Study, VerdictRow]]


def write_overview(paths: Iterable[Path | str], out: Path | str) -> list[Path]:
    """Write the Markdown page to ``out`` and its figure next to it, as PNG and SVG; returns the files written.

    Raises:
        StudyError: No study is found, or none has confirmed trials of a default ratio and of another one.
        StudyWriteError: A file cannot be written.
    """
    studies, out = read_studies(paths), Path(out)
    judged = [(study, row) for study in studies for row in judged_rows(current_verdict([study])) if row["rungs"]]
    if not judged:
        raise StudyError("none of these studies has confirmed trials of a default ratio and of another one")
    with paper_style():
        figure = _overview_figure([row for _, row in judged])
        files = {out.with_suffix(f".{kind}"): as_bytes(figure, kind) for kind in ("png", "svg")}
    figure_name = out.with_suffix(".svg").name
    blocks = ["# What the studies say", f"![Difference to the default over the achieved ratio]({figure_name})"]
    questions = {(row["method"], row["default_ratio"]) for _, row in judged}
    for method, default in sorted(questions, key=lambda q: (q[0] != "pmae", q)):
        asked = [(study, row) for study, row in judged if (row["method"], row["default_ratio"]) == (method, default)]
        blocks += _verdicts(method, default, asked)
    blocks += _published({row["dataset"] for _, row in judged})
    blocks += [*_methods(studies), *_noise(studies), *_costs(studies)]
    files[out] = ("\n\n".join(blocks) + "\n").encode()
    for path, content in files.items():
        write_file(path, content)
    return list(files)


def _verdicts(method: str, ratio: float, judged: Judged) -> list[str]:
    found, default = Counter(row["verdict"] for _, row in judged), percent(ratio)
    every = [row for _, row in judged]
    counts = ", ".join(f"{word} on {found[word]}" for word in VERDICT_COLORS if found[word])
    rows = []
    for study, row in judged:
        patch = row_label(row, every).partition(", ")[2].removeprefix("patch ")
        train = (study.plan.get("dataset") or {}).get("train")
        judged_at_all = row["verdict"] != "uninformative"
        most = at_most(row["ci_high"]) if judged_at_all and row["ci_high"] is not None else ""
        best = [rung["ratio"] for rung in row["rungs"] if rung["may_be_best"] and judged_at_all]
        scores = *(rung["accuracy"] for rung in row["rungs"] if rung["is_default"]), row["untrained"], row["pixels"]
        cells = study.name, patch, f"{train:,}" if train else "", row["verdict"], most, ratio_list(best) if best else ""
        rows.append([*cells, *map(accuracy, scores), in_points(row["training_gain"])])
    head = ["study", "patch", "training images", "verdict", f"{default} loses at most", "may be the best",
            f"accuracy at {default}", "untrained", "raw pixels", "training adds"]  # fmt: skip
    blocks = [f"## {method_name(method)}: is {default} good enough?", f"Verdicts: {counts}.", _table(head, rows)]
    informative = [row for _, row in judged if row["verdict"] != "uninformative"]
    means = mean_differences(informative)
    if means:
        blocks += [
            "Mean over the informative studies of the accuracy at a ratio minus that at the default, in points, with "
            "its interval over data sets (95 % each). It describes these data sets, which are not a random sample.",
            _table(["masked", "mean difference", "interval", "data sets"],
                   [[percent(r), in_points(m.value, True), _interval(m), str(m.count)] for r, m in means.items()]),
        ]  # fmt: skip
    return blocks


def _published(datasets: set[str | None]) -> list[str]:
    rows = [row for row in published_rows() if row[0] in datasets]
    if not rows:
        return []
    head = ["data set", "method", "default", "best", "regret, points", "noise that explains it, points"]
    return [
        "## What the papers' curves allow",
        "They have one run per point, so no interval or verdict can be computed from them. The best of several "
        "noisy accuracies lies above the default's even where all ratios are equal; the last column is the standard "
        "deviation of a run at which equal ratios would show this regret on average.",
        _table(head, rows),
    ]


def _methods(studies: Sequence[Study]) -> list[str]:
    rows = []
    for row in compare_methods(studies):
        costs = *map(str, row.epochs), *map(duration, row.seconds)
        difference = in_points(row.difference.value, True), _interval(row.difference), str(row.difference.count)
        rows.append([row.dataset, str(row.patch_size or ""), *costs, *map(accuracy, row.accuracies), *difference])
    if not rows:
        return []
    head = ["data set", "patch", "PMAE epochs", "MAE epochs", "PMAE trial", "MAE trial", "PMAE accuracy",
            "MAE accuracy", "MAE minus PMAE, points", "interval", "seeds"]  # fmt: skip
    return [
        "## PMAE against MAE",
        "PMAE at 20 % of the variance and MAE at 75 % of the patches, paired by seed, with a 95 % interval each. The "
        "time is that of the median trial; other work on the machine makes it longer.",
        _table(head, rows),
    ]


def _noise(studies: Sequence[Study]) -> list[str]:
    rows = []
    for study in studies:
        for row in measure_noise(study):
            deviations = f"{100 * row.run:.2f}", f"{100 * row.difference:.2f}"
            rows.append([study.name, row.setting, row.probe, str(row.trials), *deviations])
    return [
        "## Noise",
        "Standard deviations over seeds in points: of the accuracy of a run, and of the difference of two ratios with "
        "the same seed.",
        _table(["study", "setting", "probe", "trials", "run", "paired difference"], rows),
    ]


def _costs(studies: Sequence[Study]) -> list[str]:
    rows = []
    for study in studies:
        seconds = pc.sum(study.trials["seconds"]).as_py() or 0.0
        version = study.plan.get("code_version") or ""
        command = f"`{study.plan.get('command') or ''}`"
        rows.append([study.name, f"{study.trials.num_rows:,}", duration(seconds), command, version])
    return ["## Costs", "Time is the sum over trials.", _table(["study", "trials", "time", "command", "code"], rows)]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ([cell.replace("|", "\\|") for cell in cells] for cells in (head, ["---"] * len(head), *rows))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _interval(mean: Mean) -> str:
    return interval(mean.low, mean.high, True)


def _overview_figure(rows: Sequence[VerdictRow]) -> Figure:
    """Differences to the default over the ratio: a panel per method, a color per data set, a line per study."""
    methods = [method for method in METHOD_NAMES if any(row["method"] == method for row in rows)]
    lines = _lines(rows)
    right = 0.4 + 0.052 * max(map(len, lines))
    width = (PAGE - LEFT - right - GAP * (len(methods) - 1)) / len(methods)
    figure = Figure(figsize=(PAGE, TOP + HEIGHT + BOTTOM))
    values = [100 * (rung["difference"] or 0.0) for row in rows for rung in row["rungs"]]
    low, high = min(values), max(values)
    edge = 0.08 * max(high - low, 1.0)
    for place, method in enumerate(methods):
        axes = place_inches(figure, LEFT + place * (width + GAP), BOTTOM, width, HEIGHT)
        axes.set_ylim(low - edge, high + edge)
        shown = [row for row in rows if row["method"] == method]
        _draw_method(axes, shown, [lines[_label(row, rows)] for row in shown])
        if place == len(methods) - 1:
            _draw_legend(axes, lines, any(row["verdict"] == "uninformative" for row in rows))
    return figure


def _draw_method(axes: Axes, rows: Sequence[VerdictRow], lines: Sequence[Line]) -> None:
    method = rows[0]["method"]
    axes.set_title(METHOD_NAMES[method], pad=13)
    subtitle(axes, "accuracy minus that of the default, points")
    axes.set_xlim(0, 1)
    percent_ticks(axes.xaxis)
    axes.set_xlabel(f"achieved masked share {share_of(method)}".rstrip())
    axes.axhline(0, color=INK, lw=0.7, zorder=1)
    margins = {row["margin"] for row in rows}
    if len(margins) == 1 and (margin := margins.pop()) is not None:
        axes.axhspan(0, 100 * margin, color=GREEN, alpha=0.13, lw=0, zorder=0)
    for row, (color, style) in zip(rows, lines, strict=True):
        rungs = [rung for rung in row["rungs"] if rung["difference"] is not None or rung["is_default"]]
        x, y = [rung["ratio"] for rung in rungs], [100 * (rung["difference"] or 0.0) for rung in rungs]
        face, edge = (PAPER, color) if row["verdict"] == "uninformative" else (color, PAPER)
        axes.plot(x, y, color=color, ls=style, marker="o", ms=3.6, mfc=face, mec=edge, mew=0.5)


def _draw_legend(axes: Axes, lines: Mapping[str, Line], hollow: bool) -> None:
    places = spread([1 - 0.1 * k for k in range(len(lines) + 1)], 0.08, 0.0, 0.98)
    for place, (label, (color, style)) in zip(places, lines.items(), strict=False):
        axes.plot([1.03, 1.13], [place] * 2, color=color, ls=style, transform=axes.transAxes, clip_on=False)
        axes.text(1.16, place, label, transform=axes.transAxes, fontsize=SMALL, va="center", color=color)
    if hollow:
        axes.text(1.03, places[-1], "hollow: uninformative", transform=axes.transAxes, fontsize=SMALL, va="center",
                  color=MUTED)  # fmt: skip


def _lines(rows: Sequence[VerdictRow]) -> dict[str, Line]:
    """Color and style of every label."""
    by_set: dict[str | None, list[str]] = {}
    for row in rows:
        labels, label = by_set.setdefault(row["dataset"], []), _label(row, rows)
        if label not in labels:
            labels.append(label)
    return {
        label: (COLORS[place % len(COLORS)], STYLES[number % len(STYLES)])
        for place, labels in enumerate(by_set.values())
        for number, label in enumerate(labels)
    }


def _label(row: VerdictRow, rows: Sequence[VerdictRow]) -> str:
    """The study, with what tells its comparisons of one method apart where it has several."""
    others = [other for other in rows if other["study"] == row["study"]]
    alike = sum(other["method"] == row["method"] for other in others)
    setting = row_label(row, others).partition(", ")[2] if alike > 1 else ""
    return ", ".join(filter(None, (row["study"] or str(row["dataset"]), setting)))


@dataclass(frozen=True)
class Mean:
    """A mean of ``count`` values with its interval; the bounds are None with fewer than 2 values."""

    value: float
    low: float | None
    high: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        """Of at least one value."""
        low, high = student_interval(values) or (None, None)
        return cls(float(np.mean(values)), low, high, len(values))


@dataclass(frozen=True)
class MethodRow:
    """MAE against PMAE on one data set, each at the ratio its paper recommends, paired by seed."""

    dataset: str
    patch_size: int | None  # pixels
    epochs: tuple[int, int]  # of PMAE and of MAE, as below
    seconds: tuple[float, float]  # of the median trial
    accuracies: tuple[float, float]  # means
    difference: Mean  # MAE minus PMAE over the seeds


@dataclass(frozen=True)
class NoiseRow:
    """Noise of one setting's confirmed trials in one study, as standard deviations (fractions of accuracy)."""

    setting: str  # such as ``digits, pmae, patch 2``
    probe: str
    trials: int
    run: float  # of single runs at one ratio
    difference: float  # of the difference of two ratios with the same seed


def mean_differences(rows: Sequence[VerdictRow]) -> dict[float, Mean]:
    """Nominal ratio -> mean over at least 2 data sets, each of which counts once, of "this ratio minus the default"."""
    found: dict[float, dict[str | None, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for rung in row["rungs"]:
            if rung["difference"] is not None and not rung["is_default"]:
                found[round(rung["nominal_ratio"], 4)][row["dataset"]].append(rung["difference"])
    means = {ratio: [float(np.mean(v)) for v in by_set.values()] for ratio, by_set in found.items()}
    return {ratio: Mean.of(values) for ratio, values in sorted(means.items()) if len(values) > 1}


def compare_methods(studies: Sequence[Study]) -> list[MethodRow]:
    """Every MAE study of a data set against every PMAE study of the same images that shares at least 2 seeds."""
    arms: dict[str, list[_Arm]] = defaultdict(list)
    for study in studies:
        for curve in ratio_curves(study.trials):
            default = DEFAULT_RATIOS.get(curve.setting.method)
            rung = next((r for r in curve.confirmed if default is not None and abs(r.nominal - default) < 1e-4), None)
            if rung is not None:
                arms[curve.setting.method].append(_Arm.of(study, curve.setting, rung))
    rows = []
    for ours in arms["pmae"]:
        for rival in arms["mae"]:
            seeds = sorted(set(ours.scores) & set(rival.scores))
            if len(seeds) < 2 or ours.images != rival.images:
                continue
            pairs = np.array([(ours.scores[seed], rival.scores[seed]) for seed in seeds])
            epochs, seconds = (ours.epochs, rival.epochs), (ours.seconds, rival.seconds)
            means = float(pairs[:, 0].mean()), float(pairs[:, 1].mean())
            difference, setting = Mean.of(pairs[:, 1] - pairs[:, 0]), ours.setting
            rows.append(MethodRow(setting.dataset, setting.patch_size, epochs, seconds, means, difference))
    return sorted(rows, key=lambda row: (row.dataset, row.patch_size or 0, row.epochs))


@dataclass(frozen=True)
class _Arm:
    """One method at its ratio: its images, accuracies by seed, and the median cost of its confirmed trials."""

    setting: Setting
    images: tuple[Any, ...]
    scores: dict[int, float]
    epochs: int
    seconds: float

    @classmethod
    def of(cls, study: Study, setting: Setting, rung: RungPoint) -> _Arm:
        rows = rows_of(study.trials, (*Setting._fields, "phase", "status", "epochs", "seconds"))
        mine = [r for r in rows if (r["phase"], r["status"]) == ("confirm", "done") and Setting.of(r) == setting]
        epochs, seconds = ([r[name] for r in mine if r[name] is not None] or [0] for name in ("epochs", "seconds"))
        data = study.plan.get("dataset") or {}
        images = (setting.dataset, setting.patch_size, *(data.get(name) for name in ("fingerprint", "train", "test")))
        return cls(setting, images, rung.scores, int(np.median(epochs)), float(np.median(seconds)))


def measure_noise(study: Study) -> list[NoiseRow]:
    """Noise by setting and probe; a setting without two seeds at two ratios has no row."""
    rows = []
    for probe, column in (("linear", "test_linear"), ("k-NN", "test_knn")):
        scored = study.trials.filter(pc.is_valid(study.trials[column]))
        comparisons, _ = pair_trials(with_column(scored, "test_linear", scored[column]))
        for comparison in comparisons:
            table = comparison.test
            if table.shape[0] < 2 or table.shape[1] < 2:
                continue
            pooled = estimate_noise(table).pooled
            if math.isfinite(pooled):
                run = math.sqrt(float(np.nanmean(np.nanvar(table, axis=0, ddof=1))))
                label, trials = setting_name(comparison.setting), int(np.isfinite(table).sum())
                rows.append(NoiseRow(label, probe, trials, run, math.sqrt(2 * pooled)))
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page and its figure; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("paths", nargs="+", metavar="PATH", help="study folders, or folders with several studies")
    parser.add_argument("--out", default="overview.md", help="the page; its figure is written next to it (%(default)s)")
    given = parser.parse_args(arguments)
    try:
        print(*write_overview(given.paths, given.out), sep="\n")
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, StudyWriteError) else 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
