"""Truncated and corrupted checkpoints are detected, and the previous one is loaded."""

from __future__ import annotations

import pickle

import pytest
import torch

from pmae.errors import DataError
from pmae.training.checkpoint import MAGIC, list_checkpoints, load_checkpoint, save_checkpoint


def state(epoch: int) -> dict:
    return {"epoch": epoch, "config_hash": "x", "seed": 0, "model": {"w": torch.full((3,), float(epoch))}}


def test_the_last_two_are_kept(tmp_path):
    for epoch in range(1, 5):
        save_checkpoint(tmp_path, epoch, state(epoch))
    assert [p.name for p in list_checkpoints(tmp_path)] == ["epoch-000003.ckpt", "epoch-000004.ckpt"]
    assert load_checkpoint(tmp_path)["epoch"] == 4


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_corrupted_file_falls_back_to_the_previous_one(tmp_path, damage):
    save_checkpoint(tmp_path, 1, state(1))
    last = save_checkpoint(tmp_path, 2, state(2))
    content = bytearray(last.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    last.write_bytes({"cut": content[: len(content) // 2], "flip": content, "empty": b""}[damage])
    with pytest.warns(UserWarning, match="corrupted"):
        assert load_checkpoint(tmp_path)["epoch"] == 1
    list_checkpoints(tmp_path)[0].unlink()
    with pytest.warns(UserWarning, match="corrupted"), pytest.raises(DataError, match="every checkpoint"):
        load_checkpoint(tmp_path)


def test_nothing_but_tensors_and_plain_values_is_loaded(tmp_path):
    import hashlib
    import io

    class Evil:
        def __reduce__(self):
            return (print, ("this must not run",))

    buffer = io.BytesIO()
    torch.save({"epoch": Evil()}, buffer)
    payload = buffer.getvalue()
    (tmp_path / "epoch-000001.ckpt").write_bytes(MAGIC + hashlib.sha256(payload).digest() + payload)
    with pytest.raises((DataError, pickle.UnpicklingError), match="not loaded"):
        load_checkpoint(tmp_path)


def test_half_written_files_are_not_left_behind(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, state(1))

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(tmp_path, 2, state(2))
    assert [p.name for p in tmp_path.iterdir()] == ["epoch-000001.ckpt"]
