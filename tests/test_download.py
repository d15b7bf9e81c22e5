"""Downloads from a server on this machine: interrupted, changed, damaged and hostile ones."""

import hashlib
import io
import stat
import zipfile

import numpy as np
import pytest
from servers import range_server

from pytc.io import archives, download
from pytc.io.download import ATTEMPTS

pytest.importorskip("pooch")
CONTENT = np.random.default_rng(0).bytes(300_000)
CHECKSUM = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "WAIT", 0.0)
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "file.bin").write_bytes(CONTENT)
    with range_server(tmp_path / "served") as server:
        yield server


def fetch(server, tmp_path, checksum=CHECKSUM):
    file = tmp_path / "here" / "file.bin"
    return download.download(f"{server.url}/file.bin", checksum, file), file


def ranges(server):
    return [asked for _, asked in server.asked]


def test_a_file_comes_once(server, tmp_path):
    checksum, file = fetch(server, tmp_path)
    assert file.read_bytes() == CONTENT and checksum == CHECKSUM
    assert fetch(server, tmp_path) == (CHECKSUM, file) and len(server.asked) == 1
    assert [each.name for each in file.parent.iterdir()] == ["file.bin"]


def test_without_a_published_checksum_that_of_the_file_is_returned(server, tmp_path):
    assert fetch(server, tmp_path, None)[0] == CHECKSUM


def test_a_connection_that_breaks_off_is_taken_up_where_it_was(server, tmp_path):
    server.breaks = [100_000, 50_000]
    _, file = fetch(server, tmp_path)
    assert file.read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=100000-", "bytes=150000-"]


def test_a_later_call_goes_on(server, tmp_path):
    server.breaks = [100_000, *[0] * (ATTEMPTS - 1)]
    with pytest.raises(OSError, match="broke off after 100000 of 300000 bytes"):
        fetch(server, tmp_path)
    assert not (tmp_path / "here" / "file.bin").exists()
    assert (tmp_path / "here" / "file.bin.part").stat().st_size == 100_000
    server.asked.clear()
    _, file = fetch(server, tmp_path)
    assert file.read_bytes() == CONTENT and ranges(server) == ["bytes=100000-"]


def break_off(server, tmp_path, at=100_000):
    server.breaks = [at, *[0] * (ATTEMPTS - 1)]
    with pytest.raises(OSError, match="broke off"):
        fetch(server, tmp_path)
    server.asked.clear()


def test_a_file_that_changed_in_between_comes_anew(server, tmp_path):
    break_off(server, tmp_path)
    other = CONTENT[::-1]
    (tmp_path / "served" / "file.bin").write_bytes(other)
    checksum = f"sha256:{hashlib.sha256(other).hexdigest()}"
    _, file = fetch(server, tmp_path, checksum)
    assert file.read_bytes() == other and ranges(server) == ["bytes=100000-"]


@pytest.mark.parametrize("lacks", ["has_ranges", "has_tags"])
def test_a_server_that_cannot_go_on_sends_all_again(server, tmp_path, lacks):
    setattr(server, lacks, False)
    break_off(server, tmp_path)
    _, file = fetch(server, tmp_path)
    assert file.read_bytes() == CONTENT and ranges(server) == [None]


def test_a_part_that_is_whole_already_is_taken(server, tmp_path):
    break_off(server, tmp_path)
    (tmp_path / "here" / "file.bin.part").write_bytes(CONTENT)
    _, file = fetch(server, tmp_path)
    assert file.read_bytes() == CONTENT and ranges(server) == ["bytes=300000-"]


def test_a_part_that_is_too_long_comes_anew(server, tmp_path):
    break_off(server, tmp_path)
    (tmp_path / "here" / "file.bin.part").write_bytes(CONTENT + b"more")
    _, file = fetch(server, tmp_path)
    assert file.read_bytes() == CONTENT and ranges(server) == ["bytes=300004-", None]


def test_a_damaged_file_is_removed_and_comes_anew(server, tmp_path):
    break_off(server, tmp_path)
    (tmp_path / "here" / "file.bin.part").write_bytes(bytes(100_000))
    with pytest.raises(ValueError, match=f"expected .*file.bin with the checksum {CHECKSUM}"):
        fetch(server, tmp_path)
    assert list((tmp_path / "here").iterdir()) == []
    assert fetch(server, tmp_path)[1].read_bytes() == CONTENT


def test_a_file_here_with_another_checksum_is_replaced(server, tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "file.bin").write_bytes(CONTENT[:-1])
    assert fetch(server, tmp_path)[1].read_bytes() == CONTENT


def test_a_missing_file_is_no_reason_to_try_again(server, tmp_path):
    with pytest.raises(OSError, match=r"none\.bin: 404"):
        download.download(f"{server.url}/none.bin", None, tmp_path / "none.bin")
    assert len(server.asked) == 1


def zipped(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_an_archive_is_unpacked(tmp_path):
    archive = zipped(tmp_path / "a.zip", **{"image/a.tif": "a", "b.tif": "b"})
    (tmp_path / "to.part").mkdir()  # of a command that was killed
    (tmp_path / "to.part" / "old").touch()
    archives.unpack(archive, tmp_path / "to")
    files = sorted(path for path in (tmp_path / "to").rglob("*") if path.is_file())
    assert [path.read_text() for path in files] == ["b", "a"] and files[0].name == "b.tif"


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/out", "C:\\out", "..\\out"])
def test_an_archive_that_leads_out_of_its_folder_is_refused(tmp_path, name):
    archive = zipped(tmp_path / "a.zip", good="", **{name: "bad"})
    with pytest.raises(ValueError, match="expected names inside of the folder"):
        archives.unpack(archive, tmp_path / "deep" / "to")
    assert not (tmp_path / "deep" / "to").exists() and not list(tmp_path.rglob("*out"))


def test_an_archive_with_a_link_is_refused(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(link, "/etc/passwd")
    with pytest.raises(ValueError, match="expected files and folders alone .*'link, a link"):
        archives.unpack(archive, tmp_path / "to")


def test_a_damaged_archive_is_refused(tmp_path):
    content = io.BytesIO()
    zipped(content, a="some text" * 100)
    cut, flipped = tmp_path / "cut.zip", tmp_path / "flipped.zip"
    cut.write_bytes(content.getvalue()[:-30])
    flipped.write_bytes(content.getvalue().replace(b"some text", b"same text", 1))
    for archive in (cut, flipped):
        with pytest.raises(ValueError, match=r"expected a \.zip archive in"):
            archives.unpack(archive, tmp_path / "to")
        assert not (tmp_path / "to").exists()
