"""--verify: a sample that was carried to another machine is the one that was made, or each wrong file is named."""

import json
import os
import shutil

import pytest

import extract_dataset
from tests.support.stand_in import extract
from videobench.errors import InputError


@pytest.fixture
def sample(benchmark):
    extract(benchmark, "--nums", "20")
    return benchmark / "sample"


def verify(manifest, *flags):
    return extract_dataset.main(["--verify", str(manifest), "--num_workers", "2", *map(str, flags)])


@pytest.mark.parametrize(
    ("json_folder", "video_folder", "named"),
    [
        pytest.param("json", "Eval_video/sampling_data", None, id="as-it-was-made"),
        pytest.param("all", "all/sampling_data", None, id="in-one-folder"),
        pytest.param("Video-Bench/Eval_QA", "VideoBench/Eval_video/sampling_data", None, id="as-in-the-readme"),
        pytest.param("here", "there/and far away/sampling_data", "there/and far away", id="named-by-its-flag"),
        pytest.param("here", "there/sampling_data", "there/sampling_data", id="named-itself"),
    ],
)
def test_a_sample_verifies_wherever_it_was_carried(sample, tmp_path, json_folder, video_folder, named, capsys):
    carried = tmp_path / "数据 +@"
    shutil.copytree(sample / "json", carried / json_folder)
    shutil.copytree(sample / "Eval_video/sampling_data", carried / video_folder)
    shutil.rmtree(sample)
    flags = ["--sampling_output_folder", carried / named] if named else []
    assert verify(carried / json_folder / "sampling_manifest.json", *flags) == 0
    assert f"the sample is whole: 10 videos (150 bytes) in {carried / video_folder}" in capsys.readouterr().out


def change_one_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage", "found"),
    [
        pytest.param("Eval_video/sampling_data/NBA/3.mp4", change_one_byte, "has other content", id="byte-of-a-video"),
        pytest.param("json/sampling_answer.json", change_one_byte, "has other content", id="byte-of-the-answers"),
        pytest.param(
            "json/sampling_answer.json",
            lambda path: path.unlink() or os.mkfifo(path),
            "cannot be read (Not a regular file)",
            id="a-pipe-as-answers",
        ),
        pytest.param(
            "Eval_video/sampling_data/NBA/3.mp4", lambda path: path.write_bytes(b"NB"), "has 2 bytes, not 5", id="cut"
        ),
        pytest.param("Eval_video/sampling_data/NBA/3.mp4", lambda path: path.unlink(), "missing", id="no-video"),
        pytest.param(
            "Eval_video/sampling_data/NBA/3.mp4",
            lambda path: path.unlink() or path.symlink_to("/other machine/3.mp4"),
            "is a link to /other machine/3.mp4, which is missing; cp -rL ",
            id="a-link-of-the-other-machine",
        ),
        pytest.param(
            "Eval_video/sampling_data/NBA/3.mp4",
            lambda path: path.unlink() or os.mkfifo(path),
            "has 0 bytes, not 5",
            id="a-pipe",
        ),
    ],
)
def test_one_wrong_file_is_named(sample, name, damage, found, capsys):
    damage(sample / name)
    with pytest.raises(InputError, match=r"sampling_manifest\.json: 1 of 12 files of the sample are wrong"):
        verify(sample / "json/sampling_manifest.json")
    said = capsys.readouterr()
    [wrong] = said.err.splitlines()
    assert said.out == ""
    assert wrong.startswith(f"wrong: {sample / name}: {found}")


def test_every_wrong_file_is_named_and_none_can_steer_the_terminal(sample, capsys):
    manifest, videos = sample / "json/sampling_manifest.json", sample / "Eval_video/sampling_data"
    manifest.write_text(manifest.read_text().replace("NBA/3.mp4", "NBA/\u202e4pm.3"))
    shutil.copy(videos / "NBA/1.mp4", videos / "NBA/2.mp4")  # of the same size
    with pytest.raises(InputError, match="2 of 12 files"):
        verify(manifest)
    assert r"NBA/\u202e4pm.3: missing" in capsys.readouterr().err
    videos.rename(sample / "videos")
    with pytest.raises(InputError, match=r"found no folder .*Eval_video/sampling_data.* with --sampling_output_folder"):
        verify(manifest)
    with pytest.raises(InputError, match="elsewhere/sampling_data"):
        verify(manifest, "--sampling_output_folder", "elsewhere")


def of_videos(sizes):
    return {"videos_bytes": sizes, "videos_sha256": dict.fromkeys(sizes, "0")}


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        pytest.param({"outputs_sha256": {"..": "0"}}, "'..' is not a path", id="json-is-two-dots"),
        pytest.param({"videos_folder": "/etc"}, "'/etc' is not a path", id="absolute-folder"),
        pytest.param({"videos_folder": "../.."}, "'../..' is not a path", id="folder-above"),
        pytest.param(of_videos({"/etc/passwd": 1}), "'/etc/passwd' is not a path", id="absolute-video"),
        pytest.param(of_videos({"MSVD/../../../a": 1}), "is not a path", id="video-above"),
        pytest.param(of_videos({"MSVD/\x1b[2J.avi": 1}), r"x1b\[2J.avi' is not a path", id="video-that-clears"),
        pytest.param(of_videos({}), "does not describe a whole sample", id="no-videos"),
        pytest.param(of_videos({"MSVD/\ud83d.avi": 1}), "surrogates not allowed", id="half-a-character"),
        pytest.param(of_videos({"MSVD/a.avi": None}), "not the sampling_manifest.json of a sample", id="null-size"),
        pytest.param({"videos_bytes": {}}, "not the sampling_manifest.json of a sample", id="no-sizes"),
    ],
)
def test_a_manifest_of_anything_but_a_sample_is_refused(sample, changed, found):
    path = sample / "json/sampling_manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(InputError, match=rf"sampling_manifest\.json: .*{found}"):
        verify(path)


def test_a_json_file_in_a_folder_below_the_manifest_is_missing(sample, capsys):
    path = sample / "json/sampling_manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"outputs_sha256": {"a/b": "0"}}))
    with pytest.raises(InputError, match="1 of 11 files"):
        verify(path)
    assert f"wrong: {sample}/json/a/b: missing" in capsys.readouterr().err


def test_another_file_is_no_manifest(sample):
    for name, found in (("missing.json", "cannot be read"), ("sampling_answer.json", "not the sampling_manifest.json")):
        with pytest.raises(InputError, match=rf"{name}: .*{found}"):
            verify(sample / "json" / name)
