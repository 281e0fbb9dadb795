"""The studies that are disturbed: small plans, an objective that is a pure function, and what is found undisturbed."""

from __future__ import annotations

import functools
import json
import zlib
from dataclasses import asdict, dataclass
from typing import Any

from studies.storage.rows import TrialRow
from studies.verdict import judge
from tune import ConfirmOptions, DataOptions, SearchOptions, StudyOptions
from tune.planning.placement import Placement
from tune.planning.plan import StudyPlan, plan_study, study_record
from tune.search.confirm import trial_table
from tune.search.state import Start, StudyState
from tune.simulation import _row
from tune.trial.spec import TrialSpec

EPOCHS = 2
COLUMNS = ("phase", "method", "ratio", "patch_size", "seed", "status", "val_linear", "test_linear", "config_hash")


@dataclass(frozen=True)
class Setting:
    """One kind of study.

    Attributes:
        until_settled: Whether rungs race, in several rounds.
        search: Optuna's sampler.
        lag: Of the proposals.
        concurrent: Trials at a time.
    """

    until_settled: bool
    search: str
    lag: int
    concurrent: int


SETTINGS = (
    Setting(until_settled=False, search="random", lag=2, concurrent=2),
    Setting(until_settled=True, search="random", lag=2, concurrent=3),
    Setting(until_settled=False, search="tpe", lag=1, concurrent=1),
    Setting(until_settled=True, search="qmc", lag=3, concurrent=2),
)


def objective(method: str, ratio: float | None, patch: int | None, seed: int, phase: str) -> dict[str, float]:
    """Accuracies; a value above 1 is a trial that diverged."""
    noise = zlib.crc32(repr((method, ratio, patch, seed, phase)).encode()) / 2**32
    if noise < 0.02:
        return {"val_linear": 2.0, "test_linear": 2.0}
    level = 0.5 if ratio is None else 0.7 - (ratio - 0.3) ** 2 / 2
    return {"val_linear": level + noise / 50, "test_linear": level + noise / 50}


@dataclass(frozen=True)
class Expected:
    """A study and what an undisturbed run of it finds."""

    setting: Setting
    plan: StudyPlan
    placement: Placement
    record: dict[str, Any]
    results: dict[str, str]  # what Ray passes to the driver, by trial id
    facts: dict[str, tuple]
    verdict: str

    def result(self, spec: TrialSpec) -> str:
        """The result of a trial. It may be one that the undisturbed run lacks, which the comparison then shows."""
        return self.results.get(spec.trial_id) or _result(self.plan, spec)


@functools.cache
def expected(setting: Setting) -> Expected:
    """Run the study in memory, one trial at a time."""
    options = StudyOptions(
        data=DataOptions(limit=100),
        search=SearchOptions(methods=("pmae", "mae"), trials=4, search=setting.search, patch_sizes=(4,)),
        confirm=ConfirmOptions(
            confirm_seeds=2, ladder=(0.2, 0.5), mae_ladder=(0.5, 0.75), until_settled=setting.until_settled,
            margin=0.02,
        ),
    )  # fmt: skip
    plan = plan_study(options)
    placement = Placement(
        setting.concurrent, threads=1, workers=1, gpus=0.0, memory=0.0, limited_by="", lag=setting.lag
    )
    state = StudyState(plan, (), setting.lag)
    results = {}
    while isinstance(step := state.next(), Start):
        results[step.spec.trial_id] = _result(plan, step.spec)
        row = json.loads(results[step.spec.trial_id])
        state.end(step.spec.trial_id, row)
    rows = list(state.records.values())
    verdict = judge(trial_table(rows), **plan.judge_options()).to_dict()
    record = dict(study_record(plan, "command", "2026-01-01T00:00:00+00:00", asdict(placement)))
    return Expected(setting, plan, placement, record, results, facts(rows), verdict_text(verdict))


def facts(rows: list[Any]) -> dict[str, tuple]:
    """What was found, by trial id."""
    return {row["trial_id"]: tuple(row.get(column) for column in COLUMNS) for row in rows}


def verdict_text(verdict: dict[str, Any]) -> str:
    """A verdict to compare; means may differ in the last digits, since rows come in another order."""
    return json.dumps(_rounded(verdict), sort_keys=True, default=str)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, (list, tuple)) else value


def _result(plan: StudyPlan, spec: TrialSpec) -> str:
    row: TrialRow = _row(plan, spec, objective)
    history = [
        {"trial_id": spec.trial_id, "seed": spec.seed, "epoch": epoch, "train_loss": 1 / (epoch + spec.seed % 7)}
        for epoch in range(1, EPOCHS + 1)
    ]
    config = {"config": spec.config.to_dict(), "config_hash": spec.config.hash()}
    return json.dumps({**row, **config, "history": history, "error_kind": None})
