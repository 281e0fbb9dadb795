"""The k-NN probe against scikit-learn, its tie rule, and memory that does not grow with the data squared."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from pmae.errors import ConfigError
from pmae.probes import knn, knn_probe


@pytest.mark.parametrize("k", [1, 5, 20])
def test_accuracy_is_scikit_learns_up_to_ties(digits, pixels, k):
    y = {s: digits.labels[digits.indices(s)] for s in pixels}
    theirs = KNeighborsClassifier(k, algorithm="brute").fit(pixels["train"].astype(float), y["train"])
    result = knn_probe(None, digits, k, features=pixels)
    for split, ours in (("val", result.val_accuracy), ("test", result.test_accuracy)):
        votes = np.sort(theirs.predict_proba(pixels[split].astype(float)), axis=1)
        ties = np.isclose(votes[:, -1], votes[:, -2]).sum()
        assert abs(ours - theirs.score(pixels[split].astype(float), y[split])) <= ties / len(votes) + 1e-9


def test_neighbors_are_exact_even_far_from_the_origin():
    generator = torch.Generator().manual_seed(0)
    train = torch.randn(500, 16, generator=generator) + 1000
    queries = torch.randn(40, 16, generator=generator) + 1000
    ours = torch.cat(knn.nearest(train, queries, 20)).numpy()
    theirs = NearestNeighbors(n_neighbors=20, algorithm="brute").fit(train.double().numpy())
    assert np.array_equal(ours, theirs.kneighbors(queries.double().numpy(), return_distance=False))


def test_chunks_of_any_size_give_the_same_votes(digits, pixels, monkeypatch):
    whole = knn_probe(None, digits, features=pixels)
    monkeypatch.setattr(knn, "CHUNK_DISTANCES", 7_000)
    assert knn_probe(None, digits, features=pixels) == whole


def test_no_chunk_holds_more_distances_than_allowed(monkeypatch):
    monkeypatch.setattr(knn, "CHUNK_DISTANCES", 10_000)
    chunks = knn.nearest(torch.rand(1000, 3), torch.rand(95, 3), 5)
    assert [len(c) for c in chunks] == [10] * 9 + [5]


def test_ties_go_to_the_class_whose_member_is_nearest():
    train = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    labels = torch.tensor([7, 3, 3, 7])
    votes = knn.predict(train, labels, torch.tensor([[-1.0], [4.0], [1.1]]), [1, 2, 4])
    assert votes[1].tolist() == [7, 7, 3]
    assert votes[4].tolist() == [7, 7, 3]
    assert votes[2].tolist() == [7, 7, 3]


def test_equal_distances_rank_by_index():
    near = torch.cat(knn.nearest(torch.zeros(6, 2), torch.zeros(1, 2), 3))
    assert near.tolist() == [[0, 1, 2]]


def test_accuracies_for_other_k_are_in_the_details(digits, pixels):
    details = knn_probe(None, digits, 7, features=pixels).details
    assert list(details["val_by_k"]) == ["2", "5", "7", "10", "15", "20"] == list(details["test_by_k"])
    assert details["k"] == 7


def test_the_encoders_own_pool_is_used_and_test_left_alone(digits, encoder):
    result = knn_probe(encoder, digits, score_test=False)
    assert result.test_accuracy is None and result.details["pool"] == "cls" and "test_by_k" not in result.details
    assert result.val_accuracy > 0.5


@pytest.mark.parametrize("k", [0, 1001])
def test_impossible_k_is_refused(digits, pixels, k):
    with pytest.raises(ConfigError, match=f"k is {k}"):
        knn_probe(None, digits, k, features=pixels)
