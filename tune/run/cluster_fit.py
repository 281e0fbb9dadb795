"""Fit the components of a study; on a cluster each process sums a part of the training images.

For uint8 images the sums are integers, so the components are bit-identical to those of one process.
"""

from __future__ import annotations

import time
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from pmae.components import cached_components
from pmae.components.moments import PixelMoments, TrainingImages
from pmae.errors import DataError
from pmae.files import MappedArray

if TYPE_CHECKING:
    from tune.planning.plan import StudyPlan
    from tune.run.display import Display

WORTH_SHARING = 256 * 2**20  # bytes of images; fewer are summed faster here than sent


def prepare_components(plan: StudyPlan, display: Display, processes: int = 1) -> None:
    """Fit what trials mask once, into the cache that they read; large images are summed by ``processes`` Ray tasks."""
    if "pmae" not in plan.space.methods:
        return
    shared = processes > 1 and plan.images.images.nbytes > WORTH_SHARING
    collect = (lambda data: collect_moments(data, processes)) if shared else None
    for basis in plan.space.bases:
        started = time.perf_counter()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*carry no variance")  # the plan warns of it
            components, how = cached_components(plan.images, basis, collect=collect)
        share = components.explained_variance_ratio
        display.detail(
            f"  {basis} components {how} ({len(share)}, the first explains {100 * share[0]:.0f} % of the variance, "
            f"{time.perf_counter() - started:.1f} s)"
        )


def collect_moments(data: TrainingImages, processes: int) -> PixelMoments:
    """The moments of ``data``, summed by up to ``processes`` Ray tasks of one CPU each.

    Images that are mapped from a file are mapped by each node (DataError if it does not see the file); others go
    through the object store.
    """
    import ray
    from ray.exceptions import RayTaskError

    images = np.asarray(data.images)
    sent = MappedArray.of(images) or ray.put(images)
    task = ray.remote(_sum).options(num_cpus=1, scheduling_strategy="SPREAD")
    parts = np.array_split(data.indices, max(1, min(processes, data.count // 2)))
    waiting = [task.remote(sent, part) for part in parts]
    total = PixelMoments(data.shape, shift=data.shift)
    while waiting:
        ready, waiting = ray.wait(waiting)
        try:
            total.merge(ray.get(ready[0]))
        except RayTaskError as error:
            if isinstance(error.cause, DataError):
                raise DataError(str(error.cause)) from None
            raise
    return total


def _sum(images: Any, indices: np.ndarray) -> PixelMoments:
    array = images.open() if isinstance(images, MappedArray) else images
    return TrainingImages(array, indices, fingerprint="").moments()
