"""Metrics for Ray's dashboard and Prometheus: per trial from its worker, per study from the driver."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ray.train import UserCallback
from ray.util.metrics import Gauge

from tune.trial.spec import TrialSpec

TRIAL_GAUGES = {
    "pmae_train_loss": "Pre-training loss of the last epoch",
    "pmae_images_per_second": "Training images per second in the last epoch",
    "pmae_achieved_ratio": "Mean masked share in the last epoch",
    "pmae_val_linear": "Linear-probe accuracy on validation, a fraction",
}
STUDY_GAUGES = {
    "pmae_study_trials_done": "Trials that ended with a result",
    "pmae_study_trials_failed": "Trials that diverged or failed",
    "pmae_study_trials_running": "Trials running now",
    "pmae_study_best_val_linear": "Best linear-probe accuracy on validation so far",
    "pmae_study_default_regret": "Best so far minus best with the default ratio so far (validation, not the verdict)",
}


class Gauges:
    """Gauges by name with their descriptions, all with the same tags."""

    def __init__(self, texts: Mapping[str, str], **tags: str) -> None:
        self._gauges = {name: Gauge(name, description=text, tag_keys=tuple(tags)) for name, text in texts.items()}
        self._tags = tags

    def show(self, values: Mapping[str, Any]) -> None:
        """Set the gauges that have a finite value in ``values``, in which their names lack the prefix."""
        for name, gauge in self._gauges.items():
            value = values.get(name.removeprefix("pmae_").removeprefix("study_"))
            if value is not None and math.isfinite(value):
                gauge.set(value, tags=self._tags)


def trial_gauges(spec: TrialSpec) -> Gauges:
    """The gauges of one trial, which show an epoch or the trial's row."""
    return Gauges(TRIAL_GAUGES, trial=spec.name, phase=spec.phase)


class SharedTrialGauges(UserCallback):
    """The gauges of a trial with several workers, set by Ray Train's controller from the reports of rank 0."""

    def __init__(self, spec: TrialSpec) -> None:
        self.spec = spec
        self._gauges: Gauges | None = None

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Called after every epoch with each worker's report."""
        self._gauges = self._gauges or trial_gauges(self.spec)
        self._gauges.show(metrics[0])


def study_values(rows: Mapping[str, Mapping[str, Any]], running: int, default_ratio: float) -> dict[str, float | None]:
    """Values of ``STUDY_GAUGES`` without their prefix, from rows by trial id."""
    done = [r for r in rows.values() if r["status"] == "done" and r.get("val_linear") is not None]
    explored = [r for r in done if r["method"] == "pmae" and r["phase"] == "explore"]
    default = [r["val_linear"] for r in explored if math.isclose(r["ratio"], default_ratio)]
    return {
        "trials_done": len(done),
        "trials_failed": sum(r["status"] in ("failed", "diverged") for r in rows.values()),
        "trials_running": running,
        "best_val_linear": max((r["val_linear"] for r in done if r["phase"] != "control"), default=None),
        "default_regret": max(r["val_linear"] for r in explored) - max(default) if default else None,
    }
