"""A Ray cluster of two one-core nodes on this machine, for tests that join one or take a node away."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from tune.run.ray_session import SWITCHES, token_path


class TwoNodes:
    """The cluster: where it is and how to lose its second node."""

    def __init__(self, cluster: Any, second: Any) -> None:
        self._cluster, self._second = cluster, second
        self.address: str = cluster.address
        self.url = f"http://{cluster.webui_url}"

    def remove_second(self) -> None:
        """The node dies with all that runs on it."""
        if isinstance(self._second, subprocess.Popen):
            _kill(self._second)
        else:
            self._cluster.remove_node(self._second, allow_graceful=False)


def _kill(process: subprocess.Popen) -> None:
    if process.poll() is None:
        for each in [*psutil.Process(process.pid).children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                each.send_signal(signal.SIGKILL)
        process.wait(30)


@contextmanager
def node_without(folder: Path, address: str) -> Iterator[subprocess.Popen]:
    """A node of one core to which ``folder`` is empty, as on another machine. Needs the right to mount."""
    ray = Path(sys.executable).with_name("ray")
    start = f"{ray} start --address={address} --num-cpus=1 --object-store-memory={100 * 2**20} --block"
    start += f" --dashboard-agent-listen-port={free_port()}"
    command = ["unshare", "-m", "sh", "-c", f"mount -t tmpfs tmpfs {folder} && exec {start}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        _kill(process)


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def two_nodes(hidden: Path | None = None, **head: Any) -> Iterator[TwoNodes]:
    """Start it; the second node does not see the folder ``hidden``; ``head`` are further options of the head node."""
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
    from ray._private.authentication import authentication_token_setup as authentication
    from ray.cluster_utils import Cluster

    if not token_path().exists():
        authentication.generate_and_save_token()
    authentication._enable_token_auth()  # as ray.init does for a Ray of its own
    node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    ports = [{"dashboard_agent_listen_port": free_port()} for _ in range(2)]
    cluster = Cluster(initialize_head=True, head_node_args={**node, **ports[0], "include_dashboard": False, **head})
    session = Path(cluster.head_node.get_session_dir_path())
    try:
        if hidden is None:
            yield TwoNodes(cluster, cluster.add_node(**node, **ports[1]))
            return
        with node_without(hidden, cluster.address) as second:
            while len(cluster.global_state._live_node_ids()) < 2:
                assert second.poll() is None, "the second node could not be started"
                time.sleep(0.2)
            yield TwoNodes(cluster, second)
    finally:
        cluster.shutdown()
        shutil.rmtree(session, ignore_errors=True)
