"""What is confirmed: the ladder with the default, at the best patch setting, and the best ratio between the rungs."""

from __future__ import annotations

from pmae.config import preset
from tests.tune.search.test_space import space_for
from tune.options import ConfirmRule
from tune.search.confirm import candidates_to_confirm, max_candidates
from tune.search.space import DEFAULT_LADDER, Candidate, Patches

FINE, COARSE = Patches(4, 4), Patches(8, 8)
LADDER = list(DEFAULT_LADDER["pmae"])


def row(method: str, ratio: float, patches: Patches, accuracy: float | None, **changes) -> dict:
    strategy = "expected" if method == "pmae" else "random"
    config = Candidate(method, patches, ratio, strategy).config(preset("quick")).resolve(32, 1)
    values = {"phase": "explore", "status": "done", "val_linear": accuracy, "config": config.to_dict()}
    return {**values, **changes}


def ratios(settings: list[Candidate], method: str) -> list[float | None]:
    return [s.ratio for s in settings if s.method == method]


ROWS = [
    row("pmae", 0.2, FINE, 0.80),
    row("pmae", 0.45, FINE, 0.90),
    row("pmae", 0.46, FINE, 0.89),
    row("pmae", 0.3, COARSE, 0.70),
    row("mae", 0.75, COARSE, 0.60),
    row("mae", 0.76, COARSE, 0.65),
    row("mae", 0.9, COARSE, 0.99, status="diverged"),
    row("mae", 0.9, FINE, 0.99, phase="confirm"),
]


def test_the_ladder_at_the_best_patch_setting_with_the_best_ratio_between_its_rungs():
    chosen = candidates_to_confirm(space_for(32), ROWS, ConfirmRule())
    assert ratios(chosen, "pmae") == sorted([*LADDER, 0.45])
    assert {s.patches for s in chosen if s.method == "pmae"} == {FINE}
    assert ratios(chosen, "mae") == [0.25, 0.5, 0.75, 0.875]  # the best explored one masks as many patches as 0.75
    assert {s.patches for s in chosen if s.method == "mae"} == {COARSE}


def test_one_lucky_trial_does_not_choose_the_patch_setting():
    lucky = [*ROWS, row("pmae", 0.5, COARSE, 0.91), row("pmae", 0.6, COARSE, 0.70)]
    chosen = candidates_to_confirm(space_for(32), lucky, ConfirmRule())
    assert {s.patches for s in chosen if s.method == "pmae"} == {FINE}


def test_a_ratio_next_to_a_rung_is_not_trained_as_another_one():
    near = [row("pmae", 0.36, FINE, 0.9)]
    assert ratios(candidates_to_confirm(space_for(32), near, ConfirmRule()), "pmae") == LADDER


def test_the_rule_may_confirm_every_patch_setting_without_refinement():
    chosen = candidates_to_confirm(space_for(32), ROWS, ConfirmRule(refinements=0, every_patch_setting=True))
    assert {(s.patches, s.ratio) for s in chosen if s.method == "pmae"} == {
        (p, r) for p in (FINE, COARSE) for r in LADDER
    }


def test_without_an_exploration_the_first_patch_setting_is_confirmed_and_always_with_rivals():
    chosen = candidates_to_confirm(space_for(32), [], ConfirmRule())
    assert ratios(chosen, "pmae") == LADDER and len(ratios(chosen, "mae")) == 4
    assert max_candidates(space_for(32), ConfirmRule(refinements=0)) == len(chosen)
