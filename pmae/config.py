"""What one pre-training run is: frozen, typed settings, every field checked when built.

The settings are nested as :class:`PretrainConfig` ``.data .masking .model .optim .probe``; ``to_dict``,
``from_dict`` and ``hash`` make them portable. What depends on the images at hand (their size and channels)
stays ``None`` until :meth:`PretrainConfig.resolve`. Loading, masking and training live elsewhere.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args, get_type_hints

from pmae.errors import ConfigError, did_you_mean

Method = Literal["pmae", "mae"]
ComponentStrategy = Literal["expected", "fixed", "sampled", "tvb", "bvt", "released"]
PatchStrategy = Literal["random", "block", "grid"]
Basis = Literal["pca", "dct", "wavelet", "rotation", "pixel"]
Precision = Literal["auto", "fp32", "bf16"]
Compile = Literal["auto", "on", "off", "reduce-overhead", "max-autotune"]
Preset = Literal["quick", "paper"]

METHODS: tuple[str, ...] = get_args(Method)
COMPONENT_STRATEGIES: tuple[str, ...] = get_args(ComponentStrategy)
PATCH_STRATEGIES: tuple[str, ...] = get_args(PatchStrategy)
BASES: tuple[str, ...] = get_args(Basis)
DEFAULT_RATIO = {"pmae": 0.20, "mae": 0.75}
DEFAULT_EPOCHS = 100
MIN_TOKENS = 4

ENCODER_PRESETS: dict[str, tuple[int, int, int]] = {  # width, depth, heads
    "vit_tiny": (192, 12, 3),
    "vit_small": (384, 12, 6),
    "vit_base": (768, 12, 12),
}

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images, and how they are augmented.

    Attributes:
        source: ``digits``, ``cifar10``, ``tinyimagenet``, a 2-D MedMNIST flag, ``folder:PATH``,
            ``parquet:PATH`` or ``npz:PATH``.
        root: Folder that downloads go to; None is the user's cache.
        image_size: Side in pixels that images are resized to; None keeps theirs.
        limit: Training images used at most (class-balanced); None takes all.
        seed: Seed of the held-out validation split and of ``limit``.
        crop_scale: Share of the area that a random resized crop keeps, (low, high); (1, 1) turns it off.
        flip: Whether half of the images are mirrored left to right.
    """

    source: str = "digits"
    root: str | None = None
    image_size: int | None = None
    limit: int | None = None
    seed: int = 0
    crop_scale: tuple[float, float] = (0.2, 1.0)
    flip: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.source, str) or not self.source.strip():
            raise ConfigError(f"source is {self.source!r}; name a data set, for example 'digits' or 'folder:PATH'")
        _check_int("image_size", self.image_size, 4, optional=True)
        _check_int("limit", self.limit, 1, optional=True)
        _check_int("seed", self.seed, 0)
        low, high = _as_pair(self, "crop_scale")
        if not 0 < low <= high <= 1:
            raise ConfigError(f"crop_scale is {self.crop_scale}; it needs 0 < low <= high <= 1, for example (0.2, 1.0)")


@dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """What is hidden from the encoder and what the loss asks for.

    Attributes:
        method: ``pmae`` masks components, ``mae`` masks patches.
        ratio: Masked share, a fraction in (0, 1): of the variance (``pmae``, default 0.20) or of the
            patches (``mae``, default 0.75).
        ratio_range: (low, high): the ratio is drawn uniformly instead, per image (``pmae``, strategy
            ``sampled``) or per batch (``mae``).
        strategy: ``pmae``: ``expected`` (the mean masked share equals the ratio), ``fixed`` (nearest share),
            ``sampled``, ``tvb`` (targets are the components of lowest variance), ``bvt`` (of highest) or
            ``released`` (the paper's code); ``mae``: ``random``, ``block`` or ``grid``. None is the method's first.
        per: One mask per ``image`` or one per ``batch``.
        loss: ``components`` (PMAE Eq. 3.1) or ``pixels`` (Eq. A.1); ``pmae`` only.
        reduction: What is minimized: the mean over images of each image's mean squared error (``image``, as in the
            papers), or the mean over all masked values of the batch (``batch``). With one mask per image the former
            is dominated by images with few masked components, above all where one component holds much variance.
        basis: Orthonormal basis whose coordinates are masked; ``pmae`` only.
        mask_unit: Side in pixels of the squares that are masked together, a multiple of the patch size
            (Kong et al. 2023); None is the patch size; ``mae`` only.
        normalize_target: Whether each target patch is standardized by its own mean and variance; ``mae`` only.
    """

    method: Method = "pmae"
    ratio: float | None = None
    ratio_range: tuple[float, float] | None = None
    strategy: str | None = None
    per: Literal["image", "batch"] = "image"
    loss: Literal["components", "pixels"] = "components"
    reduction: Literal["image", "batch"] = "image"
    basis: Basis = "pca"
    mask_unit: int | None = None
    normalize_target: bool = False

    def __post_init__(self) -> None:
        check_choice("method", self.method, METHODS)
        allowed = COMPONENT_STRATEGIES if self.method == "pmae" else PATCH_STRATEGIES
        _set(self, "strategy", allowed[0] if self.strategy is None else self.strategy)
        check_choice(f"strategy (for method {self.method!r})", self.strategy, allowed)
        check_choice("per", self.per, ("image", "batch"))
        check_choice("loss", self.loss, ("components", "pixels"))
        check_choice("reduction", self.reduction, ("image", "batch"))
        check_choice("basis", self.basis, BASES)
        _check_int("mask_unit", self.mask_unit, 1, optional=True)
        self._check_ratio()
        self._refuse_settings_of_the_other_method()

    def _check_ratio(self) -> None:
        if self.strategy == "sampled" and self.ratio_range is None:
            _set(self, "ratio_range", (0.1, 0.9))
        if self.ratio_range is not None:
            if self.method == "pmae" and self.strategy != "sampled":
                raise ConfigError(
                    f"ratio_range has no effect with strategy {self.strategy!r}; use strategy='sampled' or set ratio"
                )
            low, high = _as_pair(self, "ratio_range")
            check_ratio(low, "ratio_range's low end")
            check_ratio(high, "ratio_range's high end")
            if low >= high:
                raise ConfigError(f"ratio_range is {self.ratio_range}; its low end must lie below its high end")
            middle = (low + high) / 2
            if self.ratio is not None and not math.isclose(self.ratio, middle):
                raise ConfigError(f"ratio {self.ratio} has no effect when ratio_range is given; leave one of them out")
            _set(self, "ratio", middle)
        _set(self, "ratio", DEFAULT_RATIO[self.method] if self.ratio is None else self.ratio)
        check_ratio(self.ratio)

    def _refuse_settings_of_the_other_method(self) -> None:
        foreign = {"pmae": ("mask_unit", "normalize_target"), "mae": ("loss", "basis")}[self.method]
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.name in foreign and value != f.default:
                raise ConfigError(f"{f.name}={value!r} has no effect with method {self.method!r}; leave it out")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shapes of the encoder and the decoder. Defaults are the PMAE paper's ViT-Tiny and its decoder.

    Attributes:
        image_size: Side of the square images in pixels; None takes the data's.
        channels: 1 or 3; None takes the data's.
        patch_size: Side of a patch in pixels.
        patch_stride: Pixels between neighbouring patches; below ``patch_size`` they overlap. None is ``patch_size``.
        encoder: ``vit_tiny``, ``vit_small``, ``vit_base`` or a timm model name; None is ``vit_tiny``'s shape.
        width, depth, heads: The encoder's shape; each None takes the preset's.
        mlp_ratio: Hidden width of the MLPs over the width, in encoder and decoder.
        decoder_width, decoder_depth, decoder_heads: The decoder's shape.
        position: ``learned`` or fixed ``sincos`` position embeddings.
        pool: What the probes read: the ``cls`` token or the ``mean`` of the patch tokens.
    """

    image_size: int | None = None
    channels: int | None = None
    patch_size: int = 4
    patch_stride: int | None = None
    encoder: str | None = None
    width: int | None = None
    depth: int | None = None
    heads: int | None = None
    mlp_ratio: float = 4.0
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    position: Literal["learned", "sincos"] = "learned"
    pool: Literal["cls", "mean"] = "cls"

    def __post_init__(self) -> None:
        _check_int("image_size", self.image_size, 4, optional=True)
        _check_int("patch_size", self.patch_size, 1)
        _set(self, "patch_stride", self.patch_size if self.patch_stride is None else self.patch_stride)
        _check_int("patch_stride", self.patch_stride, 1)
        if self.channels not in (None, 1, 3):
            raise ConfigError(f"channels is {self.channels!r}; allowed are 1 (grey) and 3 (colour)")
        for name in ("decoder_width", "decoder_depth", "decoder_heads"):
            _check_int(name, getattr(self, name), 1)
        self._fill_encoder_shape()
        check_choice("position", self.position, ("learned", "sincos"))
        check_choice("pool", self.pool, ("cls", "mean"))
        if self.mlp_ratio <= 0:
            raise ConfigError(f"mlp_ratio is {self.mlp_ratio}; it must be above 0 (the papers use 4)")
        if self.decoder_width % self.decoder_heads:
            raise ConfigError(
                f"decoder_width {self.decoder_width} is no multiple of decoder_heads {self.decoder_heads}; "
                "choose heads that divide the width"
            )
        if self.position == "sincos" and self.decoder_width % 4:
            raise ConfigError(f"decoder_width {self.decoder_width} must be a multiple of 4 for position='sincos'")
        if self.image_size is not None:
            check_patches(self.image_size, self.patch_size, self.patch_stride)

    def _fill_encoder_shape(self) -> None:
        if self.encoder is not None and self.encoder not in ENCODER_PRESETS:
            import timm  # only for the rare timm name: the import takes a second

            if self.encoder not in timm.list_models("*vit_*"):
                hint = did_you_mean(self.encoder, timm.list_models("*vit_*"))
                raise ConfigError(
                    f"encoder is {self.encoder!r}; allowed are {', '.join(ENCODER_PRESETS)} and timm's "
                    f"vision-transformer names{hint}"
                )
            if (self.width, self.depth, self.heads) != (None, None, None):
                raise ConfigError(
                    f"width, depth and heads are fixed by the timm encoder {self.encoder!r}; leave them out"
                )
            return
        shape = ENCODER_PRESETS[self.encoder or "vit_tiny"]
        for name, preset in zip(("width", "depth", "heads"), shape, strict=True):
            value = getattr(self, name)
            if self.encoder is not None and value not in (None, preset):
                raise ConfigError(
                    f"{name} {value} contradicts encoder {self.encoder!r} ({name} {preset}); leave one of them out"
                )
            _set(self, name, preset if value is None else value)
            _check_int(name, getattr(self, name), 1)
        assert self.width is not None and self.heads is not None
        if self.width % self.heads:
            raise ConfigError(
                f"width {self.width} is no multiple of heads {self.heads}; choose heads that divide the width"
            )
        if self.position == "sincos" and self.width % 4:
            raise ConfigError(f"width {self.width} must be a multiple of 4 for position='sincos'")

    @property
    def grid(self) -> int:
        """Patches along one side of the image."""
        if self.image_size is None:
            raise ConfigError("image_size is not known yet; give it, or let pretrain() take it from the images")
        return patches_per_side(self.image_size, self.patch_size, self.patch_stride)

    @property
    def tokens(self) -> int:
        """Patches of one image (the class token not counted)."""
        return self.grid**2


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW, linear warm-up, cosine to 0 (PMAE paper's recipe; it trains 800 epochs).

    Attributes:
        epochs: Passes over the training split; None is 100, or what ``steps`` asks for. It stays None until
            :meth:`PretrainConfig.resolve` knows the number of training images.
        steps: Optimizer steps, instead of ``epochs``: the number of whole epochs that is nearest to it for the images
            and the batch size that are used, but at least ``min_epochs``.
        min_epochs: See ``steps``; without effect where ``epochs`` are given.
        batch_size: Images per step over all workers; a smaller data set is one batch.
        learning_rate: Rate at batch 256; the peak rate is this times the images that a batch really holds / 256.
        warmup_epochs: Epochs of linear warm-up; None is a twentieth of ``epochs``.
        weight_decay: AdamW's decay of the weight matrices (biases, norms and embeddings are left alone).
        betas: AdamW's moment decays.
        clip_grad_norm: Largest gradient norm; None does not clip.
        precision: ``auto`` is bf16 autocast where the device gains from it, else fp32.
        compile: Whether the step goes through ``torch.compile``; ``auto`` does for long runs on a GPU only.
            ``reduce-overhead`` (CUDA graphs) and ``max-autotune`` (those, and kernels chosen by measuring) are
            torch's modes.
    """

    epochs: int | None = None
    steps: int | None = None
    min_epochs: int = 1
    batch_size: int = 512
    learning_rate: float = 1.5e-4
    warmup_epochs: float | None = None
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    clip_grad_norm: float | None = None
    precision: Precision = "auto"
    compile: Compile = "auto"

    def __post_init__(self) -> None:
        _check_int("epochs", self.epochs, 1, optional=True)
        _check_int("steps", self.steps, 1, optional=True)
        _check_int("min_epochs", self.min_epochs, 1)
        _check_int("batch_size", self.batch_size, 1)
        if self.steps is None and self.epochs is None:
            _set(self, "epochs", DEFAULT_EPOCHS)
        if self.warmup_epochs is None and self.epochs is not None:
            _set(self, "warmup_epochs", self.epochs / 20)
        most = math.inf if self.epochs is None else self.epochs
        if self.warmup_epochs is not None and not 0 <= self.warmup_epochs <= most:
            raise ConfigError(
                f"warmup_epochs is {self.warmup_epochs}; it must lie between 0 and epochs ({self.epochs}); "
                "lower it or leave it out"
            )
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning_rate is {self.learning_rate}; it must be a number above 0")
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigError(f"weight_decay is {self.weight_decay}; it must be 0 or above")
        if any(not 0 <= b < 1 for b in _as_pair(self, "betas")):
            raise ConfigError(f"betas are {self.betas}; both must lie in [0, 1)")
        if self.clip_grad_norm is not None and not 0 < self.clip_grad_norm < math.inf:
            raise ConfigError(f"clip_grad_norm is {self.clip_grad_norm}; it must be above 0, or None not to clip")
        check_choice("precision", self.precision, get_args(Precision))
        check_choice("compile", self.compile, get_args(Compile))

    def resolve(self, train_images: int) -> OptimConfig:
        """With ``epochs`` worked out from ``steps`` for ``train_images`` images; unchanged where steps is None."""
        if self.steps is None:
            return self
        steps_per_epoch = max(1, train_images // min(self.batch_size, max(1, train_images)))
        epochs = max(self.min_epochs, round(self.steps / steps_per_epoch))
        if epochs == self.epochs:
            return self
        # A warm-up that was derived from other epochs is derived again.
        derived = self.epochs is not None and self.warmup_epochs == self.epochs / 20
        warmup = None if self.warmup_epochs is None or derived else min(self.warmup_epochs, epochs)
        return dataclasses.replace(self, epochs=epochs, warmup_epochs=warmup)


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """How an encoder is scored.

    Attributes:
        protocol: Linear probe: ``fast`` (cached features, a grid of strengths) or ``paper`` (SGD, 100 epochs).
        every: Epochs between probes on validation while training; 0 probes at the end only.
        knn_k: Neighbours of the k-NN vote.
    """

    protocol: Literal["fast", "paper"] = "fast"
    every: int = 0
    knn_k: int = 20

    def __post_init__(self) -> None:
        check_choice("protocol", self.protocol, ("fast", "paper"))
        _check_int("every", self.every, 0)
        _check_int("knn_k", self.knn_k, 1)


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """All settings of one pre-training run. Everything but the seed, which is an argument of its own."""

    data: DataConfig = field(default_factory=DataConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value, kind = getattr(self, f.name), get_type_hints(type(self))[f.name]
            if isinstance(value, Mapping):
                _set(self, f.name, _build(kind, value, f.name))
            elif not isinstance(value, kind):
                raise ConfigError(f"{f.name} is a {type(value).__name__}; it must be a {kind.__name__} or a mapping")
        if self.model.image_size is not None:
            self._check_patch_masking(self.model.image_size)

    def _check_patch_masking(self, image_size: int) -> None:
        unit, patch, stride = self.masking.mask_unit, self.model.patch_size, self.model.patch_stride
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
                f"mask_unit {unit} leaves {(image_size // unit) ** 2} units on a {image_size}-px image; "
                f"at least {MIN_TOKENS} are needed, so take {image_size // 2} or less"
            )

    def resolve(self, image_size: int, channels: int, train_images: int | None = None) -> PretrainConfig:
        """The same settings for images of ``image_size`` px and ``channels``; raises where they contradict.

        With ``train_images``, the number of images that are trained on, ``optim.steps`` becomes ``optim.epochs``.
        Resolving again for the same images changes nothing.
        """
        for name, value in (("image_size", image_size), ("channels", channels)):
            wanted = getattr(self.model, name)
            if wanted not in (None, value):
                raise ConfigError(
                    f"model.{name} is {wanted}, but the images have {value}; leave it out or convert them"
                )
        model = dataclasses.replace(self.model, image_size=image_size, channels=channels)
        optim = self.optim if train_images is None else self.optim.resolve(train_images)
        return dataclasses.replace(self, model=model, optim=optim)

    def with_values(self, values: Mapping[str, Any]) -> PretrainConfig:
        """A copy with dotted names replaced, for example ``{"masking.ratio": 0.3, "model.patch_size": 2}``.

        A value that a setting already has changes nothing. Otherwise settings that were derived from the changed one
        are derived again: epochs replace steps and steps replace epochs.
        """
        if values.get("optim.epochs") is not None and values.get("optim.steps") is not None:
            raise ConfigError("optim.epochs and optim.steps are both given; leave one of them out")
        nested = self.to_dict()
        for dotted, value in values.items():
            section, _, name = dotted.partition(".")
            if section not in nested or name not in nested[section]:
                names = [f"{s}.{n}" for s, fields_ in nested.items() for n in fields_]
                raise ConfigError(
                    f"{dotted!r} is no setting{did_you_mean(dotted, names)}; settings are {', '.join(names)}"
                )
            previous, nested[section][name] = nested[section][name], value
            if _as_json(value) != previous:
                _drop_derived(nested, dotted, previous, values)
        return type(self).from_dict(nested)

    def to_dict(self) -> dict[str, Any]:
        """Nested dictionaries of JSON types."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PretrainConfig:
        """The settings that ``to_dict`` gave; unknown names are refused, missing ones take their defaults."""
        return _build(cls, values, "config")

    def hash(self) -> str:
        """16 hexadecimal digits, the same in every process and for every order of the settings."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


# Fields that a section fills in from others when they are left out: changing the source re-derives them.
_DERIVED: dict[str, tuple[str, ...]] = {
    "model.patch_size": ("patch_stride",),
    "model.encoder": ("width", "depth", "heads"),
    "optim.epochs": ("warmup_epochs", "steps", "min_epochs"),
    "optim.steps": ("warmup_epochs", "epochs", "min_epochs"),
    "masking.method": ("ratio", "strategy", "ratio_range", "loss", "basis", "mask_unit", "normalize_target"),
    "masking.strategy": ("ratio_range",),
    "masking.ratio_range": ("ratio",),
}


def _drop_derived(nested: dict[str, Any], changed: str, previous: Any, given: Mapping[str, Any]) -> None:
    section, _, name = changed.partition(".")
    derived = _DERIVED.get(changed, ())
    if changed == "masking.strategy" and "sampled" in (previous, nested[section][name]):
        derived += ("ratio",)  # a sampled ratio is the middle of its range
    for name in derived:
        if f"{section}.{name}" not in given:
            nested[section].pop(name, None)


def preset(name: str, source: str = "digits", method: str = "pmae") -> PretrainConfig:
    """The ``paper`` recipe (Bizeul et al. 2025: ViT-Tiny, patch 8, 800 epochs, batch 512) or a ``quick`` one.

    ``quick`` is a small model and a short schedule, the same for every source: 450 steps of 32 images, or 8 epochs if
    that is more, max(450, N / 4) steps for N training images. A trial takes seconds on digits and about a minute on
    12,000 images of 28 px on one CPU core; its accuracies are not the paper's. benchmarks/recipes.py measures what it
    adds to an untrained encoder.
    """
    check_choice("preset", name, get_args(Preset))
    masking = MaskingConfig(method=method)  # type: ignore[arg-type]
    if name == "paper":
        if method == "pmae":
            masking = MaskingConfig(strategy="fixed")  # the paper's rule
        return PretrainConfig(
            data=DataConfig(source=source, crop_scale=(0.2, 1.0), flip=True),
            masking=masking,
            model=ModelConfig(encoder="vit_tiny", patch_size=8, decoder_width=512, decoder_depth=8, decoder_heads=16),
            optim=OptimConfig(
                epochs=800,
                batch_size=512,
                learning_rate=1.5e-4,
                warmup_epochs=40,
                weight_decay=0.05,
                betas=(0.9, 0.95),
            ),
            probe=ProbeConfig(protocol="paper"),
        )
    return PretrainConfig(
        data=DataConfig(source=source, crop_scale=(1.0, 1.0), flip=False),
        masking=dataclasses.replace(masking, reduction="batch"),
        model=ModelConfig(
            patch_size=4, width=64, depth=2, heads=4, decoder_width=64, decoder_depth=1,
            decoder_heads=4, pool="mean",
        ),
        optim=OptimConfig(steps=450, min_epochs=8, batch_size=32, learning_rate=1.6e-2),
    )  # fmt: skip


def check_ratio(value: Any, name: str = "ratio") -> None:
    """Refuse what is no fraction strictly between 0 and 1."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < 1:
        hint = f"; did you mean {value / 100:g}?" if isinstance(value, (int, float)) and 1 < value < 100 else ""
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
    if (
        patch_size > image_size
        or (image_size - patch_size) % stride
        or (stride == patch_size and image_size % patch_size)
    ):
        raise ConfigError(
            f"patch_size {patch_size} (stride {stride}) does not divide the {image_size}-px image; "
            f"patch sizes that do are {', '.join(map(str, fitting))}; or change --image-size"
        )
    if stride > patch_size:
        raise ConfigError(f"patch_stride {stride} is above patch_size {patch_size} and would skip pixels; lower it")
    tokens = patches_per_side(image_size, patch_size, stride) ** 2
    if tokens < MIN_TOKENS:
        raise ConfigError(
            f"patch_size {patch_size} leaves {tokens} patches of a {image_size}-px image; at least {MIN_TOKENS} are "
            f"needed, so take {image_size // 2} or less"
        )


def _build(kind: type[T], values: Any, where: str) -> T:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} is {values!r}; it must be a mapping of settings")
    names = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for name in values:
        if name not in names:
            raise ConfigError(
                f"{where} has no setting {name!r}{did_you_mean(str(name), names)}; its settings are {', '.join(names)}"
            )
    # JSON has no tuples: lists come back as the tuples that the fields are.
    return kind(**{n: tuple(v) if isinstance(v, list) else v for n, v in values.items()})


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _set(config: Any, name: str, value: Any) -> None:
    object.__setattr__(config, name, value)  # frozen for users; filled in while it is being built


def _as_pair(config: Any, name: str) -> tuple[float, float]:
    value = getattr(config, name)
    try:
        low, high = (float(v) for v in value)
    except (TypeError, ValueError):
        raise ConfigError(f"{name} is {value!r}; it must be two numbers, for example (0.2, 1.0)") from None
    _set(config, name, (low, high))
    return low, high


def _check_int(name: str, value: Any, least: int, optional: bool = False) -> None:
    if value is None and optional:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} is {value!r}; it must be a whole number of at least {least}")
