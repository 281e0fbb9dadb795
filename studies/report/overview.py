"""One Markdown page about several studies: verdicts, means over data sets, PMAE against MAE, noise, costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow.compute as pc

from studies.errors import StudyError
from studies.figures.overview import overview_figure
from studies.figures.style import paper_style
from studies.figures.svg import as_bytes
from studies.formatting import accuracy, at_most, duration, in_points, interval, percent, ratio_list
from studies.records import Study, read_studies
from studies.report.sections import published_rows
from studies.statistics.rows import VerdictRow
from studies.storage.atomic import write_file
from studies.verdict import VERDICTS, current_verdict
from studies.views.across import Mean, compare_methods, mean_differences, measure_noise
from studies.views.wording import judged_rows, method_name, row_label

Judged = list[tuple[Study, VerdictRow]]


def write_overview(paths: Iterable[Path | str], out: Path | str) -> list[Path]:
    """Write the page to ``out`` and its figure next to it, as PNG and SVG with the page's name.

    Args:
        paths: Study folders, or storage folders with several studies.
        out: A Markdown file.

    Returns:
        The files written.

    Raises:
        StudyError: No study is found, or none has confirmed trials of a default ratio and of another one.
        StudyWriteError: A file cannot be written.
    """
    studies, out = read_studies(paths), Path(out)
    judged = [(study, row) for study in studies for row in judged_rows(current_verdict([study])) if row["rungs"]]
    if not judged:
        raise StudyError("none of these studies has confirmed trials of a default ratio and of another one")
    with paper_style():
        figure = overview_figure([row for _, row in judged])
        files = {out.with_suffix(f".{kind}"): as_bytes(figure, kind) for kind in ("png", "svg")}
    files[out] = overview_page(studies, judged, out.with_suffix(".svg").name).encode()
    for path, content in files.items():
        write_file(path, content)
    return list(files)


def overview_page(studies: Sequence[Study], judged: Judged, figure: str) -> str:
    """The page as Markdown; ``figure`` is the file name of its figure."""
    questions = sorted({(row["method"], row["default_ratio"]) for _, row in judged}, key=lambda q: (q[0] != "pmae", q))
    blocks = ["# What the studies say", f"![Difference to the default over the achieved ratio]({figure})"]
    for method, default in questions:
        asked = [(study, row) for study, row in judged if (row["method"], row["default_ratio"]) == (method, default)]
        blocks += _verdicts(method, default, asked)
    blocks += _published({row["dataset"] for _, row in judged})
    blocks += _methods(studies)
    blocks += _noise(studies)
    blocks += _costs(studies)
    return "\n\n".join(blocks) + "\n"


def _verdicts(method: str, ratio: float, judged: Judged) -> list[str]:
    found, default = Counter(row["verdict"] for _, row in judged), percent(ratio)
    every = [row for _, row in judged]
    counts = ", ".join(f"{word} on {found[word]}" for word in VERDICTS if found[word])
    rows = [
        [
            study.name,
            row_label(row, every).partition(", ")[2].removeprefix("patch "),
            _images(study),
            row["verdict"],
            "" if row["ci_high"] is None else at_most(row["ci_high"]),
            _best(row),
            *(accuracy(value) for value in (_default_accuracy(row), row["untrained"], row["pixels"])),
            in_points(row["training_gain"]),
        ]
        for study, row in judged
    ]
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
        "They have one run per point, so that no interval and no verdict can be had from them. The best of several "
        "noisy accuracies lies above the default's even where all ratios are equal; the last column is the standard "
        "deviation of a run at which equal ratios would show this regret on average.",
        _table(head, rows),
    ]


def _methods(studies: Sequence[Study]) -> list[str]:
    rows = [
        [
            row.dataset,
            str(row.patch_size or ""),
            *(str(epochs) for epochs in row.epochs),
            *(duration(seconds) for seconds in row.seconds),
            *(accuracy(value) for value in row.accuracies),
            in_points(row.difference.value, True),
            _interval(row.difference),
            str(row.difference.count),
        ]
        for row in compare_methods(studies)
    ]
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
    rows = [
        [study.name, row.setting, row.probe, str(row.trials), _points(row.run), _points(row.difference)]
        for study in studies
        for row in measure_noise(study)
    ]
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


def _images(study: Study) -> str:
    train = (study.plan.get("dataset") or {}).get("train")
    return f"{train:,}" if train else ""


def _best(row: VerdictRow) -> str:
    ratios = [rung["ratio"] for rung in row["rungs"] if rung["may_be_best"]]
    return ratio_list(ratios) if ratios and row["verdict"] != "uninformative" else ""


def _default_accuracy(row: VerdictRow) -> float | None:
    return next((rung["accuracy"] for rung in row["rungs"] if rung["is_default"]), None)


def _interval(mean: Mean) -> str:
    return interval(mean.low, mean.high, True)


def _points(fraction: float) -> str:
    return f"{100 * fraction:.2f}"
