"""What is read: regular files of bounded size, opened without waiting, and strict JSON; what is written."""

import gzip
import json
import os
import resource
import socket

import pytest

from videobench.errors import InputError
from videobench.files import read_bytes, read_json, sha256_of_file, write_json


def listen(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


@pytest.mark.parametrize(
    ("make", "found"),
    [
        pytest.param(lambda path: None, "No such file or directory", id="missing"),
        pytest.param(os.mkdir, "Is a directory", id="folder"),
        pytest.param(os.mkfifo, "Not a regular file", id="pipe"),
        pytest.param(lambda path: path.symlink_to("/dev/zero"), "Not a regular file", id="device"),
        pytest.param(lambda path: path.symlink_to(path.name), "Too many levels of symbolic links", id="loop"),
        pytest.param(listen, "No such device or address", id="socket"),
    ],
)
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, make, found):
    path = tmp_path / "file"
    make(path)
    for read in (lambda path: read_bytes(path, 10), read_json):
        with pytest.raises(InputError, match=rf"/file: cannot be read \({found}\); check the path"):
            read(path)
    with pytest.raises(OSError, match=found):
        sha256_of_file(path)


def test_the_size_is_bounded(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_bytes(path, 5) == b"12345"
    monkeypatch.setattr("videobench.files.MAX_JSON_BYTES", 4)
    with pytest.raises(InputError, match=r"/file: larger than 4 bytes"):
        read_json(path)


WHOLE = b'{"a": 1}'


@pytest.mark.parametrize(
    ("content", "found"),
    [
        pytest.param(b"", "not JSON", id="empty"),
        pytest.param(WHOLE[:5], "not JSON", id="cut-short"),
        pytest.param(WHOLE + bytes(4096), "not JSON", id="zeros-behind-it"),
        pytest.param(b'{"\xe9": 1}', "not UTF-8 at byte 2", id="Latin-1"),
        pytest.param(gzip.compress(WHOLE), "compressed by gzip", id="gzip"),
        pytest.param(b"\n  <HTML><body>404</body>", "a web page in place of the file", id="html"),
        pytest.param(b"\xef\xbb\xbf<?xml version='1.0'?><Error/>", "a web page in place of the file", id="xml"),
        pytest.param(b"[" * 200_000, "nested too deeply", id="nested-lists"),
        pytest.param(b'{"a": {"b": 1, "b": 1}}', "the key 'b' occurs twice in one object", id="doubled-key"),
        pytest.param(b"[NaN]", "the number NaN is not JSON", id="nan"),
        pytest.param(b"[1e999]", "the number 1e999 is not JSON, or too large", id="beyond-a-float"),
        pytest.param(b"[" + b"7" * 5000 + b"]", "too large", id="beyond-the-parsers-digits"),
    ],
)
def test_what_is_not_strict_json_is_refused_by_name(tmp_path, content, found):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InputError, match=rf"/file: .*{found}.*; [a-z]"):
        read_json(tmp_path / "file")


def test_a_byte_order_mark_is_passed_over(tmp_path):
    (tmp_path / "file").write_text('{"a": 1}', encoding="utf-8-sig")
    assert read_json(tmp_path / "file") == {"a": 1}


def test_pipes_devices_and_links_are_written_into_and_stay_what_they_are(tmp_path):
    """Renaming would replace them: for root, even /dev/stdout."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"/pipe: cannot be written \(No such device or address\)"):
        write_json(tmp_path / "pipe", {"a": 1})  # nobody reads it
    reading = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_json(tmp_path / "pipe", {"a": 1})
    assert json.loads(os.read(reading, 100)) == {"a": 1}
    os.close(reading)
    assert list(tmp_path.iterdir()) == [tmp_path / "pipe"]
    null = tmp_path / "null"
    null.symlink_to(os.devnull)
    write_json(null, {"a": 1})
    (tmp_path / "link").symlink_to(tmp_path / "there.json")
    write_json(tmp_path / "link", {"a": 1})
    assert read_json(tmp_path / "there.json") == {"a": 1}
    assert null.is_symlink()
    assert (tmp_path / "link").is_symlink()
    with pytest.raises(InputError, match=r"cannot be written \(Is a directory\)"):
        write_json(tmp_path, {})


def test_a_file_that_cannot_be_written_whole_stays_as_it_was(tmp_path):
    path = tmp_path / "file"
    write_json(path, {"a": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # the disk takes no more
    try:
        with pytest.raises(InputError, match=r"/file: cannot be written .*; free space"):
            write_json(path, {"a": "x" * 5000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert read_json(path) == {"a": 1}
    assert [*tmp_path.iterdir()] == [path]
