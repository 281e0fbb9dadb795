"""The plan in words: in one line, and with its data, search space, trials, seeds, placement and expected duration."""

from __future__ import annotations

from dataclasses import replace

from pmae.config import PretrainConfig, strategies_of_method
from pmae.errors import ConfigError
from studies.formatting import count, duration
from studies.statistics.decision import Margin
from tune.planning.check import parse_duration
from tune.planning.placement import Machine, Placement, trial_seconds
from tune.planning.plan import StudyPlan
from tune.planning.power import power_sentence
from tune.search.confirm import max_candidates
from tune.search.space import Candidate, Ratios, confirm_seeds

START_SECONDS = 15.0
CONTROL_SECONDS = 1.5
MIN_SEEDS, MOST_SEEDS = 2, 100  # of --time-budget
QUESTION = "which share should be masked, with which patches?"


def describe_plan(
    plan: StudyPlan, placement: Placement, machine: Machine, place: str | None
) -> tuple[str, list[tuple[str, str]]]:
    """One line, such as ``Digits, 8 x 8 grey, 1,295 images: up to 83 trials, about 4 min on 2 CPUs``, and rows."""
    confirmed = confirmations(plan)
    images, expected = plan.images, duration(expected_seconds(plan, placement))
    summary = (
        f"{images.name[:1].upper()}{images.name[1:]}, {images.image_size} x {images.image_size} {_colour(plan)}, "
        f"{count(len(images.indices('train')), 'image')}: up to {count(plan.trials + confirmed, 'trial')}"
        f"{' in the first round' if plan.rounds > 1 else ''}, about {expected} on "
        f"{count(machine.gpus, 'GPU') if placement.gpus else count(machine.cpus, 'CPU')}"
    )
    rows = [
        ("study", f"{plan.name}: {plan.options.question or QUESTION}"),
        ("data", _data(plan)),
        *((method, _method(plan, method)) for method in plan.space.methods),
        ("explore", f"{plan.trials} trials, {_search(plan)}; scored on validation"),
        ("confirm", f"up to {confirmed} trials: {_confirm(plan)}; test scored here only"),
        ("training", _training(plan)),
        ("at once", placement.describe(machine)),
        (
            "verdict",
            f"the default holds if against every rung it loses less than "
            f"{Margin.parse(plan.options.confirm.margin).text}; {power_sentence(plan)}",
        ),
    ]
    if place is not None:
        rows.append(("written to", place))
    return summary, rows


def confirmations(plan: StudyPlan) -> int:
    """Confirm trials at most (one round), before the exploration has shown the leaders."""
    return (max_candidates(plan.space, plan.rule) + len(_shapes(plan)) + 1) * len(plan.seeds)


def _shapes(plan: StudyPlan) -> set[tuple[int, int]]:
    """Patch settings that an untrained encoder is scored for: of each method one, or all of them."""
    shapes = [[(p.patch_size, p.patch_stride) for p in plan.space.patches[m]] for m in plan.space.methods]
    return {s for each in shapes for s in (each if plan.rule.every_patch_setting else each[:1])}


def expected_seconds(plan: StudyPlan, placement: Placement) -> float:
    """Rough duration of the whole study, one round of seeds."""
    explored, per_seed = phase_seconds(plan, placement)
    return START_SECONDS + explored + per_seed * len(plan.seeds)


def fit_to_budget(plan: StudyPlan, placement: Placement) -> StudyPlan:
    """The plan with as many seeds as ``--time-budget`` has time for; unchanged without one.

    Raises:
        ConfigError: There is no time for two seeds a ratio.
    """
    budget = plan.options.confirm.time_budget
    if budget is None:
        return plan
    explored, per_seed = phase_seconds(plan, placement)
    seconds = parse_duration(budget)
    seeds = int((seconds - START_SECONDS - explored) / per_seed) // plan.rounds
    if seeds < MIN_SEEDS:
        least = START_SECONDS + explored + MIN_SEEDS * plan.rounds * per_seed
        raise ConfigError(
            f"--time-budget {budget} has no time for {MIN_SEEDS} seeds of each ratio, which take about "
            f"{duration(least)}; allow more time, shorten the ladder (--ladder), or study one method (--methods pmae)"
        )
    return replace(plan, seeds=tuple(confirm_seeds(min(seeds, MOST_SEEDS), plan.options.training.seed)))


def phase_seconds(plan: StudyPlan, placement: Placement) -> tuple[float, float]:
    """Rough duration of the exploration, and of one seed of the confirm phase."""
    images = len(plan.images.indices("train"))
    rungs, first = [], []
    for method in plan.space.methods:
        for patches in plan.space.patches[method]:
            setting = Candidate(method, patches, plan.space.default_of(method), plan.space.strategies[method][0])
            if setting.strategy == "sampled":
                setting = replace(setting, ratio=None)
            each = trial_seconds(plan.config(setting), images, placement)
            first.append(each)
            rungs.append(each * (len(plan.space.rungs(setting)) if setting.ratio is not None else 1))
    mean = sum(first) / len(first)
    share = 1.0 if plan.rule.every_patch_setting else len(plan.space.methods) / len(first)
    controls = CONTROL_SECONDS * (len(_shapes(plan)) + 1)
    explored_at_once = placement.concurrent if plan.search == "grid" else placement.lag
    return plan.trials * mean / explored_at_once, (sum(rungs) * share + controls) / placement.concurrent


def _data(plan: StudyPlan) -> str:
    images = plan.images
    sizes = ", ".join(f"{len(images.indices(s))} {s}" for s in ("train", "val", "test"))
    classes = len(images.class_names)
    return f"{images.name}: {sizes} images of {images.image_size} px, {_colour(plan)}, {classes} classes"


def _colour(plan: StudyPlan) -> str:
    return "grey" if plan.images.channels == 1 else "colour"


def _method(plan: StudyPlan, method: str) -> str:
    space = plan.space
    share = "of the variance" if method == "pmae" else "of the patches"
    text = (
        f"ratio {_ratios(space.ratios[method])} {share}, patch {', '.join(p.label for p in space.patches[method])} px"
    )
    if space.strategies[method] != strategies_of_method(method)[:1]:
        text += f", strategy {', '.join(space.strategies[method])}"
    if method == "pmae" and space.bases != ("pca",):
        text += f", basis {', '.join(space.bases)}"
    return f"{text}; default {space.default_of(method):g}"


def _ratios(ratios: Ratios) -> str:
    return " ".join(f"{r:g}" for r in ratios.listed) if ratios.listed else f"{ratios.low:g} to {ratios.high:g}"


def _search(plan: StudyPlan) -> str:
    names = {"tpe": "TPE", "gp": "Gaussian process", "qmc": "quasi-random", "random": "random"}
    if plan.search == "grid":
        return "a full grid"
    if plan.search == "none":
        return "nothing to decide"
    fixed = min(len(plan.space.fixed()), plan.trials)
    return f"{fixed} with the default ratios for every patch setting, then {names[plan.search]}"


def _confirm(plan: StudyPlan) -> str:
    seeds = f"{len(plan.seeds)} paired seeds ({plan.seeds[0]} to {plan.seeds[-1]})"
    parts = [f"{m} {' '.join(f'{r:g}' for r in plan.space.ladder[m])}" for m in plan.space.methods]
    if plan.trials and plan.rule.refinements:
        parts.append("the best explored ratio between them")
    where = (
        "every setting of patches, strategy and basis" if plan.rule.every_patch_setting else "the best patch setting"
    )
    text = f"{'; '.join(parts)}, for {where}, an untrained encoder and raw pixels, with {seeds}"
    return f"{text}, in at most {plan.rounds} rounds" if plan.rounds > 1 else text


def _training(plan: StudyPlan) -> str:
    config: PretrainConfig = plan.config(plan.space.grid()[0])
    model, optim = config.model, config.optim
    encoder = model.encoder or f"{model.width} wide, {model.depth} blocks"
    decoder = f"{model.decoder_width} wide, {model.decoder_depth} block{'s' * (model.decoder_depth > 1)}"
    return f"{optim.epochs} epochs, batch {optim.batch_size}, encoder {encoder}, decoder {decoder}"
