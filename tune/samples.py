"""The arrays behind a study's pictures: what confirmed encoders see and predict, the components, their spectrum."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pmae.components import PrincipalComponents
from pmae.data import ImageSet
from pmae.mask_source import MaskSource
from pmae.trainer import PretrainResult
from tune.spec import TrialSpec

IMAGES = 6
EIGENIMAGES = 16
FOLDER = "samples"


def write_strip(folder: str | Path, spec: TrialSpec, result: PretrainResult, images: ImageSet) -> None:
    """Write what the trained model makes of a few validation images to ``samples/<trial id>.npz``."""
    path = Path(folder) / FOLDER / f"{spec.trial_id}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {f"{spec.label}/{name}": array for name, array in strip(result, images).items()}
    with open(path, "wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def strip(result: PretrainResult, images: ImageSet, count: int = IMAGES) -> dict[str, np.ndarray]:
    """``original, visible, prediction, target`` of the first ``count`` validation images, each (n, H, W, C).

    uint8 is a picture; float32 is a signed deviation in grey levels over 255. For PMAE prediction and target are the
    masked components of the predicted and of the original image; for MAE the prediction is set into the visible
    patches and the target is what they leave out.
    """
    model = result.model.eval()
    device = next(model.parameters()).device
    mean, std = (s.to(device) for s in result.statistics)
    pixels = torch.from_numpy(np.array(images.images[images.indices("val")[:count]])).to(device)
    x = (pixels.permute(0, 3, 1, 2).float() - mean) / std
    masks, ratios = (torch.Generator(d).manual_seed(result.seed) for d in (device, "cpu"))
    spectrum = None if model.projection is None else model.projection.spectrum
    mask, _ = MaskSource(result.config, spectrum).draw(len(x), masks, ratios)
    with torch.inference_mode():
        output = model(x, mask)
    if model.projection is None:
        hidden = output.visible == 0
        prediction = _picture(torch.where(hidden, output.prediction, x), mean, std)
        target = _picture(torch.where(hidden, x, torch.zeros_like(x)), mean, std)
    else:
        parts = (model.projection.target(i.flatten(1), mask).view_as(x) for i in (output.prediction, x))
        prediction, target = (_channels_last(part * std / 255).float().numpy() for part in parts)
    return {
        "original": pixels.cpu().numpy(),
        "visible": _picture(output.visible, mean, std),
        "prediction": prediction,
        "target": target,
    }


def merge_samples(folder: Path, components: PrincipalComponents | None) -> None:
    """Gather the trials' strips, the first components as images and the spectrum in ``samples.npz``."""
    arrays: dict[str, np.ndarray] = {}
    for path in sorted((folder / FOLDER).glob("*.npz")):
        with np.load(path, allow_pickle=False) as stored:
            arrays |= {name: stored[name] for name in stored.files}
    if components is not None:
        first = np.asarray(components.components[:, :EIGENIMAGES]).T.reshape(-1, *components.shape)
        arrays["eigenimages"] = np.moveaxis(first, 1, 3)
        arrays["spectrum"] = np.asarray(components.explained_variance_ratio)
    if arrays:
        from studies.files import write_file

        write_file(folder / "samples.npz", lambda file: np.savez_compressed(file, **arrays))  # type: ignore[arg-type]


def _picture(x: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> np.ndarray:
    return _channels_last((x * std + mean).round().clamp(0, 255)).to(torch.uint8).numpy()


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 2, 3, 1).cpu()
