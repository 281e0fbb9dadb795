"""How a study was run: a paragraph for a paper's methods section, facts, and what of it is missing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from studies.formatting import count, duration, method_name, percent, ratio_list
from studies.records import Study
from studies.report.charts import Gallery
from studies.statistics.decision import Margin
from studies.storage.tables import read_mapping
from studies.views.summaries import LOST, list_values
from studies.views.wording import margin_text

RESOURCES = {
    "concurrent": "trials at once", "threads": "threads per worker",
    "workers": "workers per trial", "gpus": "GPUs", "cpus": "CPUs", "limited_by": "limited by",
}  # fmt: skip


def methods_paragraph(study: Study, rows: Sequence[Mapping[str, Any]]) -> str:
    """Data, recipe, seeds, statistics and versions of ``study``; what its plan does not record is left out."""
    plan = study.plan
    what = (_data(plan), _training(study), _ladder(rows))
    parts = (*what, _evaluation(rows), _statistics(rows, plan.get("looks")), _versions(study))
    return " ".join(part for part in parts if part)


def _data(plan: Mapping[str, Any]) -> str:
    data = plan.get("dataset") or {}
    if not data.get("source"):
        return ""
    names = {"train": "training", "val": "validation", "test": "test"}
    splits = [f"{data[split]:,} {name}" for split, name in names.items() if data.get(split) is not None]
    kind = {1: "grayscale images", 3: "color images"}.get(data.get("channels", 0), "images")
    size = f" of {data['image_size']} x {data['image_size']} pixels" if data.get("image_size") else ""
    classes = f" in {data['classes']} classes" if data.get("classes") else ""
    listed = f" ({', '.join(splits)})" if splits else ""
    return f"We used {data.get('name') or data['source']}: {kind}{size}{classes}{listed}."


def _training(study: Study) -> str:
    config, plan = study.plan.get("config") or {}, study.plan
    model, optim = config.get("model") or {}, config.get("optim") or {}
    rate = optim.get("learning_rate")
    methods = " and ".join(method_name(str(m)) for m in plan.get("methods") or [])
    details = []
    if model.get("encoder"):
        details.append(f"encoder: {model['encoder']}")
    elif model.get("width") and model.get("depth"):
        details.append(f"encoder: {model['depth']} blocks of width {model['width']}")
    if model.get("decoder_depth") and model.get("decoder_width"):
        details.append(f"decoder: {count(model['decoder_depth'], 'block')} of width {model['decoder_width']}")
    recipe = [
        count(optim["epochs"], "epoch") if optim.get("epochs") else "",
        f"batches of {optim['batch_size']}" if optim.get("batch_size") else "",
        f"base learning rate {rate:g}" if rate else "",
        f"weight decay {optim['weight_decay']:g}" if optim.get("weight_decay") is not None else "",
        f"{optim['warmup_epochs']:g} warm-up epochs and cosine decay" if optim.get("warmup_epochs") is not None else "",
    ]
    shape, trained = "; ".join(details), ", ".join(filter(None, recipe))
    text = f"Encoders were pre-trained with {methods or 'masked image modeling'}" + (f" ({shape})" if shape else "")
    return text + (f" with AdamW for {trained}." if trained else ".")


def _ladder(rows: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for row in rows:
        ratios = sorted([*row["ratios"], *filter(None, [row["default_achieved"] or row["default_ratio"]])])
        if row["ratios"] and row["seeds"]:
            patch = f", patch size {row['patch_size']}" if row["patch_size"] else ""
            parts.append(
                f"{method_name(row['method'])} on {row['dataset']}{patch}: achieved masked shares of "
                f"{ratio_list(ratios)}, {count(row['seeds'], 'seed')} each"
            )
    listed = "; ".join(parts)
    same = "same initialization and data order"
    return f"Masking ratios were compared over paired seeds ({same}; {listed})." if parts else ""


def _evaluation(rows: Sequence[Mapping[str, Any]]) -> str:
    folds = any(row["evaluation"] == "folds" for row in rows)
    where = "cross-validated over all labeled images" if folds else "on the test split, scored once"
    controls = "; an untrained encoder of the same shape and raw pixels were scored alike as controls"
    added = controls if any(row["untrained"] is not None for row in rows) else ""
    return f"Frozen encoders were scored by a linear probe, {where}{added}."


def _statistics(rows: Sequence[Mapping[str, Any]], looks: Mapping[str, Any] | None) -> str:
    row = next((row for row in rows if row["margin"] is not None), None)
    if row is None:
        return ""
    alpha, rounds = percent(row["alpha"] or 0.05), ""
    if looks:
        rounds = (
            f" Both were judged after each of at most {looks['rounds']} rounds of "
            f"{count(looks['seeds_per_round'], 'seed')} with Pocock-type alpha spending (Lan and DeMets 1983)."
        )
    return (
        f"Whether the default ratio is non-inferior to every other ratio was decided by an intersection-union test "
        f"with variances moderated over rungs (one-sided level {alpha}, planned margin {margin_text(row)}); "
        f"that it is inferior, by a lower bound corrected for the number of ratios.{rounds} A verdict required that "
        "training improves on the untrained encoder by more than the margin."
    )


def _versions(study: Study) -> str:
    stored = study.trials["versions"].drop_null().slice(0, 1).to_pylist()
    versions = study.plan.get("versions") or read_mapping(stored[0] if stored else None)
    listed = ", ".join(f"{name} {value}" for name, value in versions.items())
    code = study.plan.get("code_version")
    text = ", ".join(filter(None, (f"pmae {code}" if code else "", listed)))
    return f"Software: {text}." if text else ""


def what_is_missing(studies: Sequence[Study], trials: pa.Table, galleries: Sequence[Gallery]) -> list[str]:
    """Everything that a reader of an unfinished or corrupted study must know before believing the page."""
    notes = []
    for study in studies:
        ended = Counter(study.trials["phase"].to_pylist())
        for name, phase in (study.plan.get("phases") or {}).items():
            planned = int(phase.get("planned") or 0)
            if planned > ended[name]:
                notes.append(f"{study.name}: {ended[name]} of {count(planned, 'trial')} planned to {name} have ended.")
        notes += [f"{study.name}: {warning}" for warning in study.plan.get("warnings") or []]
        if not study.plan:
            notes.append(f"{study.name}: study.json is missing, so how it was run is not known.")
    counts = Counter(trials["status"].to_pylist())
    lost = ", ".join(f"{counts[status]} {status}" for status in LOST if counts[status])
    if lost:
        notes.append(f"{lost}: these trials are in the table and in no average.")
    if not counts["done"]:
        notes.append("No trial has finished yet, so there is nothing to plot and nothing to judge.")
    elif not pc.any(pc.equal(trials["phase"], "confirm")).as_py():
        notes.append("No confirmed trials yet: only explored ones, each a single seed on the validation split.")
    notes += [f"{found.study}: {found.problem}." for found in galleries if found.problem]
    return notes


def how_it_was_run(study: Study) -> dict[str, Any]:
    """The plan of a study as facts, and the command that reproduces it; what ``study.json`` lacks is left out."""
    plan = study.plan
    seconds = pc.sum(study.trials["seconds"]).as_py()
    margin, resources = plan.get("margin"), plan.get("resources") or {}
    facts = {
        "data": _dataset_text(plan.get("dataset") or {}),
        "methods": ", ".join(map(str, plan.get("methods") or [])),
        "search": plan.get("search"),
        **{f"phase {name}": _phase_text(phase) for name, phase in (plan.get("phases") or {}).items()},
        "epochs per trial": plan.get("epochs"),
        "margin": None if margin is None else f"{Margin.parse(margin).text}, planned",
        "trial time in all": None if seconds is None else duration(seconds),
        "device": ", ".join(list_values(study, "device")),
        "resources": _compact({RESOURCES.get(n, n.replace("_", " ")): v for n, v in resources.items() if n != "lag"}),
        "code version": plan.get("code_version") or ", ".join(list_values(study, "code_version")),
        "versions": _compact(plan.get("versions") or {}),
        "started": plan.get("created_at"),
    }
    return {
        "name": study.name,
        "facts": [(name, str(value)) for name, value in facts.items() if value not in (None, "")],
        "command": plan.get("command"),
        "config": _pretty(plan.get("config")),
        "space": _pretty(plan.get("space")),
    }


def _dataset_text(data: dict[str, Any]) -> str:
    splits = ", ".join(f"{data[split]:,} {split}" for split in ("train", "val", "test") if data.get(split) is not None)
    channels = {1: "gray", 3: "color"}.get(data.get("channels", 0), "")
    size = "" if data.get("image_size") is None else f"{data['image_size']} px {channels}".strip()
    classes = "" if data.get("classes") is None else f"{data['classes']} classes"
    return "; ".join(part for part in (str(data.get("source") or ""), splits, size, classes) if part)


def _phase_text(phase: dict[str, Any]) -> str:
    planned, seeds = phase.get("planned"), phase.get("seeds") or []
    trials = "" if planned is None else count(planned, "trial")
    listed = ", ".join(map(str, seeds[:12])) + (" …" if len(seeds) > 12 else "")
    return ", ".join(filter(None, (trials, f"seed{'s' * (len(seeds) != 1)} {listed}" if seeds else "")))


def _compact(values: Mapping[str, Any]) -> str:
    parts = []
    for name, value in values.items():
        if name == "memory" and isinstance(value, (int, float)):
            parts.append(f"memory {value / 2**30:.1f} GiB")
        elif value is not None:
            parts.append(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}")
    return "; ".join(parts)


def _pretty(values: Any) -> str | None:
    return json.dumps(values, indent=2, ensure_ascii=False, default=str) if values else None
