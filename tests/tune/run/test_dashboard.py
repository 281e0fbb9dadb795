"""A study as a job on a cluster with the token on: its log, its metrics, the Grafana queries, and who is kept out."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from studies.records import read_study
from tests.tune.cluster import TwoNodes, free_port, two_nodes
from tests.tune.conftest import LONG, SCRIPT
from tune.run.ray_session import token_path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
RAY = str(Path(sys.executable).with_name("ray"))
DASHBOARD = SCRIPT.parents[1] / "deploy" / "grafana_dashboard.json"


@pytest.fixture(scope="module")
def cluster():
    pytest.importorskip("aiohttp_cors", reason="Ray's dashboard is not installed")
    # Metrics are gathered every second instead of every ten.
    settings = {"metrics_report_interval_ms": 1000}
    with two_nodes(include_dashboard=True, dashboard_port=free_port(), _system_config=settings) as cluster:
        yield cluster


def fetch(url: str, token: str | None = None) -> str:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        raise


def exported(cluster: TwoNodes, token: str) -> set[str]:
    """Names of all metrics with a value now."""
    targets = {t for group in json.loads(fetch(f"{cluster.url}/api/prometheus/sd", token)) for t in group["targets"]}
    names: set[str] = set()
    for target in targets:
        try:
            lines = fetch(f"http://{target}/metrics").splitlines()
        except OSError:
            continue
        names |= {re.split(r"[{ ]", line)[0] for line in lines if not line.startswith("#")}
    return names


def listed(cluster: TwoNodes, token: str, kind: str, field: str) -> set[str]:
    """What the dashboard shows in one column of its tasks or actors."""
    answer = json.loads(fetch(f"{cluster.url}/api/v0/{kind}?limit=1000&detail=1", token))
    return {each[field] for each in answer["data"]["result"]["result"]}


def submit(cluster: TwoNodes, folder: Path, *more: str) -> subprocess.Popen:
    """``ray job submit`` of a small study, its output in ``job.log``."""
    options = [*(o for o in LONG if o != "--quiet"), *more]
    command = [RAY, "job", "submit", "--address", cluster.url, "--", sys.executable, str(SCRIPT)]
    command += ["--address", "auto", "--storage", str(folder / "runs"), *options]
    for _ in range(30):
        with open(folder / "job.log", "w") as log:
            job = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "NO_COLOR": "1"})
        while job.poll() is None and "submitted successfully" not in (folder / "job.log").read_text():
            time.sleep(0.2)
        if "No available agent" not in (folder / "job.log").read_text():  # a cluster that has only just started
            break
    return job


@pytest.mark.parametrize("workers", [1, 2])
def test_a_submitted_job_shows_its_progress_and_exports_what_grafana_asks_for(workers, cluster, tmp_path):
    token = token_path().read_text().strip()
    seen: set[str] = set()
    tasks: set[str] = set()
    actors: set[str] = set()
    job = submit(cluster, tmp_path, "--workers-per-trial", str(workers), *(["--epochs", "60"] if workers > 1 else []))
    end = time.monotonic() + 900
    while job.poll() is None and time.monotonic() < end:
        seen |= exported(cluster, token)
        tasks |= listed(cluster, token, "tasks", "name")
        actors |= listed(cluster, token, "actors", "class_name")
        time.sleep(0.5)
    said = (tmp_path / "job.log").read_text()
    assert job.wait(60) == 0, said
    assert re.search(r"\[ 1/11\] explore pmae r=0.20 p=4", said) and "[2/9] confirm" in said
    assert f"its access token is in {token_path()}" in said and token not in said
    asked = set(re.findall(r"ray_pmae_\w+", DASHBOARD.read_text()))
    assert len(asked) == 9 and not asked - seen
    assert "Trial" in actors and "ImplicitFunc" not in actors
    assert {"pmae r=0.20 p=4 seed=1", "pmae r=0.20 p=4 seed=2"} <= tasks and "Trial.train" not in tasks
    rows = read_study(tmp_path / "runs" / "digits").trials.to_pylist()
    assert [r["status"] for r in rows] == ["done"] * 9
    written = [p for p in (tmp_path / "runs").rglob("*") if p.is_file()]
    assert not [p for p in written if token.encode() in p.read_bytes()]


@pytest.mark.parametrize("path", ["/api/jobs/", "/api/prometheus/sd", "/api/v0/actors"])
def test_who_has_no_token_is_kept_out(cluster, path):
    for token in (None, "wrong"):
        with pytest.raises(urllib.error.HTTPError) as refusal:
            fetch(cluster.url + path, token)
        assert refusal.value.code in (401, 403)
    assert fetch(cluster.url + path, token_path().read_text().strip())


def test_the_dashboard_answers_on_this_machine_only(cluster):
    assert cluster.url.startswith("http://127.0.0.1:")
    port = int(cluster.url.rsplit(":", 1)[1])
    listening = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    addresses = {m[1] for m in re.finditer(rf"^\s*\d+: ([0-9A-F]+):{port:04X} [0-9A-F]+:0000 0A", listening, re.M)}
    assert addresses == {"0100007F"}
