"""Batched crops against torchvision on PIL images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms import functional as TF

from pmae.training.loader import Crops, apply_crops, augment, draw_crops


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", ["noise", "smooth", "binary"])
@pytest.mark.parametrize(("size", "channels"), [(8, 1), (28, 1), (32, 3), (64, 3)])
def test_crops_agree_with_pillow_as_the_module_states(size, channels, kind):
    count = 100 if size > 28 else 400
    images = torch.randint(0, 256, (count, size, size, channels), generator=generator(), dtype=torch.uint8)
    if kind == "binary":
        images = (images > 127).to(torch.uint8) * 255
    if kind == "smooth":
        coarse = images.permute(0, 3, 1, 2).float()[:, :, : max(2, size // 8), : max(2, size // 8)]
        smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 255)
        images = smooth.permute(0, 2, 3, 1).to(torch.uint8)
    crops = draw_crops(count, size, (0.05, 1.0), generator(1))
    ours = apply_crops(images, crops).permute(0, 2, 3, 1).numpy()
    differences = []
    for i in range(count):
        picture = Image.fromarray(images[i].numpy().squeeze())
        box = [int(v[i]) for v in crops]
        theirs = np.asarray(TF.resized_crop(picture, *box, [size, size], InterpolationMode.BICUBIC))
        differences.append(np.abs(theirs.reshape(size, size, channels) - ours[i]))
    difference = np.stack(differences)
    assert difference.max() <= 2
    assert (difference == 0).mean() >= 0.995
    assert (difference == 2).mean() < 1 / 20_000


def test_whole_image_boxes_change_nothing():
    images = torch.randint(0, 256, (6, 16, 16, 3), generator=generator(), dtype=torch.uint8)
    zero, full = torch.zeros(6, dtype=torch.long), torch.full((6,), 16)
    assert torch.equal(apply_crops(images, Crops(zero, zero, full, full)), images.permute(0, 3, 1, 2).float())


def test_flip_mirrors_left_to_right():
    images = torch.randint(0, 256, (4, 8, 8, 1), generator=generator(), dtype=torch.uint8)
    crops = draw_crops(4, 8, (0.5, 1.0), generator(2))
    flip = torch.tensor([True, False, True, False])
    plain, flipped = apply_crops(images, crops), apply_crops(images, crops, flip)
    assert torch.equal(flipped[0], plain[0].flip(-1))
    assert torch.equal(flipped[1], plain[1])


def test_boxes_are_distributed_as_torchvisions():
    crops = draw_crops(4000, 32, (0.2, 1.0), generator(3))
    image = torch.zeros(3, 32, 32)
    torch.manual_seed(0)
    theirs = np.array([RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)])
    for own, column in zip(crops, theirs.T, strict=True):
        assert abs(own.double().mean() - column.mean()) < 0.5  # five standard errors
        assert abs(own.double().std() - column.std()) < 0.5
    assert bool(((crops.top + crops.height <= 32) & (crops.left + crops.width <= 32)).all())
    assert bool((torch.stack(crops[:2]) >= 0).all())


def test_a_shard_sees_its_part_of_the_whole_batch():
    images = torch.randint(0, 256, (8, 8, 8, 1), generator=generator(), dtype=torch.uint8)
    whole = augment(images, generator(5))
    part = augment(images[2:5], generator(5), shard=slice(2, 5), batch=8)
    assert torch.equal(part, whole[2:5])


def test_switched_off_it_gives_the_images():
    images = torch.randint(0, 256, (3, 8, 8, 1), generator=generator(), dtype=torch.uint8)
    out = augment(images, generator(), crop_scale=(1.0, 1.0), flip=False)
    assert torch.equal(out, images.permute(0, 3, 1, 2).float())
