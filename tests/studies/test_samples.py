"""Titles of picture strips."""

from __future__ import annotations

import numpy as np
import pytest

from studies.samples import Strip


@pytest.mark.parametrize(
    ("label", "title", "visible"),
    [
        ("pmae r=0.20 p=4", "PMAE, 20 % masked, patch 4", "visible components"),
        ("mae r=0.75 p=4 stride 2", "MAE, 75 % masked, patch 4 stride 2", "visible patches"),
        ("pmae p=2 sampled", "PMAE, patch 2 sampled", "visible components"),
        ("my own", "my own", "visible components"),
    ],
)
def test_titles_are_words(label: str, title: str, visible: str) -> None:
    strip = Strip(label, *np.zeros((4, 1, 2, 2, 1)))
    assert strip.title == title
    assert strip.captions[1] == visible
