"""Downloads, from a server on this machine."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from tamis.datamodules import MedMNIST
from tamis.datamodules.medmnist_download import ZENODO, download
from tamis.datamodules.medmnist_sets import OfficialFile, official_file

CONTENT = bytes(range(256)) * 5000  # more than one read


class QuietServer(SimpleHTTPRequestHandler):
    """Serves files; one called ``broken.npz`` only in half, as when a connection is lost."""

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def copyfile(self, source: BinaryIO, outputfile: BinaryIO) -> None:  # type: ignore[override]
        """Half of a broken file, all of the others."""
        outputfile.write(source.read(len(CONTENT) // 2) if "broken" in self.path else source.read())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Its address; it serves the folder ``server``."""
    (tmp_path / "server").mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietServer, directory=str(tmp_path / "server"))) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/{{file}}?download=1"
        running.shutdown()
        thread.join()


def file_of(content: bytes, flag: str = "breastmnist") -> OfficialFile:
    """An official file's facts with the MD5 of other content."""
    facts = cast(OfficialFile, official_file("breastmnist")).facts
    return OfficialFile(facts._replace(flag=flag, md5=("", hashlib.md5(content).hexdigest(), "", "")), 64)


def folder_is_empty(folder: Path) -> bool:
    return not folder.exists() or not list(folder.iterdir())


def test_a_file_arrives_whole(server: str, tmp_path: Path) -> None:
    (tmp_path / "server" / "breastmnist_64.npz").write_bytes(CONTENT)
    target = download(file_of(CONTENT), tmp_path / "new" / "folder", server)
    assert target == tmp_path / "new" / "folder" / "breastmnist_64.npz"
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]
    assert target.stat().st_mode & 0o400


def test_another_file_than_the_official_one_is_removed(server: str, tmp_path: Path) -> None:
    (tmp_path / "server" / "breastmnist_64.npz").write_bytes(CONTENT + b"!")
    found, known = (hashlib.md5(content).hexdigest() for content in (CONTENT + b"!", CONTENT))
    with pytest.raises(RuntimeError, match=f"has the MD5 {found}, but breastmnist_64.npz is known by {known}"):
        download(file_of(CONTENT), tmp_path / "here", server)
    assert folder_is_empty(tmp_path / "here")


def test_a_connection_that_breaks_off(server: str, tmp_path: Path) -> None:
    (tmp_path / "server" / "broken_64.npz").write_bytes(CONTENT)
    with pytest.raises((OSError, RuntimeError), match=r"broken_64\.npz") as error:
        download(file_of(CONTENT, "broken"), tmp_path / "here", server)
    assert str(tmp_path / "here" / "broken_64.npz") in str(error.value)
    assert folder_is_empty(tmp_path / "here")


def test_a_file_that_the_server_lacks(server: str, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="404") as error:
        download(file_of(CONTENT), tmp_path / "here", server)
    message = str(error.value)
    assert server.replace("{file}", "breastmnist_64.npz") in message
    assert f"to {tmp_path / 'here' / 'breastmnist_64.npz'}" in message
    assert f"(MD5 {hashlib.md5(CONTENT).hexdigest()})" in message
    assert "or give its path" in message
    assert folder_is_empty(tmp_path / "here")


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/{file}", "http://nowhere.invalid/{file}", "no address/{file}"])
def test_no_network(address: str, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Without a network, fetch the file elsewhere"):
        download(file_of(CONTENT), tmp_path / "here", address)
    assert folder_is_empty(tmp_path / "here")


def test_a_folder_that_cannot_be_made(server: str, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OSError, match="cannot download .*taken"):
        download(file_of(CONTENT), tmp_path / "taken", server)


def test_sets_by_name_are_downloaded_only_on_request(server: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name, file in (("breastmnist", "breastmnist.npz"), ("breastmnist_28", "breastmnist.npz")):
        data = MedMNIST(name, download_root=str(root), download_url=server)
        with pytest.raises(FileNotFoundError, match="set download to true to fetch http://127") as error:
            data.prepare_data()
        assert str(root / file) in str(error.value)
        assert "MD5 750601b1f35ba3300ea97c75c52ff8f6" in str(error.value)
    (tmp_path / "server" / "breastmnist.npz").write_bytes(CONTENT)
    with pytest.raises(RuntimeError, match="breastmnist.npz is known by 750601b1f35ba330"):
        MedMNIST("breastmnist", download=True, download_root=str(root), download_url=server).prepare_data()
    assert folder_is_empty(root)


def test_a_set_that_is_there_is_not_downloaded(tmp_path: Path, npz: Path) -> None:
    (tmp_path / "breastmnist.npz").write_bytes(npz.read_bytes())
    options = {"download": True, "download_root": str(tmp_path), "download_url": "http://nowhere.invalid/{file}"}
    data = MedMNIST("breastmnist", **options)  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="has the name of an official file"):
        data.prepare_data()
    data.setup("fit")
    assert data.split("train").images == 12


def test_what_is_no_path_and_no_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="breastmnst does not exist.*breastmnist_64"):
        MedMNIST("breastmnst", download=True, download_root=str(tmp_path)).prepare_data()
    with pytest.raises(ValueError, match="download_url must have {file}"):
        MedMNIST("breastmnist", download_url="https://example.org/breastmnist.npz")


def test_the_address_is_the_published_record() -> None:
    assert ZENODO.replace("{file}", "organamnist.npz") == (
        "https://zenodo.org/records/10519652/files/organamnist.npz?download=1"
    )
