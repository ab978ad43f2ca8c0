"""run_gpu.py and run_npu.py as their users start them: what is answered, fails alone, is refused, resumes."""

import re
import shutil
from pathlib import Path

import pytest

import run_gpu
from tests.support.runs import SET, results
from videobench.data.dataset import load_questions, qa_file, resolve_names
from videobench.errors import InputError


def all_questions(small):
    return load_questions(qa_file(small / "qa", SET), SET, (small / "videos").joinpath)


def test_a_row_says_what_was_asked_and_of_what(small, flags, capsys):
    assert run_gpu.main([*flags, "--limit", "3"]) == 0
    questions = all_questions(small)[:3]
    rows = results(small)
    assert list(rows) == [each.key for each in questions]
    for question, row in zip(questions, rows.values(), strict=True):
        assert row["video_id"] == question.video_id
        assert row["dataset"] == SET
        assert row["choices"] == question.options
        assert row["question"].startswith(question.text)
        assert row["output_sequence"][0] in question.options
        assert list(row["letter_logprobs"]) == list(question.options)
        assert 0.5 < row["option_mass"] <= 1.0001
        assert row["frames_decoded"] == row["frames_stated"] > 0
        assert row["resolution"] == "96x96"
        assert len(row["pixels_sha256"]) == len(row["prompt_sha256"]) == 64
        assert row["run"]["device"] == "cpu"
        assert row["run"]["dtype"] == "float32"
        assert row["run"]["num_frames"] == 8
    assert "answered 3, failed 0" in capsys.readouterr().out


def test_a_finished_run_is_not_repeated_and_a_larger_limit_goes_on(small, flags, monkeypatch, capsys):
    assert run_gpu.main([*flags, "--limit", "3"]) == 0
    before = results(small)
    assert run_gpu.main([*flags, "--limit", "8", "--batch_size", "3"]) == 0  # any batch size goes on
    after = results(small)
    assert {key: after[key] for key in before} == before
    assert len(after) == 8
    monkeypatch.setattr("videobench.model.engine.load_engine", None)  # the weights are not needed
    for limit in ("8", "3"):  # a smaller one does not shrink the result
        assert run_gpu.main([*flags, "--limit", limit]) == 0
        assert results(small) == after
    assert "3 answered, 0 failed, 5 beyond --limit kept\n" in capsys.readouterr().out


@pytest.mark.parametrize("damage", [Path.unlink, lambda video: video.write_bytes(b"no video" * 100)])
def test_a_faulty_video_costs_its_own_questions_and_is_tried_again(small, flags, damage, capsys):
    questions = all_questions(small)
    video = questions[0].video
    content = video.read_bytes()
    damage(video)
    assert run_gpu.main(flags) == 1
    rows = results(small)
    own = {each.key for each in questions if each.video == video}
    assert {key for key, row in rows.items() if "error" in row} == own
    assert all(rows[key]["output_sequence"] == [""] and video.name in rows[key]["error"] for key in own)
    assert len(rows) == len(questions)
    captured = capsys.readouterr()
    assert captured.err.count("failed: ") == len(own)
    assert f"answered {len(questions) - len(own)}, failed {len(own)}" in captured.out

    video.write_bytes(content)
    assert run_gpu.main(flags) == 0
    assert not any("error" in row for row in results(small).values())
    assert {key: row for key, row in results(small).items() if key not in own} == {
        key: row for key, row in rows.items() if key not in own
    }


def test_without_any_video_nothing_is_started(small, flags):
    shutil.rmtree(small / "videos/Eval_video" / SET)
    with pytest.raises(InputError, match="no such video, nor any other"):
        run_gpu.main(flags)
    assert not (small / "out").exists()


@pytest.mark.parametrize(
    ("extra", "found"),
    [
        (["--dtype", "bfloat16"], r"dtype 'float32', now it is 'bfloat16'"),
        (["--max_new_tokens", "2"], "max_new_tokens 60, now it is 2"),
    ],
)
def test_other_settings_are_refused_and_overwrite_starts_anew(small, flags, extra, found):
    run_gpu.main([*flags, "--limit", "2"])
    before = results(small)
    with pytest.raises(InputError, match=found):
        run_gpu.main([*flags, "--limit", "2", *extra])
    assert results(small) == before
    assert run_gpu.main([*flags, "--limit", "2", *extra, "--overwrite"]) == 0
    assert {row["run"][extra[0][2:]] for row in results(small).values()} != {
        before[next(iter(before))]["run"][extra[0][2:]]
    }


def test_a_prompt_that_is_too_long_fails_alone_and_before_the_weights(small, flags, capsys, monkeypatch):
    run_gpu.main(flags)
    lengths = {key: row["prompt_tokens"] for key, row in results(small).items()}
    limit = max(lengths.values()) - 1
    too_long = {key for key, length in lengths.items() if length > limit}
    assert too_long
    assert run_gpu.main([*flags, "--max_input_length", str(limit), "--overwrite"]) == 1
    assert {key for key, row in results(small).items() if "error" in row} == too_long
    monkeypatch.setattr("videobench.model.engine.load_engine", None)
    capsys.readouterr()
    assert run_gpu.main([*flags, "--max_input_length", str(limit), "--dry_run"]) == 1
    captured = capsys.readouterr()
    assert captured.err.count(f"more than --max_input_length {limit}") == len(too_long)
    assert f"{len(too_long)} would fail" in captured.out


def test_a_reply_that_would_leave_the_positions_fails_before_the_weights(small, flags, capsys, monkeypatch):
    run_gpu.main(flags)
    longest = max(row["prompt_tokens"] for row in results(small).values())
    monkeypatch.setattr("videobench.model.engine.load_engine", None)
    flags += ["--chat_conversation_output_folder", str(small / "other")]
    capsys.readouterr()
    assert run_gpu.main([*flags, "--max_new_tokens", str(2048 - longest), "--dry_run"]) == 0
    assert run_gpu.main([*flags, "--max_new_tokens", str(2049 - longest), "--dry_run"]) == 1
    found = f"{2049 - longest} are for the reply and the checkpoint has 2048 positions"
    reason = f"the prompt has {longest} tokens, more than {longest - 1}: "
    assert f"{reason}{found}\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "found"),
    [
        (["--num_frames", "500"], "500 frames take 4500 tokens of the prompt"),
        (["--num_frames", "9" * 12], "999999999999 frames take "),
        (["--max_new_tokens", "2048"], "2048 are for the reply and the checkpoint has 2048 positions: use fewer"),
        (["--max_input_length", "9999"], "the checkpoint has 2048 positions"),
        (["--max_input_length", "20"], "--max_input_length is 20"),
    ],
)
def test_lengths_that_no_prompt_fits_are_refused_before_the_weights(flags, extra, found, monkeypatch):
    monkeypatch.setattr("videobench.model.engine.load_engine", None)
    with pytest.raises(InputError, match=found):
        run_gpu.main([*flags, *extra])


def test_a_dry_run_checks_shows_a_prompt_and_writes_nothing(small, flags, capsys, monkeypatch):
    monkeypatch.setattr("videobench.model.engine.load_engine", None)
    assert run_gpu.main([*flags, "--dry_run"]) == 0
    questions = all_questions(small)
    videos = {each.video for each in questions}
    out = capsys.readouterr().out
    assert f"{SET}: {len(questions)} questions on {len(videos)} videos, 0 would fail" in out
    first = all_questions(small)[0]
    assert re.search(
        rf"first prompt, of {SET}, question {first.key}, has \d+ tokens:\nUSER: <video>\n{first.text}", out
    )
    assert "explanations or additional information. ASSISTANT:\n" in out
    assert not (small / "out").exists()


@pytest.mark.parametrize(("process", "lines"), [("0", 1), ("1", 0)])
def test_a_warning_of_all_processes_is_printed_once(qa_root, capsys, monkeypatch, process, lines):
    monkeypatch.setenv("RANK", process)
    assert resolve_names("all", qa_root)
    assert capsys.readouterr().err.count("; left out\n") == lines
