"""From options and images to a plan: what is explored, what is confirmed, with which seeds; and ``study.json``.

Where it runs and what fits is worked out in ``tune.planning.placement``; nothing is trained here.
"""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from pmae.cli.options import given
from pmae.config import DEFAULT_RATIO, PretrainConfig, has_effect, preset
from pmae.data import ImageSet, load_images
from pmae.errors import ConfigError, DataError
from studies.statistics.margin import Margin
from studies.storage.rows import StudyRecord
from tune.options import SearchOptions, StudyOptions
from tune.planning.check import MOST, check_options, known_image_size
from tune.planning.placement import check_memory
from tune.search.confirm import ConfirmRule
from tune.search.space import (
    DEFAULT_GRID,
    DEFAULT_LADDER,
    DEFAULT_RANGE,
    LEAST_TOKENS,
    Candidate,
    Ratios,
    Space,
    confirm_seeds,
    default_patch_sizes,
    patch_settings,
    strategies_of,
    tokens_of,
)
from tune.storage.folder import as_study_name
from tune.trial.spec import TrialSpec

MOST_ROUNDS = 5  # of --until-settled
ALPHA = 0.05


@dataclass(frozen=True)
class Budget:
    """What a preset spends where the user says nothing."""

    trials: int
    confirm_seeds: int
    round_seeds: int  # with --until-settled
    rule: ConfirmRule


BUDGETS = {
    "quick": Budget(trials=8, confirm_seeds=5, round_seeds=4, rule=ConfirmRule()),
    "paper": Budget(trials=24, confirm_seeds=5, round_seeds=4, rule=ConfirmRule()),
}


@dataclass(frozen=True)
class StudyPlan:
    """Everything that decides what a study finds.

    Attributes:
        options: What was asked for.
        name: The study's name.
        space: What may be tried.
        base: Configuration that every candidate changes.
        images: The images (their train, val and test splits).
        search: ``tpe``, ``gp``, ``qmc``, ``random``, ``grid`` or ``none``.
        trials: Trials of the exploration.
        seeds: Paired seeds of the confirm phase's first round.
        rule: What the confirm phase confirms.
        metrics: ``module:function`` of further measures, see ``tune.trial.run.TrialJob``.
        warnings: What the user should know before it starts.
        configs: Configurations resolved so far; building one takes a millisecond.
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
    configs: dict[Candidate, PretrainConfig] = field(default_factory=dict, repr=False, compare=False)

    def config(self, candidate: Candidate) -> PretrainConfig:
        """The resolved configuration of one candidate."""
        if candidate not in self.configs:
            train = len(self.images.indices("train"))
            resolved = candidate.config(self.base).resolve(self.images.image_size, self.images.channels, train)
            self.configs[candidate] = resolved
        return self.configs[candidate]

    def known_candidates(self) -> dict[int, Candidate]:
        """Settings given from the start by trial number: all of a grid, else the fixed points."""
        points = self.space.grid() if self.search == "grid" else self.space.fixed()
        return dict(enumerate(points[: self.trials]))

    def explore_spec(self, number: int, candidate: Candidate, seed: int) -> TrialSpec:
        """Trial ``number`` of the exploration."""
        return TrialSpec(self.explore_id(number), "explore", seed, candidate.label, self.config(candidate))

    def explore_id(self, number: int) -> str:
        """Trial id of number ``number`` of the exploration."""
        return f"explore-{number:04d}"

    @property
    def sampler(self) -> str:
        """Optuna's sampler; of a grid every point is given, so any will do."""
        return self.search if self.search in ("tpe", "gp", "qmc") else "random"

    @property
    def rounds(self) -> int:
        """Rounds of the confirm phase at most."""
        return MOST_ROUNDS if self.options.confirm.until_settled else 1

    @property
    def alpha(self) -> float:
        """Level of the verdict: 5 %, less where the question was asked before."""
        look = self.options.confirm.look
        return ALPHA if look == 1 else ALPHA / 2**look

    def round_seeds(self, number: int) -> tuple[int, ...]:
        """Seeds of confirm round ``number`` (from 0)."""
        size = len(self.seeds)
        return tuple(confirm_seeds(size, self.options.training.seed, first=number * size))

    def judge_options(self) -> dict[str, Any]:
        """What ``studies.verdict.judge`` is given."""
        from studies.verdict import Looks

        return {
            "margin": self.options.confirm.margin,
            "default_ratio": self.space.default_ratio,
            "alpha": self.alpha,
            "looks": Looks(len(self.seeds), self.rounds) if self.rounds > 1 else None,
        }


def plan_study(
    options: StudyOptions,
    *,
    metrics: str | None = None,
    rule: ConfirmRule | None = None,
    progress: bool = False,
    images: ImageSet | None = None,
) -> StudyPlan:
    """Load the images and work out the plan.

    Args:
        options: From the command line, normalized.
        metrics, rule: What a study of another question measures and confirms.
        progress: Show how far a download or a decode is.
        images: Images loaded before; None loads those that the options name.

    Raises:
        ConfigError: Settings that cannot work, alone or for these images.
        DataError: Images that cannot be used.
    """
    check_options(options)
    data = options.data
    if images is None:
        _check_for_size(options, known_image_size(options))
        images = load_images(
            data.dataset, data.data_root, data.image_size, data.limit, options.data_seed,
            skip_unreadable=data.skip_unreadable, progress=progress,
        )  # fmt: skip
    options = options.fitted(images)
    space = _space(options, images.image_size)
    base = _base(options, space, len(images.indices("train")))
    budget = BUDGETS[options.training.preset]
    trials = _trials(options.search, space, budget)
    usual = budget.round_seeds if options.confirm.until_settled else budget.confirm_seeds
    seeds = options.confirm.confirm_seeds or usual
    plan = StudyPlan(
        options=options,
        name=as_study_name(images.name) if options.storage.name is None else options.storage.name,
        space=space,
        base=base,
        images=images,
        search=options.search.search,
        trials=trials,
        seeds=tuple(confirm_seeds(seeds, options.training.seed)),
        rule=rule or budget.rule,
        metrics=metrics,
    )
    for candidate in space.grid():  # every combination is built once, so that none fails hours later
        plan.config(candidate)
    return replace(plan, warnings=tuple(_warnings(plan)))


def _ladder(options: StudyOptions, methods: Sequence[str]) -> dict[str, tuple[float, ...]]:
    confirm, search = options.confirm, options.search
    asked = {"pmae": confirm.ladder, "mae": confirm.mae_ladder}
    default = {"pmae": confirm.default_ratio, "mae": DEFAULT_RATIO["mae"]}
    found = {}
    for method in methods:
        listed = search.mae_ratios if method == "mae" and search.mae_ratios is not None else search.ratios
        usual = listed if listed is not None and len(listed) != 2 else DEFAULT_LADDER[method]
        found[method] = tuple(sorted({*(asked[method] or usual), default[method]}))
    return found


def _check_distinct_rungs(space: Space, asked: Sequence[float] | None) -> None:
    """Refuse rungs of MAE that were asked for and mask the same number of patches."""
    if asked is None or "mae" not in space.methods:
        return
    for patches in space.patches["mae"]:
        candidate = Candidate("mae", patches, DEFAULT_RATIO["mae"], space.strategies["mae"][0])
        kept = [s.ratio for s in space.rungs(candidate)]
        lost = [f"{ratio:g}" for ratio in space.ladder["mae"] if ratio not in kept]
        if lost:
            raise ConfigError(
                f"--mae-ladder {' '.join(f'{r:g}' for r in asked)}: with patch {patches.label} the ratios "
                f"{', '.join(lost)} mask as many patches as another one; leave them out or use smaller --patch-sizes"
            )


def _check_for_size(options: StudyOptions, size: int | None) -> None:
    """Build every configuration once for images of ``size`` px, which are decoded later, so that mistakes show now."""
    if size is None:
        return
    space = _space(options, size)
    base = _base(options, space)
    configs = [candidate.config(base).resolve(size, 1) for candidate in space.grid()]
    if options.machine.address is None:
        check_memory(configs)


def _space(options: StudyOptions, size: int) -> Space:
    search = options.search
    methods: tuple[str, ...] = tuple(dict.fromkeys(search.methods))
    sizes = search.patch_sizes or _preset_patch_sizes(options.training.preset, size)
    patches = {
        m: patch_settings(size, sizes, search.patch_strides, search.mask_units if m == "mae" else None) for m in methods
    }
    space = Space(
        ladder=_ladder(options, methods),
        ratios={m: _ratios(search, m) for m in methods},
        patches=patches,
        strategies=strategies_of(methods, search.strategies),
        bases=tuple(dict.fromkeys(search.basis)),
        default_ratio=options.confirm.default_ratio,
        image_size=size,
    )
    _check_distinct_rungs(space, options.confirm.mae_ladder)
    return space


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


def _base(options: StudyOptions, space: Space, train_images: int = MOST) -> PretrainConfig:
    """The first method's configuration; the settings of the others come back when its method is changed."""
    first = space.methods[0]
    base = preset(options.training.preset, options.data.dataset, first)
    asked = given(options.training)
    asked["knn_k"] = min(asked.get("knn_k", base.probe.knn_k), train_images)
    values = {**given(options.data), "data_seed": options.data_seed}
    base = base.with_values({**values, "patch_size": space.patches[first][0].patch_size})
    for method in reversed(space.methods):
        mine = {name: value for name, value in asked.items() if has_effect(name, method)}
        base = base.with_values({"method": method, **mine})
    return base


def _trials(search: SearchOptions, space: Space, budget: Budget) -> int:
    if search.search == "grid":
        return len(space.grid())
    if search.search == "none":
        return 0
    if search.trials is not None:
        return search.trials
    return max(budget.trials, 2 * len(space.fixed()))


def _warnings(plan: StudyPlan) -> list[str]:
    said = []
    size = plan.images.image_size
    fixed = plan.space.fixed() if plan.trials else []
    if plan.trials < len(fixed):
        left_out = ", ".join(s.label for s in fixed[plan.trials :])
        said.append(f"--trials {plan.trials} leaves no room for all fixed points; not explored: {left_out}")
    if len(plan.seeds) < 3:
        said.append(f"--confirm-seeds {len(plan.seeds)} rarely settles a verdict; 5 or more are better")
    small = [p.label for m in plan.space.methods for p in plan.space.patches[m] if tokens_of(size, p) < LEAST_TOKENS]
    if small:
        said.append(
            f"patch {', '.join(dict.fromkeys(small))} leaves fewer than {LEAST_TOKENS} patches of a {size}-px image; "
            "training may then add nothing to an untrained encoder"
        )
    train = len(plan.images.indices("train"))
    dimensions = plan.images.image_size**2 * plan.images.channels
    if "pmae" in plan.space.methods and train <= dimensions:
        said.append(
            f"{train} training images have at most {train - 1} components with variance, out of {dimensions} pixel "
            "values; masks are drawn among these"
        )
    smallest = min(len(plan.images.indices(s)) for s in ("val", "test"))
    margin = Margin.parse(plan.options.confirm.margin).points
    if margin is not None and smallest * margin < 1:
        said.append(
            f"one image is more than the margin: the smallest of val and test has {smallest} images, so accuracies "
            f"move in steps of {1 / max(smallest, 1):.3f}"
        )
    return said


def study_record(plan: StudyPlan, command: str, created_at: str, resources: dict[str, Any]) -> StudyRecord:
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
            "train": len(images.indices("train")),
            "val": len(images.indices("val")),
            "test": len(images.indices("test")),
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
        "margin": Margin.parse(plan.options.confirm.margin).value,
        "alpha": plan.alpha,
        "looks": {"seeds_per_round": len(plan.seeds), "rounds": plan.rounds} if plan.rounds > 1 else None,
        "ladder": distinct_ladder(plan),
        "default_ratio": plan.options.confirm.default_ratio,
        "mae_default_ratio": DEFAULT_RATIO["mae"],
        "epochs": plan.config(plan.space.grid()[0]).optim.epochs,
        "config": plan.config(plan.space.grid()[0]).to_dict(),
        "options": plan.options.to_dict(),
        "command": command,
        "versions": versions(),
        "code_version": code_version(),
        "resources": resources,
        "warnings": list(plan.warnings),
    }


def distinct_ladder(plan: StudyPlan) -> dict[str, list[float]]:
    """Nominal ratios by method that every confirmed patch setting has: what a complete verdict needs."""
    found = {}
    for method in plan.space.methods:
        kept = [
            {s.ratio for s in plan.space.rungs(Candidate(method, p, 0.5, plan.space.strategies[method][0]))}
            for p in plan.space.patches[method]
        ]
        found[method] = sorted(r for r in set.intersection(*kept) if r is not None)
    return found


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
    root = Path(__file__).resolve().parents[2]
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
