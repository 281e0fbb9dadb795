"""The plan in words, with what it costs and what it can decide: expected duration, and power by simulation."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

from pmae.config import strategies_of_method
from pmae.errors import ConfigError
from studies.formatting import count, duration, share_of
from studies.statistics.decision import Margin
from studies.statistics.regret import MIN_SEEDS
from tune.planning.check import parse_duration
from tune.planning.placement import Machine, Placement, trial_seconds
from tune.planning.plan import StudyPlan
from tune.search.space import confirm_seeds
from tune.trial.spec import evaluation_of

START_SECONDS = 15.0
CONTROL_SECONDS = 1.5
MAX_BUDGET_SEEDS = 100  # that --time-budget chooses
QUESTION = "which share should be masked, with which patches?"
SEARCHES = {"tpe": "TPE", "gp": "Gaussian process", "qmc": "quasi-random", "random": "random"}

# Of the simulated power:
STUDIES = 200
BEYOND = 2.0  # points that the regret to be found exceeds the margin by
MAX_SIMULATED_SEEDS = 500  # more find every regret, and take seconds to simulate
EXCESS = 1.4  # assumed noise of a paired run over binomial noise; 0.5 to 2 in docs/evidence
ERROR_RATE = 0.25  # for which the binomial noise of an accuracy is computed


def describe_plan(
    plan: StudyPlan, placement: Placement, machine: Machine, location: str | None
) -> tuple[str, list[tuple[str, str]]]:
    """One line, such as ``Digits, 8 x 8 gray, 1,295 images: up to 83 trials, about 4 min on 2 CPUs``, and rows."""
    confirmed, images = plan.max_confirm_trials, plan.images
    colors = "gray" if images.channels == 1 else "color"
    summary = (
        f"{images.name[:1].upper()}{images.name[1:]}, {images.image_size} x {images.image_size} {colors}, "
        f"{count(plan.sizes['train'], 'image')}: up to {count(plan.trials + confirmed, 'trial')}"
        f"{' in the first round' if plan.rounds > 1 else ''}, about {duration(expected_seconds(plan, placement))} on "
        f"{count(machine.gpus, 'GPU') if placement.gpus else count(machine.cpus, 'CPU')}"
    )
    config = plan.config(plan.space.grid()[0])
    model, optim = config.model, config.optim
    encoder = model.encoder or f"{model.width} wide, {model.depth} blocks"
    decoder = f"{model.decoder_width} wide, {count(model.decoder_depth, 'block')}"
    rows = [
        ("study", f"{plan.name}: {plan.options.question or QUESTION}"),
        (
            "data",
            f"{images.name}: {', '.join(f'{n} {split}' for split, n in plan.sizes.items())} images of "
            f"{images.image_size} px, {colors}, {len(images.class_names)} classes",
        ),
        *((method, _method(plan, method)) for method in plan.space.methods),
        ("explore", f"{plan.trials} trials, {_search(plan)}; scored on validation"),
        ("confirm", f"up to {confirmed} trials: {_confirm(plan)}; test scored here only"),
        ("training", f"{optim.epochs} epochs, batch {optim.batch_size}, encoder {encoder}, decoder {decoder}"),
        ("at once", placement.describe(machine)),
        (
            "verdict",
            f"the default holds if against every rung it loses less than "
            f"{Margin.parse(plan.options.confirm.margin).text}; {_power_sentence(plan)}",
        ),
    ]
    return summary, rows if location is None else [*rows, ("written to", location)]


def _method(plan: StudyPlan, method: str) -> str:
    space, ratios = plan.space, plan.space.ratios[method]
    ratio = " ".join(f"{r:g}" for r in ratios.listed) or f"{ratios.low:g} to {ratios.high:g}"
    text = f"ratio {ratio} {share_of(method)}, patch {', '.join(p.label for p in space.patches[method])} px"
    if space.strategies[method] != strategies_of_method(method)[:1]:
        text += f", strategy {', '.join(space.strategies[method])}"
    if method == "pmae" and space.bases != ("pca",):
        text += f", basis {', '.join(space.bases)}"
    return f"{text}; default {space.default_of(method):g}"


def _search(plan: StudyPlan) -> str:
    if plan.search == "grid":
        return "a full grid"
    if plan.search == "none":
        return "nothing to decide"
    fixed = min(len(plan.space.fixed()), plan.trials)
    return f"{fixed} with the default ratios for every patch setting, then {SEARCHES[plan.search]}"


def _confirm(plan: StudyPlan) -> str:
    rule = plan.options.rule
    parts = [f"{m} {' '.join(f'{r:g}' for r in plan.space.ladder[m])}" for m in plan.space.methods]
    if plan.trials and rule.refinements:
        parts.append("the best explored ratio between them")
    where = "every setting of patches, strategy and basis" if rule.every_patch_setting else "the best patch setting"
    seeds = f"{len(plan.seeds)} paired seeds ({plan.seeds[0]} to {plan.seeds[-1]})"
    text = f"{'; '.join(parts)}, for {where}, an untrained encoder and raw pixels, with {seeds}"
    return f"{text}, in at most {plan.rounds} rounds" if plan.rounds > 1 else text


def expected_seconds(plan: StudyPlan, placement: Placement) -> float:
    """Rough duration of the whole study, one round of seeds."""
    explored, per_seed = phase_seconds(plan, placement)
    return START_SECONDS + explored + per_seed * len(plan.seeds)


def fit_to_budget(plan: StudyPlan, placement: Placement) -> StudyPlan:
    """The plan with as many seeds as ``--time-budget`` has time for; ConfigError if that is fewer than two a ratio."""
    budget = plan.options.confirm.time_budget
    if budget is None:
        return plan
    explored, per_seed = phase_seconds(plan, placement)
    seeds = int((parse_duration(budget) - START_SECONDS - explored) / per_seed) // plan.rounds
    if seeds < MIN_SEEDS:
        least = START_SECONDS + explored + MIN_SEEDS * plan.rounds * per_seed
        raise ConfigError(
            f"--time-budget {budget} is too short for {MIN_SEEDS} seeds of each ratio, which take about "
            f"{duration(least)}; allow more time, shorten the ladder (--ladder), or study one method (--methods pmae)"
        )
    return replace(plan, seeds=tuple(confirm_seeds(min(seeds, MAX_BUDGET_SEEDS), plan.options.training.seed)))


def phase_seconds(plan: StudyPlan, placement: Placement) -> tuple[float, float]:
    """Rough duration of the exploration, and of one seed of the confirm phase."""
    space, images = plan.space, plan.sizes["train"]
    rungs, first = [], []
    for method in space.methods:
        for patches in space.patches[method]:
            setting = next(s for s in space.default_candidates(method) if s.patches == patches)
            each = trial_seconds(plan.config(setting), images, placement)
            first.append(each)
            rungs.append(each * (len(space.rungs(setting)) if setting.ratio is not None else 1))
    mean = sum(first) / len(first)
    share = 1.0 if plan.options.rule.every_patch_setting else len(space.methods) / len(first)
    explored_at_once = placement.concurrent if plan.search == "grid" else placement.lag
    confirmed = sum(rungs) * share + CONTROL_SECONDS * plan.controls_per_seed
    return plan.trials * mean / explored_at_once, confirmed / placement.concurrent


def _power_sentence(plan: StudyPlan) -> str:
    """``a true regret of 3 points would be found in 8 of 10 studies, a flat curve hold in 3 of 10 (...)``."""
    margin = Margin.parse(plan.options.confirm.margin)
    if margin.points is None:
        return "how often such a study settles depends on the training gain, which it measures"
    points = 100 * margin.points
    rungs = max(len(plan.space.ladder[method]) for method in plan.space.methods)
    folds = evaluation_of(plan.config(plan.space.grid()[0]), plan.sizes["test"]) == "folds"
    scored = sum(plan.sizes.values()) if folds else plan.sizes["test"]
    binomial = 100 * math.sqrt(ERROR_RATE * (1 - ERROR_RATE) / max(scored, 1))  # of one accuracy, in points
    noise = EXCESS * binomial
    fails, holds = power(rungs, len(plan.seeds), plan.rounds, round(noise, 2), round(points, 3), plan.alpha)
    return (
        f"a true regret of {points + BEYOND:g} points would be found in {10 * fails:.0f} of 10 studies, a flat curve "
        f"hold in {10 * holds:.0f} of 10 (assuming that single runs spread by {noise:.1f} points; "
        f"{binomial / 2:.1f} to {2 * binomial:.1f} is possible)"
    )


@functools.lru_cache(maxsize=32)
def power(rungs: int, seeds: int, rounds: int, noise: float, margin: float, alpha: float) -> tuple[float, float]:
    """Return how often a rung that is better by margin and ``BEYOND`` is found, and how often a flat curve holds."""
    import numpy as np

    from studies.statistics.regret import estimate_contrast, estimate_noise
    from studies.statistics.sequential import level_for_look

    seeds = min(seeds, MAX_SIMULATED_SEEDS)
    rng = np.random.default_rng(0)
    levels = [level_for_look(r, rounds, alpha) if rounds > 1 else alpha for r in range(1, rounds + 1)]
    found = [0, 0]
    for regret, outcome in ((margin + BEYOND, 0), (0.0, 1)):
        means = np.zeros(rungs)
        means[-1] = regret
        for _ in range(STUDIES):
            table = means + noise * rng.standard_normal((seeds * rounds, rungs))
            settled: set[int] = set()
            for number, level in enumerate(levels, 1):
                part = table[: number * seeds]
                spread = estimate_noise(part)
                bounds = {
                    k: estimate_contrast(part, spread, {k: 1.0, 0: -1.0}) for k in range(1, rungs) if k not in settled
                }
                if any(c.lower(level, rungs - 1) > margin for c in bounds.values()):
                    found[outcome] += outcome == 0
                    break
                settled |= {k for k, c in bounds.items() if c.upper(level) < margin}
                if len(settled) == rungs - 1:
                    found[outcome] += outcome == 1
                    break
    return found[0] / STUDIES, found[1] / STUDIES
