"""What one pre-training run is: frozen, typed settings, every one checked when it is built.

The settings are nested as :class:`PretrainConfig` ``.data .masking .model .optim .probe``. None means that a setting is
derived from others or from the images; :meth:`PretrainConfig.resolve` returns a copy in which all are known. The text
below a field is its help on every command line. Recipes are in ``pmae.presets``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pmae.errors import ConfigError, did_you_mean
from pmae.presets import PRESETS

Method = Literal["pmae", "mae"]
ComponentStrategy = Literal["expected", "fixed", "sampled", "tvb", "bvt", "released"]
PatchStrategy = Literal["random", "block", "grid"]
Basis = Literal["pca", "dct", "wavelet", "rotation", "pixel"]
Precision = Literal["auto", "fp32", "bf16"]
Pool = Literal["cls", "mean", "concat"]
Compile = Literal["auto", "on", "off", "reduce-overhead", "max-autotune"]
Preset = Literal["quick", "paper", "released-code"]

METHODS: tuple[str, ...] = get_args(Method)
COMPONENT_STRATEGIES: tuple[str, ...] = get_args(ComponentStrategy)
PATCH_STRATEGIES: tuple[str, ...] = get_args(PatchStrategy)
BASES: tuple[str, ...] = get_args(Basis)
POOLS: tuple[str, ...] = get_args(Pool)
OWN = "own:"  # begins the name of a basis or a strategy that is given to pretrain() as an object
DEFAULT_RATIO = {"pmae": 0.20, "mae": 0.75}
SAMPLED_RANGE = (0.1, 0.9)
GROUP_SIZE = 16
DEFAULT_EPOCHS = 100
# Largest matrix that is held and decomposed: of pixel values, or of images where those are fewer. Of larger images the
# leading components are kept.
MAX_FULL_SIZE = 12_288
LOW_RANK = 1024
MIN_TOKENS = 4

ENCODER_PRESETS: dict[str, tuple[int, int, int]] = {  # width, depth, heads
    "vit_tiny": (192, 12, 3),
    "vit_small": (384, 12, 6),
    "vit_base": (768, 12, 12),
}

# Below, crops are off: on digits (8 px) they lower what training adds to MAE from 10.8 to 6.8 points (3 seeds).
MIN_CROPPED_SIZE = 16
DEFAULT_CROP_SCALE = (0.6, 1.0)

# Minimum of integer settings (default 1), and float settings that must be positive.
MIN_VALUES = {"image_size": 4, "data_seed": 0, "group_size": 2}
POSITIVE_SETTINGS = ("learning_rate", "clip_grad_norm", "mlp_ratio")

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images, and how they are augmented."""

    dataset: str = "digits"
    """digits (nothing to download), cifar10, tinyimagenet, a 2-D MedMNIST name such as bloodmnist, folder:PATH
    (one sub-folder per class), parquet:PATH (a file, a glob or a folder) or npz:PATH."""
    data_root: str | None = None
    """Folder for downloads. By default the user's cache."""
    image_size: int | None = None
    """Resize images to this many pixels a side; needed when they differ in size. By default they keep their size."""
    limit: int | None = None
    """Use at most this many training images, class-balanced. By default all of them."""
    data_seed: int = 0
    """Random seed of the held-out validation split and of --limit."""
    crop_scale: tuple[float, float] | None = (0.2, 1.0)
    """Share of the area that a random resized crop keeps, low and high end; 1 1 turns cropping off. None (the
    quick recipe): 0.6 1, or 1 1 below 16 px."""
    flip: bool = True
    """Whether half of the training images are mirrored left to right."""

    def __post_init__(self) -> None:
        if not isinstance(self.dataset, str) or not self.dataset.strip():
            raise ConfigError(f"dataset is {self.dataset!r}; name a dataset, for example 'digits' or 'folder:PATH'")
        _check_values(self)
        if self.crop_scale is not None and not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ConfigError(f"crop_scale is {self.crop_scale}; it needs 0 < low <= high <= 1, for example (0.2, 1.0)")

    def resolve(self, image_size: int) -> DataConfig:
        """A copy with ``crop_scale`` filled in for images of ``image_size`` px."""
        return self if self.crop_scale is not None else replace(self, crop_scale=usual_crop_scale(image_size))


@dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """What is masked, and what the loss compares."""

    method: Method = "pmae"
    """pmae masks principal components, mae masks patches."""
    ratio: float | None = None
    """Masked share, a fraction between 0 and 1: of the variance (pmae) or of the patches (mae). By default 0.2 for
    pmae and 0.75 for mae."""
    ratio_range: tuple[float, float] | None = None
    """Draw the ratio uniformly between these two instead: per image (pmae with strategy sampled, by default 0.1 to
    0.9) or per batch (mae)."""
    strategy: str | None = None
    """How masks are drawn. pmae: expected (the mean masked share equals the ratio), fixed (the nearest share), sampled
    (see ratio_range), tvb (targets are the components of lowest variance), bvt (of highest) or released (the paper's
    code). mae: random, block or grid. By default expected for pmae and random for mae."""
    per: Literal["image", "group", "batch"] = "image"
    """One mask per image, per group of consecutive images of a batch, or per batch."""
    group_size: int | None = None
    """Maximum number of images that share a mask (per=group only). By default 16."""
    loss: Literal["components", "pixels"] = "components"
    """pmae: compare masked components (PMAE Eq. 3.1) or pixels (Eq. A.1)."""
    reduction: Literal["image", "batch"] = "image"
    """What is minimized: the mean over images of each image's mean squared error (image, as in the papers), or the
    mean over all masked values of the batch (batch). With one mask per image the former is dominated by images with
    few masked components, above all where one component holds much variance."""
    basis: Basis = "pca"
    """pmae: orthonormal basis whose coordinates are masked."""
    mask_unit: int | None = None
    """mae: side in pixels of the squares that are masked together, a multiple of the patch size (Kong et al. 2023). By
    default the patch size."""
    normalize_target: bool = False
    """mae: standardize each target patch by its own mean and variance."""

    def __post_init__(self) -> None:
        _check_values(self)
        if self.strategy is not None and not is_own(self.strategy):
            check_choice(f"strategy (for method {self.method!r})", self.strategy, strategies_of_method(self.method))
        if self.group_size is not None and self.per != "group":
            raise ConfigError(
                f"group_size {self.group_size} has no effect with per={self.per!r}; use per='group' or leave it out"
            )
        if self.ratio_range is not None:
            if self.method == "pmae" and self.strategy != "sampled":
                raise ConfigError(
                    f"ratio_range has no effect with strategy {self.strategy or COMPONENT_STRATEGIES[0]!r}; "
                    "use strategy='sampled' or set ratio"
                )
            for end, value in zip(("low", "high"), self.ratio_range, strict=True):
                check_ratio(value, f"ratio_range's {end} end")
            if self.ratio_range[0] >= self.ratio_range[1]:
                raise ConfigError(f"ratio_range is {self.ratio_range}; its low end must be below its high end")
        if self.ratio is not None and self.drawn_from is not None:
            low, high = self.drawn_from
            if not math.isclose(self.ratio, (low + high) / 2):
                raise ConfigError(
                    f"ratio {self.ratio} has no effect when the ratio is drawn from {low} to {high}; "
                    "leave it out, or set neither ratio_range nor strategy='sampled'"
                )
        for name in METHOD_ONLY_SETTINGS["mae" if self.method == "pmae" else "pmae"]:
            value = getattr(self, name)
            if value != DEFAULTS[f"masking.{name}"]:
                raise ConfigError(f"{name}={value!r} has no effect with method {self.method!r}; leave it out")

    @property
    def drawn_from(self) -> tuple[float, float] | None:
        """The range that ratios are drawn from; None for a constant ratio."""
        return self.ratio_range or (SAMPLED_RANGE if self.strategy == "sampled" else None)

    def resolve(self) -> MaskingConfig:
        """A copy with strategy, ratio and group size filled in; a ratio that is drawn is the middle of its range."""
        drawn = self.drawn_from
        ratio = sum(drawn) / 2 if drawn else self.ratio or DEFAULT_RATIO[self.method]
        group_size = self.group_size or (GROUP_SIZE if self.per == "group" else None)
        strategy = self.strategy or strategies_of_method(self.method)[0]
        return replace(self, strategy=strategy, ratio_range=drawn, ratio=ratio, group_size=group_size)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shapes of the encoder and the decoder. Defaults are the PMAE paper's ViT-Tiny and its decoder."""

    image_size: int | None = None
    """Side of the square images in pixels. Taken from the images."""
    channels: int | None = None
    """1 or 3. Taken from the images."""
    patch_size: int = 4
    """Side of a patch in pixels; must divide the image and leave at least 4 patches."""
    patch_stride: int | None = None
    """Pixels between neighboring patches; below the patch size they overlap. By default the patch size."""
    encoder: str | None = None
    """vit_tiny, vit_small, vit_base or the name of a timm vision transformer; replaces width, depth and heads. By
    default the shape that those three give."""
    width: int | None = None
    """Encoder width. By default that of vit_tiny, 192."""
    depth: int | None = None
    """Encoder blocks. By default those of vit_tiny, 12."""
    heads: int | None = None
    """Encoder attention heads. By default those of vit_tiny, 3."""
    mlp_ratio: float = 4.0
    """Hidden width of the MLPs over the width, in encoder and decoder."""
    decoder_width: int = 512
    """Decoder width."""
    decoder_depth: int = 8
    """Decoder blocks."""
    decoder_heads: int = 16
    """Decoder attention heads."""
    position: Literal["learned", "sincos"] = "learned"
    """Position embeddings: learned, or fixed sines and cosines."""
    pool: Pool = "cls"
    """What the probes read: the class token, the mean of the patch tokens, or both concatenated."""

    def __post_init__(self) -> None:
        if self.channels not in (None, 1, 3):
            raise ConfigError(f"channels is {self.channels!r}; allowed are 1 (gray) and 3 (color)")
        _check_values(self)
        self._check_encoder()
        self._check_blocks("decoder_width", self.decoder_width, "decoder_heads", self.decoder_heads)
        if self.image_size is not None:
            check_patches(self.image_size, self.patch_size, self.patch_stride)

    def _check_encoder(self) -> None:
        if self.encoder is not None and self.encoder not in ENCODER_PRESETS:
            import timm  # only for the rare timm name: the import takes a second

            if self.encoder not in timm.list_models("*vit_*"):
                hint = did_you_mean(str(self.encoder), timm.list_models("*vit_*"))
                raise ConfigError(
                    f"encoder is {self.encoder!r}; allowed are {', '.join(ENCODER_PRESETS)} and timm's "
                    f"vision-transformer names{hint}"
                )
            if (self.width, self.depth, self.heads) != (None, None, None):
                raise ConfigError(
                    f"width, depth and heads are fixed by the timm encoder {self.encoder!r}; leave them out"
                )
            return
        for name, usual in zip(("width", "depth", "heads"), ENCODER_PRESETS[self.encoder or "vit_tiny"], strict=True):
            value = getattr(self, name)
            if self.encoder is not None and value not in (None, usual):
                raise ConfigError(
                    f"{name} {value} contradicts encoder {self.encoder!r} ({name} {usual}); leave one of them out"
                )
        assert self.shape is not None
        self._check_blocks("width", self.shape[0], "heads", self.shape[2])

    def _check_blocks(self, name: str, width: int, of_heads: str, heads: int) -> None:
        if width % heads:
            raise ConfigError(
                f"{name} {width} is not a multiple of {of_heads} {heads}; choose {of_heads} that divide the width"
            )
        if self.position == "sincos" and width % 4:
            raise ConfigError(f"{name} {width} must be a multiple of 4 for position='sincos'")

    @property
    def stride(self) -> int:
        """Pixels between neighboring patches."""
        return self.patch_stride or self.patch_size

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """The encoder's width, depth and heads; None for a timm encoder."""
        if self.encoder is not None and self.encoder not in ENCODER_PRESETS:
            return None
        width, depth, heads = ENCODER_PRESETS[self.encoder or "vit_tiny"]
        return self.width or width, self.depth or depth, self.heads or heads

    @property
    def grid(self) -> int:
        """Patches along one side of the image."""
        if self.image_size is None:
            raise ConfigError("image_size is not known yet; give it, or let pretrain() take it from the images")
        return patches_per_side(self.image_size, self.patch_size, self.stride)

    @property
    def tokens(self) -> int:
        """Patches of one image (the class token not counted)."""
        return self.grid**2

    def resolve(self) -> ModelConfig:
        """A copy with stride and encoder filled in: its shape, and its name where that shape has one."""
        if self.shape is None:
            return replace(self, patch_stride=self.stride)
        width, depth, heads = self.shape
        encoder = next((name for name, shape in ENCODER_PRESETS.items() if shape == self.shape), None)
        return replace(self, patch_stride=self.stride, encoder=encoder, width=width, depth=depth, heads=heads)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with a warm-up and a cosine schedule. Defaults are the PMAE paper's recipe; it trains 800 epochs."""

    epochs: int | None = None
    """Passes over the training images. By default 100, or what --steps asks for."""
    steps: int | None = None
    """Optimizer steps, instead of epochs: the nearest number of whole epochs for the images and the batch size, but
    at least --min-epochs."""
    min_epochs: int = 1
    """Minimum number of epochs with --steps."""
    batch_size: int = 512
    """Images per step over all workers; a smaller dataset is one batch."""
    accumulation_steps: int = 1
    """Parts of a batch that are computed one after another, so that less memory is needed; their gradients are added
    up. Masks, crops and the learning rate are those of the whole batch: only rounding differs."""
    learning_rate: float = 1.5e-4
    """Base learning rate, at batch 256: the peak rate is this times the images in a batch / 256."""
    warmup_epochs: float | None = None
    """Epochs of warm-up. By default a twentieth of the epochs."""
    schedule: Literal["cosine", "released"] = "cosine"
    """cosine: a linear warm-up, then a cosine to 0. released, as in the paper's code: one rate per epoch, which grows
    tenfold with each epoch of the warm-up, then a cosine that would reach 0 that many epochs after the end."""
    weight_decay: float = 0.05
    """AdamW's weight decay."""
    weight_decay_on: Literal["matrices", "all"] = "matrices"
    """Decayed parameters: weight matrices only, or all (biases, norms, tokens and learned positions too)."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's moment decays."""
    clip_grad_norm: float | None = None
    """Largest gradient norm. By default gradients are not clipped."""
    precision: Precision = "auto"
    """auto is bf16 autocast where the device is faster with it, else fp32."""
    compile: Compile = "auto"
    """Whether the step goes through torch.compile; auto does for long runs on a GPU only. reduce-overhead (CUDA
    graphs) and max-autotune (those, and kernels chosen by measuring) are torch's modes."""

    def __post_init__(self) -> None:
        _check_values(self)
        if self.epochs is not None and self.steps is not None:
            raise ConfigError(f"epochs {self.epochs} and steps {self.steps} are both given; leave one of them out")
        if self.steps is None and self.min_epochs != 1:
            raise ConfigError(f"min_epochs {self.min_epochs} has no effect without steps; leave it out or give steps")
        most = self.epochs or DEFAULT_EPOCHS
        if self.warmup_epochs is not None and self.steps is None and self.warmup_epochs > most:
            raise ConfigError(
                f"warmup_epochs is {self.warmup_epochs}; it must be between 0 and epochs ({most}); "
                "lower it or leave it out"
            )
        if self.accumulation_steps > self.batch_size:
            raise ConfigError(
                f"accumulation_steps is {self.accumulation_steps}; it must be at most batch_size ({self.batch_size})"
            )
        if any(not 0 <= b < 1 for b in self.betas):
            raise ConfigError(f"betas are {self.betas}; both must be in [0, 1)")

    def resolve(self, train_images: int | None = None) -> OptimConfig:
        """A copy with epochs and warm-up filled in; steps become epochs once ``train_images`` is known."""
        if self.steps is not None and train_images is None:
            return self
        epochs = self.epochs or DEFAULT_EPOCHS
        if self.steps is not None and train_images is not None:
            epochs = max(self.min_epochs, round(self.steps / steps_per_epoch(train_images, self.batch_size)))
        warmup = epochs / 20 if self.warmup_epochs is None else min(self.warmup_epochs, epochs)
        return replace(self, epochs=epochs, warmup_epochs=warmup, steps=None, min_epochs=1)


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """How an encoder is scored."""

    protocol: Literal["fast", "paper"] = "fast"
    """Linear probe: fast (cached features, a grid of L2 penalties) or paper (SGD, 100 epochs)."""
    knn_k: int = 20
    """Neighbors of the k-NN vote."""

    def __post_init__(self) -> None:
        _check_values(self)


SECTIONS: dict[str, type] = {
    "data": DataConfig,
    "masking": MaskingConfig,
    "model": ModelConfig,
    "optim": OptimConfig,
    "probe": ProbeConfig,
}
HINTS = {kind: get_type_hints(kind) for kind in SECTIONS.values()}
SIZES = ("model.image_size", "model.channels")  # facts of the images, not settings of a command line
DEFAULTS = {f"{section}.{f.name}": f.default for section, kind in SECTIONS.items() for f in dataclasses.fields(kind)}
# Name -> the dotted setting it is; names are unique but for the sizes.
SETTINGS = {dotted.partition(".")[2]: dotted for dotted in DEFAULTS if dotted not in SIZES}
SHAPE = ("model.width", "model.depth", "model.heads")
# A changed setting takes the place of these, unless they are given with it.
REPLACES: dict[str, tuple[str, ...]] = {
    "masking.ratio": ("masking.ratio_range",),
    "masking.ratio_range": ("masking.ratio",),
    "masking.per": ("masking.group_size",),
    "model.encoder": SHAPE,
    "optim.epochs": ("optim.steps", "optim.min_epochs"),
    "optim.steps": ("optim.epochs", "optim.min_epochs"),
}
# At their defaults these stay out of the hash, so that trainings and studies from before they were settings resume.
LATER_SETTINGS = {"accumulation_steps": 1, "group_size": None, "schedule": "cosine", "weight_decay_on": "matrices"}
SHARED = ("per", "group_size", "reduction")  # masking settings that both methods have in common
METHOD_ONLY_SETTINGS = {"pmae": ("loss", "basis"), "mae": ("mask_unit", "normalize_target")}


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """All settings of one pre-training run but the seed, which is an argument of its own."""

    data: DataConfig = field(default_factory=DataConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    other_masking: MaskingConfig | None = field(default=None, compare=False, repr=False)
    """Masking settings of the method before :meth:`with_values` changed it, used if it is changed back; no setting."""

    def __post_init__(self) -> None:
        for name, kind in SECTIONS.items():
            if not isinstance(value := getattr(self, name), kind):
                raise ConfigError(
                    f"{name} is a {type(value).__name__}; it must be a {kind.__name__} "
                    "(PretrainConfig.from_dict takes mappings)"
                )
        if self.model.image_size is not None:
            self._check_patch_masking(self.model.image_size)

    def _check_patch_masking(self, image_size: int) -> None:
        unit, patch, stride = self.masking.mask_unit, self.model.patch_size, self.model.stride
        if self.masking.normalize_target and stride != patch:
            raise ConfigError(
                f"normalize_target cannot be combined with overlapping patches (stride {stride} < {patch}): a pixel "
                "would have several targets; leave one of them out"
            )
        if unit is None or unit == patch:
            return
        if stride != patch:
            raise ConfigError(
                f"mask_unit {unit} cannot be combined with overlapping patches (stride {stride} < {patch})"
            )
        if unit % patch or image_size % unit:
            raise ConfigError(
                f"mask_unit {unit} must be a multiple of patch_size {patch} and divide the image size {image_size}"
            )
        if (image_size // unit) ** 2 < MIN_TOKENS:
            raise ConfigError(
                f"mask_unit {unit} leaves {(image_size // unit) ** 2} units on an image of {image_size} px; "
                f"at least {MIN_TOKENS} are needed, so take {image_size // 2} or less"
            )

    def resolve(self, image_size: int, channels: int, train_images: int | None = None) -> PretrainConfig:
        """A copy with every setting filled in for images of ``image_size`` px and ``channels``.

        Steps become epochs once ``train_images``, the number of images that are trained on, is given. Resolving again
        changes nothing. Raises ConfigError where settings contradict the images.
        """
        for name, value in (("image_size", image_size), ("channels", channels)):
            wanted = getattr(self.model, name)
            if wanted not in (None, value):
                raise ConfigError(
                    f"model.{name} is {wanted}, but the images have {value}; leave it out or convert them"
                )
        model = replace(self.model, image_size=image_size, channels=channels)
        return replace(self, data=self.data.resolve(image_size), model=model)._filled(train_images)

    def _filled(self, train_images: int | None = None) -> PretrainConfig:
        masking, optim = self.masking.resolve(), self.optim.resolve(train_images)
        if masking.method == "mae" and masking.mask_unit is None:
            masking = replace(masking, mask_unit=self.model.patch_size)
        return replace(self, masking=masking, model=self.model.resolve(), optim=optim, other_masking=None)

    def with_values(self, values: Mapping[str, Any]) -> PretrainConfig:
        """A copy with settings replaced, for example ``{"masking.ratio": 0.3, "epochs": 5}`` (the section is optional).

        A value that a setting already has changes nothing. A changed setting replaces those that it excludes: epochs
        and steps each other, an encoder's name and its shape too. A changed method has masking settings of its own;
        those of the previous method return with it. Raises ConfigError for unknown names and contradictions.
        """
        given = {_dotted(name): value for name, value in values.items()}
        base, method = self, given.pop("masking.method", self.masking.method)
        if method != self.masking.method:
            kept = self.other_masking
            if kept is None or kept.method != method:
                kept = MaskingConfig(method=method, **{name: getattr(self.masking, name) for name in SHARED})
            base = replace(self, masking=kept, other_masking=self.masking)
        nested = base.to_dict()
        present = {f"{section}.{name}": value for section, each in nested.items() for name, value in each.items()}
        changed = {n: v for n, v in given.items() if (list(v) if isinstance(v, tuple) else v) != present[n]}
        shape = ENCODER_PRESETS.get(base.model.encoder or "")
        if shape and "model.encoder" not in given and not changed.keys().isdisjoint(SHAPE):
            changed = {"model.encoder": None, **dict(zip(SHAPE, shape, strict=True)), **changed}
        replaced = {name for n in changed for name in base._replaced_by(n, changed[n]) if given.get(name) is None}
        for name in (*replaced, *changed):
            section, _, setting = name.partition(".")
            nested[section][setting] = DEFAULTS[name] if name in replaced else changed[name]
        touched = {*replaced, *changed}
        shared = {n: nested["masking"][n] for n in SHARED if f"masking.{n}" in touched}
        other = base.other_masking and replace(base.other_masking, **shared)
        return replace(self.from_dict(nested), other_masking=other)

    def _replaced_by(self, name: str, value: Any) -> tuple[str, ...]:
        if name == "masking.strategy" and "sampled" in (value, self.masking.strategy):
            return ("masking.ratio", "masking.ratio_range")
        return () if value is None else REPLACES.get(name, ())

    def to_dict(self) -> dict[str, Any]:
        """Nested dictionaries of JSON types."""
        return {section: json.loads(json.dumps(dataclasses.asdict(getattr(self, section)))) for section in SECTIONS}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PretrainConfig:
        """The settings that ``to_dict`` gave: lists become tuples, missing settings take their defaults.

        Raises ConfigError for an unknown name or a value that cannot work.
        """
        _check_names(values, list(SECTIONS), "config")
        return cls(**{section: _build(SECTIONS[section], each, section) for section, each in values.items()})

    def hash(self) -> str:
        """16 hexadecimal digits of the resolved settings, the same in every process and however they are given.

        Before :meth:`resolve` sizes and steps are unknown: compare hashes of configurations that are both resolved.
        """
        sections, later = self._filled().to_dict(), LATER_SETTINGS.items()
        values = {s: {n: v for n, v in each.items() if (n, v) not in later} for s, each in sections.items()}
        numbers = json.loads(json.dumps(values), parse_int=float)  # 1 and 1.0 are the same setting
        text = json.dumps(numbers, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def preset(name: str, source: str = "digits", method: str = "pmae") -> PretrainConfig:
    """A recipe of ``pmae.presets`` (``quick``, ``paper``, ``released-code``) for a dataset and a method."""
    check_choice("preset", name, list(PRESETS))
    check_choice("method", method, METHODS)
    values, (other,) = PRESETS[name](method), (m for m in METHODS if m != method)
    config = PretrainConfig.from_dict({**values, "data": {**values["data"], "dataset": source}})
    return replace(config, other_masking=MaskingConfig(**PRESETS[name](other)["masking"]))


def strategies_of_method(method: str) -> tuple[str, ...]:
    """How masks of a method can be drawn, its default first."""
    return COMPONENT_STRATEGIES if method == "pmae" else PATCH_STRATEGIES


def is_own(name: Any) -> bool:
    """Whether a basis or a strategy is the user's own (``own:NAME``)."""
    return isinstance(name, str) and name.startswith(OWN)


def has_effect(setting: str, method: str) -> bool:
    """Whether a method reads a setting."""
    return not any(setting in names for other, names in METHOD_ONLY_SETTINGS.items() if other != method)


def usual_crop_scale(image_size: int) -> tuple[float, float]:
    """The crops of a recipe that names none."""
    return DEFAULT_CROP_SCALE if image_size >= MIN_CROPPED_SIZE else (1.0, 1.0)


def check_ratio(value: Any, name: str = "ratio") -> None:
    """Refuse anything but a fraction strictly between 0 and 1."""
    if not _is_number(value) or not 0 < value < 1:
        hint = f"; did you mean {value / 100:g}?" if _is_number(value) and 2 <= value < 100 else ""
        raise ConfigError(f"{name} is {value!r}; ratios are fractions strictly between 0 and 1, for example 0.2{hint}")


def check_choice(name: str, value: Any, allowed: tuple[str, ...] | list[str]) -> None:
    """Refuse a value that is not among ``allowed``."""
    if value not in allowed:
        raise ConfigError(f"{name} is {value!r}; allowed are {', '.join(allowed)}{did_you_mean(str(value), allowed)}")


def patches_per_side(image_size: int, patch_size: int, patch_stride: int | None = None) -> int:
    """Patches along one side: (image_size - patch_size) / patch_stride + 1."""
    return (image_size - patch_size) // (patch_stride or patch_size) + 1


def masked_count(count: int, ratio: float) -> int:
    """How many of ``count`` patches or mask units a ratio masks: at least one, at most all but one."""
    return min(max(count - int(count * (1 - ratio)), 1), count - 1)


def check_patches(image_size: int, patch_size: int, patch_stride: int | None = None) -> None:
    """Refuse patches that do not cover the image exactly, leave gaps, or are fewer than 4."""
    stride = patch_stride or patch_size
    fitting = [p for p in range(1, image_size // 2 + 1) if image_size % p == 0]
    if patch_size > image_size or (image_size - patch_size) % stride:
        raise ConfigError(
            f"patch_size {patch_size} (stride {stride}) does not divide the {image_size}-px image; "
            f"patch sizes that do are {', '.join(map(str, fitting))}; or change --image-size"
        )
    if stride > patch_size:
        raise ConfigError(f"patch_stride {stride} is above patch_size {patch_size} and would skip pixels; lower it")
    tokens = patches_per_side(image_size, patch_size, stride) ** 2
    if tokens < MIN_TOKENS:
        raise ConfigError(
            f"patch_size {patch_size} leaves {tokens} patches of an image of {image_size} px; at least {MIN_TOKENS} "
            f"are needed, so take {image_size // 2} or less"
        )


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Full batches of an epoch; at least one, which fewer images fill only in part."""
    return max(1, images // batch_size)


def forward_flops(config: PretrainConfig) -> float:
    """Multiply-adds times two of one image forward through encoder and decoder, and the projections."""
    model, masking = config.model, config.masking
    assert model.image_size is not None and model.channels is not None and masking.ratio is not None
    tokens, dimensions = model.tokens, model.image_size**2 * model.channels
    visible = tokens * (1 - masking.ratio) if masking.method == "mae" else tokens
    width, depth, _ = model.shape or ENCODER_PRESETS["vit_tiny"]
    parts = ((visible + 1, width, depth), (tokens + 1, model.decoder_width, model.decoder_depth))
    blocks = sum(d * ((8 + 4 * model.mlp_ratio) * n * w * w + 4 * n * n * w) for n, w, d in parts)
    return blocks + (2 * 3 * dimensions * components_kept(dimensions) if masking.method == "pmae" else 0)


def components_kept(dimensions: int) -> int:
    """Principal components that are kept: as many as dimensions, unless the images are large."""
    return dimensions if dimensions <= MAX_FULL_SIZE else LOW_RANK


def step_flops(config: PretrainConfig) -> float:
    """Of one training step, forward and backward."""
    return 3 * config.optim.batch_size * forward_flops(config)


def _dotted(name: str) -> str:
    """``masking.ratio`` of ``masking.ratio`` or ``ratio``."""
    dotted = SETTINGS.get(name, name)
    if dotted not in DEFAULTS:
        hint = did_you_mean(name, [*SETTINGS, *SETTINGS.values()])
        raise ConfigError(f"{name!r} is not a setting{hint}; settings are {', '.join(SETTINGS.values())}")
    return dotted


def _check_names(values: Any, names: list[str], where: str) -> None:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} is {values!r}; it must be a mapping of settings")
    for name in values:
        if name not in names:
            raise ConfigError(
                f"{where} has no setting {name!r}{did_you_mean(str(name), names)}; its settings are {', '.join(names)}"
            )


def _build(kind: type[T], values: Any, where: str) -> T:
    if isinstance(values, kind):
        return values
    _check_names(values, [f.name for f in dataclasses.fields(kind)], where)  # type: ignore[arg-type]
    return kind(**{n: tuple(v) if isinstance(v, list) else v for n, v in values.items()})  # JSON has no tuples


def _check_values(section: object) -> None:
    """Refuse values that an annotation does not allow and too small numbers; make NumPy's numbers Python's own."""
    for name, hint in HINTS[type(section)].items():
        value = _plain(getattr(section, name))
        object.__setattr__(section, name, value)
        kind, *others = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if (value is None and others) or (name == "basis" and is_own(value)):
            continue
        if name == "ratio":
            check_ratio(value)
        elif get_origin(kind) is Literal:
            check_choice(name, value, get_args(kind))
        elif get_origin(kind) is tuple:
            if not isinstance(value, tuple) or len(value) != 2 or not all(_is_number(v) for v in value):
                raise ConfigError(f"{name} is {value!r}; it must be a tuple of two numbers, for example (0.2, 0.9)")
        elif kind is bool and not isinstance(value, bool):
            raise ConfigError(f"{name} is {value!r}; it must be True or False")
        elif kind is int and not (isinstance(value, int) and _is_number(value) and value >= MIN_VALUES.get(name, 1)):
            raise ConfigError(f"{name} is {value!r}; it must be a whole number of at least {MIN_VALUES.get(name, 1)}")
        elif kind is float:
            above = name in POSITIVE_SETTINGS
            if not (_is_number(value) and 0 <= value < math.inf and (value or not above)):
                raise ConfigError(f"{name} is {value!r}; it must be a number {'above' if above else 'of at least'} 0")


def _plain(value: Any) -> Any:
    """Convert NumPy numbers, alone or in a tuple, to Python numbers; return anything else unchanged."""
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return value
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
