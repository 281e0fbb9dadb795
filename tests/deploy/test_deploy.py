"""The files that set clusters up: their keys against published schemas, their commands against the real options."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from tune.options import parse_options
from tune.trial.metrics import STUDY_GAUGES, TRIAL_GAUGES

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"

# Fields and types of KubeRay's API reference, ray.io/v1 (https://ray-project.github.io/kuberay/reference/api/).
RAY_JOB = {
    "activeDeadlineSeconds": int, "backoffLimit": int, "clusterSelector": dict, "deletionStrategy": dict,
    "entrypoint": str, "entrypointNumCpus": (int, float), "entrypointNumGpus": (int, float),
    "entrypointResources": str, "jobId": str, "managedBy": str, "metadata": dict, "rayClusterSpec": dict,
    "runtimeEnvYAML": str, "shutdownAfterJobFinishes": bool, "submissionMode": str, "submitterConfig": dict,
    "submitterPodTemplate": dict, "suspend": bool, "ttlSecondsAfterFinished": int,
}  # fmt: skip
RAY_CLUSTER = {
    "authOptions": dict, "autoscalerOptions": dict, "enableInTreeAutoscaling": bool, "gcsFaultToleranceOptions": dict,
    "headGroupSpec": dict, "headServiceAnnotations": dict, "managedBy": str, "rayVersion": str, "suspend": bool,
    "workerGroupSpecs": list,
}  # fmt: skip
HEAD_GROUP = {
    "enableIngress": bool, "headService": dict, "rayStartParams": dict, "serviceType": str, "template": dict
}  # fmt: skip
WORKER_GROUP = {
    "groupName": str, "idleTimeoutSeconds": int, "maxReplicas": int, "minReplicas": int, "numOfHosts": int,
    "rayStartParams": dict, "replicas": int, "scaleStrategy": dict, "suspend": bool, "template": dict,
}  # fmt: skip


def load(name: str) -> dict:
    return yaml.safe_load((DEPLOY / name).read_text())


def check_fields(values: dict, fields: dict) -> None:
    assert not set(values) - set(fields)
    for name, value in values.items():
        assert isinstance(value, fields[name]), f"{name} is {value!r}"


def check_study_command(command: str) -> None:
    """The options of a study's command can be read and say where the cluster and the shared folder are."""
    words = shlex.split(command)
    script = next(i for i, word in enumerate(words) if word.endswith("tune/masking_ratio_study.py"))
    options = parse_options(words[script + 1 :])
    assert options.machine.address == "auto"
    assert Path(options.storage.storage).is_absolute()


def test_the_cluster_file_fits_rays_schema():
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = load("ray_cluster.yaml")
    validate_config(prepare_config(config))
    assert len(config["provider"]["worker_ips"]) == config["max_workers"]
    with pytest.raises(Exception, match="wrong_key"):
        validate_config({**prepare_config(load("ray_cluster.yaml")), "wrong_key": 1})


def test_the_cluster_file_starts_ray_closed_to_others_and_its_example_can_be_read():
    text = (DEPLOY / "ray_cluster.yaml").read_text()
    config = load("ray_cluster.yaml")
    head, worker = config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]
    assert "--dashboard-host=127.0.0.1" in head
    for command in (head, worker):
        assert "RAY_AUTH_MODE=token" in command and "PMAE_CACHE=/shared/cache" in command
    comment = " ".join(line.strip("# \\") for line in text.splitlines() if line.startswith("#"))
    check_study_command(re.search(r"-- +(python .*?) +with `ray", comment)[1])


def test_the_rayjob_has_kuberays_fields_only():
    job = load("kuberay_rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    check_fields(job["spec"], RAY_JOB)
    cluster = job["spec"]["rayClusterSpec"]
    check_fields(cluster, RAY_CLUSTER)
    assert cluster["authOptions"] == {"mode": "token"}
    check_fields(cluster["headGroupSpec"], HEAD_GROUP)
    for group in cluster["workerGroupSpecs"]:
        check_fields(group, WORKER_GROUP)
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert all(isinstance(v, str) for v in group["rayStartParams"].values())  # KubeRay refuses numbers
    check_study_command(job["spec"]["entrypoint"])


def test_the_rayjobs_pods_fit_kubernetes_schema():
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    cluster = load("kuberay_rayjob.yaml")["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ray"}, **group["template"]}
        kubernetes_validate.validate(pod, "1.30", strict=True)
        (container,) = pod["spec"]["containers"]
        assert "/shared" in [m["mountPath"] for m in container["volumeMounts"]]
        pod["spec"]["containers"][0]["imagee"] = "x"
        with pytest.raises(Exception, match="imagee"):
            kubernetes_validate.validate(pod, "1.30", strict=True)


def test_the_grafana_dashboard_asks_for_metrics_that_studies_export():
    dashboard = json.loads((DEPLOY / "grafana_dashboard.json").read_text())
    queries = [t["expr"] for p in dashboard["panels"] for t in p["targets"]]
    queries += [v["query"] for v in dashboard["templating"]["list"] if v["type"] == "query"]
    asked = {name for query in queries for name in re.findall(r"ray_pmae_\w+", query)}
    assert asked == {f"ray_{name}" for name in (*TRIAL_GAUGES, *STUDY_GAUGES)}
    assert len({p["id"] for p in dashboard["panels"]}) == len(dashboard["panels"])
    for label in re.findall(r"\{(\w+)=~", " ".join(queries)):
        assert label in ("trial", "study")
