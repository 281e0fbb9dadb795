"""What a finished study proposes to do next."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pmae.cli.options import DataOptions
from tune.options import ConfirmOptions, StudyOptions, TrainingOptions
from tune.planning.plan import plan_study
from tune.run.finalize import _next

MORE = "python tune/masking_ratio_study.py --seed 0"


def proposed(verdict: str, needed: int | None = None, **options) -> tuple[str, str]:
    """The sentence and the command after a study of digits with this verdict."""
    plan = plan_study(StudyOptions(**options))
    rows = [{"kind": "default", "seeds_needed": needed}]
    return _next(plan, Path("runs/digits"), {"rows": rows, "overall": {"verdict": verdict}}, MORE)


def test_an_uninformative_study_is_to_be_trained_twice_as_long_with_other_seeds():
    sentence, command = proposed("uninformative")
    epochs = plan_study(StudyOptions()).config(plan_study(StudyOptions()).space.grid()[0]).optim.epochs
    assert "twice the training" in sentence
    assert f"--epochs {2 * epochs} " in command and "--look 2 --seed 1 " in command
    assert command.endswith("--name digits-longer")


@pytest.mark.parametrize("length", [{"epochs": 3}, {"steps": 50}])
def test_a_length_that_was_given_is_not_doubled(length):
    _, command = proposed("uninformative", training=TrainingOptions(**length))
    assert "--epochs" not in command


def test_more_seeds_are_proposed_where_they_would_settle_it():
    sentence, command = proposed("inconclusive", needed=4)
    assert "9 seeds" in sentence and "--confirm-seeds 9 --look 2 --seed 1 --name digits-2" in command
    _, command = proposed("inconclusive", needed=4, confirm=ConfirmOptions(until_settled=True))
    assert "--confirm-seeds" not in command


def test_digits_lead_to_larger_images_and_other_images_to_their_numbers(tmp_path):
    assert proposed("holds")[1].endswith("--dataset cifar10")
    arrays = {f"{split}_images": np.arange(40 * 64, dtype=np.uint8).reshape(40, 8, 8) for split in ("train", "test")}
    arrays |= {f"{split}_labels": np.arange(40) % 2 for split in ("train", "test")}
    np.savez(tmp_path / "mine.npz", **arrays)
    _, command = proposed("holds", data=DataOptions(dataset=f"npz:{tmp_path / 'mine.npz'}"))
    assert command == "python -m studies show runs/digits"
