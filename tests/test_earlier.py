"""Files of an earlier commit still work: results compare, a journal goes on, a sample verifies and is drawn again.

The files and the command that made them are in tests/assets/earlier."""

import json
import shutil

import pytest

import extract_dataset
import precision_test
import run_gpu
from tests.support.paths import ASSETS

EARLIER = ASSETS / "earlier"
JOURNAL, RESULT = "sampling_data.rank0.jsonl", "sampling_data_eval.json"
OF_THE_MACHINE = ("letter_logprobs", "option_mass", "run")  # last bits, and releases


@pytest.fixture(scope="module")
def sample(tmp_path_factory, video_root):
    """The earlier sample: its JSON files, and the videos that its manifest lists."""
    folder = tmp_path_factory.mktemp("earlier")
    shutil.copytree(EARLIER / "Eval_QA", folder / "Eval_QA")
    for name in json.loads((EARLIER / "Eval_QA/sampling_manifest.json").read_text())["videos_sha256"]:
        place = folder / "Eval_video/sampling_data" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(video_root / "Eval_video" / name, place)
    return folder


@pytest.fixture
def answer(sample, tiny_model_path, tmp_path):
    """Runs on the sample, with all output in one folder; returns the exit status."""

    def run(*more):
        return run_gpu.main(
            [
                *("--model_path", str(tiny_model_path), "--Eval_QA_root", str(sample), "--device", "cpu"),
                *("--image_or_video_path", str(sample / "Eval_video/sampling_data"), "--num_workers", "0"),
                *("--chat_conversation_output_folder", str(tmp_path), *more),
            ]
        )

    return run


def test_its_sample_passes_verify(sample, capsys):
    assert extract_dataset.main(["--verify", str(sample / "Eval_QA/sampling_manifest.json")]) == 0
    assert "the sample is whole: 10 videos" in capsys.readouterr().out


def test_the_same_command_draws_the_same_sample(tmp_path, video_root):
    data = ASSETS / "egs/Video-Bench"
    flags = ("--Eval_QA_root", data, "--Eval_Video_root", video_root, "--correct_answer_file", data / "ANSWER.json")
    places = ("--sampling_output_folder", tmp_path / "Eval_video", "--json_output_path", tmp_path)
    assert extract_dataset.main([*map(str, (*flags, *places)), "--nums", "12"]) == 0
    for name in ("sampling_datasets_QA_new.json", "sampling_answer.json"):
        assert json.loads((tmp_path / name).read_text()) == json.loads((EARLIER / "Eval_QA" / name).read_text())


def test_its_results_equal_those_of_today(sample, answer, tmp_path, capsys):
    assert answer() == 0
    before, now = (json.loads((folder / RESULT).read_text()) for folder in (EARLIER, tmp_path))
    assert list(before) == list(now)
    for key, row in before.items():
        for field in row.keys() - {*OF_THE_MACHINE}:
            assert now[key][field] == row[field], (key, field)
        assert now[key].keys() == row.keys()
        assert now[key]["run"].keys() == row["run"].keys()
        assert now[key]["letter_logprobs"] == pytest.approx(row["letter_logprobs"], abs=1e-3)
    capsys.readouterr()
    report = tmp_path / "report.json"
    sides = ("--eval_npu_path", str(EARLIER / RESULT), "--eval_gpu_path", str(tmp_path / RESULT))
    answers = ("--sampling_answer_path", str(sample / "Eval_QA/sampling_answer.json"))
    assert precision_test.main([*sides, *answers, "--margin", "50", "--output_json", str(report)]) == 0
    found = json.loads(report.read_text())
    assert found["verdict"] == "PASS"
    assert found["npu"] == found["gpu"]
    assert not found["flips"]


def test_its_journal_goes_on(answer, tmp_path, capsys):
    (tmp_path / "journal").mkdir()
    shutil.copy(EARLIER / JOURNAL, tmp_path / "journal")
    assert answer() == 0
    said = capsys.readouterr()
    assert "5 kept, 7 to answer" in said.err
    assert "answered 12, failed 0, 5 kept, 7 new" in said.out
    stored = [json.loads(line) for line in (EARLIER / JOURNAL).read_text().splitlines()[1:]]
    now = json.loads((tmp_path / RESULT).read_text())
    assert all(now[each["key"]] == each["row"] for each in stored)


def test_its_journal_is_refused_with_other_settings(answer, tmp_path):
    (tmp_path / "journal").mkdir()
    shutil.copy(EARLIER / JOURNAL, tmp_path / "journal")
    with pytest.raises(Exception, match="was begun with num_frames 8, now it is 4"):
        answer("--num_frames", "4")
