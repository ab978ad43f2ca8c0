"""Where files lie: videos outside of their root, folders that refuse, full disks, names that are hard on code."""

import json
import os
import shutil
import subprocess
from pathlib import Path, PurePosixPath

import pytest

from tests.support.fault_tools import SAMPLE, SET, Bench, assert_refused


@pytest.fixture
def bench(tmp_path, capsys):
    return Bench(tmp_path / "数据 set+@", capsys).shorten(24)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte, most of it taken."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no right to mount a small file system: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def leave_only(folder, num_bytes):
    free = shutil.disk_usage(folder).free
    (folder / "ballast").write_bytes(b"x" * (free - num_bytes))


@pytest.mark.parametrize("vid_path", ["../../secret.avi", "/etc/MSVD/passwd"])
def test_a_path_that_leaves_the_video_root_is_refused(bench, vid_path):
    key = bench.change(vid_path=vid_path)
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


def test_with_the_flag_links_are_followed(bench, tmp_path):
    (tmp_path / "outside").mkdir()
    link_folder(bench, None, tmp_path / "outside")
    outcome = bench.answer("--allow_outside_root", "--limit", 3)
    assert outcome.status == 0
    assert "answered 3, failed 0" in outcome.out


def test_links_that_stay_inside_are_followed(bench):
    video = bench.folder / "videos" / next(iter(bench.rows().values()))["vid_path"]
    video.rename(video.with_name("other name.avi"))
    video.symlink_to("other name.avi")
    assert bench.answer("--limit", 3).status == 0


@pytest.mark.parametrize("root", ["--Eval_Video_root", "--image_or_video_path"])
def test_a_sample_of_links_is_answered_by_either_flag(bench, root):
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


@pytest.mark.parametrize("name", ["out", "out/journal"])
def test_an_output_folder_whose_place_a_file_has_is_refused(bench, name):
    path = bench.folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    assert_refused(bench.answer("--limit", 2), path, "cannot be written")
    assert path.read_text() == "mine"


def test_a_result_whose_place_a_folder_has_is_refused(bench):
    bench.result.mkdir(parents=True)
    assert_refused(bench.answer("--limit", 2), bench.result, "cannot be written .Is a directory")
    assert not list(bench.folder.rglob("*.part"))


@pytest.mark.parametrize("flag", ["--output_json", "--report_html"])
def test_a_report_whose_place_a_folder_has_is_refused(bench, flag):
    bench.write_replies("npu.json")
    bench.write_replies("gpu.json")
    path = bench.folder / "report"
    path.mkdir()
    assert_refused(bench.compare(flag, path), path, "is a folder; name a file, as .*/report/report")
    assert not list(bench.folder.rglob("*.part"))


def test_a_report_with_a_name_that_is_too_long_is_refused_before_the_comparison(bench):
    path = bench.folder / f"{'x' * 300}.html"
    outcome = bench.compare("--report_html", path, npu="not read yet", gpu="nor this")
    assert_refused(outcome, "xxx.html", "cannot be written .File name too long.; free space or choose another place")


def test_an_output_folder_that_cannot_be_made_is_refused(bench):
    """Below /proc nobody, not even root, makes a folder."""
    assert_refused(bench.answer("--chat_conversation_output_folder", "/proc/out"), "/proc/out", "cannot be written")
    assert_refused(bench.sample("--json_output_path", "/proc/out"), "/proc/out/sampling_", "cannot be written")
    assert_refused(bench.sample("--sampling_output_folder", "/proc/out"), "/proc/out", "only 0 are free")
    bench.write_replies("npu.json")
    bench.write_replies("gpu.json")
    for flag in ("--output_json", "--output_markdown", "--report_html", "--export_leaderboard"):
        outcome = bench.compare(flag, "/proc/out/report")
        assert_refused(outcome, "/proc/out/report", "cannot be written")
        assert outcome.out == ""  # before the comparison


def test_a_disk_that_fills_up_keeps_what_was_answered(bench, small_disk):
    flags = ("--chat_conversation_output_folder", small_disk / "out")
    leave_only(small_disk, 20 << 10)
    outcome = bench.answer(*flags)
    assert_refused(outcome, f"{small_disk}/out/journal/{SET}.rank0.jsonl", "No space left.*what was answered is kept")
    journal = small_disk / f"out/journal/{SET}.rank0.jsonl"
    kept = journal.read_bytes()
    assert kept.endswith(b"\n")
    assert 2 <= kept.count(b"\n") < len(bench.rows())
    assert not (small_disk / f"out/{SET}_eval.json").exists()
    (small_disk / "ballast").unlink()
    assert bench.answer(*flags).status == 0
    assert journal.read_bytes().startswith(kept)
    assert len(json.loads((small_disk / f"out/{SET}_eval.json").read_bytes())) == len(bench.rows())


def test_a_disk_that_is_full_when_the_result_is_written(bench, small_disk):
    flags = ("--chat_conversation_output_folder", small_disk / "out", "--limit", 8)
    assert bench.answer(*flags).status == 0
    result = small_disk / f"out/{SET}_eval.json"
    before = result.read_bytes()
    leave_only(small_disk, 4096)
    assert_refused(bench.answer(*flags), result, "No space left on device.; free space")
    assert result.read_bytes() == before
    assert not list(small_disk.rglob("*.part"))


def test_a_full_disk_and_the_other_scripts(bench, small_disk):
    leave_only(small_disk, 4096)
    sample = small_disk / "sample"
    assert_refused(bench.sample("--sampling_output_folder", sample), sample, "bytes, but only 4096 are free")
    assert_refused(bench.sample("--json_output_path", sample), sample, "cannot be written .No space left on device")
    bench.write_replies("npu.json")
    bench.write_replies("gpu.json")
    for flag in ("--output_json", "--report_html"):
        path = small_disk / "report"
        assert_refused(bench.compare(flag, path), path, "No space left on device.; free space")
        assert not path.exists()


@pytest.mark.parametrize("name", ["x" * 250, "长" * 83, "-rf $(touch x) %s'\";", "\udcff\udcfe"])
def test_folders_with_names_that_are_hard_on_code(bench, name):
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
    assert bench.compare("--output_json", report, "--report_html", out / "report.html").status == 0
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
