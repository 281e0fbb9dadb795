from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pmae.data import download
from pmae.data.download import Remote, fetch
from pmae.errors import DataError
from tests.pmae.data.server import Server, serving

BODY = os.urandom(300_000)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "FIRST_PAUSE", 0.0)
    monkeypatch.delenv("PMAE_MIRROR", raising=False)


def remote(server: Server, body: bytes = BODY) -> Remote:
    return Remote(f"{server.url}/file.bin", "file.bin", hashlib.md5(body).hexdigest())


def leftovers(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"file.bin", ".file.bin.lock"}


def test_a_file_is_downloaded_completely_and_once(tmp_path: Path) -> None:
    with serving(files={"file.bin": BODY}) as server:
        path = fetch(remote(server), tmp_path / "new" / "folder")
        assert path.read_bytes() == BODY and path == tmp_path / "new" / "folder" / "file.bin"
        assert fetch(remote(server), tmp_path / "new" / "folder") == path
    assert server.requests == [("/file.bin", None)]
    assert leftovers(path.parent) == set()


def test_downloads_go_to_the_cache_by_default(cache: Path) -> None:
    with serving(files={"file.bin": BODY}) as server:
        assert fetch(remote(server)) == cache / "downloads" / "file.bin"


def test_broken_connections_are_taken_up_where_they_broke(tmp_path: Path) -> None:
    breaks = 2 * download.ATTEMPTS  # each brings something, so none of them counts as the last
    with serving(files={"file.bin": BODY}, break_after=20_000, breaks=breaks) as server:
        assert fetch(remote(server), tmp_path).read_bytes() == BODY
    starts = [0 if wanted is None else int(wanted[6:-1]) for _, wanted in server.requests]
    assert starts == [20_000 * i for i in range(breaks + 1)]


def test_a_server_that_ignores_ranges_sends_all_again(tmp_path: Path) -> None:
    with serving(files={"file.bin": BODY}, ranges=False, break_after=20_000, breaks=2) as server:
        assert fetch(remote(server), tmp_path).read_bytes() == BODY


def test_a_connection_that_never_gets_anywhere_gives_up_and_keeps_what_came(tmp_path: Path) -> None:
    with serving(files={"file.bin": BODY}, break_after=0, breaks=100) as server:
        (tmp_path / ".file.bin.part").write_bytes(BODY[:1000])
        with pytest.raises(
            DataError, match=rf"cannot be downloaded .*attempt {download.ATTEMPTS} of {download.ATTEMPTS}.*put it at"
        ):
            fetch(remote(server), tmp_path)
        assert len(server.requests) == download.ATTEMPTS
        assert (tmp_path / ".file.bin.part").read_bytes() == BODY[:1000]
        server.breaks = 0
        assert fetch(remote(server), tmp_path).read_bytes() == BODY
    assert server.requests[-1] == ("/file.bin", "bytes=1000-")


def test_wrong_bytes_are_refused(tmp_path: Path) -> None:
    with serving(files={"file.bin": BODY[:-1] + b"!"}) as server:
        with pytest.raises(DataError, match=r"sent a file with MD5 [0-9a-f]{32} instead of .*put it at"):
            fetch(remote(server, BODY + b"other"), tmp_path)
        assert leftovers(tmp_path) == set() and not (tmp_path / "file.bin").exists()


@pytest.mark.parametrize("part", [b"x" * 1000, b"x" * (len(BODY) + 10)], ids=["shorter", "longer"])
def test_a_part_of_another_file_is_thrown_away(tmp_path: Path, part: bytes) -> None:
    (tmp_path / ".file.bin.part").write_bytes(part)
    with serving(files={"file.bin": BODY}) as server:
        assert fetch(remote(server), tmp_path).read_bytes() == BODY


def test_a_longer_part_is_cut_when_the_server_sends_all(tmp_path: Path) -> None:
    (tmp_path / ".file.bin.part").write_bytes(BODY + b"more")
    with serving(files={"file.bin": BODY}, ranges=False) as server:
        assert fetch(remote(server), tmp_path).read_bytes() == BODY
    assert len(server.requests) == 1


def test_a_complete_part_is_only_renamed(tmp_path: Path) -> None:
    (tmp_path / ".file.bin.part").write_bytes(BODY)
    with serving(files={"file.bin": BODY}) as server:
        assert fetch(remote(server), tmp_path).read_bytes() == BODY
    assert len(server.requests) == 1


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(tmp_path: Path) -> None:
    with serving(files={"file.bin": BODY}, statuses=[503, 429]) as server:
        assert fetch(remote(server), tmp_path).read_bytes() == BODY
    with serving() as server, pytest.raises(DataError, match=r"\(HTTP Error 404[^;]*\)\. .*put it at"):
        fetch(remote(server), tmp_path / "other")
    assert len(server.requests) == 1


def test_no_server_at_all(tmp_path: Path) -> None:
    with serving() as server:
        pass
    with pytest.raises(DataError, match=rf"{server.url}/file\.bin cannot be downloaded \(.*refused.*put it at"):
        fetch(remote(server), tmp_path)


def test_several_at_once_download_once(tmp_path: Path) -> None:
    with serving(files={"file.bin": BODY}) as server, ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: fetch(remote(server), tmp_path), range(4)))
    assert len(server.requests) == 1 and {path.read_bytes() for path in paths} == {BODY}


def test_a_mirror_replaces_the_server_but_not_the_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(files={"pub/file.bin": BODY}) as server:
        monkeypatch.setenv("PMAE_MIRROR", f"{server.url}/pub/")
        official = Remote("http://unreachable.invalid/file.bin", "file.bin", hashlib.md5(BODY).hexdigest())
        assert fetch(official, tmp_path).read_bytes() == BODY
        with pytest.raises(DataError, match="instead of"):
            fetch(Remote(official.url, "file.bin", "0" * 32), tmp_path / "other")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        serving(files={"file.bin": BODY}) as server,
        pytest.raises(DataError, match=r"cannot hold the download file\.bin .*--data-root"),
    ):
        fetch(remote(server), tmp_path / "file" / "below")


def test_a_disk_that_is_too_small_is_reported_before_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100}))
    with serving(files={"file.bin": BODY}) as server, pytest.raises(DataError, match=r"GB to come, 0\.00 GB free"):
        fetch(remote(server), tmp_path)


def test_progress_is_plain_lines_without_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pmae.data.progress.SECONDS_BETWEEN_LINES", 0.0)
    with serving(files={"file.bin": BODY}) as server:
        fetch(remote(server), tmp_path, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "downloading file.bin: 0.3 of 0.3 MB (100%)"
    with serving(files={"file.bin": BODY}) as server:
        fetch(remote(server), tmp_path / "quiet")
    assert capsys.readouterr().err == ""
