"""What is confirmed: defaults always, leaders that are no defaults, at the best patch setting or at all."""

from __future__ import annotations

from pmae.config import preset
from tests.tune.test_space import space_for
from tune.confirm import ConfirmRule, settings_to_confirm
from tune.space import Patches, Setting

FINE, COARSE = Patches(4, 4), Patches(8, 8)


def row(method: str, ratio: float, patches: Patches, accuracy: float | None, **changes) -> dict:
    strategy = "fixed" if method == "pmae" else "random"
    config = Setting(method, patches, ratio, strategy).config(preset("quick")).resolve(32, 1)
    values = {"phase": "explore", "status": "done", "val_linear": accuracy, "config": config.to_dict()}
    return {**values, **changes}


def ratios(settings: list[Setting], method: str) -> list[float | None]:
    return [s.ratio for s in settings if s.method == method]


ROWS = [
    row("pmae", 0.2, FINE, 0.80),
    row("pmae", 0.4, FINE, 0.90),
    row("pmae", 0.41, FINE, 0.89),
    row("pmae", 0.6, FINE, 0.85),
    row("pmae", 0.3, COARSE, 0.70),
    row("mae", 0.75, COARSE, 0.60),
    row("mae", 0.74, COARSE, 0.65),
    row("mae", 0.5, COARSE, 0.62),
    row("mae", 0.9, COARSE, 0.99, status="diverged"),
    row("mae", 0.9, FINE, 0.99, phase="confirm"),
]


def test_defaults_and_leaders_at_the_best_patch_setting():
    chosen = settings_to_confirm(space_for(32), ROWS, ConfirmRule(leaders=2, rivals=()))
    assert ratios(chosen, "pmae") == [0.2, 0.4, 0.6]  # 0.41 is 0.4 to any affordable number of seeds
    assert ratios(chosen, "mae") == [0.75, 0.5]  # 0.74 is the default; what diverged or was confirmed does not count
    assert {s.patches for s in chosen if s.method == "pmae"} == {FINE}
    assert {s.patches for s in chosen if s.method == "mae"} == {COARSE}


def test_rivals_belong_to_pmae():
    chosen = settings_to_confirm(space_for(32), ROWS, ConfirmRule(leaders=1, rivals=(0.1, 0.3)))
    assert ratios(chosen, "pmae") == [0.2, 0.1, 0.3, 0.4]
    assert ratios(chosen, "mae") == [0.75, 0.5]


def test_every_patch_setting_that_was_explored():
    chosen = settings_to_confirm(space_for(32), ROWS, ConfirmRule(leaders=1, rivals=(), every_patch_setting=True))
    assert {(s.patches, s.ratio) for s in chosen if s.method == "pmae"} == {
        (FINE, 0.2), (FINE, 0.4), (COARSE, 0.2), (COARSE, 0.3),
    }  # fmt: skip


def test_a_method_without_results_is_left_out():
    assert settings_to_confirm(space_for(32), [], ConfirmRule()) == []
