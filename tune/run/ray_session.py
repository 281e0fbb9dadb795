"""Start and stop Ray for a study: nothing but the study's own lines is printed, nothing is left behind.

A private Ray listens on the loopback interface only and keeps its files in a folder that only its owner can read
(see ``tune.run.ray_folder``). Ray is imported inside :func:`ray_session`, never at import time: its switches are
environment variables that it reads when it is first imported.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pmae.errors import ConfigError
from studies.storage.object_store import without_secrets
from tune.run import interrupts
from tune.run.ray_folder import private_folder
from tune.trial.spec import CREDENTIALS

SWITCHES = {
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's own tables
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_COLOR_PREFIX": "0",
    # The study reports a lost node in one line; Ray would print the last 20 lines of a log.
    "RAY_DEDUP_LOGS_SKIP_REGEX": "A worker died or was killed|Raylet is terminated",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",  # 2 s by default, which every report waits for
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
    "RAY_worker_niceness": "0",
    "RAY_prestart_worker_first_driver": "0",  # trials have an environment of their own, so none would get them
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the study has its own
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the study keeps its own records
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # reports of intermediate epochs carry no score
    "TUNE_GLOBAL_CHECKPOINT_S": "600",  # a study resumes from its own table, never from Tune's snapshots
    "TUNE_FORCE_TRIAL_CLEANUP_S": "2",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}
STARTS = 3  # attempts to start Ray
CONNECT_SECONDS = 5.0  # for the first answer of a cluster
SETTINGS = b"\0\0\0\x04\0\0\0\0\0"  # an empty frame of HTTP/2: length (3 bytes), type, flags, stream (4)
# Ray's switch for macOS and Windows: with 0 every process of a private Ray has the address 127.0.0.1.
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
# Imported in a second thread while Ray starts, which mostly waits. Ray's start imports none of them: two threads that
# import each other's modules may see them half initialized.
IMPORTED_MEANWHILE = ("torch", "pandas", "scipy.linalg", "optuna", "sqlalchemy.orm", "alembic.command")
# Resources of a trial's outer process when its workers have CPUs of their own: a little of what only head nodes have.
OUTER_RESOURCES = {"node:__internal_head__": 0.001}


class SessionError(RuntimeError):
    """Ray cannot be started on this machine."""


@dataclass(frozen=True)
class Session:
    """A Ray that is running: its resources and, where asked for, its dashboard."""

    resources: dict[str, float]
    dashboard_url: str | None
    joined: bool


@contextmanager
def ray_session(address: str | None, cpus: int, dashboard: bool) -> Iterator[Session]:
    """Start a private Ray on this machine, or join the cluster at ``address``; shut down what was started.

    Raises:
        ConfigError: No cluster answers at the address, or the dashboard is not installed.
        SessionError: Ray cannot be started.
    """
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
    if address is not None:
        address = cluster_address(address)
    elif dashboard:
        _check_dashboard()
    with ExitStack() as stack:
        if address is None:
            options = _private_options(stack, cpus, dashboard)
        else:
            options = {"address": address, "runtime_env": _runtime_env()}
        import ray

        stack.callback(ray.shutdown)
        options |= {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
        context = _init(options) if address is None else _join(options)
        close_token()
        interrupts.check()
        url = context.dashboard_url if dashboard or address is not None else None
        yield Session(ray.cluster_resources(), f"http://{url}" if url else None, address is not None)


def _private_options(stack: ExitStack, cpus: int, dashboard: bool) -> dict[str, Any]:
    """Options of ``ray.init``; what they need is undone when ``stack`` ends."""
    try:
        folder = stack.enter_context(private_folder())
    except OSError as error:
        raise SessionError(
            f"Ray could not be started on this machine (no folder for its files: {error}); free some space, set "
            "RAY_TMPDIR to a writable folder, or join a running cluster with --address"
        ) from error
    stack.enter_context(_on_loopback())
    return {
        "address": "local",
        "num_cpus": cpus,
        "include_dashboard": dashboard,
        "dashboard_host": "127.0.0.1",
        "_temp_dir": str(folder),
    }


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Let every process that Ray starts listen on 127.0.0.1 only.

    ``ray.init(_node_ip_address="127.0.0.1")`` would not do: Ray replaces it by the address of a network interface.
    """
    before = os.environ.get(LOOPBACK)
    os.environ[LOOPBACK] = "0"
    from ray._private import ray_constants  # may have been imported earlier, with another value

    usual = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = usual
        if before is None:
            os.environ.pop(LOOPBACK, None)
        else:
            os.environ[LOOPBACK] = before


def keep_credentials_out_of_logs() -> None:
    """Stop Tune from copying ``CREDENTIALS`` into runtime environments; to be called before its first trial."""
    from ray.tune.execution import class_cache

    class_cache.ENV_VARS_TO_PROPAGATE -= set(CREDENTIALS)


def cluster_address(address: str) -> str:
    """``address`` with ``auto`` resolved, once something answers there.

    ``auto`` is ``$RAY_ADDRESS``, else the cluster that ``ray start`` started on this machine. Ray itself would take any
    Ray that it finds among the processes, another study's private one included.

    Raises:
        ConfigError: Nothing answers there within ``CONNECT_SECONDS``.
    """
    shown = without_secrets(address)
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "").strip() or _started_cluster()
        shown = f"auto ({without_secrets(address)})"
    if not address or address in ("auto", "local"):
        raise ConfigError(f"--address {shown}: {_way_out('no cluster was started for sharing on this machine')}")
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:  # a port that is not a number up to 65535, or brackets that do not match
        host, port = None, None
    if parts_missing := [name for name, part in (("host", host), ("port", port)) if not part]:
        raise ConfigError(f"--address {shown} has no valid {' and '.join(parts_missing)}; give HOST:PORT or auto")
    try:
        with socket.create_connection((host, port), CONNECT_SECONDS) as connection:
            _check_speaks_grpc(connection)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"--address {shown}: {_way_out(f'no Ray cluster answers there ({error})')}") from error
    return address


def _check_speaks_grpc(connection: socket.socket) -> None:
    """Refuse a server that is not Ray's, for whose answer ``ray.init`` would wait for minutes.

    Ray speaks gRPC, that is HTTP/2, in which both sides begin with a SETTINGS frame.

    Raises:
        OSError: The other side answers something else, or nothing in time.
    """
    if os.environ.get("RAY_USE_TLS", "0") not in ("0", ""):
        return  # it would answer a TLS handshake only
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SETTINGS)
    head = b""
    while len(head) < len(SETTINGS):
        part = connection.recv(len(SETTINGS) - len(head))
        if not part:
            raise ConnectionError("the server closed the connection")
        head += part
    if head[3] != SETTINGS[3]:
        raise ConnectionError("the server there is not Ray's")


def _started_cluster() -> str:
    """The address that ``ray start`` left; empty without one."""
    from ray._private.utils import read_ray_address

    with suppress(OSError, UnicodeError):
        return read_ray_address() or ""
    return ""


def _way_out(problem: str) -> str:
    return f"{problem}; start one with 'ray start --head', or leave --address out for a private Ray"


def _init(options: dict[str, Any]) -> Any:
    """Start Ray, several times if necessary: a busy machine may need more than the 30 s that Ray allows itself."""
    import ray

    threading.Thread(target=_import_meanwhile, name="imports").start()
    for attempt in range(STARTS):
        try:
            return ray.init(**options)
        except Exception as error:  # Ray raises a bare Exception
            ray.shutdown()
            if attempt == STARTS - 1 or "timed out" not in str(error):
                raise SessionError(
                    f"Ray could not be started on this machine ({without_secrets(str(error))}); free memory and disk "
                    "space below its folder (RAY_TMPDIR), end other Ray processes ('ray stop'), or join a running "
                    "cluster with --address"
                ) from error
    raise AssertionError("unreachable")


def _import_meanwhile() -> None:
    for name in IMPORTED_MEANWHILE:
        with suppress(Exception):  # reported by the import that needs it
            importlib.import_module(name)


def _join(options: dict[str, Any]) -> Any:
    import ray

    try:
        return ray.init(**options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        problem = _way_out(f"no Ray cluster answers there ({error})")
        raise ConfigError(without_secrets(f"--address {options['address']}: {problem}")) from error


def _check_dashboard() -> None:
    if importlib.util.find_spec("aiohttp_cors") is None:
        raise ConfigError("--dashboard needs Ray's dashboard: pip install 'pmae[dashboard]'")


def _runtime_env() -> dict[str, Any]:
    """The code for workers on other machines, the location of their caches, and Ray's switches.

    What ``ray job submit`` has set already is left out: Ray refuses to set it twice.
    """
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("runtime_env") or {}
    root = Path(__file__).resolve().parents[2]
    modules = [str(root / package) for package in ("pmae", "studies", "tune")]
    names = [n for n in ("PMAE_CACHE", *SWITCHES) if n in os.environ and n not in job.get("env_vars", {})]
    env = {"env_vars": {name: os.environ[name] for name in names}}
    return env if "py_modules" in job else {**env, "py_modules": modules}


def close_token() -> None:
    """Make Ray's token readable by its owner only: whoever reads it can run code on the cluster."""
    path = token_path()
    if path.exists() and path.stat().st_uid == os.getuid():
        path.chmod(0o600)


def token_path() -> Path:
    """The file with the token that the dashboard's API asks for."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH", Path.home() / ".ray" / "auth_token"))
