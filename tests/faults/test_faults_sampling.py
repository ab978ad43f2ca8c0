"""Videos that would become one, and what is no file, through extract_dataset.py: right, or status 2 and one line."""

import json
import os

import pytest

from tests.support.fault_tools import SET, Bench, assert_refused


@pytest.fixture
def bench(tmp_path, capsys, record_property):
    return Bench(tmp_path / "数据 set+@", capsys, record_property).shorten(6)


MODES = pytest.mark.parametrize("mode", ["copy", "hardlink", "symlink"])


def copy_first_video(bench, folder):
    """The second question names a file of the first one's name in another folder, with other bytes."""
    first = next(iter(bench.rows().values()))["vid_path"]
    vid_path = f"{folder}/{first.rsplit('/', 1)[1]}"
    video = bench.folder / "videos" / vid_path
    video.parent.mkdir(parents=True, exist_ok=True)
    video.write_bytes((bench.folder / "videos" / first).read_bytes() + b"\0")
    return bench.change(vid_path=vid_path), first, vid_path


@MODES
def test_videos_of_one_name_in_two_folders_stay_two(bench, mode):
    key, first, vid_path = copy_first_video(bench, "Eval_video/Other")
    assert bench.sample("--copy_mode", mode).status == 0
    rows = json.loads((bench.folder / "qa/Eval_QA/sampling_datasets_QA_new.json").read_bytes())
    for sampled, source in ((f"{SET}/{key}", vid_path), (f"{SET}/{next(iter(bench.rows()))}", first)):
        places = [bench.folder / "videos" / path for path in (rows[sampled]["vid_path"], source)]
        assert places[0].read_bytes() == places[1].read_bytes()
    assert bench.start("extract_dataset", "--verify", f"{bench.folder}/qa/Eval_QA/sampling_manifest.json",
                       "--sampling_output_folder", f"{bench.folder}/videos/Eval_video").status == 0  # fmt: skip


@MODES
def test_videos_that_would_get_one_place_are_refused(bench, mode):
    _, first, vid_path = copy_first_video(bench, f"Other_videos/{SET}")
    before = bench.contents()
    outcome = bench.sample("--copy_mode", mode)
    found = (
        rf"question '\d+' of {SET}: its video .* would get the same place .* of {SET}/\d+; rename one of the two videos"
    )
    assert_refused(outcome, bench.qa, found)
    assert first in outcome.err
    assert vid_path in outcome.err
    assert bench.contents() == before


@MODES
def test_a_place_that_is_a_source_is_refused(bench, mode):
    copy_first_video(bench, f"Eval_video/sampling_data/{SET}")
    before = bench.contents()
    assert_refused(bench.sample("--copy_mode", mode), f"sampling_data/{SET}", "is itself a video of the benchmark")
    assert {name: digest for name, digest in bench.contents().items() if name in before} == before


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
