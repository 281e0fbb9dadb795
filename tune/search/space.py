"""The search space: the candidates that a study may try, each valid for its images.

A :class:`Candidate` is a point of it; the rest of a trial comes from the base configuration.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pmae.config import (
    DEFAULT_RATIO,
    MIN_TOKENS,
    PretrainConfig,
    check_choice,
    check_patches,
    check_ratio,
    masked_count,
    patches_per_side,
    preset,
    strategies_of_method,
)
from pmae.errors import ConfigError
from tune.options import StudyOptions

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

# Default range of ratios to explore: PMAE's paper shows 0.1 to 0.5 and 0.9, MAE's best is at 0.6 to 0.9.
DEFAULT_RANGE = {"pmae": (0.05, 0.9), "mae": (0.3, 0.9)}
DEFAULT_GRID = {"pmae": (0.1, 0.2, 0.3, 0.4, 0.5), "mae": (0.5, 0.6, 0.7, 0.75, 0.8, 0.9)}
# Rungs of the confirm phase; MAE's mask 4, 8, 12 and 14 of 16 patches.
DEFAULT_LADDER = {"pmae": (0.05, 0.10, 0.20, 0.35, 0.55, 0.75, 0.90), "mae": (0.25, 0.50, 0.75, 0.875)}
RECOMMENDED_TOKENS = 16  # patches of an image; candidates with fewer are tried only on request, since they learn little
GRID_STEP = 0.1
RATIO_DIGITS = 3  # of a ratio: 0.001 is far below what seeds can distinguish
FIRST_EXPLORE_SEED = 1_000_000  # confirm seeds are smaller, so no confirmed seed was explored


@dataclass(frozen=True, order=True)
class Patches:
    """A patch setting: patch side, stride between patches and (MAE) mask unit, all in pixels."""

    patch_size: int
    patch_stride: int
    mask_unit: int | None = None

    @property
    def label(self) -> str:
        """Short name, for example ``4``, ``4 stride 2`` or ``4 unit 8``."""
        text = str(self.patch_size)
        if self.patch_stride != self.patch_size:
            text += f" stride {self.patch_stride}"
        return text + (f" unit {self.mask_unit}" if self.mask_unit else "")


@dataclass(frozen=True)
class Candidate:
    """One point of the space. ``ratio`` is None for the strategy that draws it from a range."""

    method: str
    patches: Patches
    ratio: float | None
    strategy: str
    basis: str = "pca"

    def config(self, base: PretrainConfig) -> PretrainConfig:
        """``base`` with the settings of this candidate."""
        values: dict[str, Any] = {
            "masking.method": self.method,
            "masking.strategy": self.strategy,
            "model.patch_size": self.patches.patch_size,
            "model.patch_stride": self.patches.patch_stride,
        }
        if self.ratio is not None:
            values["masking.ratio"] = self.ratio
        if self.method == "pmae":
            values["masking.basis"] = self.basis
        elif self.patches.mask_unit is not None:
            values["masking.mask_unit"] = self.patches.mask_unit
        return base.with_values(values)

    @property
    def label(self) -> str:
        """Readable name, for example ``pmae r=0.20 p=4``."""
        extra = "" if self.strategy == strategies_of_method(self.method)[0] else f" {self.strategy}"
        extra += "" if self.method == "mae" or self.basis == "pca" else f" {self.basis}"
        ratio = "" if self.ratio is None else f" r={self.ratio:.2f}"
        return f"{self.method}{ratio} p={self.patches.label}{extra}"

    @classmethod
    def of(cls, config: PretrainConfig) -> Candidate:
        """The candidate that a resolved configuration trains."""
        m = config.masking
        assert m.strategy is not None, "the configuration is resolved"
        patch = config.model.patch_size
        patches = Patches(patch, config.model.stride, None if m.mask_unit == patch else m.mask_unit)
        return cls(m.method, patches, None if m.ratio_range else m.ratio, m.strategy, m.basis)


@dataclass(frozen=True)
class Ratios:
    """Ratios of one method: a list, or a range that is searched (``listed`` is empty then)."""

    low: float
    high: float
    listed: tuple[float, ...] = ()

    @classmethod
    def of(cls, values: Sequence[float], option: str = "--ratios") -> Ratios:
        """Two values are a range, any other count is a list."""
        for value in values:
            check_ratio(value, option)
        if len(values) == 2:
            low, high = values
            if low >= high:
                raise ConfigError(f"{option} {low:g} {high:g}: the low end of a range must be below its high end")
            return cls(low, high)
        if not values:
            raise ConfigError(f"{option} is empty; give LOW HIGH or a list of ratios")
        listed = tuple(sorted(set(values)))
        return cls(listed[0], listed[-1], listed)

    def grid(self) -> tuple[float, ...]:
        """The listed ratios, or the range in steps of 0.1, both ends included."""
        if self.listed:
            return self.listed
        steps = math.floor((self.high - self.low) / GRID_STEP + 1e-9)
        inner = [round(self.low + i * GRID_STEP, RATIO_DIGITS) for i in range(steps + 1)]
        return tuple(inner) if math.isclose(inner[-1], self.high, abs_tol=1e-6) else (*inner, self.high)


@dataclass(frozen=True)
class Space:
    """All candidates that a study may try. The keys of each mapping are methods."""

    ratios: Mapping[str, Ratios]
    patches: Mapping[str, tuple[Patches, ...]]
    strategies: Mapping[str, tuple[str, ...]]
    image_size: int
    bases: tuple[str, ...] = ("pca",)
    default_ratio: float = DEFAULT_RATIO["pmae"]
    ladder: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=lambda: dict(DEFAULT_LADDER))

    @property
    def methods(self) -> tuple[str, ...]:
        return tuple(self.patches)

    def default_of(self, method: str) -> float:
        """The ratio whose claim is tested: ``default_ratio`` for PMAE, 0.75 for MAE."""
        return self.default_ratio if method == "pmae" else DEFAULT_RATIO["mae"]

    def default_candidates(self, method: str) -> list[Candidate]:
        """Every patch setting, strategy and basis of a method, at its default ratio."""
        default, bases = self.default_of(method), self.bases_of(method)
        return [
            Candidate(method, patches, None if strategy == "sampled" else default, strategy, basis)
            for patches, strategy, basis in itertools.product(self.patches[method], self.strategies[method], bases)
        ]

    def fixed(self) -> list[Candidate]:
        """Points always tried: each method's default ratio for each patch setting, methods in turn."""
        per_method = [
            [Candidate(m, p, self.default_of(m), self.strategies[m][0], self.bases_of(m)[0]) for p in self.patches[m]]
            for m in self.methods
            if self.strategies[m][0] != "sampled"
        ]
        return [s for group in itertools.zip_longest(*per_method) for s in group if s is not None]

    def grid(self) -> list[Candidate]:
        """Every combination once, the fixed points first; MAE's ratios that mask the same number of units are one."""
        points = self.fixed()
        for method in self.methods:
            for each in self.default_candidates(method):
                ratios = self.ratios[method].grid() if each.ratio is not None else [None]
                points += [replace(each, ratio=ratio) for ratio in ratios]
        return deduplicate(points, self.image_size, self.fixed())

    def rungs(self, candidate: Candidate) -> list[Candidate]:
        """``candidate`` at every ratio of its method's ladder, the default among them; MAE's mask distinct counts."""
        ratios = sorted({*self.ladder[candidate.method], self.default_of(candidate.method)})
        default = replace(candidate, ratio=self.default_of(candidate.method))
        return deduplicate([replace(candidate, ratio=ratio) for ratio in ratios], self.image_size, [default])

    def nominal_rungs(self, method: str, patches: Patches) -> set[float | None]:
        """Ratios of the ladder at a patch setting: of MAE's that mask as many patches only one."""
        return {s.ratio for s in self.rungs(Candidate(method, patches, None, self.strategies[method][0]))}

    def bases_of(self, method: str) -> tuple[str, ...]:
        """The bases of a method; a single one for MAE, which does not use it."""
        return self.bases if method == "pmae" else ("pca",)

    def suggest(self, trial: BaseTrial, method: str, with_default: bool = False) -> Candidate:
        """Draw a candidate of ``method``; ``with_default`` allows the default outside the requested ratios too."""

        def choose(name: str, choices: Sequence[Any]) -> Any:
            # A parameter with a single value is left out: it would only add noise to the sampler's model.
            return choices[0] if len(choices) == 1 else trial.suggest_categorical(f"{method}_{name}", choices)

        patches = {p.label: p for p in self.patches[method]}
        chosen = patches[choose("patches", tuple(patches))]
        strategy, basis = choose("strategy", self.strategies[method]), choose("basis", self.bases_of(method))
        limits = self.ratios[method]
        default = [self.default_of(method)] if with_default else []
        if strategy == "sampled":
            ratio = None
        elif limits.listed:
            ratio = choose("ratio", sorted({*limits.listed, *default}))
        else:
            ends = [limits.low, limits.high, *default]
            if with_default:  # ratios on record are rounded, perhaps to just outside
                ends += [round(end, RATIO_DIGITS) for end in ends]
            ratio = round(trial.suggest_float(f"{method}_ratio", min(ends), max(ends)), RATIO_DIGITS)
        return Candidate(method, chosen, ratio, strategy, basis)

    def contains(self, candidate: Candidate) -> bool:
        """Whether :meth:`suggest` could draw the candidate (a default may be outside the requested ratios)."""
        choice = self.ratios[candidate.method]
        if candidate.ratio is None or choice.listed:
            return candidate.ratio is None or candidate.ratio in choice.listed
        return choice.low <= candidate.ratio <= choice.high

    def parameters(self, candidate: Candidate) -> dict[str, Any]:
        """The draws with which :meth:`suggest` gives ``candidate``."""
        m = candidate.method
        draws = {
            "patches": candidate.patches.label if len(self.patches[m]) > 1 else None,
            "strategy": candidate.strategy if len(self.strategies[m]) > 1 else None,
            "basis": candidate.basis if len(self.bases_of(m)) > 1 else None,
            "ratio": candidate.ratio,
        }
        return {f"{m}_{name}": value for name, value in draws.items() if value is not None}


def build_space(options: StudyOptions, size: int) -> Space:
    """The search space that ``options`` describe for images of ``size`` pixels; ConfigError if it is invalid."""
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
    for p in patches.get("mae", ()) if confirm.mae_ladder else ():
        kept = space.nominal_rungs("mae", p)
        lost = [f"{ratio:g}" for ratio in space.ladder["mae"] if ratio not in kept]
        if lost:
            raise ConfigError(
                f"--mae-ladder {' '.join(f'{r:g}' for r in confirm.mae_ladder or ())}: with patch {p.label} the ratios "
                f"{', '.join(lost)} mask as many patches as another one; leave them out or use smaller --patch-sizes"
            )
    return space


def explore_seed(candidate: Candidate, study_seed: int) -> int:
    """A seed that follows from the candidate and the study's seed, the same in every process."""
    text = json.dumps([dataclasses.asdict(candidate), study_seed], sort_keys=True)
    return FIRST_EXPLORE_SEED + int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % 1_000_000_000


def confirm_seeds(count: int, study_seed: int, first: int = 0) -> list[int]:
    """Paired seeds number ``first`` to ``first + count - 1`` of a study; none is ever an explore seed."""
    start = 1 + (study_seed * 1000) % (FIRST_EXPLORE_SEED - 1000)
    return [start + first + i for i in range(count)]


def default_patch_sizes(image_size: int) -> tuple[int, ...]:
    """The patch sizes that leave about 16 and about 64 patches, fewest first; one where only one fits."""
    fitting = [p for p in range(2, image_size // 2 + 1) if image_size % p == 0]  # patches of one pixel cost the most
    enough = [p for p in fitting if (image_size // p) ** 2 >= RECOMMENDED_TOKENS]
    if not fitting:
        raise ConfigError(f"no patch size divides an image of {image_size} px; give --image-size, for example 32")
    if not enough:
        return (fitting[0],)
    nearest = [min(enough, key=lambda p, n=side: abs(image_size / p - n)) for side in (4, 8)]  # type: ignore[misc]
    return tuple(dict.fromkeys(nearest))


def patch_settings(
    image_size: int,
    patch_sizes: Sequence[int],
    strides: Sequence[int] | None = None,
    mask_units: Sequence[int] | None = None,
) -> tuple[Patches, ...]:
    """Every valid combination; a value that is in none is refused."""
    for patch in patch_sizes:
        check_patches(image_size, patch)
    found = []
    for patch in patch_sizes:
        for stride in strides or (patch,):
            if stride > patch or (image_size - patch) % stride:
                continue
            for unit in mask_units or (None,):
                if unit is None or unit == patch:
                    found.append(Patches(patch, stride))
                    continue
                whole = stride == patch and unit % patch == 0 and image_size % unit == 0
                if whole and (image_size // unit) ** 2 >= MIN_TOKENS:
                    found.append(Patches(patch, stride, unit))
    stride_rule = "a stride is at most the patch size and divides image size minus patch size"
    unit_rule = (
        "a mask unit is a multiple of the patch size, divides the image into at least 4 and needs patches that do not "
        "overlap"
    )
    for option, rule, asked, used in (
        ("--patch-strides", stride_rule, strides, {p.patch_stride for p in found}),
        ("--mask-units", unit_rule, mask_units, {p.mask_unit or p.patch_size for p in found}),
        ("--patch-sizes", "no stride or mask unit given goes with it", patch_sizes, {p.patch_size for p in found}),
    ):
        unused = [value for value in asked or () if value not in used]
        if unused:
            raise ConfigError(
                f"{option} {unused[0]} fits none of the other patch settings on an image of {image_size} px: {rule}; "
                "leave it out or change the others"
            )
    return tuple(dict.fromkeys(found))


def tokens_of(image_size: int, patches: Patches) -> int:
    """Number of patches of an image of ``image_size`` pixels."""
    return patches_per_side(image_size, patches.patch_size, patches.patch_stride) ** 2


def strategies_of(methods: Sequence[str], asked: Sequence[str] | None) -> dict[str, tuple[str, ...]]:
    """The requested strategies by method; each must belong to a method of the study."""
    allowed = {m: strategies_of_method(m) for m in methods}
    if asked is None:
        return {m: a[:1] for m, a in allowed.items()}
    everything = [s for a in allowed.values() for s in a]
    for name in asked:
        check_choice(f"--strategies (with methods {' '.join(methods)})", name, everything)
    return {m: tuple(dict.fromkeys(s for s in asked if s in a)) or a[:1] for m, a in allowed.items()}


def deduplicate(
    candidates: Sequence[Candidate], image_size: int, always: Collection[Candidate] = ()
) -> list[Candidate]:
    """Drop repeated candidates. Of MAE candidates that mask the same number of units, keep the one in ``always``, else
    the one nearest to the masked share, at the first one's position."""
    kept: dict[tuple[Candidate, int | None], Candidate] = {}
    for candidate in candidates:
        masked, units = masked_units(candidate, image_size)
        key = (candidate, None) if masked is None else (replace(candidate, ratio=None), masked)
        before = kept.setdefault(key, candidate)
        if masked is not None and before not in always:
            kept[key] = min(before, candidate, key=lambda s: abs((s.ratio or 0) - masked / units))
    return list(kept.values())


def masked_units(candidate: Candidate, image_size: int) -> tuple[int | None, int]:
    """Units masked, and units there are; None where a ratio can be met exactly enough (PMAE) or is drawn."""
    if candidate.method != "mae" or candidate.ratio is None:
        return None, 0
    unit = candidate.patches.mask_unit
    units = tokens_of(image_size, candidate.patches) if unit is None else (image_size // unit) ** 2
    return masked_count(units, candidate.ratio), units
