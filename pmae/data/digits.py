"""``digits``: scikit-learn's handwritten digits, 1,797 grey images of 8 px that come with the package."""

from __future__ import annotations

import numpy as np

from pmae.data.source import Listing, Request, Source, read_rows


def find(request: Request) -> Source:
    """The digits; their 17 levels (0 to 16) are spread over 0 to 255. They have no official splits."""
    return Source("digits", (), _list)


def _list() -> Listing:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    return Listing(
        labels=bunch.target.astype(np.int64),
        class_names=tuple(str(d) for d in range(10)),
        splits={"train": np.arange(len(images), dtype=np.int64)},
        read=read_rows(images, "digits"),
    )
