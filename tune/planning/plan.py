"""The plan of a study: what is explored, what is confirmed, with which seeds; and ``study.json``."""

from __future__ import annotations

import dataclasses
import json
import platform
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from pmae.cli.options import given_settings
from pmae.config import DEFAULT_RATIO, PretrainConfig, has_effect, preset
from pmae.data import ImageSet, load_images
from studies.statistics.decision import Margin
from studies.storage.rows import SCHEMA_VERSION, StudyRecord
from tune.options import StudyOptions
from tune.planning.check import MAX_NUMBER, check_options
from tune.planning.placement import check_memory
from tune.search.confirm import max_candidates
from tune.search.space import RECOMMENDED_TOKENS, Candidate, Space, build_space, confirm_seeds, tokens_of
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
    """Everything that determines the results of a study."""

    options: StudyOptions
    name: str
    space: Space
    base: PretrainConfig  # which a candidate changes
    images: ImageSet
    search: str
    trials: int  # of the exploration
    seeds: tuple[int, ...]  # of the first round of the confirm phase
    warnings: tuple[str, ...] = ()  # to print before the study starts
    configs: dict[Candidate, PretrainConfig] = field(default_factory=dict, repr=False, compare=False)  # a cache

    def config(self, candidate: Candidate) -> PretrainConfig:
        """The resolved configuration that trains ``candidate``."""
        if candidate not in self.configs:
            size, channels = self.images.image_size, self.images.channels
            self.configs[candidate] = candidate.config(self.base).resolve(size, channels, self.sizes["train"])
        return self.configs[candidate]

    @property
    def sizes(self) -> dict[str, int]:
        """Number of images by split."""
        return {split: len(self.images.indices(split)) for split in ("train", "val", "test")}

    def known_candidates(self) -> dict[int, Candidate]:
        """Return the candidates that do not depend on results by trial number: a whole grid, or the fixed points."""
        points = self.space.grid() if self.search == "grid" else self.space.fixed()
        return dict(enumerate(points[: self.trials]))

    def explore_spec(self, number: int, candidate: Candidate, seed: int) -> TrialSpec:
        """Trial ``number`` of the exploration."""
        return TrialSpec(self.explore_id(number), "explore", seed, candidate.label, self.config(candidate))

    def explore_id(self, number: int) -> str:
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

    @property
    def controls_per_seed(self) -> int:
        """Raw pixels, and an untrained encoder at one patch setting of each method or at all."""
        shapes = [[(p.patch_size, p.patch_stride) for p in self.space.patches[m]] for m in self.space.methods]
        every = self.options.rule.every_patch_setting
        return 1 + len({s for each in shapes for s in (each if every else each[:1])})

    @property
    def max_confirm_trials(self) -> int:
        """Confirm trials at most (one round), before the exploration has shown the leaders."""
        return (max_candidates(self.space, self.options.rule) + self.controls_per_seed) * len(self.seeds)

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
    """Load the images, unless they are given, and plan the study, or raise ConfigError or DataError."""
    check_options(options)
    data = options.data
    if images is None:
        size = data.image_size or IMAGE_SIZES.get(data.dataset)
        if size is not None:  # build every configuration, so that invalid ones fail before images are decoded
            space = build_space(options, size)
            base = _base(options, space)
            configs = [candidate.config(base).resolve(size, 1) for candidate in space.grid()]
            if options.machine.address is None:
                check_memory(configs)
        images = load_images(
            data.dataset, data.data_root, data.image_size, data.limit, options.data_seed,
            skip_unreadable=data.skip_unreadable, progress=progress,
        )  # fmt: skip
    options = options.fill_from_images(images)
    space = build_space(options, images.image_size)
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


def _base(options: StudyOptions, space: Space, train_images: int = MAX_NUMBER) -> PretrainConfig:
    """Return the configuration of the first method; that of another one results from changing its method."""
    first = space.methods[0]
    base = preset(options.training.preset, options.data.dataset, first)
    asked = given_settings(options.training)
    asked["knn_k"] = min(asked.get("knn_k", base.probe.knn_k), train_images)
    values = {**given_settings(options.data), "data_seed": options.data_seed}
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
    return search.trials or max(TRIALS[options.training.preset], 2 * len(space.fixed()))


def _warnings(plan: StudyPlan) -> list[str]:
    texts = []
    size = plan.images.image_size
    fixed = plan.space.fixed() if plan.trials else []
    if plan.trials < len(fixed):
        left_out = ", ".join(s.label for s in fixed[plan.trials :])
        texts.append(f"--trials {plan.trials} leaves no room for all fixed points; not explored: {left_out}")
    if len(plan.seeds) < 3:
        texts.append(f"--confirm-seeds {len(plan.seeds)} rarely settles a verdict; 5 or more are better")
    small = [p.label for each in plan.space.patches.values() for p in each if tokens_of(size, p) < RECOMMENDED_TOKENS]
    if small:
        texts.append(
            f"patch {', '.join(dict.fromkeys(small))} leaves fewer than {RECOMMENDED_TOKENS} patches of an "
            f"image of {size} px; training may then add nothing to an untrained encoder"
        )
    train = plan.sizes["train"]
    dimensions = plan.images.image_size**2 * plan.images.channels
    if "pmae" in plan.space.methods and train <= dimensions:
        texts.append(
            f"{train} training images have at most {train - 1} components with variance, out of {dimensions} pixel "
            "values; masks are drawn among these"
        )
    smallest = min(plan.sizes["val"], plan.sizes["test"])
    margin = Margin.parse(plan.options.confirm.margin).points
    if margin is not None and smallest * margin < 1:
        texts.append(
            f"one image is more than the margin: the smaller of val and test has {smallest} images, so accuracies "
            f"move in steps of {1 / max(smallest, 1):.3f}"
        )
    return texts


def study_record(plan: StudyPlan, command: str, created_at: str, resources: dict[str, Any]) -> StudyRecord:
    """Return the content of ``study.json``: the plan in JSON types."""
    images, space = plan.images, plan.space
    config = plan.config(space.grid()[0])
    ladder = {}  # ratios that every patch setting has; a complete verdict has all of them
    for method in space.methods:
        kept = [space.nominal_rungs(method, patches) for patches in space.patches[method]]
        ladder[method] = sorted(r for r in set.intersection(*kept) if r is not None)
    at_most = plan.max_confirm_trials if plan.rounds == 1 else None  # controls included
    return {
        "schema_version": SCHEMA_VERSION,
        "name": plan.name,
        "created_at": created_at,
        "question": plan.options.question,
        "dataset": {
            "source": plan.options.data.dataset,
            "name": images.name,
            "fingerprint": images.fingerprint,
            "train": plan.sizes["train"],
            "val": plan.sizes["val"],
            "test": plan.sizes["test"],
            "image_size": images.image_size,
            "channels": images.channels,
            "classes": len(images.class_names),
        },
        "methods": list(space.methods),
        "space": json.loads(json.dumps(dataclasses.asdict(space))),
        "search": plan.search,
        "phases": {
            "explore": {"planned": plan.trials, "seeds": []},
            "confirm": {"planned": None, "at_most": at_most, "seeds": list(plan.seeds)},
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
