"""Sums over the training images collected by a cluster: each process reads a part of them, the sums add up.

For uint8 images the sums are whole numbers, so the components are the same bits as those of one process.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pmae.components.moments import PixelMoments, TrainingImages
from pmae.files import MappedArray

WORTH_SHARING = 256 * 2**20  # bytes of images; fewer are summed sooner here than sent out


def collect_moments(data: TrainingImages, processes: int) -> PixelMoments:
    """The moments of ``data``, summed by up to ``processes`` Ray tasks of one CPU each.

    Images that are mapped from a file are mapped by each node, which must see it; others go through the object store.

    Raises:
        DataError: A node does not see the file.
    """
    import ray

    images = np.asarray(data.images)
    sent = MappedArray.of(images) or ray.put(images)
    task = ray.remote(_sum).options(num_cpus=1, scheduling_strategy="SPREAD")
    parts = np.array_split(data.indices, max(1, min(processes, data.count // 2)))
    waiting = [task.remote(sent, part) for part in parts]
    total = PixelMoments(data.shape, shift=data.shift)
    while waiting:
        ready, waiting = ray.wait(waiting)
        total.merge(_result(ready[0]))
    return total


def _sum(images: Any, indices: np.ndarray) -> PixelMoments:
    array = images.open() if isinstance(images, MappedArray) else images
    return TrainingImages(array, indices, fingerprint="").moments()


def _result(reference: Any) -> PixelMoments:
    import ray
    from ray.exceptions import RayTaskError

    from pmae.errors import DataError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, DataError):
            raise DataError(str(error.cause)) from None
        raise
