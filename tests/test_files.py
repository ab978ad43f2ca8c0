"""What is read: regular files of bounded size, opened without waiting, and JSON of bounded depth."""

import json
import os
import socket

import pytest

from videobench.errors import InputError
from videobench.files import MAX_DEPTH, parse_json, read_bytes, read_json, sha256_of_file, write_json


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


def test_a_pipe_is_refused_though_somebody_writes_into_it(tmp_path):
    os.mkfifo(tmp_path / "file")
    descriptor = os.open(tmp_path / "file", os.O_RDWR)
    os.write(descriptor, b"{}")
    with pytest.raises(InputError, match="Not a regular file"):
        read_json(tmp_path / "file")
    os.close(descriptor)


def test_the_size_is_bounded(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_bytes(path, 5) == b"12345"
    with pytest.raises(InputError, match=r"/file: larger than 4 bytes"):
        read_bytes(path, 4)


@pytest.mark.parametrize(
    ("opening", "closing"), [pytest.param("[", "]", id="lists"), pytest.param('{"a":', "}", id="objects")]
)
def test_json_is_nested_as_deep_as_the_limit(opening, closing):
    def nested(depth):
        return opening * depth + "1" + closing * depth

    parse_json(nested(MAX_DEPTH))
    for depth in (MAX_DEPTH + 1, 5000, 1_000_000):  # Python 3.12 would parse 5000 levels, 3.11 would not
        with pytest.raises(ValueError, match="nested too deeply"):
            parse_json(nested(depth))
        with pytest.raises(ValueError, match="nested too deeply"):
            parse_json(opening * depth)


@pytest.mark.parametrize(
    "reply",
    ["[" * 999, "{[" * 999 + '"', '\\"[' * 999, "\\" * 999 + "[" * 999, "]" * 999 + "[" * 999],
    ids=["brackets", "quote", "escaped-quotes", "backslashes", "closed-first"],
)
def test_brackets_in_a_string_are_not_nesting(reply):
    assert parse_json(json.dumps({"a": [reply, reply]})) == {"a": [reply, reply]}
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 100 + json.dumps([reply]) + "]" * 100)


def test_a_device_is_written_into_and_stays_one(tmp_path):
    """As root, renaming would replace it."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"pipe: cannot be written \(No such device or address\)"):
        write_json(tmp_path / "pipe", {})
    reading = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_json(tmp_path / "pipe", {"a": 1})
    assert json.loads(os.read(reading, 100)) == {"a": 1}
    os.close(reading)
    assert list(tmp_path.iterdir()) == [tmp_path / "pipe"]
    null = tmp_path / "null"
    null.symlink_to(os.devnull)
    write_json(null, {"a": 1})
    assert null.is_symlink()
    with pytest.raises(InputError, match=r"cannot be written \(Is a directory\)"):
        write_json(tmp_path, {})
