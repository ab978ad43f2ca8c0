"""What is no file, or too large, given to extract_dataset.py: status 2 and one line."""

import os

import pytest

from tests.support.fault_tools import SET, Bench, assert_refused


@pytest.fixture
def bench(tmp_path, capsys, record_property):
    return Bench(tmp_path / "数据 set+@", capsys, record_property).shorten(6)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(os.mkfifo, id="pipe"),
        pytest.param(lambda path: path.symlink_to("/dev/zero"), id="device"),
        pytest.param(os.mkdir, id="folder"),
    ],
)
@pytest.mark.parametrize("flag", ["--exclude", "--correct_answer_file", "--verify"])
def test_what_is_no_file_is_refused_at_once(bench, make, flag):
    path = bench.folder / "file"
    make(path)
    assert_refused(
        bench.sample(flag, path), path, "cannot be read .(Not a regular file|Is a directory).; check the path"
    )


def test_exclusions_beyond_the_limit_are_refused(bench, monkeypatch):
    (bench.folder / "file").write_text(f"# {'x' * 1000}\n{SET}/1")
    monkeypatch.setattr("videobench.sampling.selection.MAX_JSON_BYTES", 1000)
    assert_refused(bench.sample("--exclude", bench.folder / "file"), "file", "larger than 1000 bytes")
