"""``python -m pmae probe``: score a saved encoder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

from pmae.cli.loading import load_for_encoder, print_result
from pmae.cli.options import ProbeOptions
from pmae.config import DataConfig, PretrainConfig
from pmae.data import ImageSet
from pmae.errors import ConfigError
from pmae.export import DESCRIPTION, load_encoder
from pmae.model.encoder import Encoder
from pmae.probes import ProbeResult, corruption_probe, finetune, knn_probe, linear_probe, mlp_probe

# The function of each kind of probe, and the options that it reads; others are refused.
PROBES: dict[str, tuple[Callable[..., ProbeResult], tuple[str, ...]]] = {
    "linear": (linear_probe, ("protocol", "augment")),
    "mlp": (mlp_probe, ("epochs",)),
    "knn": (knn_probe, ("k",)),
    "finetune": (finetune, ("epochs", "layer_decay", "augment")),
    "corruptions": (corruption_probe, ("severity",)),
}


def run(options: ProbeOptions) -> None:
    """Load encoder and images, run the probe, print accuracies."""
    check_effect(options)
    encoder = load_encoder(options.encoder)
    if options.pool is not None and options.pool != "both":
        encoder.pool = options.pool
    trained = trained_on(options.encoder)
    images = load_for_encoder(options.data, trained, encoder.image_size, options.printing)
    result = probe(options, encoder, images, trained)
    report = {"encoder": str(options.encoder), "dataset": images.name, "kind": options.kind}
    protocol = result.details["protocol"]
    kind = options.kind if protocol == options.kind else f"{options.kind} ({protocol})"
    lines = [("probe", f"{kind} on {images.name}")]
    pools = result.details.get("pools", {})
    for pool, scores in pools.items() if len(pools) > 1 else [(result.details["pool"], vars(result))]:
        test = scores["test_accuracy"]
        lines.append((f"{pool} val accuracy", f"{scores['val_accuracy']:.4f}"))
        lines.append((f"{pool} test accuracy", "not scored" if test is None else f"{test:.4f}"))
    lines += [(name.replace("_", " "), _shown(value)) for name, value in _notable(result.details).items()]
    print_result(options.printing, {**report, **dataclasses.asdict(result)}, lines)


def probe(options: ProbeOptions, encoder: Encoder, images: ImageSet, trained: DataConfig | None) -> ProbeResult:
    """Run the probe that the options ask for."""
    function, effective = PROBES[options.kind]
    given: dict[str, Any] = {name: getattr(options, name) for name in effective if name != "augment"}
    given = {name: value for name, value in given.items() if value is not None}
    given |= {"seed": options.seed, "score_test": not options.skip_test}
    given |= {"device": options.machine.device, "precision": options.machine.precision}
    if options.augment:
        given["augmentation"] = trained or DataConfig()
    if options.pool == "both":
        given["pools"] = ("cls", "mean")
    return function(encoder, images, **given)


def check_effect(options: ProbeOptions) -> None:
    """Refuse options that the kind of probe does not read."""
    for name in (name for _, names in PROBES.values() for name in names):
        if name not in PROBES[options.kind][1] and getattr(options, name) not in (None, False):
            kinds = " or ".join(kind for kind, (_, names) in PROBES.items() if name in names)
            raise ConfigError(
                f"--{name.replace('_', '-')} has no effect with --kind {options.kind}; it is for {kinds}: leave it out"
            )
    if options.pool == "both" and options.kind != "linear":
        raise ConfigError(f"--pool both is for --kind linear; with {options.kind} choose cls, mean or concat")


def trained_on(folder: Any) -> DataConfig | None:
    """Return the data settings that the encoder in ``folder`` was trained with; None if they were not stored."""
    stored = json.loads((folder / DESCRIPTION).read_bytes())["config"]
    return None if stored is None else PretrainConfig.from_dict(stored).data


def _notable(details: dict[str, Any]) -> dict[str, Any]:
    names = ("penalty", "learning_rate", "k", "val_by_k", "val_clean", "val_by_corruption", "test_clean")
    return {name: details[name] for name in (*names, "test_by_corruption") if name in details}


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{name}: {score:.4f}" for name, score in value.items())
    return f"{value:.4g}"
