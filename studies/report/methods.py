"""A paragraph for a paper's methods section, put together from the plan and the verdict, and the papers to cite."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from studies.formatting import count, percent, ratio_list
from studies.records import Study
from studies.views.wording import margin_text, method_name

BIBTEX = """@article{bizeul2025components,
  title   = {From Pixels to Components: Eigenvector Masking for Visual Representation Learning},
  author  = {Bizeul, Alice and Sutter, Thomas and Ryser, Alain and Sch{\\"o}lkopf, Bernhard and
             von K{\\"u}gelgen, Julius and Vogt, Julia E.},
  journal = {arXiv preprint arXiv:2502.06314},
  year    = {2025}
}
@article{he2022masked,
  title   = {Masked Autoencoders Are Scalable Vision Learners},
  author  = {He, Kaiming and Chen, Xinlei and Xie, Saining and Li, Yanghao and Doll{\\'a}r, Piotr and Girshick, Ross},
  journal = {arXiv preprint arXiv:2111.06377},
  year    = {2022},
  note    = {CVPR 2022}
}
@article{kong2023understanding,
  title   = {Understanding Masked Autoencoders via Hierarchical Latent Variable Models},
  author  = {Kong, Lingjing and Ma, Martin Q. and Chen, Guangyi and Xing, Eric P. and Chi, Yuejie and
             Morency, Louis-Philippe and Zhang, Kun},
  journal = {arXiv preprint arXiv:2306.04898},
  year    = {2023},
  note    = {CVPR 2023}
}"""


def methods_paragraph(study: Study, rows: Sequence[Mapping[str, Any]]) -> str:
    """Data, recipe, seeds, statistics and versions of ``study``; what its plan does not record is left out."""
    plan = study.plan
    parts = (_data(plan), _training(study), _ladder(rows), _evaluation(rows), _statistics(rows), _versions(study))
    return " ".join(part for part in parts if part)


def _data(plan: Mapping[str, Any]) -> str:
    data = plan.get("dataset") or {}
    if not data.get("source"):
        return ""
    splits = [f"{data[split]:,} {name}" for split, name in (("train", "training"), ("val", "validation"),
              ("test", "test")) if data.get(split) is not None]  # fmt: skip
    color = {1: "grayscale", 3: "color"}.get(data.get("channels", 0), "")
    size = f" of {data['image_size']} x {data['image_size']} pixels" if data.get("image_size") else ""
    classes = f" in {data['classes']} classes" if data.get("classes") else ""
    listed = f" ({', '.join(splits)})" if splits else ""
    return f"We used {data.get('name') or data['source']}: {color} images{size}{classes}{listed}.".replace(":  ", ": ")


def _training(study: Study) -> str:
    config, plan = study.plan.get("config") or {}, study.plan
    model, optim = config.get("model") or {}, config.get("optim") or {}
    rate = optim.get("learning_rate") or optim.get("base_learning_rate")  # the name in older studies
    methods = " and ".join(method_name(str(m)) for m in plan.get("methods") or [])
    encoder = model.get("encoder") or (
        f"{model['depth']} blocks of width {model['width']}" if model.get("width") and model.get("depth") else None
    )
    details = [
        f"encoder: {encoder}" if encoder else "",
        f"decoder: {count(model['decoder_depth'], 'block')} of width {model['decoder_width']}"
        if model.get("decoder_depth") and model.get("decoder_width")
        else "",
    ]
    recipe = [
        count(optim["epochs"], "epoch") if optim.get("epochs") else "",
        f"batches of {optim['batch_size']}" if optim.get("batch_size") else "",
        f"base learning rate {rate:g}" if rate else "",
        f"weight decay {optim['weight_decay']:g}" if optim.get("weight_decay") is not None else "",
        f"{optim['warmup_epochs']:g} warm-up epochs and cosine decay" if optim.get("warmup_epochs") is not None else "",
    ]
    shape, trained = "; ".join(filter(None, details)), ", ".join(filter(None, recipe))
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
    if not parts:
        return ""
    listed = "; ".join(parts)
    return f"Masking ratios were compared over paired seeds (same initialization and data order; {listed})."


def _evaluation(rows: Sequence[Mapping[str, Any]]) -> str:
    folds = any(row["evaluation"] == "folds" for row in rows)
    where = "cross-validated over all labeled images" if folds else "on the test split, scored once"
    controls = any(row["untrained"] is not None for row in rows)
    text = f"Frozen encoders were scored by a linear probe, {where}"
    added = "; an untrained encoder of the same shape and raw pixels were scored alike as controls" if controls else ""
    return f"{text}{added}."


def _statistics(rows: Sequence[Mapping[str, Any]]) -> str:
    row = next((row for row in rows if row["margin"] is not None), None)
    if row is None:
        return ""
    alpha = percent(row["alpha"] or 0.05)
    return (
        f"Whether the default ratio is non-inferior to every other ratio was decided by an intersection-union test "
        f"with variances moderated over rungs (one-sided level {alpha}, margin {margin_text(row)}, fixed beforehand); "
        "that it is inferior, by a lower bound corrected for the number of ratios. A verdict required that training "
        "improves on the untrained encoder by more than the margin."
    )


def _versions(study: Study) -> str:
    versions = study.plan.get("versions") or _read(study)
    listed = ", ".join(f"{name} {value}" for name, value in versions.items())
    code = study.plan.get("code_version")
    text = ", ".join(filter(None, (f"pmae {code}" if code else "", listed)))
    return f"Software: {text}." if text else ""


def _read(study: Study) -> dict[str, Any]:
    found = study.trials["versions"].drop_null().slice(0, 1).to_pylist()
    try:
        values = json.loads(found[0]) if found else {}
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}
