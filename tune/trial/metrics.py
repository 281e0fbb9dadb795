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
    """Gauges with the same tags."""

    def __init__(self, texts: Mapping[str, str], tags: dict[str, str]) -> None:
        self._gauges = {name: Gauge(name, description=text, tag_keys=tuple(tags)) for name, text in texts.items()}
        self._tags = tags

    def set(self, values: Mapping[str, float | None]) -> None:
        """Set the gauges that have a finite value."""
        for name, value in values.items():
            if value is not None and math.isfinite(value):
                self._gauges[name].set(value, tags=self._tags)


class TrialGauges(Gauges):
    """The gauges of one trial; the tag is its readable name."""

    def __init__(self, spec: TrialSpec) -> None:
        super().__init__(TRIAL_GAUGES, {"trial": spec.name, "phase": spec.phase})

    def show(self, values: Mapping[str, Any]) -> None:
        """Set the gauges from an epoch or from the trial's row."""
        self.set({name: values.get(name.removeprefix("pmae_")) for name in TRIAL_GAUGES})


class SharedTrialGauges(UserCallback):
    """The gauges of a trial with several workers, set by Ray Train's controller from the reports of rank 0."""

    def __init__(self, spec: TrialSpec) -> None:
        self.spec = spec
        self._gauges: TrialGauges | None = None

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Called after every epoch with each worker's report."""
        self._gauges = self._gauges or TrialGauges(self.spec)
        self._gauges.show(metrics[0])


class StudyGauges(Gauges):
    """The study's own gauges; the tag is its name."""

    def __init__(self, study: str) -> None:
        super().__init__(STUDY_GAUGES, {"study": study})

    def show(self, rows: Mapping[str, Mapping[str, Any]], running: int, default_ratio: float) -> None:
        """Set all gauges from the records so far."""
        done = [r for r in rows.values() if r["status"] == "done" and r.get("val_linear") is not None]
        explored = [r for r in done if r["method"] == "pmae" and r["phase"] == "explore"]
        default = [r["val_linear"] for r in explored if math.isclose(r["ratio"], default_ratio)]
        self.set(
            {
                "pmae_study_trials_done": len(done),
                "pmae_study_trials_failed": sum(r["status"] in ("failed", "diverged") for r in rows.values()),
                "pmae_study_trials_running": running,
                "pmae_study_best_val_linear": max((r["val_linear"] for r in done), default=None),
                "pmae_study_default_regret": max(r["val_linear"] for r in explored) - max(default) if default else None,
            }
        )
