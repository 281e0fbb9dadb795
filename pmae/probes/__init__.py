"""How good an encoder's features are: linear, MLP and k-NN probes on frozen features, fine-tuning, corruptions.

All take an encoder and an image set, choose on the validation split, score the test split once (or not at all, with
``score_test=False``) and return a :class:`ProbeResult`.
"""

from pmae.probes.features import ProbeResult, extract_features, extract_pools
from pmae.probes.finetune import finetune
from pmae.probes.knn import knn_probe
from pmae.probes.linear import linear_probe
from pmae.probes.mlp import mlp_probe
from pmae.probes.robustness import corruption_probe

__all__ = [
    "ProbeResult",
    "corruption_probe",
    "extract_features",
    "extract_pools",
    "finetune",
    "knn_probe",
    "linear_probe",
    "mlp_probe",
]
