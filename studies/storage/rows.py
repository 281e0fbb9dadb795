"""Types of what a study writes: a row of each table and the plan in ``study.json``. Free at run time.

``TrialRow`` and ``EpochRow`` have the columns of ``TRIAL_SCHEMA`` and ``HISTORY_SCHEMA``; a test compares them.
"""

from __future__ import annotations

import datetime
from typing import Any, Literal, TypedDict

Phase = Literal["explore", "confirm", "control"]
Status = Literal["done", "pruned", "diverged", "failed", "interrupted"]


class _TrialKey(TypedDict):
    trial_id: str
    phase: Phase
    dataset: str
    method: str
    seed: int
    status: Status


class TrialRow(_TrialKey, total=False):
    """One trial with one seed. Columns that are left out are null; see ``TRIAL_SCHEMA`` for units."""

    study: str
    strategy: str | None
    ratio: float | None
    achieved_ratio: float | None
    achieved_sd: float | None
    patch_size: int | None
    patch_stride: int | None
    mask_unit: int | None
    error: str | None
    epochs: int | None
    val_linear: float | None
    test_linear: float | None
    val_knn: float | None
    test_knn: float | None
    evaluation: str | None
    train_loss: float | None
    objective: float | None
    training_problem: str | None
    images_per_second: float | None
    seconds: float | None
    started_at: datetime.datetime | str | None
    config: Any  # a mapping or its JSON
    config_hash: str | None
    code_version: str | None
    device: str | None
    precision: str | None
    versions: Any  # a mapping or its JSON
    basis: str | None
    pool: str | None
    peak_memory_bytes: int | None
    train_images: int | None
    metrics: Any  # a mapping or its JSON


class EpochRow(TypedDict, total=False):
    """One epoch of one trial."""

    study: str
    trial_id: str
    seed: int
    epoch: int
    train_loss: float
    objective: float
    learning_rate: float
    images_per_second: float


class DatasetRecord(TypedDict):
    """The images in ``study.json``; ``train``, ``val`` and ``test`` count them."""

    source: str
    name: str
    fingerprint: str
    train: int
    val: int
    test: int
    image_size: int
    channels: int
    classes: int


class PhaseRecord(TypedDict):
    """Trials planned in a phase (None where the exploration decides) and the seeds it uses."""

    planned: int | None
    seeds: list[int]


class StudyRecord(TypedDict):
    """``study.json``: the plan, and how the study was started."""

    schema_version: int
    name: str
    created_at: str
    question: str | None
    dataset: DatasetRecord
    methods: list[str]
    space: dict[str, Any]
    search: str
    phases: dict[str, PhaseRecord]
    margin: float | str
    alpha: float
    looks: dict[str, int] | None
    ladder: dict[str, list[float]]
    default_ratio: float
    mae_default_ratio: float
    epochs: int | None
    config: dict[str, Any]
    options: dict[str, Any]
    command: str
    versions: dict[str, str]
    code_version: str
    resources: dict[str, Any]
    warnings: list[str]
