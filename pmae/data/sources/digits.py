"""``digits``: scikit-learn's handwritten digits, 1,797 gray images of 8 px that come with the package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pmae.data.source import Listing, Request, Source, read_rows
from pmae.errors import ConfigError, DataError

MAX_IMAGE_SIZE = 256
FILE = Path("datasets", "data", "digits.csv.gz")  # in scikit-learn's folder


def find(request: Request) -> Source:
    """Return the digits, their levels 0 to 16 spread over 0 to 255. They have no official splits.

    Raises:
        ConfigError: ``image_size`` is above ``MAX_IMAGE_SIZE``.
    """
    if request.image_size is not None and request.image_size > MAX_IMAGE_SIZE:
        raise ConfigError(
            f"image_size is {request.image_size}, but the digits have 8 pixels a side; give at most {MAX_IMAGE_SIZE}"
        )
    return Source("digits", (), _list)


def _list() -> Listing:
    table = _table()
    images = np.round(table[:, :-1].reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    return Listing(
        labels=table[:, -1].astype(np.int64),
        class_names=tuple(str(d) for d in range(10)),
        splits={"train": np.arange(len(images), dtype=np.int64)},
        read=read_rows(images, "digits"),
    )


def _table() -> npt.NDArray[np.float64]:
    """Read 64 pixels and a label per row, (1797, 65), from scikit-learn's file: importing its loader takes seconds."""
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataError("the digits come with scikit-learn, which is not installed: pip install scikit-learn")
    path = Path(package.origin).parent / FILE
    if path.is_file():
        return np.loadtxt(path, delimiter=",")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.column_stack([bunch.data, bunch.target])
