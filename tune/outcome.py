"""After the trials: the verdict, the figures and the report, and what to tell the user."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from pmae.components import cached_components
from studies.curves import Setting, setting_labels
from studies.files import write_json
from studies.records import StudyWriter, read_study
from tune.options import ConfirmOptions
from tune.plan import MOST_ROUNDS, StudyPlan
from tune.progress import Display
from tune.samples import merge_samples


def finish(
    folder: Path, plan: StudyPlan, display: Display, *, rounds: int, complete: bool, resume: str, more: str
) -> None:
    """Write verdict and report from the study's table, whole or not, and print them.

    Args:
        folder, plan, display: The study.
        rounds: Rounds of the confirm phase, each of which looked at the verdict (with ``--until-settled``).
        complete: Whether all trials have run.
        resume: The command that goes on with the study.
        more: The study's command without its name and number of seeds.
    """
    components = cached_components(plan.images, plan.space.bases[0])[0] if "pmae" in plan.space.methods else None
    merge_samples(folder, components)
    verdict = write_verdict(folder, plan.options.confirm, rounds)
    _print_verdict(verdict, display)
    trials = read_study(folder).trials
    print_comparisons(trials, display)
    _print_failures(trials, display)
    report = write_pages(folder, display)  # takes seconds: the answer is there already
    display.always(f"tables:  {folder / 'trials.arrow'}, {folder / 'history.arrow'}")
    if report:
        display.always(f"figures: {folder / 'figures'}")
        display.always(f"report:  {folder / 'report.html'}")
    if not complete:
        display.always(f"resume with: {resume}")
        return
    display.always(f"next:    {_next(plan, folder, verdict, more)}")


def write_verdict(folder: Path, options: ConfirmOptions, rounds: int) -> dict[str, Any]:
    """Judge the study's table and write ``verdict.json``."""
    verdict = _judge(read_study(folder), options, rounds)
    write_json(folder / "verdict.json", verdict)
    return verdict


def settled(writer: StudyWriter, options: ConfirmOptions, rounds: int) -> bool:
    """Whether no default's verdict is inconclusive any more after ``rounds`` of seeds."""
    rows = _judge(writer.trials, options, rounds)["rows"]
    asked = [row for row in rows if row.get("kind") in ("default", "mae_default")]
    return bool(asked) and all(row["verdict"] != "inconclusive" for row in asked)


def _judge(trials: Any, options: ConfirmOptions, rounds: int) -> dict[str, Any]:
    from studies.sequential import level_for_look
    from studies.verdict import judge

    # Who looks again after every round errs more often, unless each look takes a part of the error.
    alpha = level_for_look(max(rounds, 1), MOST_ROUNDS) if options.until_settled else 0.05
    return judge(trials, margin=options.margin, default_ratio=options.default_ratio, alpha=alpha).to_dict()


def write_pages(folder: Path, display: Display) -> bool:
    """Figures and report; a study is whole without them, so what goes wrong here is a warning."""
    try:
        from studies.figures import draw_figures
        from studies.report import write_report

        draw_figures(folder)
        write_report(folder)
    except Exception as problem:
        display.warn(f"no report: {type(problem).__name__}: {problem}; try python -m studies report {folder}")
        return False
    return True


def _print_verdict(verdict: dict[str, Any], display: Display) -> None:
    table = Table(title="Costs are points of accuracy against the best ratio", title_justify="left", title_style="")
    for name in ("data", "setting", "default", "best", "costs", "95 % bounds", "verdict", "seeds"):
        table.add_column(name, justify="right" if name in ("default", "best", "costs", "seeds") else "left")
    settings = [Setting.of(row) for row in verdict["rows"]]
    labels = setting_labels(settings)
    for setting, row in zip(settings, verdict["rows"], strict=True):
        table.add_row(*_cells(labels[setting], row))
    display.console.print()
    if verdict["rows"]:
        display.console.print(table)
    display.always(verdict["answer"])
    for warning in verdict.get("warnings", ()):
        display.warn(warning)


def _cells(label: str, row: dict[str, Any]) -> list[str]:
    def points(value: float | None) -> str:
        return "" if value is None else f"{100 * value:.1f}"

    def ratio(value: float | None) -> str:
        return "" if value is None else f"{100 * value:.0f} %"

    bounds = "" if row["ci_low"] is None else f"{points(row['ci_low'])} to {points(row['ci_high'])}"
    return [
        str(row["dataset"]), label, ratio(row["default_ratio"]),
        ratio(row["best_ratio"]), points(row["regret"]), bounds, str(row["verdict"]), str(row["seeds"]),
    ]  # fmt: skip


def print_comparisons(trials: Any, display: Display) -> None:
    """Bases, strategies or mask units against each other, and what a study measured of its own; nothing if neither."""
    from studies.contrasts import comparison_sentences, contrasts
    from studies.measures import measures
    from studies.report.sections import contrast_rows, measure_table

    found = contrasts(trials)
    compared = contrast_rows(found)
    if compared:
        headings = ("comparison", "value", "best ratio", "accuracy", "difference", "95 % bounds", "seeds")
        _print_table("Each at its own best ratio, differences in points of accuracy", headings, compared, display)
        for sentence in comparison_sentences(found):
            display.always(sentence)
    measured = measure_table(measures(trials, nested=False))
    if measured:
        _print_table("Means over seeds", *measured, display)


def _print_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], display: Display) -> None:
    table = Table(title=title, title_justify="left", title_style="")
    for heading in headings:
        table.add_column(heading, no_wrap=heading in ("setting", "comparison"))
    for row in rows:
        table.add_row(*row)
    display.console.print(table)


def _print_failures(trials: Any, display: Display) -> None:
    rows = trials.select(["trial_id", "status"]).to_pylist()
    bad = [r for r in rows if r["status"] in ("failed", "diverged")]
    if bad:
        kinds = ", ".join(f"{r['trial_id']} {r['status']}" for r in bad[:5])
        display.warn(f"{len(bad)} of {len(rows)} trials gave no result ({kinds}{', ...' if len(bad) > 5 else ''})")


def _next(plan: StudyPlan, folder: Path, verdict: dict[str, Any], more: str) -> str:
    """The command that is worth trying next."""
    if plan.options.question is not None:
        return f"python -m studies show {folder}"
    needed = [r["seeds_needed"] for r in verdict["rows"] if r.get("kind") == "default" and r.get("seeds_needed")]
    if needed:
        seeds = len(plan.seeds) + max(needed)
        return (
            f"{more} --confirm-seeds {seeds} --name {plan.name}-more   "
            f"(about {max(needed)} more seed{'s' * (max(needed) > 1)} would settle it)"
        )
    if plan.options.data.dataset == "digits":
        return "python tune/masking_ratio_study.py --dataset cifar10   (the same question on larger images)"
    return f"python -m studies show {folder}"
