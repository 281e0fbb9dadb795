"""Pre-training: :func:`pretrain` in one process, and the :class:`Training` that ``distributed`` runs on several."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pmae.components import PrincipalComponents, fit_components
from pmae.config import OptimConfig, PretrainConfig, step_flops
from pmae.devices import BF16_CPU_WIDTH, autocast_dtype, cpu_threads, pick_device, pick_threads, synchronize
from pmae.errors import ConfigError, DataError, DivergedError
from pmae.masking import DrawMask, MaskDraw, MaskSampler, repeat_masks
from pmae.model.autoencoder import MaskedAutoencoder, MaskedOutput
from pmae.model.encoder import Encoder
from pmae.training.checkpoint import load_checkpoint, save_checkpoint
from pmae.training.loader import Images, PixelStatistics, TrainLoader, pixel_statistics, seeded_generator

COMPILE_STEPS = 5000  # compiling takes about a minute, in which a GPU does about as many small steps
# A rise of the loss counts as a training problem when it loses this share of the best epoch's explained variance ...
RISE = 0.2
LEAST_RISE = 0.03  # ... and at least this share of the masked variance.

EpochRecord = dict[str, Any]
OnEpoch = Callable[[EpochRecord, MaskedAutoencoder], None]


@dataclass(frozen=True)
class PretrainResult:
    """What pre-training gives.

    Attributes:
        model: The trained :class:`MaskedAutoencoder`, on the device it was trained on.
        history: One dictionary per epoch, see :class:`Training`.
        config: The settings, resolved for the images.
        statistics: Pixel mean and standard deviation of the training split.
        components: The components that were masked; None for MAE.
        seed: The seed.
        precision: ``fp32`` or ``bf16`` (autocast): what ``optim.precision`` resolved to on this machine.
        threads: CPU threads that torch trained with, which can change last digits; None where it is not known.
    """

    model: MaskedAutoencoder
    history: list[EpochRecord]
    config: PretrainConfig
    statistics: PixelStatistics
    components: PrincipalComponents | None
    seed: int
    precision: str = "fp32"
    threads: int | None = None

    @property
    def training_problem(self) -> str | None:
        """Why the training is not to be trusted although it finished, or None; see :func:`find_training_problem`."""
        return find_training_problem([record["train_loss"] for record in self.history])

    @property
    def encoder(self) -> Encoder:
        """The encoder with its standardization, ready for probes and export (it shares the model's weights)."""
        device = next(self.model.parameters()).device
        return Encoder(self.model.encoder, *self.statistics, pool=self.config.model.pool).to(device).eval()


def pretrain(
    config: PretrainConfig,
    images: Images | np.ndarray,
    components: PrincipalComponents | None = None,
    *,
    seed: int,
    on_epoch: OnEpoch | None = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    resume_from: str | os.PathLike[str] | None = None,
    device: str = "auto",
    checkpoint_every: int = 1,
    threads: int | None = None,
    draw_mask: DrawMask | None = None,
) -> PretrainResult:
    """Pre-train one model in this process. A pure function of its arguments: one seed fixes every random number.

    Args:
        config: Settings; ``model.image_size`` and ``model.channels`` may be left to the images.
        images: Image set (its ``train`` split is used) or uint8 array (N, H, W, C), all of which is used.
        components: Fitted components; None fits them (and caches them where ``images`` is an image set). For MAE
            only their pixel statistics are used.
        seed: Fixes initialization, order, augmentation and masks.
        on_epoch: Called after every epoch with its history entry and the model; what it raises ends the training, with
            a checkpoint.
        checkpoint_dir: Folder for checkpoints; None writes none.
        resume_from: Folder of checkpoints or one file to resume from; the result equals that of an undisturbed run.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        checkpoint_every: Epochs between checkpoints; the last epoch always has one.
        threads: CPU threads of the training, after which torch's number is restored; None chooses by
            :func:`pmae.devices.pick_threads`.
        draw_mask: A mask strategy of your own, see :class:`pmae.masking.DrawMask`; ``masking.strategy`` then names it
            ``own:NAME``. It is not stored with checkpoints: give it again to resume.

    Raises:
        ConfigError: Settings contradict the images, the components, the machine or the checkpoint.
        DataError: The images cannot be trained on, or no intact checkpoint exists to resume from.
        DivergedError: The loss became infinite or NaN; it names the step.
    """
    if threads is not None and threads < 1:
        raise ConfigError(f"threads is {threads}; it must be at least 1, or None for the default")
    check_checkpoint_every(checkpoint_every)
    where = pick_device(device)
    training = Training(config, images, components, seed=seed, device=where, draw_mask=draw_mask)
    training.threads = pick_threads(step_flops(training.config), where) if threads is None else threads
    if resume_from is not None:
        training.restore(load_checkpoint(resume_from, training.config.hash(), seed))
    for record in training.epochs():
        due = training.checkpoint_is_due(checkpoint_every)
        if checkpoint_dir is not None and due:
            save_checkpoint(checkpoint_dir, training.epoch, training.state())
        try:
            if on_epoch is not None:
                on_epoch(record, training.model)
        except BaseException:
            if checkpoint_dir is not None and not due:
                save_checkpoint(checkpoint_dir, training.epoch, training.state())
            raise
    return training.result()


class Training:
    """One training run: model, optimizer, data and masks, an epoch at a time.

    Each epoch gives a record with

    * ``epoch``: from 0,
    * ``train_loss``: share of the masked variance left unexplained, sum of squared errors / sum of squares of the
      target over all batches of the epoch; predicting the mean gives exactly 1 at every masking ratio,
    * ``objective``: the loss that is minimized, averaged over steps; it does not compare ratios,
    * ``learning_rate``: of the last step,
    * ``achieved_ratio``, ``achieved_sd``: mean and standard deviation of the masked share over the masks,
    * ``images_per_second``.

    Args:
        config, images, components, seed, draw_mask: As for :func:`pretrain`.
        device: Where to train.
        rank, world_size: This worker and how many share each batch.
        wrap: What to do to the model before it is trained, for example DistributedDataParallel.
        threads: CPU threads of an epoch; None leaves torch's number. Between epochs torch's own number holds.
    """

    def __init__(
        self,
        config: PretrainConfig,
        images: Images | np.ndarray,
        components: PrincipalComponents | None = None,
        *,
        seed: int,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
        wrap: Callable[[nn.Module], nn.Module] | None = None,
        threads: int | None = None,
        draw_mask: DrawMask | None = None,
    ) -> None:
        array, indices = training_images(images)
        self.config = config.resolve(int(array.shape[1]), int(array.shape[3]), len(indices))
        self.seed, self.device, self.world_size, self.threads = seed, device, world_size, threads
        self.components, self.statistics = _components_and_statistics(self.config, images, components)
        optim, masking = self.config.optim, self.config.masking
        self.batches = TrainLoader(
            array, indices, self.config.data, self.statistics, optim.batch_size, seed, device, rank, world_size
        )
        with torch.random.fork_rng(devices=[]):  # the spelling of "initialisation" is part of the seed
            torch.manual_seed(seeded_generator("cpu", seed, "initialisation").initial_seed())
            self.model = MaskedAutoencoder(
                self.config.model, self.components, loss=masking.loss, normalize_target=masking.normalize_target
            ).on(device)
        spectrum = None if self.model.projection is None else self.model.projection.spectrum
        self.masks = MaskSampler(self.config, spectrum, device, draw_mask)
        self.forward: Callable[..., MaskedOutput] = self.model if wrap is None else wrap(self.model)
        assert optim.epochs is not None
        self.last_epoch = optim.epochs
        self.compiled = compiles(optim, device, self.batches.steps)
        if self.compiled:
            self.forward = torch.compile(self.forward, mode=None if optim.compile in ("auto", "on") else optim.compile)
        self.optimizer = build_optimizer(self.model, optim, device)
        model = self.config.model
        width = max(model.decoder_width, BF16_CPU_WIDTH if model.shape is None else model.shape[0])
        self.autocast = autocast_dtype(optim.precision, device, width)
        self.epoch = 0
        self.history: list[EpochRecord] = []

    def epochs(self) -> Iterator[EpochRecord]:
        """Train the epochs that are left; yields the history entry of each."""
        while self.epoch < self.last_epoch:
            with cpu_threads(self.threads):
                start = time.perf_counter()
                totals = self._run_steps()
                synchronize(self.device)  # the only wait of an epoch
                record = self._record(*totals, time.perf_counter() - start)
            self.history.append(record)
            self.epoch += 1
            yield record

    def _run_steps(self) -> tuple[Tensor, Tensor, Tensor, float]:
        """All steps of an epoch, without a wait for the device: losses (steps,), sums (2,), ratios and last lr."""
        self.model.train()
        steps, batch = self.batches.steps, self.batches.batch_size
        masks = seeded_generator(self.device, self.seed, self.epoch, "masks")
        ratios = seeded_generator("cpu", self.seed, self.epoch, "ratios")
        losses = torch.zeros(steps, device=self.device)
        sums = torch.zeros(2, device=self.device, dtype=torch.float64)
        shares: list[Tensor] = []
        lr = 0.0
        for step, pixels in enumerate(self.batches.epoch(self.epoch)):
            lr = learning_rate(self.config.optim, self.epoch + step / steps, 1 / steps, batch)
            draw = self.masks.draw(batch, masks, ratios, self.batches.shard)
            shares.append(draw.achieved)
            losses[step], error, target = self._step(pixels, draw, lr)
            sums += torch.stack([error, target])
        return losses, sums, torch.cat(shares), lr

    def _record(self, losses: Tensor, sums: Tensor, achieved: Tensor, lr: float, seconds: float) -> EpochRecord:
        """The history entry of an epoch; reads its sums from the device."""
        losses = self._all_reduced(losses).cpu() / self.world_size
        bad = (~torch.isfinite(losses)).nonzero()
        if len(bad):
            first = int(bad[0])
            raise DivergedError(self.epoch, self.epoch * len(losses) + first, float(losses[first]), self.history)
        error, target = self._all_reduced(sums).cpu()
        return {
            "epoch": self.epoch,
            # Overlapping patches can leave no pixel hidden: then there is nothing to explain.
            "train_loss": float(error / target) if target > 0 else 0.0,
            "objective": float(losses.mean()),
            "learning_rate": lr,
            "achieved_ratio": float(achieved.mean()),
            "achieved_sd": float(achieved.std(correction=0)),
            "images_per_second": len(losses) * self.batches.batch_size / seconds,
        }

    def _step(self, pixels: Tensor, draw: MaskDraw, lr: float) -> tuple[Tensor, Tensor, Tensor]:
        """One optimizer step; the worker's shares of the batch's loss, error and target, still on the device."""
        set_learning_rate(self.optimizer, lr)
        if self.compiled:
            torch.compiler.cudagraph_mark_step_begin()  # what CUDA graphs gave in the last step is done with
        values = None
        # Asked of the settings, not of this worker's parts: all workers must exchange the same things in one order.
        if self.config.optim.accumulation_steps > 1 and self.config.masking.reduction == "batch":
            values = self._all_reduced(self.model.masked_values(draw.mask, len(pixels)).sum())
        *earlier, last = self._parts(pixels, draw.mask)
        found = []
        for images, mask in earlier:
            with getattr(self.forward, "no_sync", nullcontext)():  # workers exchange the sum of the gradients once
                found.append(self._loss(images, mask, draw.visible_tokens, values))
                found[-1][0].backward()
        found.append(self._loss(*last, draw.visible_tokens, values))
        self._update(found[-1][0])
        loss, error, target = (sum(each[1:], each[0]).detach() for each in zip(*found, strict=True))
        return loss, error, target

    def _parts(self, pixels: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Images and masks of the parts that a step computes one after another."""
        parts = min(self.config.optim.accumulation_steps, len(pixels))
        if parts == 1 or len(mask) == 1:
            return [(images, mask) for images in pixels.tensor_split(parts)]
        # A part may begin within a group of images that share a mask.
        masks = repeat_masks(mask, len(pixels)).tensor_split(parts)
        return list(zip(pixels.tensor_split(parts), masks, strict=True))

    def _loss(
        self, pixels: Tensor, mask: Tensor, visible_tokens: int | None, values: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What this worker minimizes for these images, their squared error and squared target.

        ``values`` are the masked values of the whole batch over all workers; None takes those of ``pixels``.
        """
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            output = self.forward(pixels, mask, visible_tokens)
        if self.config.masking.reduction == "image":
            # Parts of workers and of steps may differ by an image.
            loss = output.loss * (len(pixels) * self.world_size / self.batches.batch_size)
        else:
            values = self._all_reduced(output.masked_values.detach().clone()) if values is None else values
            loss = output.squared_error * self.world_size / values
        return loss, output.squared_error.detach(), output.squared_target

    def _update(self, loss: Tensor) -> None:
        loss.backward()
        if self.config.optim.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optim.clip_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _all_reduced(self, values: Tensor) -> Tensor:
        if self.world_size > 1:
            torch.distributed.all_reduce(values)
        return values

    def checkpoint_is_due(self, every: int) -> bool:
        """Whether the epoch that has just ended is to be saved."""
        return self.epoch % every == 0 or self.epoch == self.last_epoch

    def state(self) -> dict[str, Any]:
        """All that :meth:`restore` needs. Random streams are derived from seed and epoch, so none is stored."""
        optimizer = self.optimizer.state_dict()
        for group in optimizer["param_groups"]:
            group["lr"] = float(group["lr"])  # a tensor on a GPU, see build_optimizer
        return {
            "config": self.config.to_dict(),
            "config_hash": self.config.hash(),
            "seed": self.seed,
            "epoch": self.epoch,
            "history": self.history,
            "model": self.model.state_dict(),
            "optimizer": optimizer,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Resume after the epoch at which ``state`` was taken."""
        self.model.load_state_dict(state["model"])
        # A checkpoint may come from another device: what build_optimizer chose for this one stays.
        kept = {name: self.optimizer.param_groups[0][name] for name in ("lr", "capturable")}
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:
            group.update(kept)
        self.epoch, self.history = state["epoch"], list(state["history"])

    def result(self) -> PretrainResult:
        """Model and history as they are now."""
        found = (self.model, self.history, self.config, self.statistics, self.components, self.seed)
        return PretrainResult(*found, "fp32" if self.autocast is None else "bf16", self.threads)


def learning_rate(config: OptimConfig, epoch: float, epochs_per_step: float, batch_size: int | None = None) -> float:
    """Learning rate of the step that begins at ``epoch`` (fractional, from 0).

    ``cosine``: a linear warm-up that reaches the peak at the end of ``warmup_epochs`` W, then a cosine to 0.
    ``released``: in epoch e, peak 10^(e - W) for e < W, then peak (1 + cos(pi (e - W) / epochs)) / 2.
    The peak is for the ``batch_size`` that batches really have; None is the number that ``config`` asks for.
    """
    assert config.epochs is not None
    peak = config.learning_rate * (config.batch_size if batch_size is None else batch_size) / 256
    warmup = config.warmup_epochs or 0.0
    if config.schedule == "released":
        late = math.floor(epoch) - warmup
        return peak * (10**late if late < 0 else 0.5 * (1 + math.cos(math.pi * late / config.epochs)))
    if epoch < warmup:
        return peak * min(1.0, (epoch + epochs_per_step) / warmup)
    progress = (epoch - warmup) / max(config.epochs - warmup, epochs_per_step)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


def find_training_problem(losses: Sequence[float]) -> str | None:
    """What is wrong with a finished training, judged by ``train_loss`` per epoch: 1 or more at the end, or a rise."""
    if not losses:
        return None
    last, best = losses[-1], min(losses)
    if last >= 1:
        return f"the loss ended above that of predicting the mean ({last:.2f})"
    if last - best > max(RISE * (1 - best), LEAST_RISE):
        return f"the loss rose from {best:.2f} (epoch {losses.index(best)}) to {last:.2f}"
    return None


def compiles(config: OptimConfig, device: torch.device, steps: int) -> bool:
    """Whether the step goes through ``torch.compile``: where asked for, or on a GPU for runs long enough to pay."""
    if config.compile == "auto":
        assert config.epochs is not None
        return device.type == "cuda" and config.epochs * steps >= COMPILE_STEPS
    return config.compile != "off"


def build_optimizer(model: nn.Module, config: OptimConfig, device: torch.device | None = None) -> torch.optim.AdamW:
    """AdamW that decays all parameters, or matrices only: not biases, norms, tokens and position embeddings."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, p in model.named_parameters():
        is_matrix = p.ndim >= 2 and not name.endswith(("pos_embed", "cls_token", "mask_token"))
        if p.requires_grad:
            (decayed if is_matrix or config.weight_decay_on == "all" else plain).append(p)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    capturable = device is not None and device.type == "cuda"
    optimizer = torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=config.betas, fused=True, capturable=capturable
    )
    if capturable:  # a tensor, which a CUDA graph of the step reads; not given to AdamW, which would read it now
        lr = torch.full((), config.learning_rate, device=device)
        for group in optimizer.param_groups:
            group["lr"] = lr
    return optimizer


def check_checkpoint_every(epochs: int) -> None:
    """ConfigError unless ``epochs`` between checkpoints is a whole number from 1."""
    if epochs < 1:
        raise ConfigError(f"checkpoint_every is {epochs}; it must be at least 1 epoch")


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all groups; a tensor, which the groups share, is overwritten in place without a wait."""
    if isinstance(shared := optimizer.param_groups[0]["lr"], Tensor):
        shared.fill_(lr)
    else:
        for group in optimizer.param_groups:
            group["lr"] = lr


def training_images(images: Images | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The images of a set, or a bare array, and the indices of those that train; refuses other shapes and types."""
    array = images if isinstance(images, np.ndarray) else images.images
    if array.ndim != 4 or array.dtype != np.uint8 or array.shape[1] != array.shape[2]:
        raise DataError(
            f"images are {array.dtype} of shape {tuple(array.shape)}; they must be uint8 (N, H, W, C) with H = W, "
            "as pmae.data.load_images gives them"
        )
    return array, np.arange(len(array)) if isinstance(images, np.ndarray) else np.asarray(images.indices("train"))


def _components_and_statistics(
    config: PretrainConfig, images: Images | np.ndarray, components: PrincipalComponents | None
) -> tuple[PrincipalComponents | None, PixelStatistics]:
    is_pmae, basis = config.masking.method == "pmae", config.masking.basis
    if is_pmae and components is None:
        components = fit_components(basis, images)
    if components is None:
        return None, pixel_statistics(*training_images(images))
    if is_pmae and components.basis != basis:
        raise ConfigError(
            f"the components' basis is {components.basis!r}, the settings say {basis!r}; "
            "fit that basis or leave the components out"
        )
    _, height, width, channels = training_images(images)[0].shape
    if tuple(components.shape) != (channels, height, width):
        raise ConfigError(
            f"the components were fitted on images of shape {tuple(components.shape)}, these have "
            f"{(channels, height, width)}; fit the components of these images or leave them out"
        )
    mean, std = (torch.tensor(a, dtype=torch.float32).view(components.shape) for a in (components.mean, components.std))
    return (components if is_pmae else None), PixelStatistics(mean, std)
