from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pmae.data.load import plan_splits
from pmae.errors import ConfigError, DataError

NAMES = ("a", "b", "c", "d", "e")
counts_strategy = st.lists(st.integers(6, 60), min_size=2, max_size=5)


def plan(counts: list[int], limit: int | None = None, seed: int = 0, official: dict | None = None) -> tuple:
    labels = np.repeat(np.arange(len(counts)), counts)
    official = {"train": np.arange(len(labels))} if official is None else official
    return labels, plan_splits(labels, NAMES[: len(counts)], official, limit=limit, seed=seed, name="toy")


@settings(max_examples=50, deadline=None)
@given(counts_strategy, st.integers(0, 5))
def test_held_out_splits_are_disjoint_complete_and_stratified(counts: list[int], seed: int) -> None:
    labels, splits = plan(counts, seed=seed)
    together = np.concatenate(list(splits.values()))
    assert sorted(together.tolist()) == list(range(sum(counts)))
    for c, count in enumerate(counts):
        test, val = (int((labels[splits[s]] == c).sum()) for s in ("test", "val"))
        assert test == max(1, round(count * 0.2))
        assert val == max(1, round((count - test) * 0.1))
    assert all((np.diff(indices) > 0).all() for indices in splits.values())


@settings(max_examples=50, deadline=None)
@given(counts_strategy, st.integers(5, 200))
def test_limit_is_kept_as_even_as_the_classes_allow_and_leaves_the_held_out_alone(
    counts: list[int], limit: int
) -> None:
    labels, whole = plan(counts)
    _, splits = plan(counts, limit=limit)
    assert len(splits["train"]) == min(limit, len(whole["train"]))
    kept, there = (np.bincount(labels[s["train"]], minlength=len(counts)) for s in (splits, whole))
    open_classes = kept < there
    if open_classes.any():  # no class with images left may be more than one behind any other
        assert kept[open_classes].min() >= kept.max() - 1
    for split in whole:
        assert set(splits[split]) <= set(whole[split])
    assert len(splits["test"]) == min(limit, len(whole["test"]))


def test_the_seed_decides_and_nothing_else() -> None:
    _, one = plan([40, 40], limit=20, seed=3)
    _, same = plan([40, 40], limit=20, seed=3)
    _, other = plan([40, 40], limit=20, seed=4)
    for split in one:
        np.testing.assert_array_equal(one[split], same[split])
        assert set(one[split]) != set(other[split])


def test_a_capped_test_split_keeps_its_class_shares() -> None:
    labels = np.repeat([0, 1, 0, 1], [10, 10, 30, 10])
    official = {"train": np.arange(20), "test": np.arange(20, 60)}
    splits = plan_splits(labels, ("a", "b"), official, limit=8, seed=0, name="toy")
    assert np.bincount(labels[splits["test"]]).tolist() == [6, 2]
    assert np.bincount(labels[splits["train"]]).tolist() == [4, 4]


def test_official_splits_stay() -> None:
    official = {"train": np.arange(0, 20), "val": np.arange(20, 30), "test": np.arange(30, 40)}
    labels = np.arange(40) % 2
    splits = plan_splits(labels, ("a", "b"), official, limit=None, seed=0, name="toy")
    assert {k: v.tolist() for k, v in splits.items()} == {k: v.tolist() for k, v in official.items()}


def test_a_single_official_held_out_split_is_the_test_split() -> None:
    official = {"train": np.arange(0, 30), "val": np.arange(30, 40)}
    splits = plan_splits(np.arange(40) % 2, ("a", "b"), official, limit=None, seed=0, name="toy")
    assert splits["test"].tolist() == list(range(30, 40))
    assert len(splits["val"]) == 4 and set(splits["val"]) < set(range(30))


@pytest.mark.filterwarnings("ignore:the .* split of 'toy' has no images")
@pytest.mark.parametrize(
    ("labels", "official", "message"),
    [
        ([0, 1], {"train": [], "test": [0, 1]}, "train split of 'toy' holds no images"),
        ([0, 1], {"test": [0, 1]}, "no train split, only test"),
        ([0, 0, 0], {"train": [0, 1, 2]}, r"has a single class \(a\)"),
        ([0, 1, 2], {"train": [0, 1], "test": [0, 1, 2]}, "test split of 'toy' has class 'c', which train lacks"),
        ([0, 1], {"train": [0, 1]}, "one training image per class"),
    ],
)
def test_splits_that_cannot_serve_are_refused(labels: list, official: dict, message: str) -> None:
    official = {k: np.array(v, dtype=np.int64) for k, v in official.items()}
    with pytest.raises(DataError, match=message):
        plan_splits(np.array(labels), NAMES[:3], official, limit=None, seed=0, name="toy")


def test_a_limit_below_the_classes_is_refused() -> None:
    with pytest.raises(ConfigError, match="limit is 2, but 'toy' has 3 classes; take at least 3"):
        plan([9, 9, 9], limit=2)


def test_a_class_missing_in_test_is_a_warning() -> None:
    official = {"train": np.arange(20), "test": np.array([20, 22])}
    with pytest.warns(UserWarning, match="test split of 'toy' has no images of class 'b'"):
        plan_splits(np.arange(24) % 2, ("a", "b"), official, limit=None, seed=0, name="toy")
