"""How good an encoder's features are: linear, MLP and k-NN probes on frozen features, fine-tuning, corruptions.

All take an encoder and an image set, choose on the validation split, score the test split once (or not at all, with
``score_test=False``) and return a :class:`ProbeResult`. ``crossval_linear_probe`` and ``crossval_knn_probe`` score
all labeled images out of fold instead. Controls for either: ``untrained_encoder`` and ``pixel_features``.
"""

from pmae.probes.corruptions import corruption_probe
from pmae.probes.crossval import crossval_knn_probe, crossval_linear_probe
from pmae.probes.features import ProbeResult, extract_features, extract_pools, pixel_features, untrained_encoder
from pmae.probes.finetune import finetune
from pmae.probes.knn import knn_probe
from pmae.probes.linear import linear_probe
from pmae.probes.mlp import mlp_probe

__all__ = [
    "ProbeResult",
    "corruption_probe",
    "crossval_knn_probe",
    "crossval_linear_probe",
    "extract_features",
    "extract_pools",
    "finetune",
    "knn_probe",
    "linear_probe",
    "mlp_probe",
    "pixel_features",
    "untrained_encoder",
]
