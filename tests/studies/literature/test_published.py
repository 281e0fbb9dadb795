"""The published numbers are those that the papers print, in the units of our tables."""

from __future__ import annotations

from studies.literature.published import published_curve, published_curves


def test_curves_are_fractions_and_hold_the_papers_points() -> None:
    points = published_curves()
    assert len(points) == 110
    assert all(0 < p.ratio < 1 and 0 < p.accuracy < 1 for p in points)
    found = {(p.dataset, p.method, p.ratio): p.accuracy for p in points}
    assert found["cifar10", "pmae", 0.2] == 0.57
    assert found["tinyimagenet", "mae", 0.9] == 0.159
    assert found["imagenet1k", "mae", 0.7] == 0.732


def test_regret_of_one_fifth_follows_from_the_papers_curve() -> None:
    regrets = {}
    for dataset in ("cifar10", "tinyimagenet", "dermamnist", "bloodmnist", "pathmnist"):
        curve = {p.ratio: p.accuracy for p in published_curve(dataset, "pmae")}
        assert sorted(curve) == [0.1, 0.2, 0.3, 0.4, 0.5]
        regrets[dataset] = round(100 * (max(curve.values()) - curve[0.2]), 1)
    assert regrets == {"cifar10": 2.0, "tinyimagenet": 0, "dermamnist": 0, "bloodmnist": 2.0, "pathmnist": 1.9}


def test_one_curve_is_one_papers() -> None:
    assert len({p.source for p in published_curve("imagenet1k", "mae")}) == 1
    assert published_curve("CIFAR10", "mae") == published_curve("cifar10", "mae")
    assert published_curve("digits", "pmae") == ()
