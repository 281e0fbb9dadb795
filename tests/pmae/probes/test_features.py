"""Extraction of frozen features: order, poolings, and an encoder that is left as it was."""

from __future__ import annotations

import dataclasses
import types

import numpy as np
import pytest
import torch

from pmae.data.imageset import UNLABELED
from pmae.errors import ConfigError, DataError
from pmae.probes import (
    crossval_knn_probe,
    crossval_linear_probe,
    extract_features,
    extract_pools,
    knn_probe,
    linear_probe,
    mlp_probe,
)


def test_features_are_the_encoders_in_the_order_of_the_split(digits, encoder):
    features = extract_features(encoder, digits, precision="fp32", batch_size=77)
    assert {s: x.shape for s, x in features.items()} == {"train": (1000, 32), "val": (300, 32), "test": (497, 32)}
    assert all(x.dtype == np.float32 for x in features.values())
    encoder.eval()
    for position in (0, 123, 299):
        image = torch.from_numpy(digits.images[digits.indices("val")[position]][None])
        assert np.allclose(features["val"][position], encoder.encode(image).numpy()[0], atol=1e-5)


def test_both_poolings_come_from_one_pass(digits, encoder):
    both = extract_pools(encoder, digits, ["val"])
    assert not np.allclose(both["cls"]["val"], both["mean"]["val"])
    assert np.array_equal(extract_features(encoder, digits, ["val"], "mean")["val"], both["mean"]["val"])
    assert np.array_equal(extract_features(encoder, digits, ["val"])["val"], both["cls"]["val"])


def test_concat_is_the_class_token_followed_by_the_mean(digits, encoder):
    three = extract_pools(encoder, digits, ["val"], ["cls", "mean", "concat"])
    assert np.array_equal(three["concat"]["val"], np.hstack([three["cls"]["val"], three["mean"]["val"]]))


def test_bf16_differs_from_fp32_by_its_rounding_only(digits, encoder):
    exact, rough = (extract_features(encoder, digits, ["val"], precision=p)["val"] for p in ("fp32", "bf16"))
    assert 0 < np.abs(exact - rough).max() < 0.2


def test_a_read_only_memory_map_is_read_without_complaint(digits, encoder, tmp_path, recwarn):
    np.save(tmp_path / "images.npy", digits.images)
    mapped = dataclasses.replace(digits, images=np.load(tmp_path / "images.npy", mmap_mode="r"))
    assert np.array_equal(
        extract_features(encoder, mapped, ["val"])["val"], extract_features(encoder, digits, ["val"])["val"]
    )
    assert not [w for w in recwarn if "writable" in str(w.message)]


def test_the_encoder_is_left_as_it_was(digits, encoder):
    encoder.train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    extract_features(encoder, digits, ["val"])
    assert encoder.training and encoder.vit.training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_a_result_that_carries_an_encoder_will_do(digits, encoder):
    carried = types.SimpleNamespace(encoder=encoder)
    assert np.array_equal(
        extract_features(carried, digits, ["val"])["val"], extract_features(encoder, digits, ["val"])["val"]
    )


def test_what_does_not_fit_is_refused_with_the_way_out(digits, encoder):
    big = dataclasses.replace(digits, images=digits.images.repeat(2, 1).repeat(2, 2), fingerprint="")
    with pytest.raises(DataError, match=r"16 x 16 px .* trained on 8 x 8 px .* --image-size 8"):
        extract_features(encoder, big)
    with pytest.raises(ConfigError, match="pool is 'max'; allowed are cls, mean, concat"):
        extract_features(encoder, digits, pool="max")
    with pytest.raises(DataError, match="no split 'training'"):
        extract_features(encoder, digits, ["training"])


@pytest.mark.parametrize(
    "probe",
    [
        lambda images, x: linear_probe(None, images, features=x),
        lambda images, x: mlp_probe(None, images, features=x),
        lambda images, x: knn_probe(None, images, features=x),
        lambda images, x: crossval_linear_probe(x, images, seed=0),
        lambda images, x: crossval_knn_probe(x, images),
    ],
    ids=["linear", "mlp", "knn", "crossval linear", "crossval knn"],
)
def test_images_without_labels_cannot_be_probed(digits, pixels, probe):
    unlabeled = dataclasses.replace(digits, labels=np.zeros_like(digits.labels), class_names=UNLABELED)
    with pytest.raises(DataError, match="have no labels"):
        probe(unlabeled, pixels)
