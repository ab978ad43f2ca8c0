"""A stored reply counts only while its video has the bytes that were seen."""

import hashlib
import json
import os
import shutil

import pytest

import extract_dataset
import run_gpu
from tests.support.runs import SET, results, run_argv, sample_argv
from videobench.data.dataset import load_questions, qa_file
from videobench.video.pixels import PixelSpec
from videobench.video.pool import prepare_video

SPEC = PixelSpec(32, 32, 32, "bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@pytest.fixture
def questions(small):
    return load_questions(qa_file(small / "qa", SET), SET, (small / "videos").joinpath)


def two_videos(questions):
    first = questions[0].video
    return first, next(each.video for each in questions if each.video != first)


def count_replies(small):
    return (small / f"out/journal/{SET}.rank0.jsonl").read_bytes().count(b"\n") - 1


def replace(video, other):
    """Another video under the name, with the same time of modification."""
    times = (video.stat().st_atime_ns, video.stat().st_mtime_ns)
    shutil.copy(other, video)
    os.utime(video, ns=times)


def test_questions_on_a_replaced_video_are_asked_again_and_said_once(small, flags, questions, capsys):
    assert run_gpu.main(flags) == 0
    before, stored = results(small), count_replies(small)
    for each in questions:
        assert before[each.key]["video_sha256"] == hashlib.sha256(each.video.read_bytes()).hexdigest()
    video, other = two_videos(questions)
    own = [each.key for each in questions if each.video == video]
    replace(video, other)
    capsys.readouterr()
    assert run_gpu.main(flags) == 0
    said = "the video has changed since the question was answered; it is asked again"
    assert f"{SET}: {len(own)} questions, first {own[0]}: {said}\n" in capsys.readouterr().err
    after = results(small)
    assert count_replies(small) == stored + len(own)
    assert {key: row for key, row in after.items() if key not in own} == {
        key: row for key, row in before.items() if key not in own
    }
    for key in own:
        assert after[key]["video_sha256"] == hashlib.sha256(other.read_bytes()).hexdigest()
        assert after[key]["pixels_sha256"] != before[key]["pixels_sha256"]
    assert run_gpu.main(flags) == 0
    assert said not in capsys.readouterr().err
    assert results(small) == after
    assert count_replies(small) == stored + len(own)
    video.unlink()  # the reply to the first video does not come back
    assert run_gpu.main(flags) == 0
    assert results(small) == after
    said = "the video cannot be read, so the stored reply cannot be checked; it is kept"
    assert f"{SET}: {len(own)} questions, first {own[0]}: {said}\n" in capsys.readouterr().err


def test_a_video_that_was_only_copied_again_keeps_its_replies(small, flags, questions, capsys):
    assert run_gpu.main(flags) == 0
    before = (small / f"out/{SET}_eval.json").read_bytes()
    video, _ = two_videos(questions)
    video.write_bytes(video.read_bytes())
    assert run_gpu.main(flags) == 0
    assert (small / f"out/{SET}_eval.json").read_bytes() == before
    assert "changed" not in capsys.readouterr().err


def test_a_video_that_is_not_the_one_of_the_samples_manifest_is_answered_and_named(
    tmp_path, qa_root, video_root, tiny_model_path, capsys
):
    drawn = sample_argv(qa_root, video_root, tmp_path, "--datasets", SET, "--nums", 6)
    assert extract_dataset.main(drawn) == 0
    flags = run_argv(tiny_model_path, tmp_path, tmp_path, tmp_path / "out")
    assert run_gpu.main(flags) == 0
    assert "manifest" not in capsys.readouterr().err
    first, second, *_ = sorted((tmp_path / "Eval_video/sampling_data" / SET).iterdir())
    replace(first, second)
    assert run_gpu.main(flags) == 0
    found = f"1 videos, first Eval_video/sampling_data/{SET}/{first.name}, are not those of the sample's manifest"
    assert f"warning: {found}; extract_dataset.py --verify names them all\n" in capsys.readouterr().err
    rows = json.loads((tmp_path / "out/sampling_data_eval.json").read_bytes())
    assert {row["video_sha256"] for row in rows.values() if row["vid_path"].endswith(first.name)} == {
        hashlib.sha256(second.read_bytes()).hexdigest()
    }


def test_a_video_that_changes_while_it_is_read_is_not_answered(tmp_path, questions, monkeypatch):
    from videobench.video import pool as prepared

    video = shutil.copy(questions[0].video, tmp_path)
    sample = prepared.sample_frames

    def then_change(path, *how):
        frames = sample(path, *how)
        path.write_bytes(path.read_bytes() + b"more")
        return frames

    monkeypatch.setattr(prepared, "sample_frames", then_change)
    found = prepare_video(tmp_path / questions[0].video.name, SPEC, 8)
    assert found.error == f"{video}: was changed while it was read; start again when it is whole"


def test_a_known_failure_is_stored_once(small, flags, questions):
    video, _ = two_videos(questions)
    own = [each for each in questions if each.video == video]
    video.write_bytes(b"no video")
    for _ in range(3):
        assert run_gpu.main(flags) == 1
    assert count_replies(small) == len(questions)
    assert len([row for row in results(small).values() if "error" in row]) == len(own)
