"""The probe under corruptions: clean images are its upper end, severity lowers it, test stays unread when asked."""

from __future__ import annotations

import numpy as np
import pytest

from pmae.probes import corruption_probe, extract_features, linear_probe
from pmae.probes.robustness import CORRUPTIONS


def test_it_scores_the_clean_probe_on_corrupted_images(digits, encoder):
    features = extract_features(encoder, digits)
    result = corruption_probe(encoder, digits, features=features, severity=5)
    clean = linear_probe(encoder, digits, features=features)
    assert result.details["val_clean"] == clean.val_accuracy and result.details["test_clean"] == clean.test_accuracy
    assert list(result.details["val_by_corruption"]) == list(CORRUPTIONS)
    assert result.test_accuracy == pytest.approx(np.mean(list(result.details["test_by_corruption"].values())))
    assert result.val_accuracy < clean.val_accuracy
    mild = corruption_probe(encoder, digits, features=features, severity=1, corruptions=["contrast"], score_test=False)
    assert mild.test_accuracy is None and mild.val_accuracy > result.details["val_by_corruption"]["contrast"]
