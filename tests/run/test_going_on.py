"""A run that goes on: which stored replies still count after an enlarged sample, another release, another prompt or
another video, what it says of them, and what is left."""

import hashlib
import json
import os
import re
import shutil

import pytest

import extract_dataset
import run_gpu
from tests.support.runs import SET, results, run_argv, sample_argv
from videobench.data.dataset import load_questions, qa_file
from videobench.errors import InputError
from videobench.video import pool
from videobench.video.pixels import PixelSpec

FIRST = 8  # questions: all 6 on the first video, 2 of the 5 on the second


@pytest.fixture
def answer(flags, capsys):
    """(status, stdout, stderr) of run_gpu.py."""

    def run(*more):
        capsys.readouterr()
        status = run_gpu.main([*flags, *map(str, more)])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def journal(small):
    return small / f"out/journal/{SET}.rank0.jsonl"


@pytest.fixture
def questions(small):
    return load_questions(qa_file(small / "qa", SET), SET, (small / "videos").joinpath)


@pytest.fixture
def two_videos(questions):
    """The first one, with the keys of its questions, and another one."""
    first = questions[0].video
    other = next(each.video for each in questions if each.video != first)
    return first, [each.key for each in questions if each.video == first], other


def keys(journal):
    """Return the keys of the stored replies, in the order of the journal."""
    return [json.loads(line)["key"] for line in journal.read_text().splitlines()[1:]]


def change(journal, numbers, **fields):
    """Write other values into the rows of these lines of a journal; a dict changes entries of the row's own."""
    first, *lines = journal.read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    for number in numbers:
        row = entries[number]["row"]
        for name, value in fields.items():
            row[name] = row[name] | value if isinstance(value, dict) else value
    journal.write_text("\n".join([first, *map(json.dumps, entries)]) + "\n")
    return [entries[number]["key"] for number in numbers]


def replace(video, other):
    """Another video under the name, with the same time of modification."""
    times = (video.stat().st_atime_ns, video.stat().st_mtime_ns)
    shutil.copy(other, video)
    os.utime(video, ns=times)


# --- Another sample ---


def test_of_an_enlarged_sample_only_what_is_new_is_asked_and_a_smaller_one_takes_its_part(
    tmp_path, qa_root, video_root, tiny_model_path, capsys
):
    def draw_and_answer(nums, out="out"):
        drawn = sample_argv(qa_root, video_root, tmp_path, "--datasets", "MSVD,NBA", "--nums", nums)
        assert extract_dataset.main(drawn) == 0
        capsys.readouterr()
        assert run_gpu.main(run_argv(tiny_model_path, tmp_path, tmp_path, tmp_path / out)) == 0
        return results(tmp_path, "sampling_data"), "".join(capsys.readouterr())

    journal = tmp_path / "out/journal/sampling_data.rank0.jsonl"
    small, _ = draw_and_answer(30)
    large, said = draw_and_answer(60)
    assert list(large)[:30] == list(small)
    assert sorted(keys(journal)[:30]) == sorted(small)
    assert sorted(keys(journal)[30:]) == sorted(set(large) - set(small))
    assert {key: large[key] for key in small} == small
    assert len({row["run"]["qa_sha256"] for row in large.values()}) == 2  # each row says which file it was read from
    assert "changed" not in said

    part, said = draw_and_answer(5)
    assert part == dict(list(large.items())[:5])
    kept = "5 answered, 0 failed; 55 replies to questions that are not asked any more stay in its journal alone\n"
    assert kept in said
    again, said = draw_and_answer(60)
    assert again == large
    assert "any more" not in said
    assert len(keys(journal)) == 60

    draw_and_answer(60, "at once")
    at_once = json.loads((tmp_path / "at once/sampling_data_eval.json").read_bytes())
    assert list(at_once) == list(large)
    assert [row["output_sequence"] for row in at_once.values()] == [row["output_sequence"] for row in large.values()]


def test_a_dry_run_says_what_is_left(answer, small):
    def tokens_to_compute(out):
        return int(re.search(r"^(\d+) tokens to compute; ", out, re.MULTILINE)[1])

    _, whole, _ = answer("--limit", 11, "--dry_run")
    assert "answered already" not in whole
    answer("--limit", 6)
    before = sorted((path, path.stat().st_mtime_ns) for path in small.rglob("*"))
    status, out, _ = answer("--limit", 11, "--dry_run")
    assert status == 0
    assert f"{small}/out: 6 answered already, 5 to answer\n" in out
    assert "time: below a minute on one core" in out
    assert tokens_to_compute(out) < tokens_to_compute(whole)
    _, out, _ = answer("--limit", 6, "--dry_run")
    assert f"{small}/out: 6 answered already, 0 to answer\n" in out
    assert "time: " not in out
    with pytest.raises(InputError, match="was begun with num_frames 8, now it is 4; use the former"):
        answer("--num_frames", 4, "--dry_run")
    _, out, _ = answer("--limit", 6, "--dry_run", "--overwrite")
    assert "answered already" not in out
    assert sorted((path, path.stat().st_mtime_ns) for path in small.rglob("*")) == before


# --- Another release, another prompt ---


def test_stored_replies_of_other_releases_are_kept_and_said_in_one_line(answer, journal, small):
    answer("--limit", FIRST)
    now = next(iter(results(small).values()))["run"]
    assert {"torch", "transformers", "av"} <= now.keys()
    _, _, said = answer("--limit", FIRST)
    assert "releases" not in said
    change(journal, range(3), run={"torch": "2.4.0"})
    change(journal, range(3, 5), run={"transformers": "4.50.0", "av": "16.0.0"})
    _, _, said = answer("--limit", FIRST)
    assert (
        f"stored replies of other releases are kept: 3 of torch 2.4.0 (now {now['torch']}); 2 of transformers 4.50.0 "
        f"(now {now['transformers']}), av 16.0.0 (now {now['av']}); --overwrite answers all with one\n"
    ) in said
    assert f"{FIRST} kept, 0 to answer\n" in said


def test_a_reply_to_another_prompt_is_asked_again(answer, journal, small):
    answer("--limit", FIRST)
    before = results(small)
    [key] = change(journal, [1], prompt_sha256="0" * 64, output_sequence=["of another template"])
    status, _, said = answer("--limit", FIRST)
    assert status == 0
    assert f"{SET}: 1 questions, first {key}: its prompt has other token ids now (tokenizer, template or" in said
    assert results(small) == before


# --- Another video ---


def test_questions_on_a_replaced_video_are_asked_again_and_said_once(answer, small, journal, questions, two_videos):
    assert answer()[0] == 0
    before, stored = results(small), keys(journal)
    for each in questions:
        assert before[each.key]["video_sha256"] == hashlib.sha256(each.video.read_bytes()).hexdigest()
    video, own, other = two_videos
    replace(video, other)
    changed = "the video has changed since the question was answered; it is asked again"
    assert f"{SET}: {len(own)} questions, first {own[0]}: {changed}\n" in answer()[2]
    after = results(small)
    assert {key for key in after if after[key] != before[key]} == set(own)
    assert sorted(keys(journal)) == sorted([*stored, *own])
    for key in own:
        assert after[key]["video_sha256"] == hashlib.sha256(other.read_bytes()).hexdigest()
        assert after[key]["pixels_sha256"] != before[key]["pixels_sha256"]
    assert changed not in answer()[2]
    assert (results(small), len(keys(journal))) == (after, len(stored) + len(own))
    video.unlink()  # the reply to the first video does not come back
    status, _, said = answer()
    assert (status, results(small)) == (0, after)
    gone = "the video cannot be read, so the stored reply cannot be checked; it is kept"
    assert f"{SET}: {len(own)} questions, first {own[0]}: {gone}\n" in said


def test_a_video_that_was_only_copied_again_keeps_its_replies(answer, small, two_videos):
    assert answer()[0] == 0
    before = results(small)
    video, _, _ = two_videos
    video.write_bytes(video.read_bytes())
    status, _, said = answer()
    assert (status, results(small)) == (0, before)
    assert "changed" not in said


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
    rows = results(tmp_path, "sampling_data")
    assert {row["video_sha256"] for row in rows.values() if row["vid_path"].endswith(first.name)} == {
        hashlib.sha256(second.read_bytes()).hexdigest()
    }


def test_a_video_that_changes_while_it_is_read_is_not_answered(tmp_path, two_videos, monkeypatch):
    video, sample = tmp_path / "video.mp4", pool.sample_frames
    shutil.copy(two_videos[0], video)

    def then_change(path, *how):
        frames = sample(path, *how)
        path.write_bytes(path.read_bytes() + b"more")
        return frames

    monkeypatch.setattr(pool, "sample_frames", then_change)
    spec = PixelSpec(32, 32, 32, "bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    found = pool.prepare_video(video, spec, 8)
    assert found.error == f"{video}: was changed while it was read; start again when it is whole"
