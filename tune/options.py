"""The options of a study: one dataclass per group of the command line's help, read by tyro.

Settings of its trainings are declared once, in ``pmae.config``; all but those that a study searches over are options.
Defaults that depend on others (the preset, the dataset) are ``None`` here and filled in by ``tune.planning.plan``.
Nothing is checked against the images here; only what an option can know alone is.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

from pmae.cli.help import answer_help
from pmae.cli.options import Augmentation, DataOptions, PresetOption, settings_options, shown_default
from pmae.cli.settings_file import expand_config, option_words
from pmae.config import Basis, MaskingConfig, Method, ModelConfig, OptimConfig, ProbeConfig
from pmae.errors import ConfigError

if TYPE_CHECKING:
    from pmae.data import ImageSet

PRESET = "the preset's"
Search = Literal["tpe", "gp", "qmc", "random", "grid", "none"]

# What a study searches over -> the options that say how.
SEARCHED = {
    "method": "--methods",
    "ratio": "--ratios",
    "ratio_range": "--ratios",
    "strategy": "--strategies",
    "patch_size": "--patch-sizes",
    "patch_stride": "--patch-strides",
    "mask_unit": "--mask-units",
}
_Settings: Any = settings_options(
    "_Settings", OptimConfig, ModelConfig, MaskingConfig, ProbeConfig, without=(*SEARCHED, "basis")
)


@dataclass(frozen=True)
class SearchOptions:
    """What is explored: masking ratio x patch setting, for each method an equal share of the trials."""

    methods: tuple[Method, ...] = ("pmae", "mae")
    """pmae masks principal components (ratio: share of the variance), mae masks patches (ratio: share of them)."""
    ratios: Annotated[tuple[float, ...] | None, shown_default("RATIO ...", "a range for each method")] = None
    """Two values are a range LOW HIGH to search in; one, three or more are the list of ratios to try. By default
    0.05 to 0.9 for pmae and 0.3 to 0.9 for mae (a grid: 0.1 0.2 0.3 0.4 0.5 and 0.5 0.6 0.7 0.75 0.8 0.9)."""
    mae_ratios: Annotated[tuple[float, ...] | None, shown_default("RATIO ...", "those of --ratios")] = None
    """The same for mae alone, when both methods are studied with different ratios."""
    patch_sizes: Annotated[tuple[int, ...] | None, shown_default("PIXELS ...", "two that fit the image")] = None
    """Patch sides in pixels; each must divide the image and leave at least 4 patches."""
    patch_strides: Annotated[tuple[int, ...] | None, shown_default("PIXELS ...", "the patch size")] = None
    """Pixels between neighboring patches; below the patch size they overlap."""
    mask_units: Annotated[tuple[int, ...] | None, shown_default("PIXELS ...", "the patch size")] = None
    """Sides in pixels of the squares that mae masks together; multiples of the patch size."""
    strategies: Annotated[tuple[str, ...] | None, shown_default("NAME ...", "expected for pmae, random for mae")] = None
    """How masks are drawn; pmae: expected fixed sampled tvb bvt released; mae: random block grid. The preset
    released-code makes released the default."""
    basis: tuple[Basis, ...] = ("pca",)
    """Bases whose coordinates pmae masks."""
    search: Search = "tpe"
    """tpe, gp (Gaussian process), qmc (quasi-random), random, grid (every combination once), or none: train the
    ladder at the first patch setting without exploring."""
    trials: Annotated[int | None, shown_default("N", PRESET)] = None
    """Trials of the exploration, which chooses the patch setting and looks between the rungs of the ladder."""


@dataclass(frozen=True)
class ConfirmOptions:
    """How the verdict is reached: a ladder of ratios, each with the same seeds, none of which was explored with."""

    ladder: Annotated[tuple[float, ...] | None, shown_default("RATIO ...", "0.05 0.1 0.2 0.35 0.55 0.75 0.9")] = None
    """Ratios that pmae is confirmed with, the default among them."""
    mae_ladder: Annotated[tuple[float, ...] | None, shown_default("RATIO ...", "0.25 0.5 0.75 0.875")] = None
    """The same for mae, 0.75 among them; each must mask another number of patches."""
    confirm_seeds: Annotated[int | None, shown_default("N", PRESET)] = None
    """Paired seeds per ratio (of each round with --until-settled); at least 2."""
    margin: str = "0.01"
    """Loss of accuracy that still counts as holding up: a fraction (0.01 is one point), or a share of what training
    adds to an untrained encoder, such as 10%."""
    default_ratio: float = 0.2
    """The default under test: share of the variance that pmae masks."""
    until_settled: bool = False
    """Add seeds in rounds until the verdict is no longer inconclusive (at most 5 rounds). Ratios that are clearly
    within the margin stop early; false holds and false fails each occur in at most 5 % of studies."""
    time_budget: Annotated[str | None, shown_default("TIME", "none")] = None
    """Choose the number of seeds so that the study takes about this long, for example 20m or 2h."""
    look: int = 1
    """Number of studies of these images that asked this question, including this one. From the second on the level is
    stricter, since repeated looks err more often."""


@dataclass(frozen=True)
class TrainingOptions(Augmentation, _Settings, PresetOption):
    """How every trial is trained and scored. The preset gives what is left out."""

    seed: int = 0
    """Random seed of the search and, unless --data-seed is given, of the split; every trial's own seed follows from it
    and from the trial's settings."""


@dataclass(frozen=True)
class StorageOptions:
    """Where the study is kept: <storage>/<name>/."""

    storage: str = "runs"
    """Folder that studies are kept in: a path or file://PATH, on a cluster one that every node sees; or an object
    store such as s3://BUCKET/PATH, with your usual credentials."""
    name: Annotated[str | None, shown_default("NAME", "the dataset's")] = None
    """Name of the study."""
    resume: bool = False
    """Resume the study of this name. Settings that are left out are the study's own."""


@dataclass(frozen=True)
class MachineOptions:
    """Resources of the study; the placement is printed before it starts."""

    address: Annotated[str | None, shown_default("ADDR", "a private Ray on this machine")] = None
    """Ray cluster to join, for example auto or HOST:6379."""
    workers_per_trial: Annotated[str, tyro.conf.arg(metavar="N|LEAST-MOST")] = "1"
    """Processes that share one trial's training (Ray Train). 2-4 takes four and continues with as few as two while
    nodes are missing."""
    gpus_per_trial: Annotated[float | None, shown_default("X", "1 where there are GPUs, else 0")] = None
    """GPUs per trial, in fractions if several trials share one."""
    max_concurrent: Annotated[int | None, shown_default("N", "as many as fit")] = None
    """Maximum number of concurrent trials."""
    trial_timeout: Annotated[float | None, shown_default("SECONDS", "none")] = None
    """Seconds after which a trial is stopped and recorded as failed."""
    dashboard: bool = False
    """Serve Ray's dashboard on 127.0.0.1 (needs pip install 'pmae[dashboard]')."""


@dataclass(frozen=True)
class OutputOptions:
    """What is printed."""

    quiet: bool = False
    """Print only the verdict, warnings and errors."""
    verbose: Annotated[bool, tyro.conf.arg(aliases=["-v"])] = False
    """Print the whole plan, a line for every trial that ended, and every check of the verdict."""
    dry_run: bool = False
    """Print the whole plan and stop."""


@dataclass(frozen=True)
class ConfirmRule:
    """Which candidates are confirmed."""

    refinements: int = 1  # of the best explored ratios between the rungs, which join the ladder
    every_patch_setting: bool = False  # confirm every patch setting, strategy and basis instead of the best one


@dataclass(frozen=True)
class StudyOptions:
    """Study which share should be masked, with which patches, and whether the default ratio holds up. Sub-commands:
    basis and theory study other questions, rerun RUN/study.json starts a study again under a new name."""

    # What a study of another question changes: its script, what it asks, what it confirms, its further measures
    # (``module:function``, called with a ``tune.trial.run.MeasureInput``), and the commands that its help begins with.
    program: ClassVar[str] = "tune/masking_ratio_study.py"
    question: ClassVar[str | None] = None
    rule: ClassVar[ConfirmRule] = ConfirmRule()
    metrics: ClassVar[str | None] = None
    examples: ClassVar[tuple[str, ...]] = (
        "pmae-study --dataset digits",
        "pmae-study --dataset folder:PATH --image-size 32 --time-budget 2h",
        "pmae-study rerun runs/digits/study.json --seed 1",
    )

    config: Annotated[str | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """YAML or JSON file with any of these options (names as here, flat or in sections), or the study.json of a study;
    the command line takes precedence."""
    data: DataOptions = field(default_factory=DataOptions)
    search: SearchOptions = field(default_factory=SearchOptions)
    confirm: ConfirmOptions = field(default_factory=ConfirmOptions)
    training: TrainingOptions = field(default_factory=TrainingOptions)
    storage: StorageOptions = field(default_factory=StorageOptions)
    machine: MachineOptions = field(default_factory=MachineOptions)
    output: OutputOptions = field(default_factory=OutputOptions)

    @property
    def data_seed(self) -> int:
        """Seed of the split and of ``--limit``."""
        return self.training.seed if self.data.data_seed is None else self.data.data_seed

    def with_file(self) -> StudyOptions:
        """These options over those of the file that ``config`` names; as they are without one."""
        if self.config is None:
            return self
        try:
            return parse_options(["--config", self.config, *self.to_argv()], type(self)())
        except SystemExit:  # tyro has printed why
            raise ConfigError(f"config: {self.config} has a value that cannot be read, see the message above") from None

    def with_absolute_paths(self) -> StudyOptions:
        """These options with absolute paths, so that workers and ``--resume`` do not depend on the current folder."""
        from pmae.data.load import absolute_source
        from pmae.files import user_path

        root = self.data.data_root
        paths: dict[str, Any] = {
            "dataset": absolute_source(self.data.dataset, root),
            "data_root": None if root is None else str(user_path(root, "--data-root").absolute()),
        }
        return dataclasses.replace(self, data=dataclasses.replace(self.data, **paths))

    def fill_from_images(self, images: ImageSet) -> StudyOptions:
        """Fill in the options that a study of another question takes from its images."""
        return self

    def values(self) -> dict[str, Any]:
        """Every option but ``config`` by name."""
        groups = [getattr(self, group.name) for group in dataclasses.fields(self) if group.name != "config"]
        return {option.name: getattr(group, option.name) for group in groups for option in dataclasses.fields(group)}

    def to_dict(self) -> dict[str, Any]:
        """JSON types of all that decides what the study finds (not of where and how it runs)."""
        return json.loads(json.dumps({group: dataclasses.asdict(getattr(self, group)) for group in STUDY_GROUPS}))

    def to_argv(self) -> list[str]:
        """The command line that gives these options: those that differ from the defaults."""
        words: list[str] = []
        usual = type(self)().values()
        for name, value in self.values().items():
            if value is not None and value != usual[name]:
                words += [f"--{name.replace('_', '-')}", *(option_words(value) if usual[name] is not False else ())]
        return words

    def with_study(self, stored: Mapping[str, Any]) -> StudyOptions:
        """These options with those that :meth:`to_dict` gave."""
        groups = {}
        for group in STUDY_GROUPS:
            kind, theirs = type(getattr(self, group)), stored.get(group, {})
            values = {f.name: theirs[f.name] for f in dataclasses.fields(kind) if f.name in theirs}
            groups[group] = kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
        return dataclasses.replace(self, **groups)

    def differences(self, stored: Mapping[str, Any]) -> list[str]:
        """How these options differ from stored ones, as ``--epochs 5 (the study has 3)``."""
        found = []
        asked, had = ({k: v for group in each.values() for k, v in group.items()} for each in (self.to_dict(), stored))
        for name in [name for name, value in asked.items() if value != had.get(name)]:
            option, value = name.replace("_", "-"), asked[name]
            if isinstance(value, bool):
                found.append(f"--{option} (not set in the study)" if value else f"--no-{option} (set in the study)")
                continue
            said, stood = ("by default" if v is None else " ".join(option_words(v)) for v in (value, had.get(name)))
            found.append(f"--{option} {said} (the study has {stood})")
        return found


USUAL = (
    "dataset", "image_size", "methods", "ratios", "patch_sizes", "confirm_seeds", "time_budget", "steps", "preset",
    "name", "resume", "dry_run", "verbose", "config",
)  # fmt: skip
STUDY_GROUPS = ("data", "search", "confirm", "training")  # decide what is found; equal for --resume


def parse_options(argv: Sequence[str], default: StudyOptions | None = None, *, pairs: bool = False) -> StudyOptions:
    """Read the command line, as changes of ``default``; ``pairs`` reads ``--flag`` and ``--no-flag`` alike.

    Raises SystemExit after help (0) and for options that cannot be read (2), else ConfigError.
    """
    default = StudyOptions() if default is None else default
    prog = f"python {default.program}"
    words = answer_help(argv, prog, default.examples, USUAL, type(default))
    argv = expand_config(words, type(default), SEARCHED)
    return tyro.cli(
        type(default),
        args=list(argv),
        prog=prog,
        description="",  # printed above
        default=default,
        config=(tyro.conf.OmitArgPrefixes,) if pairs else (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
