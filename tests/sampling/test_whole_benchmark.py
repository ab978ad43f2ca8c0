"""Several sets of Video-Bench at once, and a sample of them: Video-Bench's own tools can go on with the result files, a
set that is missing costs its questions only, a run knows which sample it answered, and --dry_run counts tokens."""

import json
import shutil
from pathlib import Path

import pytest

import extract_dataset
import run_gpu
from tests.support.runs import run_argv, sample_argv
from videobench.data.dataset import load_questions, qa_file
from videobench.errors import InputError
from videobench.files import sha256_of_file

TWINS = ("NBA", "Driving-decision-making")  # ids and file names of one are in the other too


def run(model_path, qa_root, video_root, out, names, *flags):
    return run_gpu.main(
        run_argv(model_path, qa_root, video_root, out, "--dataset_name", names, "--num_frames", 2, *flags)
    )


def draw(qa_root, video_root, folder):
    """Five questions; their folder."""
    assert extract_dataset.main(sample_argv(qa_root, video_root, folder, "--nums", 5)) == 0
    return folder / "Eval_QA"


def questions_of(qa_root, names):
    return {name: {each.id: each for each in load_questions(qa_file(qa_root, name), name, Path)} for name in names}


def test_video_benchs_own_steps_find_each_question_in_the_result_folder(tmp_path, tiny_model_path, qa_root, video_root):
    """They take the set from a file's name and show reply and question of each row to a judge."""
    assert run(tiny_model_path, qa_root, video_root, tmp_path / "out", "NBA,Driving_decision_making") == 0
    submission = {
        path.name.replace("_eval.json", ""): json.loads(path.read_text(encoding="utf-8"))
        for path in (tmp_path / "out").glob("*_eval.json")
    }
    questions = questions_of(qa_root, TWINS)
    assert submission.keys() == questions.keys()
    for name, rows in submission.items():
        assert rows.keys() == questions[name].keys()
        for id, row in rows.items():
            assert (row["dataset"], row["video_id"]) == (name, questions[name][id].video_id)
            assert row["question"].startswith(questions[name][id].text)
            assert isinstance(row["output_sequence"][0], str)
    shared = submission["NBA"].keys() & submission[TWINS[1]].keys()
    assert len(shared) > 30
    assert all(submission["NBA"][id]["question"] != submission[TWINS[1]][id]["question"] for id in shared)


def test_a_dry_run_counts_the_tokens_of_each_video_once(tmp_path, tiny_model_path, qa_root, video_root, capsys):
    """Two more frames are 18 more tokens for each video, not for each question."""
    questions = [each for rows in questions_of(qa_root, TWINS).values() for each in rows.values()]
    videos = {each.video for each in questions}
    computed = []
    for num_frames in (2, 4):
        flags = ("--num_frames", num_frames, "--dry_run")
        assert run(tiny_model_path, qa_root, video_root, tmp_path, ",".join(TWINS), *flags) == 0
        out = capsys.readouterr().out
        assert f"all 2 sets: {len(questions)} questions on {len(videos)} videos, 0 would fail" in out
        computed += [int(line.split()[0]) for line in out.splitlines() if " tokens to compute" in line]
    assert computed[1] - computed[0] == 18 * len(videos)


@pytest.mark.parametrize("flag", ["--Eval_Video_root", "--image_or_video_path"])
def test_a_set_that_is_not_there_costs_its_questions_only(tmp_path, tiny_model_path, qa_root, video_root, capsys, flag):
    shutil.copytree(video_root / "Eval_video/Ucfcrime", tmp_path / "VideoBench/Eval_video/Ucfcrime")
    missing = sorted((tmp_path / "VideoBench/Eval_video/Ucfcrime").iterdir())[0]
    missing.unlink()
    place = tmp_path / "VideoBench" / ("Eval_video" if flag == "--image_or_video_path" else "")
    argv = ["--model_path", tiny_model_path, "--Eval_QA_root", qa_root, flag, place, "--num_workers", 0]
    argv += ["--device", "cpu", "--chat_conversation_output_folder", tmp_path / "out", "--dataset_name", "Ucfcrime,NBA"]
    argv = [str(each) for each in argv]
    assert run_gpu.main([*argv, "--dry_run"]) == 1
    nba = json.loads(qa_file(qa_root, "NBA").read_text())
    num_videos = len({row["vid_path"] for row in nba.values()})
    out = capsys.readouterr().out
    assert "Ucfcrime: 8 questions on 8 videos, 1 would fail (1 videos missing)\n" in out
    assert (
        f"NBA: {len(nba)} questions on {num_videos} videos, {len(nba)} would fail ({num_videos} videos missing)" in out
    )
    assert run_gpu.main(argv) == 1
    assert f"answered 7, failed {len(nba) + 1}" in capsys.readouterr().out
    crime = json.loads((tmp_path / "out/Ucfcrime_eval.json").read_text())
    [failed] = [row for row in crime.values() if "error" in row]
    assert failed["error"] == f"Eval_video/Ucfcrime/{missing.name}: no such video"
    lost = json.loads((tmp_path / "out/NBA_eval.json").read_text())
    assert lost.keys() == nba.keys()
    assert all("no such video" in row["error"] and row["output_sequence"] == [""] for row in lost.values())


def test_a_run_stores_the_identity_of_its_sample(tmp_path, tiny_model_path, qa_root, video_root, capsys):
    json_folder = draw(qa_root, video_root, tmp_path)
    manifest = json_folder / "sampling_manifest.json"
    arguments = (tiny_model_path, tmp_path, tmp_path, tmp_path / "out", "sampling_data")
    assert run(*arguments, "--dry_run") == 0
    assert sha256_of_file(manifest) in capsys.readouterr().out
    assert run(*arguments) == 0
    rows = json.loads((tmp_path / "out/sampling_data_eval.json").read_text())
    assert {row["run"]["manifest_sha256"] for row in rows.values()} == {sha256_of_file(manifest)}
    assert extract_dataset.main(["--verify", str(manifest), "--sampling_output_folder", f"{tmp_path}/Eval_video"]) == 0

    qa_path = json_folder / "sampling_datasets_QA_new.json"
    qa_path.write_text(qa_path.read_text() + " ")
    for flags in (["--dry_run"], ["--overwrite"]):
        with pytest.raises(InputError, match=r"QA_new\.json: not the file that sampling_manifest\.json .* was written"):
            run(*arguments, *flags)
    manifest.unlink()
    assert run(*arguments, "--overwrite") == 0
    rows = json.loads((tmp_path / "out/sampling_data_eval.json").read_text())
    assert not any("manifest_sha256" in row["run"] for row in rows.values())


def test_a_manifest_says_nothing_about_another_set_beside_it(tmp_path, tiny_model_path, qa_root, video_root):
    json_folder = draw(qa_root, video_root, tmp_path)
    shutil.copy(qa_file(qa_root, "MOT"), json_folder)
    assert run(tiny_model_path, tmp_path, video_root, tmp_path / "out", "MOT", "--limit", "1") == 0
    rows = json.loads((tmp_path / "out/MOT_eval.json").read_text())
    assert not any("manifest_sha256" in row["run"] for row in rows.values())
