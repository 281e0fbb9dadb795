"""The plan of a study: what is explored, what is confirmed, with which seeds; and ``study.json``."""

from __future__ import annotations

import dataclasses
import json
import platform
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from pmae.cli.options import given
from pmae.config import DEFAULT_RATIO, PretrainConfig, has_effect, preset
from pmae.data import ImageSet, load_images
from pmae.errors import ConfigError
from studies.statistics.decision import Margin
from studies.storage.rows import StudyRecord
from tune.options import StudyOptions
from tune.planning.check import MAX_NUMBER, check_options
from tune.planning.placement import check_memory
from tune.search.space import (
    DEFAULT_GRID,
    DEFAULT_LADDER,
    DEFAULT_RANGE,
    LEAST_TOKENS,
    Candidate,
    Patches,
    Ratios,
    Space,
    confirm_seeds,
    default_patch_sizes,
    patch_settings,
    strategies_of,
    tokens_of,
)
from tune.storage.location import as_study_name
from tune.trial.spec import TrialSpec

MAX_ROUNDS = 5  # with --until-settled
ALPHA = 0.05
IMAGE_SIZES = {"digits": 8, "cifar10": 32, "tinyimagenet": 64}  # pixels, known before images are decoded
# Where the user says nothing: trials of the exploration by preset, and seeds (of each round with --until-settled).
TRIALS = {"quick": 8, "paper": 24, "released-code": 24}
CONFIRM_SEEDS, ROUND_SEEDS = 5, 4


@dataclass(frozen=True)
class StudyPlan:
    """Everything that determines the results of a study.

    Attributes:
        base: Configuration that a candidate changes.
        search: ``tpe``, ``gp``, ``qmc``, ``random``, ``grid`` or ``none``.
        trials: Trials of the exploration.
        seeds: Paired seeds of the first round of the confirm phase.
        warnings: To print before the study starts.
        configs: Cache of resolved configurations; resolving one takes a millisecond.
    """

    options: StudyOptions
    name: str
    space: Space
    base: PretrainConfig
    images: ImageSet
    search: str
    trials: int
    seeds: tuple[int, ...]
    warnings: tuple[str, ...] = field(default=())
    configs: dict[Candidate, PretrainConfig] = field(default_factory=dict, repr=False, compare=False)

    def config(self, candidate: Candidate) -> PretrainConfig:
        """Return the resolved configuration of a candidate."""
        if candidate not in self.configs:
            train = len(self.images.indices("train"))
            resolved = candidate.config(self.base).resolve(self.images.image_size, self.images.channels, train)
            self.configs[candidate] = resolved
        return self.configs[candidate]

    def known_candidates(self) -> dict[int, Candidate]:
        """Return the candidates that do not depend on results by trial number: a whole grid, or the fixed points."""
        points = self.space.grid() if self.search == "grid" else self.space.fixed()
        return dict(enumerate(points[: self.trials]))

    def explore_spec(self, number: int, candidate: Candidate, seed: int) -> TrialSpec:
        """Return trial ``number`` of the exploration."""
        return TrialSpec(self.explore_id(number), "explore", seed, candidate.label, self.config(candidate))

    def explore_id(self, number: int) -> str:
        """Return the id of trial ``number`` of the exploration."""
        return f"explore-{number:04d}"

    @property
    def rounds(self) -> int:
        """Most rounds of the confirm phase."""
        return MAX_ROUNDS if self.options.confirm.until_settled else 1

    @property
    def alpha(self) -> float:
        """Level of the verdict: 5 %, from the second look on 5 % / 2^look."""
        look = self.options.confirm.look
        return ALPHA if look == 1 else ALPHA / 2**look

    def round_seeds(self, number: int) -> tuple[int, ...]:
        """Return the seeds of confirm round ``number`` (from 0)."""
        size = len(self.seeds)
        return tuple(confirm_seeds(size, self.options.training.seed, first=number * size))

    def judge_options(self) -> dict[str, Any]:
        """Return the keyword arguments for ``studies.verdict.judge``."""
        from studies.verdict import Looks

        return {
            "margin": self.options.confirm.margin,
            "default_ratio": self.space.default_ratio,
            "alpha": self.alpha,
            "looks": Looks(len(self.seeds), self.rounds) if self.rounds > 1 else None,
        }


def plan_study(options: StudyOptions, *, progress: bool = False, images: ImageSet | None = None) -> StudyPlan:
    """Load the images and plan the study; no model is trained.

    Args:
        options: Normalized options.
        progress: Show the progress of downloads and decoding.
        images: Loaded images; None loads those that the options name.

    Raises:
        ConfigError, DataError: Invalid options, alone or for these images; images that cannot be used.
    """
    check_options(options)
    data = options.data
    if images is None:
        size = data.image_size or IMAGE_SIZES.get(data.dataset)
        if size is not None:  # build every configuration, so that invalid ones fail before images are decoded
            space = _space(options, size)
            base = _base(options, space)
            configs = [candidate.config(base).resolve(size, 1) for candidate in space.grid()]
            if options.machine.address is None:
                check_memory(configs)
        images = load_images(
            data.dataset, data.data_root, data.image_size, data.limit, options.data_seed,
            skip_unreadable=data.skip_unreadable, progress=progress,
        )  # fmt: skip
    options = options.fitted(images)
    space = _space(options, images.image_size)
    base = _base(options, space, len(images.indices("train")))
    seeds = options.confirm.confirm_seeds or (ROUND_SEEDS if options.confirm.until_settled else CONFIRM_SEEDS)
    plan = StudyPlan(
        options=options,
        name=as_study_name(images.name) if options.storage.name is None else options.storage.name,
        space=space,
        base=base,
        images=images,
        search=options.search.search,
        trials=_trials(options, space),
        seeds=tuple(confirm_seeds(seeds, options.training.seed)),
    )
    for candidate in space.grid():  # an invalid combination fails now, not hours later
        plan.config(candidate)
    return replace(plan, warnings=tuple(_warnings(plan)))


def _space(options: StudyOptions, size: int) -> Space:
    search, confirm = options.search, options.confirm
    methods: tuple[str, ...] = tuple(dict.fromkeys(search.methods))
    usual = preset(options.training.preset).model.patch_size
    if search.patch_sizes:
        sizes = search.patch_sizes
    elif options.training.preset != "quick" and size % usual == 0 and size > usual:
        sizes = (usual,)
    else:
        sizes = default_patch_sizes(size)
    ratios, ladder, patches = {}, {}, {}
    for m in methods:
        listed, option = search.ratios, "--ratios"
        if m == "mae" and search.mae_ratios is not None:
            listed, option = search.mae_ratios, "--mae-ratios"
        ratios[m] = Ratios(*DEFAULT_RANGE[m], DEFAULT_GRID[m] if search.search == "grid" else ())
        rungs: Sequence[float] = DEFAULT_LADDER[m]
        if listed is not None:
            ratios[m] = Ratios.of(listed, option)
            rungs = ratios[m].listed or rungs
        default = confirm.default_ratio if m == "pmae" else DEFAULT_RATIO["mae"]
        rungs = (confirm.ladder if m == "pmae" else confirm.mae_ladder) or rungs
        ladder[m] = tuple(sorted({*rungs, default}))
        patches[m] = patch_settings(size, sizes, search.patch_strides, search.mask_units if m == "mae" else None)
    # With the other presets a study draws masks whose mean share is the ratio, whatever their recipe says.
    recipe = ("released",) if options.training.preset == "released-code" and "pmae" in methods else None
    space = Space(
        ladder=ladder,
        ratios=ratios,
        patches=patches,
        strategies=strategies_of(methods, search.strategies or recipe),
        bases=tuple(dict.fromkeys(search.basis)),
        default_ratio=confirm.default_ratio,
        image_size=size,
    )
    asked = confirm.mae_ladder
    for p in patches.get("mae", ()) if asked else ():
        kept = _rungs(space, "mae", p)
        lost = [f"{ratio:g}" for ratio in space.ladder["mae"] if ratio not in kept]
        if lost:
            raise ConfigError(
                f"--mae-ladder {' '.join(f'{r:g}' for r in asked or ())}: with patch {p.label} the ratios "
                f"{', '.join(lost)} mask as many patches as another one; leave them out or use smaller --patch-sizes"
            )
    return space


def _rungs(space: Space, method: str, patches: Patches) -> set[float | None]:
    """Nominal ratios of the ladder at a patch setting: of MAE's that mask as many patches only one."""
    return {s.ratio for s in space.rungs(Candidate(method, patches, None, space.strategies[method][0]))}


def _base(options: StudyOptions, space: Space, train_images: int = MAX_NUMBER) -> PretrainConfig:
    """Return the configuration of the first method; that of another one results from changing its method."""
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


def _trials(options: StudyOptions, space: Space) -> int:
    search = options.search
    if search.search == "grid":
        return len(space.grid())
    if search.search == "none":
        return 0
    if search.trials is not None:
        return search.trials
    return max(TRIALS[options.training.preset], 2 * len(space.fixed()))


def _warnings(plan: StudyPlan) -> list[str]:
    texts = []
    size = plan.images.image_size
    fixed = plan.space.fixed() if plan.trials else []
    if plan.trials < len(fixed):
        left_out = ", ".join(s.label for s in fixed[plan.trials :])
        texts.append(f"--trials {plan.trials} leaves no room for all fixed points; not explored: {left_out}")
    if len(plan.seeds) < 3:
        texts.append(f"--confirm-seeds {len(plan.seeds)} rarely settles a verdict; 5 or more are better")
    small = [p.label for m in plan.space.methods for p in plan.space.patches[m] if tokens_of(size, p) < LEAST_TOKENS]
    if small:
        texts.append(
            f"patch {', '.join(dict.fromkeys(small))} leaves fewer than {LEAST_TOKENS} patches of a {size}-px image; "
            "training may then add nothing to an untrained encoder"
        )
    train = len(plan.images.indices("train"))
    dimensions = plan.images.image_size**2 * plan.images.channels
    if "pmae" in plan.space.methods and train <= dimensions:
        texts.append(
            f"{train} training images have at most {train - 1} components with variance, out of {dimensions} pixel "
            "values; masks are drawn among these"
        )
    smallest = min(len(plan.images.indices(s)) for s in ("val", "test"))
    margin = Margin.parse(plan.options.confirm.margin).points
    if margin is not None and smallest * margin < 1:
        texts.append(
            f"one image is more than the margin: the smallest of val and test has {smallest} images, so accuracies "
            f"move in steps of {1 / max(smallest, 1):.3f}"
        )
    return texts


def study_record(plan: StudyPlan, command: str, created_at: str, resources: dict[str, Any]) -> StudyRecord:
    """Return the content of ``study.json``: the plan in JSON types."""
    images, space = plan.images, plan.space
    config = plan.config(space.grid()[0])
    ladder = {}  # ratios that every patch setting has; a complete verdict has all of them
    for method in space.methods:
        kept = [_rungs(space, method, patches) for patches in space.patches[method]]
        ladder[method] = sorted(r for r in set.intersection(*kept) if r is not None)
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
        "methods": list(space.methods),
        "space": json.loads(json.dumps(dataclasses.asdict(space))),
        "search": plan.search,
        "phases": {
            "explore": {"planned": plan.trials, "seeds": []},
            "confirm": {"planned": None, "seeds": list(plan.seeds)},
        },
        "margin": Margin.parse(plan.options.confirm.margin).value,
        "alpha": plan.alpha,
        "looks": {"seeds_per_round": len(plan.seeds), "rounds": plan.rounds} if plan.rounds > 1 else None,
        "ladder": ladder,
        "default_ratio": plan.options.confirm.default_ratio,
        "mae_default_ratio": DEFAULT_RATIO["mae"],
        "epochs": config.optim.epochs,
        "config": config.to_dict(),
        "options": plan.options.to_dict(),
        "command": command,
        "versions": versions(),
        "code_version": code_version(),
        "resources": resources,
        "warnings": list(plan.warnings),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that compute results."""
    found = {"python": platform.python_version()}
    for package in ("pmae", "torch", "timm", "numpy", "ray", "optuna", "pyarrow"):
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def code_version() -> str:
    """Return the commit of this checkout (with ``+`` if files differ from it), or the version of the package."""
    root = Path(__file__).resolve().parents[2]
    with suppress(OSError, subprocess.TimeoutExpired):
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--match="],
            cwd=root, capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
        if run.returncode == 0 and (root / ".git").exists():
            return run.stdout.strip()
    return versions().get("pmae", "unknown")
