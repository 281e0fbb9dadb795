"""The four verdicts, what never allows each of them, and how oddities of a table are named."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from studies.errors import StudyError
from studies.formatting import at_most, percent
from studies.statistics.regret import dunnett_critical_value, estimate_contrast, estimate_noise, seeds_needed
from studies.statistics.sequential import level_for_look
from studies.verdict import Looks, Verdict, judge
from studies.views.wording import best_set_sentence, judged_rows
from tests.studies.tables import DEFAULT, LADDER, Rows, as_table, change, control_rows, draw, study_rows, trial_rows

LOST = {"val_linear": None, "test_linear": None}
SEEDS = range(5)


def better_at(ratio: float, gain: float) -> list[float]:
    return [gain * (rung == ratio) for rung in LADDER]


def judged(rows: Rows, **settings: Any) -> dict[str, Any]:
    """The only row of the verdict, which must be valid JSON."""
    verdict = judge(as_table(rows), **settings)
    json.dumps(verdict.to_dict(), allow_nan=False)
    (row,) = verdict.rows
    return row


def default_rows(verdict: Verdict) -> list[dict[str, Any]]:
    return [row for row in verdict.rows if row["kind"] == "default"]


@pytest.mark.parametrize(
    ("rows", "outcome"),
    [
        (study_rows(), "holds"),
        (study_rows(better_at(0.55, 0.05)), "fails"),
        (study_rows(better_at(0.55, 0.01)), "inconclusive"),
        (study_rows(untrained=0.75), "uninformative"),
    ],
    ids=["holds", "fails", "inconclusive", "uninformative"],
)
def test_outcomes(rows: Rows, outcome: str) -> None:
    verdict = judge(as_table(rows)).to_dict()
    (row,) = verdict["rows"]
    assert (row["verdict"], verdict["overall"]["verdict"]) == (outcome, outcome)
    assert (row["default_ratio"], row["margin"], row["seeds"], row["alpha"]) == (0.2, 0.01, 5, 0.05)
    assert row["ratios"] == [ratio for ratio in LADDER if ratio != 0.2]
    assert [rung["ratio"] for rung in row["rungs"]] == list(LADDER)
    if outcome == "fails":
        assert row["best_ratio"] == 0.55 and row["ci_low"] > 0.01


def test_the_answer_states_a_default_that_holds() -> None:
    verdict = judge(as_table(study_rows()))
    row = verdict.rows[0]
    assert verdict.answer == (
        "Masking 20 % of the variance holds up on digits (patch 2): against 5, 10, 35, 55, 75 and 90 % it loses at "
        f"most {at_most(row['ci_high'])} (95 % confidence, 5 paired seeds). Training adds "
        f"{100 * row['training_gain']:.1f} points to an untrained encoder."
    )


def test_the_answer_states_a_default_that_fails() -> None:
    answer = judge(as_table(study_rows(better_at(0.55, 0.05)))).answer
    assert answer.startswith(
        "Masking 20 % of the variance does not hold up on digits (patch 2): the best ratio is better by at "
    )
    known = r"at least 4\.\d points \(95 % confidence, 5 paired seeds\); 55 % has the highest mean, 4\.\d points above"
    assert re.search(known, answer)


def test_the_answer_names_a_strategy_that_does_not_mask_what_the_ratio_says() -> None:
    answer = judge(as_table(study_rows(strategy="released"))).answer
    assert answer.startswith("Masking 20 % of the variance (strategy released) holds up on")


def test_the_answer_of_an_open_study_still_states_what_the_default_loses_at_most() -> None:
    verdict = judge(as_table(study_rows(better_at(0.55, 0.012))))
    high = at_most(verdict.rows[0]["ci_high"])
    assert verdict.answer.startswith(
        "It is open whether masking 20 % of the variance holds up within 1 point on digits (patch 2): against 5, 10, "
        f"35, 55, 75 and 90 % it loses at most {high} (95 % confidence, 5 paired seeds"
    )


def test_the_seeds_needed_are_those_of_a_second_look() -> None:
    rows = study_rows(better_at(0.55, 0.012))
    strict = judged(rows, alpha=0.0125)
    assert strict["verdict"] == "inconclusive"
    table = [[r["test_linear"] for r in rows if r.get("ratio") == ratio] for ratio in LADDER]
    chosen = np.array(table).T
    noise = estimate_noise(chosen)
    others = [estimate_contrast(chosen, noise, {k: 1.0, DEFAULT: -1.0}) for k in range(len(LADDER)) if k != DEFAULT]
    assert judged(rows)["seeds_needed"] == seeds_needed(others, 0.01, 0.0125) > seeds_needed(others, 0.01, 0.05)


def test_the_answer_of_an_uninformative_study_names_the_gain_and_a_way_out() -> None:
    answer = judge(as_table(study_rows(untrained=0.75))).answer
    assert answer.startswith("The study on digits (patch 2) cannot judge masking 20 % of the variance: training does")
    assert "it adds " in answer and "--patch-sizes" in answer


@given(rng_seed=st.integers(0, 10_000), seeds=st.integers(2, 6), rungs=st.integers(2, 7), sd=st.floats(1e-3, 0.05))
@settings(max_examples=40, deadline=None)
def test_bounds_enclose_the_regret_of_the_best_mean_and_the_answer_names_every_ratio(
    rng_seed: int, seeds: int, rungs: int, sd: float
) -> None:
    rng = np.random.default_rng(rng_seed)
    ratios = sorted({0.2, *rng.permutation([r for r in LADDER if r != 0.2])[: rungs - 1].tolist()})
    accuracies = np.clip(draw(rng, rng.normal(0, 0.02, len(ratios)), sd, seeds), 0, 1)
    verdict = judge(as_table(trial_rows(accuracies, ratios)))
    (row,) = verdict.rows
    assert 0 <= row["ci_low"] <= row["regret"] <= row["ci_high"]
    means = accuracies.mean(axis=0)
    assert row["best_ratio"] == pytest.approx(ratios[int(means.argmax())])
    assert row["regret"] == pytest.approx(means.max() - means[ratios.index(0.2)])
    assert row["verdict"] in ("inconclusive", "fails")  # without the untrained control it never holds
    named = re.findall(r"[\d.]+", verdict.answer.split("against ")[-1].split(" it loses")[0])
    wanted = [percent(ratio).removesuffix(" %") for ratio in ratios if ratio != 0.2]
    assert named == wanted or (row["verdict"] == "fails" and percent(row["best_ratio"]) in verdict.answer)
    (own,) = [rung for rung in row["rungs"] if rung["is_default"]]
    assert own["regret_high"] == pytest.approx(row["ci_high"])


def without(rows: Rows, ratio: float | None, seeds: Any = SEEDS) -> Rows:
    return [row for row in rows if row.get("ratio") != ratio or row["seed"] not in seeds]


FLAT = study_rows()
COPY = [r | {"test_linear": q["test_linear"]} if r.get("ratio") == 0.55 else r
        for r in FLAT for q in FLAT if q.get("ratio") == 0.2 and q["seed"] == r["seed"]]  # fmt: skip
TWO_COPIES = [r | {"test_linear": q["test_linear"]} if r.get("ratio") == 0.55 else r
              for r in FLAT for q in FLAT if q.get("ratio") == 0.35 and q["seed"] == r["seed"]]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "ladder", "told"),
    [
        (change(FLAT, 0.55, SEEDS, status="failed", **LOST), None, "ratio 0.55 has 0 usable seeds of 5"),
        (change(FLAT, 0.55, range(1, 5), status="diverged", **LOST), None, "ratio 0.55 has 1 usable seed of 5"),
        (change(FLAT, 0.55, SEEDS, test_linear=math.nan), None, "ratio 0.55 has 0 usable seeds of 5"),
        (without(FLAT, 0.55), LADDER, "ratio 0.55 of the ladder has no trial"),
        (change(FLAT, 0.55, SEEDS, precision="bf16"), None, "ratio 0.55 has 0 usable seeds of 5"),
        (change(FLAT, 0.55, SEEDS, epochs=90), None, "ratio 0.55 has 0 usable seeds of 5"),
        (change(FLAT, 0.55, SEEDS, evaluation="split"), None, "ratio 0.55 has 0 usable seeds of 5"),
        ([r | {"seed": r["seed"] + 100} if r.get("ratio") == 0.55 else r for r in FLAT], None, "55 % shares too few"),
        (COPY, None, "55 % differ from the default by the same amount"),
        (TWO_COPIES, None, "35 and 55 % have the same accuracies for every seed"),
        (without(FLAT, None), None, "no untrained encoder was measured"),
        (change(FLAT, None, range(1, 5), seed=77), None, "no untrained encoder was measured"),
    ],
    ids=[
        "all failed", "mostly diverged", "NaN", "ladder", "precision", "epochs", "evaluation", "other seeds",
        "copied column", "two copied columns", "no control", "control of other seeds",
    ],
)  # fmt: skip
def test_what_is_missing_or_copied_never_holds_and_is_named(rows: Rows, ladder: Any, told: str) -> None:
    assert judged(FLAT, ladder={"pmae": LADDER})["verdict"] == "holds"
    row = judged(rows, ladder=ladder and {"pmae": ladder})
    assert row["verdict"] != "holds"
    assert told in " ".join([*row["excluded"], row["reason"] or ""])


def test_a_study_whose_ladder_is_planned_is_judged_against_it() -> None:
    row = judged(without(FLAT, 0.9), ladder={"pmae": LADDER, "mae": (0.5, 0.75)})
    assert row["verdict"] == "inconclusive" and row["excluded"] == ["ratio 0.9 of the ladder has no trial"]


def test_a_clear_failure_stands_though_a_rung_is_missing() -> None:
    rows = change(study_rows(better_at(0.55, 0.05)), 0.9, SEEDS, status="failed", **LOST)
    row = judged(rows)
    assert row["verdict"] == "fails"
    assert "ratio 0.9 has 0 usable seeds of 5 and is left out" in row["excluded"]


def test_a_table_without_any_noise_never_settles() -> None:
    row = judged(study_rows(sd=0.0))
    assert row["verdict"] == "inconclusive" and "copied rows?" in row["reason"]
    constant_gain = trial_rows(np.full((5, 7), 0.75) + np.array(better_at(0.55, 0.05)))
    assert judged(constant_gain + control_rows(np.full(5, 0.6)))["verdict"] == "inconclusive"


@pytest.mark.parametrize("patch", [{"dataset": "other"}, {"patch_size": 4, "patch_stride": 4}, {"status": "failed"}])
def test_a_control_of_other_data_or_another_shape_does_not_count(patch: dict[str, Any]) -> None:
    row = judged(change(FLAT, None, SEEDS, **patch))
    assert row["verdict"] == "inconclusive" and row["training_gain"] is None


def test_a_control_that_was_evaluated_otherwise_does_not_count() -> None:
    folds = [row | {"evaluation": "folds"} for row in FLAT]
    assert judged(folds)["verdict"] == "holds"
    verdict = judge(as_table(change(folds, None, SEEDS, evaluation="split")))
    assert verdict.rows[0]["verdict"] == "inconclusive" and verdict.rows[0]["training_gain"] is None
    assert "left out 5 controls with another evaluation than the trials (folds)" in "".join(verdict.warnings)


def test_raw_pixels_are_recorded_but_do_not_stand_in_for_the_untrained_encoder() -> None:
    pixels = control_rows(np.full(5, 0.95), "pixels", patch_size=None, patch_stride=None)
    assert judged(FLAT + pixels)["pixels"] == pytest.approx(0.95)
    assert judged(without(FLAT, None) + pixels)["verdict"] == "inconclusive"


@pytest.mark.parametrize(("loss", "outcome"), [(0.4, "holds"), (1.3, "uninformative")])
def test_a_loss_that_is_not_below_predicting_the_mean_is_uninformative(loss: float, outcome: str) -> None:
    rows = [r if r["phase"] == "control" else r | {"train_loss": loss, "evaluation": "folds"} for r in FLAT]
    assert judged(rows)["verdict"] == outcome


def test_an_uninformative_study_has_no_sentence_about_the_best_ratio() -> None:
    """Rungs may differ by chance or by harm; a set of candidates would contradict the verdict."""
    row = judge(as_table(study_rows(better_at(0.55, 0.05), untrained=0.9))).to_dict()
    (shown,) = judged_rows(row)
    assert shown["verdict"] == "uninformative" and "cannot be determined" in best_set_sentence(shown)


def test_a_rung_that_did_not_learn_withholds_holds() -> None:
    """The accuracy of a rung whose training failed says nothing about its ratio."""
    rows = [r if r["phase"] == "control" else r | {"train_loss": 0.4, "evaluation": "folds"} for r in FLAT]
    assert judged(change(rows, 0.9, SEEDS, train_loss=1.01))["verdict"] == "holds"
    row = judged(change(rows, 0.9, SEEDS, train_loss=1.2))
    assert row["verdict"] == "inconclusive" and "a rung did not learn" in row["reason"] and "90 %" in row["reason"]


MAE_RATIOS = (0.5, 0.7, 0.75, 0.8, 0.9)  # of 4 patches 0.7 to 0.8 mask 3


def mae_rows(means: Any = (0.0,) * 5) -> Rows:
    achieved = {0.5: 0.5, 0.7: 0.75, 0.75: 0.75, 0.8: 0.75, 0.9: 0.9}
    rows = study_rows(means, ratios=MAE_RATIOS, method="mae", strategy="random", basis=None, mask_unit=4)
    return [r | {"achieved_ratio": achieved[r["ratio"]], "achieved_sd": 0.0} if r.get("ratio") else r for r in rows]


def test_ratios_of_mae_that_mask_the_same_count_are_one_rung() -> None:
    row = judged(mae_rows((0, 0.04, 0, 0.04, 0)))  # twins that are better by chance must not beat themselves
    assert (row["kind"], row["verdict"]) == ("mae_default", "holds")
    assert row["ratios"] == [0.5, 0.9]
    assert row["excluded"] == [f"ratio {r} masks the same 75 % as another rung" for r in (0.7, 0.8)]


def test_a_default_that_was_only_tried_under_another_name_is_found_by_what_it_masks() -> None:
    rows = [row for row in mae_rows() if row.get("ratio") in (None, 0.5, 0.8, 0.9)]
    row = judged(rows)
    assert (row["verdict"], row["default_achieved"], row["ratios"]) == ("holds", 0.75, [0.5, 0.9])


def test_achieved_ratios_are_what_the_verdict_and_the_answer_name() -> None:
    rows = [r | {"achieved_ratio": 0.5} if r.get("ratio") == 0.55 else r for r in FLAT]
    verdict = judge(as_table(rows))
    assert verdict.rows[0]["ratios"] == [0.05, 0.1, 0.35, 0.5, 0.75, 0.9] and "35, 50, 75" in verdict.answer


def latin_rows(size: int, gap: float, gain: float) -> tuple[np.ndarray, Rows]:
    """Accuracies of ``size`` - 1 rungs and the untrained control whose columns have exactly equal variances."""
    values = 0.01 * np.random.default_rng(3).standard_normal(size)
    noise = np.array([np.roll(values - values.mean(), shift) for shift in range(size)])
    table = 0.6 + noise + np.array([gain, gain + gap, *[gain] * (size - 3), 0.0])
    ratios = (0.2, 0.35, 0.55, 0.75, 0.9)[: size - 1]
    return table, trial_rows(table[:, :-1], ratios) + control_rows(table[:, -1])


def test_a_margin_in_per_cent_is_the_linear_contrast_done_by_hand() -> None:
    size, share, gain, outcomes = 6, 0.1, 0.2, set()
    for gap in np.arange(-0.01, 0.06, 0.002):
        table, rows = latin_rows(size, float(gap), gain)
        residuals = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
        variance = (residuals**2).sum() / (size - 1) ** 2
        error = math.sqrt(variance * ((1 - share) ** 2 + share**2 + 1) / size)
        means = table.mean(axis=0)
        excess = (1 - share) * means[1:-1] + share * means[-1] - means[0]
        quantile = stats.t.ppf(0.95, (size - 1) ** 2)
        row = judged(rows, margin="10%")
        assert (row["verdict"] == "holds") == (excess.max() + quantile * error < 0), gap
        assert row["margin_share"] == share and row["margin"] == pytest.approx(share * (gain + max(gap, 0)))
        outcomes.add(row["verdict"])
    assert outcomes == {"holds", "inconclusive", "fails"}


@pytest.mark.parametrize("rows", [study_rows(sd=0.006), study_rows(better_at(0.55, 0.04), sd=0.006)])
def test_verdicts_change_exactly_where_the_margin_passes_a_bound(rows: Rows) -> None:
    low, high = (judged(rows)[name] for name in ("ci_low", "ci_high"))
    assert judged(rows, margin=high + 1e-6)["verdict"] == "holds"
    assert judged(rows, margin=high - 1e-6)["verdict"] == "inconclusive"
    if low > 0:
        assert judged(rows, margin=low + 1e-6)["verdict"] == "inconclusive"
        assert judged(rows, margin=low - 1e-6)["verdict"] == "fails"


def test_bounds_of_a_row_are_students_and_dunnetts_done_by_hand() -> None:
    seeds, gap = 5, 0.05
    noise = latin_rows(seeds, 0.0, 0.0)[0] - 0.6
    accuracies = 0.8 + noise + np.array([0, gap, 0, 0, 0])
    (row,) = judge(as_table(trial_rows(accuracies, (0.2, 0.35, 0.55, 0.75, 0.9)))).rows
    residuals = noise - noise.mean(0) - noise.mean(1, keepdims=True) + noise.mean()
    freedom = (seeds - 1) ** 2
    error = math.sqrt(2 * (residuals**2).sum() / freedom / seeds)
    assert row["regret"] == pytest.approx(gap)
    assert row["ci_high"] == pytest.approx(gap + stats.t.ppf(0.95, freedom) * error)
    assert row["ci_low"] == pytest.approx(gap - dunnett_critical_value(freedom, 4, 0.05) * error)


def test_a_margin_in_per_cent_needs_the_untrained_control() -> None:
    row = judged(without(FLAT, None), margin="10%")
    assert row["verdict"] == "inconclusive" and "needs the untrained control" in row["reason"]
    assert "within 10 % of the training gain" in judge(as_table(without(FLAT, None)), margin="10%").answer


def test_bounds_after_a_round_have_the_level_of_that_round() -> None:
    plain, looked = judged(FLAT), judged(FLAT, looks=Looks(5, 4))
    assert looked["alpha"] == 0.05 and looked["ci_high"] > plain["ci_high"]
    assert looked["ci_high"] == pytest.approx(judged(FLAT, alpha=level_for_look(1, 4))["ci_high"])
    assert judged(study_rows(better_at(0.55, 0.01)), looks=Looks(5, 4))["seeds_needed"] is None


def test_patch_settings_are_judged_apart() -> None:
    verdict = judge(as_table(FLAT + study_rows(better_at(0.1, 0.05), patch_size=4, patch_stride=4)))
    assert {row["patch_size"]: row["verdict"] for row in verdict.rows} == {2: "holds", 4: "fails"}
    assert "(patch 2)" in verdict.answer and "(patch 4)" in verdict.answer


def test_every_data_set_must_hold_and_one_failure_decides() -> None:
    bad = study_rows(better_at(0.1, 0.05), dataset="blood")
    assert judge([as_table(FLAT), as_table(study_rows(dataset="path"))]).overall["verdict"] == "holds"
    joint = judge(as_table(FLAT + bad)).overall
    assert (joint["verdict"], joint["fails_on"], joint["datasets"]) == ("fails", ["blood"], 2)
    assert judge(as_table(FLAT + study_rows(dataset="derma", seeds=1))).overall["verdict"] == "inconclusive"
    assert judge(as_table(FLAT + study_rows(dataset="derma", untrained=0.75))).overall["verdict"] == "inconclusive"


def test_maes_default_has_a_verdict_of_its_own() -> None:
    mae = [row for row in mae_rows((0, 0, 0, 0, 0.05)) if row["phase"] != "control"]
    verdict = judge(as_table(FLAT + mae))
    assert [(row["kind"], row["verdict"]) for row in verdict.rows] == [("default", "holds"), ("mae_default", "fails")]
    assert (verdict.overall["verdict"], verdict.overall["mae_default"]["verdict"]) == ("holds", "fails")
    assert "of the patches" not in verdict.answer


def test_a_default_that_diverges_never_holds_and_the_answer_counts_the_seeds_that_are_left() -> None:
    rows = change(FLAT, 0.2, [1, 3], status="diverged", **LOST)
    row = judged(rows)
    assert row["verdict"] == "inconclusive" and "the default diverged in 2 further runs" in row["reason"]
    fewer = change(FLAT, 0.35, [1, 3], status="failed", **LOST)  # a lost process says nothing about the ratio
    assert judged(fewer)["verdict"] == "holds"
    assert "(95 % confidence, 3 to 5 paired seeds)" in judge(as_table(fewer)).answer
    assert judged(change(FLAT, 0.35, [1], status="diverged", **LOST))["verdict"] == "holds"


def test_only_confirmed_trials_judge() -> None:
    tempting = [r for r in study_rows(better_at(0.9, 0.2), phase="explore") if r["phase"] == "explore"]
    assert judged(FLAT + tempting)["verdict"] == "holds"
    nothing = judge(as_table(tempting))
    assert nothing.rows == [] and nothing.answer.startswith("No answer yet")


@pytest.mark.parametrize(
    ("rows", "warning"),
    [
        (change(FLAT, 0.35, [1], status="diverged", **LOST), "1 diverged.*ratio 0.35, seed 1"),
        (change(FLAT, 0.1, [2], test_linear=math.nan), "without a finite accuracy.*ratio 0.1, seed 2"),
        (change(FLAT, 0.55, [0], epochs=90), r"another number of epochs.*\(9\).*ratio 0.55, seed 0"),
        (change(FLAT, 0.55, [0], precision="bf16"), "another precision.*ratio 0.55, seed 0"),
        (change(FLAT, 0.55, [0], evaluation="split"), "another evaluation.*ratio 0.55, seed 0"),
        (change(FLAT, 0.55, [0], config='{"optim": {"lr": 3}}'), r"another configuration.*optim\.lr 3.*seed 0"),
        (change(FLAT, 0.55, [0], config='{"optim": {"accumulation_steps": 2}}'), "another configuration.*seed 0"),
        (change(FLAT, 0.55, [0], config='{"optim": {"accumulation_steps": 1}}'), None),
        ([*FLAT, *FLAT[:3]], "3 repeated rows"),
        ([*FLAT, FLAT[3] | {"trial_id": "twin"}], "ratio 0.35 has seed 0 twice"),
        (change(FLAT, 0.35, [0], code_version="abc"), None),
        (change(change(FLAT, 0.35, [0], code_version="b"), 0.2, [0], code_version="a"), "differ in code_version: a, b"),
        (
            change(change(FLAT, 0.35, [0], device="cpu: A (AVX2), 1 thread"), 0.2, [0], device="gpu B"),
            r"differ in device: cpu: A \(AVX2\), 1 thread, gpu B",
        ),
        (
            change(change(FLAT, 0.35, [0], versions='{"ray": "1", "torch": "2"}'), 0.2, [0], versions='{"torch": "3"}'),
            r"differ in versions: ray None instead of '1', torch '3' instead of '2'",
        ),
        (change(change(FLAT, 0.35, [0], versions="2.5"), 0.2, [0], versions="2.4"), "versions: not readable as JSON"),
    ],
    ids=[
        "diverged", "NaN", "epochs", "precision", "evaluation", "config", "later setting", "its default", "repeat",
        "twin", "one known version", "code", "device", "versions", "other versions",
    ],
)  # fmt: skip
def test_oddities_are_named_and_never_averaged_away(rows: Rows, warning: str | None) -> None:
    verdict = judge(as_table(rows))
    text = "\n".join(verdict.warnings)
    assert re.search(warning, text) if warning else not text, text
    assert verdict.rows[0]["seeds"] == 5 and verdict.rows[0]["verdict"] == "holds"


def test_a_rung_that_lacks_one_seed_is_compared_over_the_others() -> None:
    rows = change(FLAT, 0.35, [1], test_linear=0.0, status="failed")
    rung = judged(rows)["rungs"][LADDER.index(0.35)]
    values = {r["seed"]: r["test_linear"] for r in FLAT if r.get("ratio") == 0.35 and r["seed"] != 1}
    defaults = {r["seed"]: r["test_linear"] for r in FLAT if r.get("ratio") == 0.2}
    assert rung["seeds"] == 4
    assert rung["difference"] == pytest.approx(np.mean([values[s] - defaults[s] for s in values]))


def test_the_later_of_two_rows_of_a_seed_counts() -> None:
    late = FLAT[3] | {"trial_id": "twin", "test_linear": 0.99}
    assert judged([*FLAT, late])["ci_high"] > 0.03
    assert judged([late, *FLAT])["verdict"] == "holds"


def test_a_default_that_mostly_fails_is_not_judged() -> None:
    row = judged(change(FLAT, 0.2, range(1, 5), status="diverged", **LOST))
    assert (row["verdict"], row["regret"]) == ("inconclusive", None)
    assert row["reason"] == "the default 0.2 has too few usable trials; at least 2 seeds are needed"


def test_a_default_without_rivals_is_not_judged() -> None:
    row = judged([r for r in FLAT if r.get("ratio") in (None, 0.2)])
    assert (row["verdict"], row["reason"]) == ("inconclusive", "no other ratio was confirmed")


def test_rungs_that_may_be_the_best_are_those_that_no_other_beats() -> None:
    rows = study_rows((-0.05, 0, 0, 0, -0.05, -0.05, -0.05))
    rungs = judged(rows)["rungs"]
    assert [rung["ratio"] for rung in rungs if rung["may_be_best"]] == [0.1, 0.2, 0.35]
    assert all((rung["regret_high"] < 0.01) == rung["may_be_best"] for rung in rungs)
    assert rungs[DEFAULT]["is_default"] and rungs[DEFAULT]["difference"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": 1.5}, "margin is 1.5"),
        ({"margin": "0%"}, "margin is '0%'"),
        ({"margin": "ten"}, "margin is 'ten'"),
        ({"default_ratio": 20}, "default ratio is 20"),
        ({"alpha": 0.7}, "alpha is 0.7"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        judge(as_table(FLAT), **options)


def test_per_cent_is_refused() -> None:
    with pytest.raises(StudyError, match="divide the column by 100"):
        judge(as_table([r | {"test_linear": 59.0} for r in FLAT]))


def test_the_order_of_the_rows_changes_no_bit() -> None:
    """Trials end in another order on every machine; numbers of many decimals show a sum in another order."""
    rng = np.random.default_rng(5)
    rows = study_rows(seeds=30, sd=0.01)
    for row in rows:
        if row["phase"] == "confirm":
            row.update(train_loss=rng.random(), achieved_ratio=rng.random())
    expected = judge(as_table(rows), margin=0.01).to_dict()
    for _ in range(5):
        assert judge(as_table([rows[i] for i in rng.permutation(len(rows))]), margin=0.01).to_dict() == expected
