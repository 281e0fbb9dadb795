"""The plan in words: data, search space, trials, seeds, what runs at once and what limits it, how long it will take."""

from __future__ import annotations

from pmae.config import PretrainConfig
from tune.confirm import most_settings
from tune.plan import StudyPlan
from tune.progress import duration
from tune.resources import Machine, Placement, trial_seconds
from tune.space import Ratios

QUESTION = "which share should be masked, with which patches?"


def describe_plan(
    plan: StudyPlan, placement: Placement, machine: Machine, place: str | None
) -> tuple[str, list[tuple[str, str]]]:
    """Title and (name, text) rows."""
    confirmed = confirmations(plan)
    rows = [
        ("data", _data(plan)),
        *((method, _method(plan, method)) for method in plan.space.methods),
        ("explore", f"{plan.trials} trials, {_search(plan)}; scored on validation"),
        ("confirm", f"up to {confirmed} trials: {_confirm(plan)}; test scored here only"),
        ("training", _training(plan)),
        ("at once", placement.describe(machine)),
        ("expected", f"about {duration(expected_seconds(plan, placement))}"),
        (
            "verdict",
            f"the default holds if it costs less than {100 * plan.options.confirm.margin:g} points of accuracy",
        ),
    ]
    if place is not None:
        rows.append(("written to", place))
    return f"Study {plan.name}: {plan.options.question or QUESTION}", rows


def confirmations(plan: StudyPlan) -> int:
    """Confirm trials at most (one round), before the exploration has shown the leaders."""
    return most_settings(plan.space, plan.rule) * len(plan.seeds)


def expected_seconds(plan: StudyPlan, placement: Placement) -> float:
    """Rough duration of the whole study."""
    images = len(plan.images.indices("train"))
    each = [trial_seconds(plan.config(s), images, placement) for s in plan.known_settings().values()]
    mean = sum(each) / len(each) if each else 0.0
    return 8.0 + (plan.trials + confirmations(plan)) * mean / placement.concurrent


def _data(plan: StudyPlan) -> str:
    images = plan.images
    sizes = ", ".join(f"{len(images.indices(s))} {s}" for s in ("train", "val", "test"))
    colour = "grey" if images.channels == 1 else "colour"
    return f"{images.name}: {sizes} images of {images.image_size} px, {colour}, {len(images.class_names)} classes"


def _method(plan: StudyPlan, method: str) -> str:
    space = plan.space
    share = "of the variance" if method == "pmae" else "of the patches"
    text = (
        f"ratio {_ratios(space.ratios[method])} {share}, patch {', '.join(p.label for p in space.patches[method])} px"
    )
    if len(space.strategies[method]) > 1:
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
    fixed = min(len(plan.space.fixed()), plan.trials)
    return f"{fixed} with the default ratios for every patch setting, then {names[plan.search]}"


def _confirm(plan: StudyPlan) -> str:
    seeds = f"{len(plan.seeds)} paired seeds ({plan.seeds[0]} to {plan.seeds[-1]})"
    parts = []
    for method in plan.space.methods:
        name = f"{method} {plan.space.default_of(method):g}"
        if method == "pmae" and plan.rule.rivals:
            name += f", {', '.join(f'{r:g}' for r in plan.rule.rivals)}"
        parts.append(f"{name} and its {plan.rule.leaders} best")
    where = (
        "every setting of patches, strategy and basis" if plan.rule.every_patch_setting else "the best patch setting"
    )
    text = f"{'; '.join(parts)}, for {where}, with {seeds}"
    return f"{text}, more until settled" if plan.options.confirm.until_settled else text


def _training(plan: StudyPlan) -> str:
    config: PretrainConfig = plan.base
    model, optim = config.model, config.optim
    encoder = model.encoder or f"{model.width} wide, {model.depth} blocks"
    decoder = f"{model.decoder_width} wide, {model.decoder_depth} block{'s' * (model.decoder_depth > 1)}"
    return f"{optim.epochs} epochs, batch {optim.batch_size}, encoder {encoder}, decoder {decoder}"
