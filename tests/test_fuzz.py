"""Corrupted files of every kind that is read: they load or raise one of our errors, and nothing hangs."""

from __future__ import annotations

import ast
import contextlib
import copy
import io
import json
import shutil
import tarfile
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from pmae.data import load_images
from pmae.data.decode import decode_image
from pmae.data.sources.named import open_zip, read_zip_member, tar_files
from pmae.errors import ConfigError, DataError
from studies.__main__ import main as studies_main
from studies.errors import StudyError
from studies.records import read_study
from tests.pmae.data.samples import encoded, medmnist_arrays, pixels, write_parquet
from tests.studies.make_study import make_study

OURS = (ConfigError, DataError, StudyError)
KINDS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")
SECONDS = 5.0  # of CPU time for one file
ROOT = Path(__file__).resolve().parents[1]
PACKAGES = [p for package in ("pmae", "studies", "tune") for p in sorted((ROOT / package).rglob("*.py"))]


def bounded(examples: int) -> Callable[[Any], Any]:
    """A fixed number of examples of a fixed seed."""

    def decorate(test: Any) -> Any:
        options = settings(
            max_examples=examples, deadline=None, database=None,
            suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
        )  # fmt: skip
        return pytest.mark.timeout(120)(seed(20260102)(options(test)))

    return decorate


@st.composite
def damages(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Up to four changes of a file: bytes overwritten, removed, inserted, repeated, or the end cut off."""
    changes = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["set", "flip", "drop", "insert", "repeat", "cut"]),
                st.floats(0, 1, exclude_max=True),
                st.binary(min_size=1, max_size=8),
            ),
            min_size=1,
            max_size=4,
        )
    )

    def damage(content: bytes) -> bytes:
        for kind, where, value in changes:
            at, n = int(where * len(content)), len(value)
            if kind == "set":
                content = content[:at] + value + content[at + n :]
            elif kind == "flip":
                content = (
                    content[:at] + bytes(b ^ v for b, v in zip(content[at:], value, strict=False)) + content[at + n :]
                )
            elif kind == "drop":
                content = content[:at] + content[at + n * 8 :]
            elif kind == "insert":
                content = content[:at] + value + content[at:]
            elif kind == "repeat":
                content = content[:at] + content[at : at + 64] * 2 + content[at + 64 :]
            else:
                content = content[:at]
        return content

    return damage


def loads_or_refuses(read: Callable[[], Any]) -> None:
    """``read`` ends within ``SECONDS`` and raises nothing but our errors."""
    started = time.process_time()
    with contextlib.suppress(*OURS), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read()
    assert time.process_time() - started < SECONDS


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> dict[str, bytes]:
    """Small valid files by kind."""
    folder = tmp_path_factory.mktemp("samples")
    np.savez_compressed(folder / "a.npz", **medmnist_arrays(size=8))
    np.savez(folder / "b.npz", **medmnist_arrays(size=8))
    write_parquet(folder / "a.parquet", [i % 2 for i in range(20)], class_names=["cat", "dog"])
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(3):
            archive.writestr(f"{i}.txt", b"abc" * 50 + bytes([i]))
    with tarfile.open(folder / "a.tar.gz", "w:gz") as tar:
        for i in range(3):
            info = tarfile.TarInfo(f"{i}.txt")
            info.size = 150
            tar.addfile(info, io.BytesIO(b"abc" * 50))
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    for kind, options in (("JPEG", {}), ("PNG", {}), ("GIF", {}), ("BMP", {}), ("TIFF", {"compression": "tiff_lzw"})):
        found[kind] = encoded(pixels(1, size=16), kind, **options)
    found["WEBP"] = encoded(pixels(1, size=16), "WEBP")
    return found


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("PMAE_CACHE", str(tmp_path / "cache"))
    return tmp_path


def load(place: Path, source: str, content: bytes) -> Callable[[], Any]:
    """Loads ``content`` as ``source``, from a cache that holds nothing."""
    kind, _, name = source.partition(":")
    (place / name).write_bytes(content)
    shutil.rmtree(place / "cache", ignore_errors=True)
    return lambda: load_images(f"{kind}:{place / name}")


@bounded(120)
@given(damage=damages(), compressed=st.booleans())
def test_npz(samples, place, damage, compressed):
    loads_or_refuses(load(place, "npz:x.npz", damage(samples["a.npz" if compressed else "b.npz"])))


@bounded(120)
@given(damage=damages())
def test_parquet(samples, place, damage):
    loads_or_refuses(load(place, "parquet:x.parquet", damage(samples["a.parquet"])))


@bounded(300)
@given(
    damage=damages(),
    kind=st.sampled_from(KINDS),
    size=st.sampled_from([None, 8]),
)
def test_images(samples, damage, kind, size):
    loads_or_refuses(lambda: decode_image("x", damage(samples[kind]), size))


@bounded(150)
@given(damage=damages())
def test_zip(samples, tmp_path, damage):
    path = tmp_path / "x.zip"
    path.write_bytes(damage(samples["a.zip"]))

    def read() -> None:
        with open_zip(path) as archive:
            for name in archive.namelist():
                read_zip_member(archive, name)

    loads_or_refuses(read)


@bounded(150)
@given(damage=damages(), compressed=st.booleans())
def test_tar(samples, tmp_path, damage, compressed):
    import gzip

    content = samples["a.tar.gz"]
    path = tmp_path / "x.tar"
    path.write_bytes(damage(content) if compressed else damage(gzip.decompress(content)))
    loads_or_refuses(lambda: list(tar_files(path)))


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    return make_study(tmp_path_factory.mktemp("study"), "one", explored=2, seeds=2, judged=True)


@bounded(150)
@given(damage=damages(), name=st.sampled_from(["trials.arrow", "history.arrow", "study.json", "verdict.json"]))
def test_study_files(study, tmp_path, damage, name):
    folder = tmp_path / "copy"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(study, folder)
    (folder / name).write_bytes(damage((study / name).read_bytes()))
    loads_or_refuses(lambda: read_study(folder))


VALUES = st.sampled_from([None, True, -1, 0, 10**400, 1e308, "", "x", "\x1b[31m", [], [None], [[]], {}, {"x": None}])


@st.composite
def replaced_values(draw: st.DrawFn) -> Callable[[Any], Any]:
    """One to three values anywhere in a JSON document replaced by others, or removed."""
    picks = draw(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), VALUES, st.booleans()), min_size=1, max_size=3))

    def nodes(value: Any) -> list[tuple[Any, Any]]:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        return [found for key, child in items for found in [(value, key), *nodes(child)]]

    def replace(document: Any) -> Any:
        for where, value, remove in picks:
            found = nodes(document)
            if not found:
                break
            parent, key = found[int(where * len(found))]
            if remove and isinstance(parent, dict):
                del parent[key]
            else:
                parent[key] = copy.deepcopy(value)
        return document

    return replace


@bounded(60)
@given(replace=replaced_values(), name=st.sampled_from(["study.json", "verdict.json"]))
def test_json_of_another_shape(study, tmp_path, replace, name):
    folder = tmp_path / "copy"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(study, folder)
    document = replace(json.loads((study / name).read_text()))
    (folder / name).write_text(json.dumps(document))
    loads_or_refuses(lambda: read_study(folder))
    for command in (["list", str(folder)], ["show", str(folder)], ["verdict", str(folder)]):
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            code = studies_main(command)
        assert code in (0, 2), out.getvalue()


@bounded(100)
@given(damage=damages())
def test_component_files(tmp_path_factory, damage):
    from pmae.components import PrincipalComponents

    path = tmp_path_factory.getbasetemp() / "components.npz"
    if not path.exists():
        PrincipalComponents.fit(load_images("digits", limit=100)).save(path)
        path.with_suffix(".valid").write_bytes(path.read_bytes())
    broken = path.with_suffix(".broken")
    broken.write_bytes(damage(path.with_suffix(".valid").read_bytes()))
    loads_or_refuses(lambda: PrincipalComponents.load(broken))


FORBIDDEN_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


def dangers(source: str) -> list[str]:
    """What in a module could run code that a file or a string holds."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_MODULES:
            found += [str(node.module) for a in node.names if a.name != "UnpicklingError"]
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            options = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
            unsafe_numpy = name in ("np.load", "numpy.load") and options.get("allow_pickle") is not False
            unsafe_torch = name == "torch.load" and options.get("weights_only") is not True
            unsafe = name in ("eval", "exec", "compile", "__import__", "yaml.load", "yaml.unsafe_load")
            if unsafe or unsafe_numpy or unsafe_torch:
                found.append(name)
    return found


def test_no_module_can_run_what_a_file_holds():
    assert len(PACKAGES) > 100
    assert {str(p.relative_to(ROOT)): d for p in PACKAGES if (d := dangers(p.read_text(encoding="utf-8")))} == {}
    for bad in ("import pickle", "from pickle import loads", "eval(x)", "exec(x)", "torch.load(x)", "yaml.load(x)"):
        assert dangers(bad)
    assert not dangers("torch.load(x, weights_only=True)\nnp.load(x, allow_pickle=False)\nre.compile(x)")
