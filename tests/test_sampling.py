"""The sample: exactly as many questions as asked for, each with its own video and answer, the same on every machine."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

import extract_dataset
from videobench.dataset import DATASET_NAMES, load_answers, load_questions, qa_file
from videobench.errors import InputError
from videobench.files import sha256_of_file


@pytest.fixture
def benchmark(tmp_path):
    """NBA and Driving-decision-making share ids and file names, as in the real data; ten questions in each."""
    answers = {}
    for name in ("NBA", "Driving-decision-making"):
        rows = {}
        for number in range(10):
            video = tmp_path / "VideoBench" / "Eval_video" / name / f"{number // 2}.mp4"
            video.parent.mkdir(parents=True, exist_ok=True)
            video.write_bytes(f"{name} {number // 2}".encode())
            rows[str(number)] = {
                "vid_path": f"Eval_video/{name}/{video.name}",
                "video_id": str(number // 2),
                "question": f"{name} question {number}",
                "choices": {"A": "yes", "B": None, "C": 3},
            }
            answers.setdefault(name, {})[str(number)] = {"answer": "AC"[number % 2]}
        path = qa_file(tmp_path / "Video-Bench", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows))
    (tmp_path / "Video-Bench" / "ANSWER.json").write_text(json.dumps(answers))
    return tmp_path


def extract(folder, *flags, out="sample"):
    return extract_dataset.main(
        [
            *("--Eval_QA_root", f"{folder}/Video-Bench", "--Eval_Video_root", f"{folder}/VideoBench"),
            *("--sampling_output_folder", f"{folder}/{out}/Eval_video", "--json_output_path", f"{folder}/{out}/json"),
            *("--correct_answer_file", f"{folder}/Video-Bench/ANSWER.json", *flags),
        ]
    )


def read(folder, name, out="sample"):
    return json.loads((folder / out / "json" / name).read_text())


def test_every_sampled_question_has_its_own_video_and_answer(benchmark, capsys):
    assert extract(benchmark, "--nums", "20") == 0
    rows = read(benchmark, "sampling_datasets_QA_new.json")
    answers = load_answers(benchmark / "sample" / "json" / "sampling_answer.json")
    assert len(rows) == len(answers) == 20
    for key, row in rows.items():
        dataset, id = key.split("/")
        assert row["dataset"] == dataset
        assert row["vid_path"] == f"Eval_video/sampling_data/{dataset}/{int(id) // 2}.mp4"
        assert (benchmark / "sample" / row["vid_path"]).read_text() == f"{dataset} {int(id) // 2}"
        assert row["choices"] == {"A": "yes", "B": None, "C": 3}
        assert answers[dataset, id] == "AC"[int(id) % 2]
    assert "sampled 20 questions on 10 videos" in capsys.readouterr().out


def test_the_sample_can_be_loaded_as_a_data_set(benchmark):
    extract(benchmark, "--nums", "6")
    path = benchmark / "sample" / "json" / "sampling_datasets_QA_new.json"
    questions = load_questions(path, "sampling_data", (benchmark / "sample").joinpath)
    assert len(questions) == 6
    assert all(each.video.is_file() and each.key == f"{each.dataset}/{each.id}" for each in questions)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(benchmark):
    extract(benchmark, "--nums", "8", out="first")
    extract(benchmark, "--nums", "8", out="second")
    extract(benchmark, "--nums", "8", out="first")
    extract(benchmark, "--nums", "8", "--seed", "1", out="third")
    for name in ("sampling_datasets_QA_new.json", "sampling_answer.json", "sampling_manifest.json"):
        contents = [(benchmark / out / "json" / name).read_bytes() for out in ("first", "second", "third")]
        assert contents[0] == contents[1] != contents[2]


def test_a_sample_lies_whole_in_a_larger_one(benchmark):
    keys = []
    for nums in (3, 9, 20):
        extract(benchmark, "--nums", str(nums))
        keys.append(set(read(benchmark, "sampling_datasets_QA_new.json")))
    assert keys[0] < keys[1] < keys[2]
    assert [len(each) for each in keys] == [3, 9, 20]


def test_every_question_is_equally_likely(benchmark):
    drawn = Counter()
    for seed in range(300):
        extract(benchmark, "--nums", "5", "--seed", str(seed), "--copy_mode", "symlink")
        drawn.update(list(read(benchmark, "sampling_datasets_QA_new.json")))
    # 300 draws of 5 in 20: 75 expected for each, standard deviation 7.5; four of them on either side
    assert len(drawn) == 20
    assert all(45 <= count <= 105 for count in drawn.values())


def test_a_missing_video_or_answer_costs_its_questions_only(benchmark):
    extract(benchmark, "--nums", "10", out="before")
    (benchmark / "VideoBench/Eval_video/NBA/0.mp4").unlink()  # questions 0 and 1
    (benchmark / "VideoBench/Eval_video/NBA/1.mp4").write_bytes(b"")  # 2 and 3: a download that never began
    answers = json.loads((benchmark / "Video-Bench/ANSWER.json").read_text())
    del answers["NBA"]["9"]
    (benchmark / "Video-Bench/ANSWER.json").write_text(json.dumps(answers))
    extract(benchmark, "--nums", "15", out="after")
    after = set(read(benchmark, "sampling_datasets_QA_new.json", "after"))
    lost = {f"NBA/{number}" for number in (0, 1, 2, 3, 9)}
    assert len(after) == 15
    assert not after & lost
    assert set(read(benchmark, "sampling_datasets_QA_new.json", "before")) - lost <= after
    with pytest.raises(InputError, match=r"16 questions asked for, but only 15 .*4 lack the video, 1 the answer"):
        extract(benchmark, "--nums", "16")


def test_too_few_questions_leave_nothing_behind(benchmark):
    with pytest.raises(InputError, match="only 20"):
        extract(benchmark, "--nums", "21")
    assert not (benchmark / "sample").exists()


@pytest.mark.parametrize("mode", ["copy", "hardlink", "symlink"])
def test_copy_modes(benchmark, mode):
    extract(benchmark, "--nums", "20", "--copy_mode", mode)
    extract(benchmark, "--nums", "20", "--copy_mode", mode)
    source = benchmark / "VideoBench/Eval_video/NBA/3.mp4"
    target = benchmark / "sample/Eval_video/sampling_data/NBA/3.mp4"
    assert target.read_bytes() == source.read_bytes()
    assert target.is_symlink() == (mode == "symlink")
    assert target.samefile(source) == (mode != "copy")
    assert not list(benchmark.rglob("*.part"))


def test_a_link_is_replaced_by_a_copy_not_written_through(benchmark):
    for mode in ("symlink", "copy"):
        extract(benchmark, "--nums", "20", "--copy_mode", mode)
    target = benchmark / "sample/Eval_video/sampling_data/NBA/3.mp4"
    target.write_bytes(b"changed")
    assert (benchmark / "VideoBench/Eval_video/NBA/3.mp4").read_bytes() == b"NBA 3"


def test_the_manifest_tells_what_the_sample_was_made_of(benchmark):
    extract(benchmark, "--nums", "20", "--seed", "4")
    manifest = read(benchmark, "sampling_manifest.json")
    assert (manifest["seed"], manifest["nums"]) == (4, 20)
    assert manifest["datasets"] == {name: {"questions": 10, "videos": 5} for name in ("NBA", "Driving-decision-making")}
    assert manifest["inputs_sha256"]["ANSWER.json"] == sha256_of_file(benchmark / "Video-Bench/ANSWER.json")
    for name, digest in manifest["videos_sha256"].items():
        assert sha256_of_file(benchmark / "sample/Eval_video/sampling_data" / name) == digest
    for name, digest in manifest["outputs_sha256"].items():
        assert sha256_of_file(benchmark / "sample/json" / name) == digest


def test_a_sample_cannot_be_drawn_from_a_sample(benchmark):
    extract(benchmark, "--nums", "4", out="Video-Bench")
    (benchmark / "Video-Bench/json/sampling_datasets_QA_new.json").rename(
        benchmark / "Video-Bench/Eval_QA/sampling_datasets_QA_new.json"
    )
    with pytest.raises(InputError, match="cannot be drawn from a sample"):
        extract(benchmark, "--nums", "2", "--datasets", "sampling_data")


REAL_QA = os.environ.get("VIDEO_BENCH_QA", "")


@pytest.mark.slow
@pytest.mark.skipif(not REAL_QA, reason="VIDEO_BENCH_QA does not name the folder of the real QA files")
def test_all_of_the_real_files_can_be_sampled(tmp_path):
    """With stand-in videos of a few bytes and an answer made up for each question."""
    answers = {}
    (tmp_path / "Video-Bench").mkdir()
    (tmp_path / "Video-Bench/Eval_QA").symlink_to(Path(REAL_QA).resolve())
    for name in DATASET_NAMES:
        for each in load_questions(Path(REAL_QA) / f"{name}_QA_new.json", name, (tmp_path / "VideoBench").joinpath):
            answers.setdefault(name, {})[each.id] = next(iter(each.options))
            each.video.parent.mkdir(parents=True, exist_ok=True)
            each.video.write_text(each.vid_path)
    (tmp_path / "Video-Bench/ANSWER.json").write_text(json.dumps(answers))
    extract(tmp_path, "--nums", "17036", "--copy_mode", "hardlink")
    rows = read(tmp_path, "sampling_datasets_QA_new.json")
    assert len(rows) == 17036
    assert Counter(key.split("/")[0] for key in rows)["Ucfcrime"] == 290
    for key, row in rows.items():
        original = Path(row["vid_path"].replace("Eval_video/sampling_data", "Eval_video"))
        assert (tmp_path / "sample" / row["vid_path"]).read_text() == str(original), key
