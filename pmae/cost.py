"""What a training step costs, from the settings alone: arithmetic on numbers, without torch."""

from __future__ import annotations

from pmae.config import ENCODER_PRESETS, LOW_RANK, MAX_FULL_SIZE, PretrainConfig


def forward_flops(config: PretrainConfig) -> float:
    """Multiply-adds times two of one image forward through encoder and decoder, and the projections."""
    model = config.model
    assert model.image_size is not None and model.channels is not None and config.masking.ratio is not None
    tokens = model.tokens
    visible = tokens * (1 - config.masking.ratio) if config.masking.method == "mae" else tokens
    dimensions = model.image_size**2 * model.channels
    blocks = sum(
        d * (24 * n * w * w + 4 * n * n * w)
        for n, w, d in (
            (visible + 1, *(model.shape or ENCODER_PRESETS["vit_tiny"])[:2]),
            (tokens + 1, model.decoder_width, model.decoder_depth),
        )
    )
    return blocks + (2 * 3 * dimensions * components_kept(dimensions) if config.masking.method == "pmae" else 0)


def components_kept(dimensions: int) -> int:
    """Principal components that are kept: as many as dimensions, unless the images are large."""
    return dimensions if dimensions <= MAX_FULL_SIZE else LOW_RANK


def step_flops(config: PretrainConfig) -> float:
    """Of one training step, forward and backward."""
    return 3 * config.optim.batch_size * forward_flops(config)
