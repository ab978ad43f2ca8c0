"""All sets of Video-Bench at once, and a sample of them: each question once, and Video-Bench's own tools can go on.

On the small data set always; where VIDEO_BENCH_QA names the folder of the real QA files, on a stand-in for the whole
benchmark too."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

import extract_dataset
import run_gpu
from videobench.data.dataset import DATASET_NAMES, LETTERS, load_questions, qa_file
from videobench.data.letters import read_letter
from videobench.errors import InputError
from videobench.files import sha256_of_file

TWINS = ("NBA", "Driving-decision-making")  # ids and file names of one are in the other too
REAL_QA = os.environ.get("VIDEO_BENCH_QA", "")
needs_real_qa = pytest.mark.skipif(not REAL_QA, reason="VIDEO_BENCH_QA does not name the folder of the real QA files")


def run(model_path, qa_root, video_root, out, names, *flags):
    argv = ["--model_path", model_path, "--Eval_QA_root", qa_root, "--Eval_Video_root", video_root]
    argv += ["--chat_conversation_output_folder", out, "--dataset_name", names, "--device", "cpu"]
    return run_gpu.main([str(each) for each in (*argv, "--num_frames", 2, "--num_workers", 0, *flags)])


def questions_of(qa_root, names):
    return {name: {each.id: each for each in load_questions(qa_file(qa_root, name), name, Path)} for name in names}


def assert_complete(submission, questions):
    assert submission.keys() == questions.keys()
    for name, rows in submission.items():
        assert rows.keys() == questions[name].keys()
        for id, row in rows.items():
            assert (row["dataset"], row["video_id"]) == (name, questions[name][id].video_id)
            assert row["question"].startswith(questions[name][id].text)
            assert row["output_chatgpt_choice"] in LETTERS  # of a question with B and C alone the small model may say A


def judge_all(results, judged):
    """Video-Bench's second step: each reply of each `*_eval.json` to a judge, each verdict to a file of its own.

    Its judge is a chat model that is shown the reply and the question; here one that reads the letter."""
    for file in results.glob("*_eval.json"):
        folder = judged / file.name.replace("_eval.json", "_chatgpt_eval")
        folder.mkdir(parents=True)
        for id, row in json.loads(file.read_text(encoding="utf-8")).items():
            assert row["question"]
            choice = read_letter(row["output_sequence"][0], row["choices"]) or "A"
            (folder / f"{id}.json").write_text(json.dumps({id: row | {"output_chatgpt_choice": choice}}))


def merge(judged):
    """Video-Bench's third step: all verdicts in one object, data set -> question id -> row."""
    submission = {}
    for folder in os.listdir(judged):
        rows = {}
        for file in (judged / folder).glob("*.json"):
            rows.update(json.loads(file.read_text()))
        submission[folder.replace("_chatgpt_eval", "")] = rows
    return submission


def test_video_benchs_own_steps_join_the_result_folder(tmp_path, tiny_model_path, qa_root, video_root):
    assert run(tiny_model_path, qa_root, video_root, tmp_path / "out", ",".join(TWINS)) == 0
    judge_all(tmp_path / "out", tmp_path / "judged")
    submission = merge(tmp_path / "judged")
    assert_complete(submission, questions_of(qa_root, TWINS))
    shared = submission["NBA"].keys() & submission["Driving-decision-making"].keys()
    assert len(shared) > 30
    assert all(submission["NBA"][id]["question"] != submission[TWINS[1]][id]["question"] for id in shared)


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


def draw(qa_root, video_root, folder, *flags):
    argv = ["--Eval_QA_root", qa_root, "--Eval_Video_root", video_root, "--json_output_path", folder / "qa/Eval_QA"]
    argv += ["--sampling_output_folder", folder / "videos/Eval_video", *flags]
    assert extract_dataset.main([str(each) for each in argv]) == 0
    return folder / "qa/Eval_QA"


def test_a_run_stores_the_identity_of_its_sample(tmp_path, tiny_model_path, qa_root, video_root, capsys):
    json_folder = draw(qa_root, video_root, tmp_path, "--nums", "5")
    manifest = json_folder / "sampling_manifest.json"
    arguments = (tiny_model_path, tmp_path / "qa", tmp_path / "videos", tmp_path / "out", "sampling_data")
    assert run(*arguments, "--dry_run") == 0
    assert sha256_of_file(manifest) in capsys.readouterr().out
    assert run(*arguments) == 0
    rows = json.loads((tmp_path / "out/sampling_data_eval.json").read_text())
    assert {row["run"]["manifest_sha256"] for row in rows.values()} == {sha256_of_file(manifest)}
    assert (
        extract_dataset.main(["--verify", str(manifest), "--sampling_output_folder", f"{tmp_path}/videos/Eval_video"])
        == 0
    )

    qa_path = json_folder / "sampling_datasets_QA_new.json"
    qa_path.write_text(qa_path.read_text() + " ")
    for flags in (["--dry_run"], ["--overwrite"]):
        with pytest.raises(InputError, match=r"QA_new\.json: not the file that sampling_manifest\.json .* was written"):
            run(*arguments, *flags)
    manifest.unlink()
    assert run(*arguments, "--overwrite") == 0
    rows = json.loads((tmp_path / "out/sampling_data_eval.json").read_text())
    assert not any("manifest_sha256" in row["run"] for row in rows.values())


def test_another_set_has_no_manifest_though_one_lies_beside_it(tmp_path, tiny_model_path, qa_root, video_root):
    json_folder = draw(qa_root, video_root, tmp_path, "--nums", "5")
    shutil.copy(qa_file(qa_root, "MOT"), json_folder)
    assert run(tiny_model_path, tmp_path / "qa", video_root, tmp_path / "out", "MOT", "--limit", "1") == 0
    rows = json.loads((tmp_path / "out/MOT_eval.json").read_text())
    assert not any("manifest_sha256" in row["run"] for row in rows.values())


def test_the_plan_of_a_run(tmp_path, tiny_model_path, qa_root, video_root, capsys):
    config = json.loads((tiny_model_path / "config.json").read_text())
    text, vision = config["text_config"], config["vision_config"]
    frame_tokens = (vision["image_size"] // vision["patch_size"] // config["spatial_pool_stride"]) ** 2
    values = text["num_hidden_layers"] * text["num_key_value_heads"] * text["head_dim"]
    bytes_per_token = 2 * values * 4  # keys and values, in float32
    assert run(tiny_model_path, qa_root, video_root, tmp_path, ",".join(TWINS), "--dry_run", "--batch_size", "4") == 0
    out = capsys.readouterr().out
    questions = [each for rows in questions_of(qa_root, TWINS).values() for each in rows.values()]
    videos = {each.video for each in questions}
    assert f"all 2 sets: {len(questions)} questions on {len(videos)} videos, 0 would fail" in out
    computed, saved = (int(part.split(": ")[-1].split(" ")[-1]) for part in tokens_line(out))
    before_video = computed // len(videos) - 2 * frame_tokens  # the template's tokens before the first frame
    assert 0 <= before_video < 10
    assert computed == len(videos) * (before_video + 2 * frame_tokens)
    assert saved == (len(questions) - len(videos)) * (before_video + 2 * frame_tokens)
    [line] = [line for line in out.splitlines() if line.startswith("memory")]
    longest = int(line.split("(at most ")[1].split(" + 60")[0])
    in_text = (computed // len(videos)) * (8 * text["hidden_size"] + 3 * text["intermediate_size"])
    patches = 2 * ((vision["image_size"] // vision["patch_size"]) ** 2 + 1)
    in_vision = patches * (8 * vision["hidden_size"] + 2 * vision["intermediate_size"])
    pixels = 2 * 3 * vision["image_size"] ** 2
    each = (longest + 60) * bytes_per_token + 4 * (in_text + in_vision) + (4 + 2) * pixels
    assert f"up to {each / 1e6:.2f} MB for each question" in line
    assert f"{4 * each / 1e6:.2f} MB in all" in line
    assert "on one core, if it does 0.09 TFLOP/s (assumed)" in out


def tokens_line(out):
    [line] = [line for line in out.splitlines() if line.startswith("video tokens")]
    return line.split(", ")


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory, video_root):
    """The real QA files, an answer made up for each question, and for each video a clip with its own name in it."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "Video-Bench").mkdir()
    (folder / "Video-Bench/Eval_QA").symlink_to(Path(REAL_QA).resolve())
    clip = min((video_root / "Eval_video").rglob("*.mp4"), key=lambda path: path.stat().st_size).read_bytes()
    answers = {}
    for name in DATASET_NAMES:
        for each in load_questions(Path(REAL_QA) / f"{name}_QA_new.json", name, (folder / "VideoBench").joinpath):
            answers.setdefault(name, {})[each.id] = next(iter(each.options))
            each.video.parent.mkdir(parents=True, exist_ok=True)
            note = each.vid_path.encode()
            each.video.write_bytes(clip + (8 + len(note)).to_bytes(4, "big") + b"free" + note)
    (folder / "Video-Bench/ANSWER.json").write_text(json.dumps(answers))
    return folder


@pytest.mark.slow
@needs_real_qa
def test_every_sampled_video_is_byte_equal_to_its_original(stand_in, tmp_path):
    draw(stand_in / "Video-Bench", stand_in / "VideoBench", tmp_path, "--nums", "17036")
    rows = json.loads((tmp_path / "qa/Eval_QA/sampling_datasets_QA_new.json").read_text())
    assert len(rows) == 17036
    assert Counter(key.split("/")[0] for key in rows)["Ucfcrime"] == 290
    names = Counter()
    for dataset, vid_path in {(row["dataset"], row["vid_path"]) for row in rows.values()}:
        assert vid_path.split("/")[:3] == ["Eval_video", "sampling_data", dataset]
        original = stand_in / "VideoBench" / vid_path.replace("Eval_video/sampling_data", "Eval_video")
        assert (tmp_path / "videos" / vid_path).read_bytes() == original.read_bytes(), vid_path
        names.update([Path(vid_path).name] if vid_path.split("/")[2] in TWINS else [])
    assert sum(count == 2 for count in names.values()) == 34


@pytest.mark.slow
@needs_real_qa
def test_every_question_of_the_13_sets_is_answered_once(stand_in, tmp_path, tiny_model_path):
    qa_root = stand_in / "Video-Bench"
    assert run(tiny_model_path, qa_root, stand_in / "VideoBench", tmp_path / "out", "all", "--num_workers", 2) == 0
    assert len(list((tmp_path / "out").glob("*_eval.json"))) == 13
    judge_all(tmp_path / "out", tmp_path / "judged")
    submission = merge(tmp_path / "judged")
    assert sum(map(len, submission.values())) == 17036
    assert_complete(submission, questions_of(qa_root, DATASET_NAMES))
