"""From options and images to a plan: what is explored, what is confirmed, with which seeds; and ``study.json``.

Where it runs and what fits is worked out in ``tune.resources``; nothing is trained here.
"""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from pmae.config import DEFAULT_RATIO, METHODS, PretrainConfig, check_choice, check_ratio, preset
from pmae.data import ImageSet, load_images
from pmae.errors import ConfigError, DataError
from tune.confirm import ConfirmRule
from tune.options import SearchOptions, StudyOptions, TrainingOptions
from tune.space import (
    DEFAULT_GRID,
    DEFAULT_RANGE,
    Ratios,
    Setting,
    Space,
    confirm_seeds,
    default_patch_sizes,
    patch_settings,
    strategies_of,
)
from tune.spec import TrialSpec

MOST_ROUNDS = 5  # of --until-settled


@dataclass(frozen=True)
class Budget:
    """What a preset spends where the user says nothing."""

    trials: int
    confirm_seeds: int
    rule: ConfirmRule


BUDGETS = {
    "quick": Budget(trials=12, confirm_seeds=5, rule=ConfirmRule(leaders=1, rivals=())),
    "paper": Budget(trials=60, confirm_seeds=5, rule=ConfirmRule(leaders=3)),
}


@dataclass(frozen=True)
class StudyPlan:
    """Everything that decides what a study finds.

    Attributes:
        options: What was asked for.
        name: The study's name.
        space: What may be tried.
        base: Configuration that every setting changes.
        images: The images (their train, val and test splits).
        search: ``tpe``, ``gp``, ``qmc``, ``random`` or ``grid``.
        trials: Trials of the exploration.
        seeds: Paired seeds of the confirm phase's first round.
        rule: What the confirm phase confirms.
        metrics: ``module:function`` of further measures, see ``tune.trial.TrialJob``.
        warnings: What the user should know before it starts.
    """

    options: StudyOptions
    name: str
    space: Space
    base: PretrainConfig
    images: ImageSet
    search: str
    trials: int
    seeds: tuple[int, ...]
    rule: ConfirmRule
    metrics: str | None = None
    warnings: tuple[str, ...] = field(default=())

    def config(self, setting: Setting) -> PretrainConfig:
        """The resolved configuration of one setting."""
        return setting.config(self.base).resolve(self.images.image_size, self.images.channels)

    def known_settings(self) -> dict[int, Setting]:
        """Settings given from the start by trial number: all of a grid, else the fixed points."""
        points = self.space.grid() if self.search == "grid" else self.space.fixed()
        return dict(enumerate(points[: self.trials]))

    def explore_spec(self, number: int, setting: Setting, seed: int) -> TrialSpec:
        """Trial ``number`` of the exploration."""
        return TrialSpec(f"explore-{number:04d}", "explore", seed, setting.label, self.config(setting))

    def confirm_specs(self, settings: Sequence[Setting], seeds: Sequence[int]) -> list[TrialSpec]:
        """All settings with all seeds, seed by seed, so that a study cut short has whole pairs."""
        specs = []
        for seed in seeds:
            for setting in settings:
                config = self.config(setting)
                sampled = seed == self.seeds[0] and setting.ratio == self.space.default_of(setting.method)
                trial_id = f"confirm-{config.hash()[:10]}-{seed}"
                specs.append(TrialSpec(trial_id, "confirm", seed, setting.label, config, samples=sampled))
        return specs

    def round_seeds(self, number: int) -> tuple[int, ...]:
        """Seeds of confirm round ``number`` (from 0)."""
        size = len(self.seeds)
        return tuple(confirm_seeds(size, self.options.training.seed, first=number * size))


def plan_study(
    options: StudyOptions, *, metrics: str | None = None, rule: ConfirmRule | None = None, progress: bool = False
) -> StudyPlan:
    """Load the images and work out the plan.

    Args:
        options: From the command line, normalised.
        metrics, rule: What a study of another question measures and confirms.
        progress: Show how far a download or a decode is.

    Raises:
        ConfigError: Settings that cannot work, alone or for these images.
        DataError: Images that cannot be used.
    """
    _check_alone(options)
    data = options.data
    images = load_images(
        data.dataset, data.data_root, data.image_size, data.limit, options.training.seed,
        skip_unreadable=data.skip_unreadable, progress=progress,
    )  # fmt: skip
    options = options.fitted(images)
    space = _space(options, images)
    base = _base(options, space, images)
    budget = BUDGETS[options.training.preset]
    trials = _trials(options.search, space, budget)
    seeds = options.confirm.confirm_seeds or budget.confirm_seeds
    plan = StudyPlan(
        options=options,
        name=options.storage.name or images.name,
        space=space,
        base=base,
        images=images,
        search=options.search.search,
        trials=trials,
        seeds=tuple(confirm_seeds(seeds, options.training.seed)),
        rule=_rule(options, rule or budget.rule),
        metrics=metrics,
    )
    for setting in space.grid():  # every combination is built once, so that none fails hours later
        plan.config(setting)
    return replace(plan, warnings=tuple(_warnings(plan)))


def _check_alone(options: StudyOptions) -> None:
    search, confirm = options.search, options.confirm
    if not search.methods:
        raise ConfigError(f"--methods is empty; allowed are {', '.join(METHODS)}")
    for method in search.methods:
        check_choice("--methods", method, METHODS)
    if not 0 < confirm.margin < 1:
        raise ConfigError(f"--margin is {confirm.margin}; it is a fraction of accuracy in (0, 1), for example 0.01")
    check_ratio(confirm.default_ratio, "--default-ratio")
    for rival in confirm.rivals or ():
        check_ratio(rival, "--rivals")
    for option, value in (("--trials", search.trials), ("--confirm-seeds", confirm.confirm_seeds)):
        if value is not None and value < 1:
            raise ConfigError(f"{option} is {value}; it must be at least 1")
    if search.search == "grid" and search.trials is not None:
        raise ConfigError("--trials has no effect with --search grid, which runs every combination once; leave it out")
    if options.training.seed < 0:
        raise ConfigError(f"--seed is {options.training.seed}; it must be 0 or above")
    if "mae" not in search.methods and (search.mae_ratios is not None or search.mask_units is not None):
        raise ConfigError("--mae-ratios and --mask-units have no effect without mae among --methods; leave them out")
    if "pmae" not in search.methods and (tuple(search.basis) != ("pca",) or confirm.rivals):
        raise ConfigError("--basis and --rivals have no effect without pmae among --methods; leave them out")


def _space(options: StudyOptions, images: ImageSet) -> Space:
    search, size = options.search, images.image_size
    methods: tuple[str, ...] = tuple(dict.fromkeys(search.methods))
    if search.patch_sizes is not None and not search.patch_sizes:
        raise ConfigError("--patch-sizes is empty; give at least one patch side in pixels")
    sizes = search.patch_sizes or _preset_patch_sizes(options.training.preset, size)
    patches = {
        m: patch_settings(size, sizes, search.patch_strides, search.mask_units if m == "mae" else None) for m in methods
    }
    return Space(
        ratios={m: _ratios(search, m) for m in methods},
        patches=patches,
        strategies=strategies_of(methods, search.strategies),
        bases=tuple(dict.fromkeys(search.basis)),
        default_ratio=options.confirm.default_ratio,
        image_size=size,
    )


def _preset_patch_sizes(name: str, image_size: int) -> tuple[int, ...]:
    paper = preset("paper").model.patch_size
    return (
        (paper,)
        if name == "paper" and image_size % paper == 0 and image_size > paper
        else default_patch_sizes(image_size)
    )


def _ratios(search: SearchOptions, method: str) -> Ratios:
    if method == "mae" and search.mae_ratios is not None:
        return Ratios.of(search.mae_ratios, "--mae-ratios")
    if search.ratios is not None:
        return Ratios.of(search.ratios)
    low, high = DEFAULT_RANGE[method]
    return Ratios(low, high, DEFAULT_GRID[method] if search.search == "grid" else ())


def _base(options: StudyOptions, space: Space, images: ImageSet) -> PretrainConfig:
    data, training = options.data, options.training
    base = preset(training.preset, data.dataset, space.methods[0])
    values: dict[str, Any] = {
        "data.root": data.data_root,
        "data.image_size": data.image_size,
        "data.limit": data.limit,
        "data.seed": training.seed,
        "model.patch_size": space.patches[space.methods[0]][0].patch_size,
        "probe.knn_k": min(base.probe.knn_k, len(images.indices("train"))),
        **_overrides(training),
    }
    return base.with_values(values)


def _overrides(training: TrainingOptions) -> dict[str, Any]:
    asked = {
        "optim.epochs": training.epochs,
        "optim.batch_size": training.batch_size,
        "optim.base_learning_rate": training.learning_rate,
        "optim.precision": training.precision,
        "model.encoder": training.encoder,
        "model.width": training.width,
        "model.depth": training.depth,
        "model.heads": training.heads,
        "model.decoder_width": training.decoder_width,
        "model.decoder_depth": training.decoder_depth,
        "model.decoder_heads": training.decoder_heads,
        "model.pool": training.pool,
    }
    return {name: value for name, value in asked.items() if value is not None}


def _trials(search: SearchOptions, space: Space, budget: Budget) -> int:
    if search.search == "grid":
        return len(space.grid())
    if search.trials is not None:
        return search.trials
    return max(budget.trials, 2 * len(space.fixed()))


def _rule(options: StudyOptions, rule: ConfirmRule) -> ConfirmRule:
    return rule if options.confirm.rivals is None else replace(rule, rivals=options.confirm.rivals)


def _warnings(plan: StudyPlan) -> list[str]:
    said = []
    fixed = plan.space.fixed()
    if plan.trials < len(fixed):
        left_out = ", ".join(s.label for s in fixed[plan.trials :])
        said.append(f"--trials {plan.trials} leaves no room for all fixed points; not explored: {left_out}")
    if len(plan.seeds) < 3:
        said.append(f"--confirm-seeds {len(plan.seeds)} is too few for a verdict; 3 is the least, 5 or more are better")
    train = len(plan.images.indices("train"))
    dimensions = plan.images.image_size**2 * plan.images.channels
    if "pmae" in plan.space.methods and train <= dimensions:
        said.append(
            f"{train} training images are fewer than the {dimensions} components of these images: "
            f"the {dimensions - train + 1} last components carry no variance and are never worth masking"
        )
    smallest = min(len(plan.images.indices(s)) for s in ("val", "test"))
    if smallest * plan.options.confirm.margin < 1:
        said.append(
            f"one image is more than the margin: the smallest of val and test has {smallest} images, so accuracies "
            f"move in steps of {1 / max(smallest, 1):.3f}"
        )
    return said


def study_record(plan: StudyPlan, command: str, created_at: str, resources: dict[str, Any]) -> dict[str, Any]:
    """``study.json``: the plan in JSON types."""
    images = plan.images
    return {
        "schema_version": 1,
        "name": plan.name,
        "created_at": created_at,
        "question": plan.options.question,
        "dataset": {
            "source": plan.options.data.dataset,
            "name": images.name,
            "fingerprint": images.fingerprint,
            **{split: len(images.indices(split)) for split in ("train", "val", "test")},
            "image_size": images.image_size,
            "channels": images.channels,
            "classes": len(images.class_names),
        },
        "methods": list(plan.space.methods),
        "space": plan.space.to_dict(),
        "search": plan.search,
        "phases": {
            "explore": {"planned": plan.trials, "seeds": []},
            "confirm": {"planned": None, "seeds": list(plan.seeds)},
        },
        "margin": plan.options.confirm.margin,
        "default_ratio": plan.options.confirm.default_ratio,
        "mae_default_ratio": DEFAULT_RATIO["mae"],
        "epochs": plan.base.optim.epochs,
        "config": plan.base.to_dict(),
        "options": plan.options.to_dict(),
        "command": command,
        "versions": versions(),
        "code_version": code_version(),
        "resources": resources,
        "warnings": list(plan.warnings),
    }


def versions() -> dict[str, str]:
    """Versions of what computes the results."""
    packages = ("pmae", "torch", "timm", "numpy", "ray", "optuna", "pyarrow")
    return {"python": platform.python_version(), **{p: metadata.version(p) for p in packages if _installed(p)}}


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def code_version() -> str:
    """The commit of this checkout (``+`` when files differ from it), or the package's version."""
    root = Path(__file__).resolve().parents[1]
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--match="],
            cwd=root, capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        run = None
    if run is not None and run.returncode == 0 and (root / ".git").exists():
        return run.stdout.strip()
    return metadata.version("pmae") if _installed("pmae") else "unknown"


def splits_present(images: ImageSet) -> None:
    """Refuse a set that has no test split: the verdict is scored on it."""
    for split in ("train", "val", "test"):
        if not len(images.indices(split)):
            raise DataError(f"{images.name!r} has an empty {split} split; give more images or a larger --limit")
