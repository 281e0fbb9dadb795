"""Start and stop Ray so that only the study's own lines are printed and nothing is left behind.

A private Ray listens on the loopback interface only; ``tune.run.ray_folder`` has its files. Ray reads its switches from
environment variables when it is first imported, which :func:`ray_session` does.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pmae.errors import ConfigError
from studies.storage.object_store import without_secrets
from tune.run import interrupts
from tune.run.ray_folder import environment, private_folder
from tune.trial.spec import CREDENTIALS

SWITCHES = {
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's own tables
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_COLOR_PREFIX": "0",
    # The study prints its own line; for a lost node Ray would print the last 20 lines of a log.
    "RAY_DEDUP_LOGS_SKIP_REGEX": "A worker died or was killed|Raylet is terminated",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",  # 2 s by default, which every report waits for
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
    "RAY_worker_niceness": "0",
    "RAY_prestart_worker_first_driver": "0",  # trials cannot use them: Tune sets an environment for its processes
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the study has its own
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the study keeps its own records
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # reports of epochs have no score
    "TUNE_GLOBAL_CHECKPOINT_S": "600",  # a study resumes from its own table, never from Tune's snapshots
    "TUNE_FORCE_TRIAL_CLEANUP_S": "2",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}
STARTS = 3  # attempts to start Ray
CONNECT_SECONDS = 5.0  # for the first answer of a cluster
SETTINGS = b"\0\0\0\x04\0\0\0\0\0"  # an empty frame of HTTP/2: length (3 bytes), type, flags, stream (4)
# Ray's switch for macOS and Windows: with 0 every process of a private Ray has the address 127.0.0.1.
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
# Imported in a thread while Ray starts, which mostly waits. Ray's start imports none of them: two threads that import
# each other's modules may see them half initialized.
IMPORTED_MEANWHILE = ("torch", "pandas", "scipy.linalg", "optuna", "sqlalchemy.orm", "alembic.command")
# Resources of a trial whose workers reserve their own CPUs: a little of what only head nodes have.
OUTER_RESOURCES = {"node:__internal_head__": 0.001}

CORE_PROCESSES = ("raylet", "gcs_server")  # a private Ray does not recover from their loss
WATCH_EVERY = 1.0  # seconds
LIST_EVERY = 4  # looks; listing processes takes milliseconds
UNWIND = 10.0  # seconds that the study has to end after Ray was lost


class SessionError(RuntimeError):
    """Ray cannot be started here."""


class RayLostError(SessionError):
    """A process that Ray needs has died."""


@dataclass(frozen=True)
class Session:
    """A running Ray: its resources and, if requested, its dashboard."""

    resources: dict[str, float]
    dashboard_url: str | None
    joined: bool


@contextmanager
def ray_session(
    address: str | None,
    cpus: int,
    dashboard: bool,
    on_lost: Callable[[RayLostError], None] = lambda problem: None,
    last_words: Callable[[RayLostError], None] = lambda problem: None,
    job_name: str = "",
) -> Iterator[Session]:
    """Start Ray on this machine, or join the cluster at ``address``; stop what was started.

    Args:
        address: None starts a private Ray, with ``cpus`` and perhaps a ``dashboard``.
        on_lost: Called from a thread when the private Ray was lost; the block should then end.
        last_words: Called if the block does not end in time, before this process is killed: calls into a lost Ray may
            block forever.
        job_name: Of the job in Ray's dashboard, unless ``ray job submit`` has named it.

    Raises:
        ConfigError: No cluster answers at the address, or the dashboard is not installed.
        SessionError: Ray does not start.
    """
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
    if address is not None:
        address = cluster_address(address)
    elif dashboard and importlib.util.find_spec("aiohttp_cors") is None:
        raise ConfigError("--dashboard needs Ray's dashboard: pip install 'pmae[dashboard]'")
    with ExitStack() as stack:
        if address is None:
            options = _private_options(stack, cpus, dashboard)
        else:
            options = {"address": address, "runtime_env": _runtime_env()}
        import ray

        stack.callback(ray.shutdown)
        options |= {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
        options["job_config"] = ray.job_config.JobConfig(metadata={"job_name": job_name})
        context = _init(options)
        interrupts.reinstall()
        if address is None:
            stack.enter_context(_watched(on_lost, last_words))
        close_token()
        interrupts.check()
        url = context.dashboard_url if dashboard or address is not None else None
        yield Session(ray.cluster_resources(), f"http://{url}" if url else None, address is not None)


def _private_options(stack: ExitStack, cpus: int, dashboard: bool) -> dict[str, Any]:
    """Options of ``ray.init``; what they need is undone when ``stack`` ends."""
    try:
        folder = stack.enter_context(private_folder())
    except OSError as error:
        raise SessionError(_cannot_start(f"no folder for its files: {error}")) from error
    # ray.init(_node_ip_address="127.0.0.1") would not do: Ray replaces it by the address of a network interface.
    stack.enter_context(environment(LOOPBACK, "0"))
    from ray._private import ray_constants  # may have been imported earlier, with another value

    stack.callback(setattr, ray_constants, "ENABLE_RAY_CLUSTER", ray_constants.ENABLE_RAY_CLUSTER)
    ray_constants.ENABLE_RAY_CLUSTER = False
    return {
        "address": "local",
        "num_cpus": cpus,
        "include_dashboard": dashboard,
        "dashboard_host": "127.0.0.1",
        "_temp_dir": str(folder),
    }


def keep_credentials_out_of_logs() -> None:
    """Stop Tune from copying ``CREDENTIALS`` into runtime environments; to be called before its first trial."""
    from ray.tune.execution import class_cache

    class_cache.ENV_VARS_TO_PROPAGATE -= set(CREDENTIALS)


def cluster_address(address: str) -> str:
    """``address`` with ``auto`` resolved, once something answers there.

    ``auto`` is ``$RAY_ADDRESS``, else the cluster that ``ray start`` started on this machine. Ray itself would take any
    Ray that it finds among the processes, another study's private one included.
    """
    shown = without_secrets(address)
    if address == "auto":
        from ray._private.utils import read_ray_address

        address = os.environ.get("RAY_ADDRESS", "").strip()
        with suppress(OSError, UnicodeError):
            address = address or read_ray_address() or ""
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
    """Raise OSError for a server that is not Ray's, for whose answer ``ray.init`` would wait for minutes.

    Ray speaks gRPC, that is HTTP/2, in which both sides begin with a SETTINGS frame.
    """
    if os.environ.get("RAY_USE_TLS", "0") not in ("0", ""):
        return  # it would answer a TLS handshake only
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SETTINGS)
    head = connection.makefile("rb").read(len(SETTINGS))
    if head[3:4] != SETTINGS[3:4]:
        raise ConnectionError("the server there is not Ray's")


def _way_out(problem: str) -> str:
    return f"{problem}; start one with 'ray start --head', or leave --address out for a private Ray"


@contextmanager
def _watched(on_lost: Callable[[RayLostError], None], last_words: Callable[[RayLostError], None]) -> Iterator[None]:
    """Watch the private Ray from a thread, and shut it down; ``tune.run.ray_folder`` deletes its folder."""
    import psutil
    import ray

    node: Any = ray._private.worker._global_node
    closing, ended = threading.Event(), threading.Event()

    def processes() -> list[psutil.Process]:
        """Ray's processes and their children; psutil never signals another process of the same id."""
        found: list[psutil.Process] = []
        for info in [info for infos in list(node.all_processes.values()) for info in infos]:
            with suppress(psutil.Error):
                process = psutil.Process(info.process.pid)
                found += [*process.children(recursive=True), process]
        return found

    def watch() -> None:
        started, looks = processes(), 0
        while not closing.wait(WATCH_EVERY):
            dead = [name for name, _ in node.dead_processes() if name in CORE_PROCESSES]
            if not dead:
                looks += 1
                if looks % LIST_EVERY == 0:
                    started = processes()
                continue
            if closing.is_set():  # Ray is being shut down
                return
            problem = RayLostError(f"Ray's process {dead[0]} was lost (killed, or out of memory)")
            on_lost(problem)
            in_time = ended.wait(UNWIND)
            for process in started:  # without the raylet nobody else ends its workers and agents
                with suppress(Exception):
                    process.kill()
            if not in_time:
                last_words(problem)
                os._exit(1)  # the watchdog of tune.run.ray_folder cleans up
            return

    thread = threading.Thread(target=watch, name="watch-ray", daemon=True)
    thread.start()
    try:
        yield
    finally:
        closing.set()
        ray.shutdown()
        ended.set()
        thread.join()


def _init(options: dict[str, Any]) -> Any:
    """Start or join Ray; a busy machine may need more than Ray's own timeout of 30 s."""
    import ray

    def import_meanwhile() -> None:
        for name in IMPORTED_MEANWHILE:
            with suppress(Exception):  # raised again by the code that needs it
                importlib.import_module(name)

    address, starts = options["address"], STARTS
    if address == "local":
        threading.Thread(target=import_meanwhile, name="imports").start()
    while True:
        starts -= 1
        try:
            return ray.init(**options)
        except Exception as error:  # Ray raises a bare Exception
            ray.shutdown()
            if address != "local":
                problem = _way_out(f"no Ray cluster answers there ({error})")
                raise ConfigError(without_secrets(f"--address {address}: {problem}")) from error
            if not starts or "timed out" not in str(error):
                raise SessionError(_cannot_start(without_secrets(str(error)))) from error


def _cannot_start(problem: str) -> str:
    return (
        f"Ray could not be started on this machine ({problem}); free memory and disk space, set RAY_TMPDIR to another "
        "writable folder, end other Ray processes ('ray stop'), or join a running cluster with --address"
    )


def _runtime_env() -> dict[str, Any]:
    """Code, path of the cache and switches for workers; without what ``ray job submit`` has set, which Ray refuses."""
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("runtime_env") or {}
    root = Path(__file__).resolve().parents[2]
    modules = [str(root / package) for package in ("pmae", "studies", "tune")]
    names = [n for n in ("PMAE_CACHE", *SWITCHES) if n in os.environ and n not in job.get("env_vars", {})]
    env = {"env_vars": {name: os.environ[name] for name in names}}
    return env if "py_modules" in job else {**env, "py_modules": modules}


def close_token() -> None:
    """Make Ray's token private: whoever reads it can run code on the cluster."""
    path = token_path()
    if path.exists() and path.stat().st_uid == os.getuid():
        path.chmod(0o600)


def token_path() -> Path:
    """Path of the token that the dashboard's API requires."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH", Path.home() / ".ray" / "auth_token"))
