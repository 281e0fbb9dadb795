"""What hostile names, files and neighbors get: nothing out of the storage folder, nothing run, nothing told."""

from __future__ import annotations

import ast
import shlex
from pathlib import Path

import pytest

from pmae.errors import ConfigError
from studies.storage.object_store import without_secrets
from tune.run.ray_session import SWITCHES, close_token, ray_session
from tune.run.runner import command_line
from tune.storage.location import Storage, study_name

ROOT = Path(__file__).resolve().parents[3]
MODULES = sorted(p for package in ("pmae", "studies", "tune") for p in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize(
    "name", ["..", ".", "", "/etc", "../x", "a/b", "a\\b", ".hidden", "-rf", "a\0b", "a\nb", "x" * 101, "~", "$HOME"]
)
def test_names_cannot_leave_the_storage_folder(name, tmp_path):
    with pytest.raises(ConfigError, match="--name is"):
        study_name(name)
    with pytest.raises(ConfigError, match="--name is"):
        Storage(tmp_path).new(name)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ray://user:Kq7@host:10001", "ray://***@host:10001"),
        ("https://Kq7@host/x?a=1", "https://***@host/x?a=1"),
        ("https://host/x?token=Kq7&a=1", "https://host/x?token=***&a=1"),
        ("https://host/x?a=1&X-Amz-Signature=Kq7", "https://host/x?a=1&X-Amz-Signature=***"),
        ("https://host/x?api_key=Kq7 and more", "https://host/x?api_key=*** and more"),
        ("folder:/data/a@b", "folder:/data/a@b"),
        ("s3://user:Kq7@bucket/x?region=eu", "s3://bucket/x?region=eu"),  # works as it is shown
        ("s3://bucket/x?secret_key=Kq7", "s3://bucket/x?secret_key=***"),
        ("gs://anonymous@bucket/x", "gs://anonymous@bucket/x"),
        ("abfs://box@account.dfs.core.windows.net/x?sig=Kq7", "abfs://box@account.dfs.core.windows.net/x?sig=***"),
        ("abfs://box:Kq7@account/x", "abfs://***@account/x"),
    ],
)
def test_secrets_in_urls_are_neither_stored_nor_printed(text, shown):
    assert without_secrets(text) == shown
    assert "Kq7" not in command_line(["--address", text], "study.py")
    assert shlex.split(command_line(["--address", text], "study.py"))[-1] == shown


def test_an_address_that_does_not_answer_is_reported_without_its_password(monkeypatch):
    import ray

    def no_cluster(**options: object) -> None:
        raise ConnectionError(f"cannot reach {options['address']}")

    monkeypatch.setattr(ray, "init", no_cluster)
    monkeypatch.setattr("tune.run.ray_session.cluster_address", lambda address: address)
    with pytest.raises(ConfigError) as refusal, ray_session("ray://user:Kq7@host:1", 0, False):
        pass
    assert "host:1" in str(refusal.value) and "Kq7" not in str(refusal.value)


def test_a_private_ray_listens_on_this_machine_with_the_token_on(monkeypatch):
    import ray

    asked: dict[str, object] = {}

    def init(**options: object) -> None:
        asked.update(options)
        raise RuntimeError("enough")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(RuntimeError, match="enough"), ray_session(None, 1, False):
        pass
    assert asked["address"] == "local" and asked["dashboard_host"] == "127.0.0.1"
    assert not [name for name in SWITCHES if "AUTH" in name.upper()]  # Ray's own default is the token


def test_the_token_is_for_its_owner_only(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    close_token()  # nothing there, nothing done
    (tmp_path / "token").write_text("Kq7")
    (tmp_path / "token").chmod(0o644)
    close_token()
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600


def calls(path: Path) -> list[tuple[str, dict[str, object]]]:
    """Dotted names of all calls in a module, with their constant keyword arguments."""
    return [
        (ast.unparse(n.func), {k.arg: getattr(k.value, "value", None) for k in n.keywords if k.arg})
        for n in ast.walk(ast.parse(path.read_text()))
        if isinstance(n, ast.Call)
    ]


UNSAFE = ("eval", "exec", "pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.loads", "joblib.load")
UNSAFE += ("yaml.load", "os.system", "shelve.open")
NEEDED = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}


def unsafe_calls(path: Path) -> list[str]:
    """Calls in a module that may run what a file or a string says."""
    found = []
    for name, options in calls(path):
        option, value = NEEDED.get(name, ("shell", None))
        if name in UNSAFE or options.get(option) != value:
            found.append(f"{path.name}: {name}")
    return found


def test_nothing_is_unpickled_or_evaluated(tmp_path):
    assert len(MODULES) > 50
    assert not [call for path in MODULES for call in unsafe_calls(path)]
    (tmp_path / "bad.py").write_text(
        "np.load(x)\ntorch.load(x, weights_only=False)\nsubprocess.run(x, shell=True)\neval(x)"
    )
    assert len(unsafe_calls(tmp_path / "bad.py")) == 4
