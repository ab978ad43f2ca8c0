"""Paths: videos outside of their root, folders that cannot be written, names that break careless code.

Full disks: tests/attack.py, and tests/data/test_journal.py."""

import json
import os
import shutil
import sys
from pathlib import Path, PurePosixPath

import pytest

from tests.support.fault_tools import SAMPLE, SET, Bench, assert_refused


@pytest.fixture
def bench(tmp_path, capsys):
    return Bench(tmp_path / "数据 set+@", capsys).shorten(24)


def test_a_path_that_leaves_the_video_root_is_refused_even_with_the_flag(bench):
    key = bench.change(vid_path="../../secret.avi")
    before = bench.contents()
    for outcome in (bench.answer("--allow_outside_root"), bench.sample()):
        assert_refused(outcome, bench.qa, f"question '{key}': vid_path '.*' is not Eval_video/<data set>/<file>")
    assert bench.contents() == before


def link_video(bench, video, outside):
    (outside / video.name).write_bytes(video.read_bytes())
    video.unlink()
    video.symlink_to(outside / video.name)


def link_folder(bench, video, outside):
    bench.videos.rename(outside / SET)
    bench.videos.symlink_to(outside / SET)


def link_image(bench, video, outside):
    """A folder of images, one of them a link: TVQA's videos are folders."""
    video.unlink()
    video.mkdir()
    for index in range(3):
        (video / f"{index:05}.png").write_bytes(b"no picture")
    (outside / "secret.png").write_bytes(b"no picture")
    (video / "00003.png").symlink_to(outside / "secret.png")


@pytest.mark.parametrize("link", [link_video, link_folder, link_image])
def test_a_link_out_of_the_video_root_is_refused_and_the_flag_is_named(bench, link, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    first = next(iter(bench.rows().values()))["vid_path"]
    link(bench, bench.folder / "videos" / first, outside)
    assert_refused(bench.answer(), bench.qa, f"leads to {outside}/.*--allow_outside_root follows it")
    assert not (bench.folder / "out").exists()
    if link is link_folder:
        outcome = bench.answer("--allow_outside_root", "--limit", 3)
        assert "answered 3, failed 0" in outcome.out


def test_links_that_stay_inside_are_followed(bench):
    video = bench.folder / "videos" / next(iter(bench.rows().values()))["vid_path"]
    video.rename(video.with_name("other name.avi"))
    video.symlink_to("other name.avi")
    assert bench.answer("--limit", 3).status == 0


@pytest.mark.parametrize("root", ["--Eval_Video_root", "--image_or_video_path"])
def test_a_sample_of_links_is_answered_with_either_flag_for_videos(bench, root):
    assert bench.sample("--copy_mode", "symlink").status == 0
    assert any(path.is_symlink() for path in bench.folder.glob(f"videos/Eval_video/{SAMPLE}/{SET}/*"))
    flags = bench.run_flags("--dataset_name", SAMPLE)
    at = flags.index("--Eval_Video_root")
    if root == "--image_or_video_path":
        flags[at : at + 2] = [root, f"{bench.folder}/videos/Eval_video/{SAMPLE}"]
    assert bench.start("run_gpu", *flags).status == 0


@pytest.mark.parametrize("kind", ["fifo", "device", "loop", "folder"])
def test_a_video_that_is_no_file_fails_alone(bench, kind):
    rows = bench.rows()
    first = next(iter(rows.values()))["vid_path"]
    video = bench.folder / "videos" / first
    video.unlink()
    {
        "fifo": lambda: os.mkfifo(video),
        "device": lambda: video.symlink_to("/dev/zero"),
        "loop": lambda: video.symlink_to(video.name),
        "folder": video.mkdir,
    }[kind]()
    outcome = bench.answer("--allow_outside_root")
    own = [key for key, row in rows.items() if row["vid_path"] == first]
    assert outcome.status == 1
    assert f"failed {len(own)}," in outcome.out
    assert outcome.err.count("failed: ") == len(own)
    assert ("not a regular file" in outcome.err) == (kind in ("fifo", "device"))


def place_a_folder(path):
    path.mkdir(parents=True)


def place_a_pipe(path):
    path.parent.mkdir(parents=True)
    os.mkfifo(path)


def place_a_file(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")


def place_a_link_to_itself(path):
    path.symlink_to(path.name)


@pytest.mark.parametrize(
    ("flag", "name", "place", "found"),
    [
        pytest.param("--chat_conversation_output_folder", "out", place_a_file, "cannot be written", id="run-file"),
        pytest.param("--chat_conversation_output_folder", "out/journal", place_a_file, "cannot be", id="journal-file"),
        pytest.param(
            "--chat_conversation_output_folder", f"out/journal/{SET}.command.json", place_a_pipe, "cannot be", id="pipe"
        ),
        pytest.param("--chat_conversation_output_folder", "/proc/out", None, "cannot be written", id="run-no-folder"),
        pytest.param("--json_output_path", "/proc/out", None, "cannot be written", id="sample-no-folder"),
        pytest.param("--sampling_output_folder", "/proc/out", None, "only 0 are free", id="videos-no-folder"),
        pytest.param("--sampling_output_folder", "loop", place_a_link_to_itself, "cannot be made", id="videos-loop"),
        *(
            pytest.param(flag, "/proc/out/report", None, "cannot be written", id=f"{flag[2:]}-no-folder")
            for flag in ("--output_json", "--output_markdown", "--report_html", "--export_leaderboard")
        ),
        pytest.param(
            "--output_json", "report", place_a_folder, "is a folder; name a file, such as", id="report-folder"
        ),
        pytest.param("--report_html", f"{'x' * 300}.html", None, "File name too long", id="report-long-name"),
    ],
)
def test_a_place_that_cannot_be_written_is_named_before_the_work(bench, flag, name, place, found):
    """Below /proc not even root can make a folder."""
    path = bench.folder / name
    if place:
        place(path)
    if flag == "--chat_conversation_output_folder":
        out = (flag, path) if name.startswith("/") else ()
        outcome = bench.answer("--limit", 2, *out)
    elif flag in ("--json_output_path", "--sampling_output_folder"):
        outcome = bench.sample(flag, path)
    else:
        outcome = bench.compare(flag, path, npu="not read yet", gpu="nor this")
    assert_refused(outcome, path, found)
    assert not list(bench.folder.rglob("*.part"))
    if place is place_a_file:
        assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("place", "found"), [(Path.mkdir, "is a folder"), (lambda path: path.symlink_to("/proc/no/file"), "cannot be")]
)
def test_a_result_that_could_not_be_written_is_refused_before_any_answer(bench, place, found):
    bench.result.parent.mkdir()
    place(bench.result)
    assert_refused(bench.answer("--limit", 2), bench.result, found)
    assert not bench.journal.exists()


@pytest.mark.parametrize("name", ["x" * 250, "长" * 83, "-rf $(touch x) %s'\";", "\udcff\udcfe"])
def test_folders_may_have_names_that_break_careless_code(bench, name):
    """250 characters, 249 bytes of Chinese, what a shell would take apart, bytes that are no UTF-8."""
    out = bench.folder / name
    rows = bench.rows()
    first = next(iter(rows.values()))["vid_path"]
    (bench.folder / "videos" / first).unlink()  # its failure is told with the path
    bench.folder.joinpath("videos").rename(bench.folder / f"{name[:-1]}v")
    if name.isprintable():  # the tokenizers library takes no path that is not UTF-8, and says so
        bench.model = shutil.copytree(bench.model, bench.folder / f"{name[:-1]}m")
    flags = ("--Eval_Video_root", bench.folder / f"{name[:-1]}v", "--chat_conversation_output_folder", out)
    assert bench.answer(*flags, "--limit", 8).status == 1
    assert len(json.loads((out / f"{SET}_eval.json").read_bytes())) == 8
    bench.write_replies("npu.json")
    bench.write_replies("gpu.json")
    report = out / (name.encode("utf-8", "surrogateescape")[:-6].decode("utf-8", "surrogateescape") + "r.json")
    assert bench.compare("--output_json", report, "--output_html", out / "report.html").status == 0
    assert json.loads(report.read_bytes())["npu"]["total"] == len(rows)


def test_a_name_cannot_steer_the_terminal(bench):
    path = Path(f"{bench.folder}/\x1b[2J\x1b]0;owned\x07/qa")
    outcome = bench.answer("--Eval_QA_root", path)
    assert_refused(outcome, "", r"\\x1b\[2J\\x1b\]0;owned\\x07")
    assert "\x1b" not in outcome.err
    video = PurePosixPath("Eval_video", SET, "\u202egnp.exe\u2066")
    bench.change(vid_path=str(video))
    outcome = bench.answer("--limit", 2)
    assert outcome.status == 1
    assert r"\u202egnp.exe\u2066: no such video" in outcome.err
    assert "\u202e" not in outcome.err


# Root may read everything without these two capabilities.
AS_A_USER = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]


def test_folders_that_may_not_be_read_fail_only_their_own_questions(bench, run_command):
    """One beside the videos, as lost+found on a disk of its own, and one that is a video."""
    videos = [bench.folder / "videos" / each["vid_path"] for each in bench.rows().values()]
    first, other, *_ = dict.fromkeys(videos)
    closed = bench.folder / "videos/lost+found"
    first.unlink()
    other.unlink()
    for folder in (closed, other):
        folder.mkdir(mode=0)
    before = AS_A_USER if os.geteuid() == 0 else []
    done = run_command(*before, sys.executable, "run_gpu.py", *bench.run_flags("--device", "cpu"))
    assert done.returncode == 1, done.stderr
    assert f", {videos.count(first) + videos.count(other)} failed\n" in done.stdout
    assert ".avi: no such video\n" in done.stderr
    assert ".avi: cannot be read (Permission denied); check its permissions\n" in done.stderr
    assert "Traceback" not in done.stderr
    assert "lost+found" not in done.stderr


def test_a_link_to_itself_is_no_folder_of_videos(bench):
    loop = bench.folder / "loop"
    place_a_link_to_itself(loop)
    flags = bench.run_flags()
    at = flags.index("--Eval_Video_root")
    flags[at : at + 2] = ["--image_or_video_path", str(loop)]
    assert_refused(bench.start("run_gpu", *flags), loop, "no such folder of videos; check --image_or_video_path")
