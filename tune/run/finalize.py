"""After the trials: verdict, figures, report and the commands to run next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pmae.components import cached_components
from studies.cli.terminal import make_table, print_verdict
from studies.records import read_study
from studies.storage.atomic import write_json
from studies.verdict import judge
from tune.planning.plan import ALPHA, StudyPlan
from tune.run.display import Display
from tune.trial.image_strips import merge_samples


def finish(folder: Path, plan: StudyPlan, display: Display, *, complete: bool, resume: str, more: str) -> None:
    """Write and print verdict and report of a study that has ended, or was interrupted and is not ``complete``."""
    components = cached_components(plan.images, plan.space.bases[0])[0] if "pmae" in plan.space.methods else None
    merge_samples(folder, components)
    study = read_study(folder)
    verdict = judge(study).to_dict()
    write_json(folder / "verdict.json", verdict)
    _print_comparisons(study.trials, display)
    print_verdict(display.console, verdict, all_checks=display.detailed)
    if complete:
        sentence, command = _next(plan, folder, verdict, more)
        display.print_always(f"next:    {sentence}")
        display.print_always(f"         {command}", unbroken=True)
    report = _write_pages(folder, display)  # takes seconds, so the verdict is printed first
    if display.detailed or not report:
        display.print_always(f"tables:  {folder / 'trials.arrow'}, {folder / 'history.arrow'}", unbroken=True)
    if report:
        display.print_always(f"report:  {folder / 'report.html'}", unbroken=True)
    if not complete:
        display.print_always(f"resume with: {resume}", unbroken=True)


def _write_pages(folder: Path, display: Display) -> bool:
    """Write figures and report; their failure is a warning, since a study is complete without them."""
    try:
        from studies.figures import draw_figures
        from studies.report import write_report

        draw_figures(folder)
        write_report(folder)
    except Exception as problem:
        display.warn(f"no report: {type(problem).__name__}: {problem}; try python -m studies report {folder}")
        return False
    return True


def _print_comparisons(trials: Any, display: Display) -> None:
    """Print how bases, strategies or mask units compare, and the study's own measures; nothing if there are none."""
    from studies.report.sections import comparison_rows, measure_table, measures
    from studies.statistics.contrasts import compare_settings, comparison_sentences

    found = compare_settings(trials)
    compared = comparison_rows(found)
    if compared:
        headings = ("comparison", "value", "best ratio", "accuracy", "difference", "95 % bounds", "seeds")
        title = "Each at its own best ratio, differences in points of accuracy"
        display.console.print(make_table(headings, compared, title))
        for sentence in comparison_sentences(found):
            display.print_always(sentence)
    measured = measure_table(measures(trials, nested=False))
    if measured:
        display.console.print(make_table(*measured, "Means over seeds"))


def _next(plan: StudyPlan, folder: Path, verdict: dict[str, Any], more: str) -> tuple[str, str]:
    """What to try next, and the command for it."""
    show = "show the numbers", f"python -m studies show {folder}"
    if plan.options.question is not None:
        return show
    rows = [row for row in verdict["rows"] if row["kind"] == "default"] or verdict["rows"]  # mae may be studied alone
    needed = [row["seeds_needed"] for row in rows if row["seeds_needed"]]
    confirm, training = plan.options.confirm, plan.options.training
    look, seeds = confirm.look + 1, len(plan.seeds)
    repeat_options = f"--look {look} --seed {training.seed + look - 1}"
    if needed and not confirm.until_settled:
        seeds += max(needed)
        return (
            f"a new study with {seeds} seeds would probably settle it; --look {look} judges it at "
            f"{100 * ALPHA / 2**look:.3g} %, since repeated looks err more often",
            f"{more} --confirm-seeds {seeds} {repeat_options} --name {plan.name}-{look}",
        )
    if verdict["overall"]["verdict"] == "uninformative" and training.epochs is None and training.steps is None:
        epochs = 2 * (plan.config(plan.space.grid()[0]).optim.epochs or 1)
        return (
            "twice the training, which may make the ratios differ",
            f"{more} --epochs {epochs} --confirm-seeds {seeds} {repeat_options} --name {plan.name}-longer",
        )
    if plan.options.data.dataset == "digits":
        return "the same question on larger images", "python tune/masking_ratio_study.py --dataset cifar10"
    return show
