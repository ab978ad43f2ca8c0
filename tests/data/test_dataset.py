"""QA and answer files: the oddities of the real ones are read, and faults are refused by name."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from videobench.data.dataset import DATASET_NAMES, canonical_name, load_answers, load_questions, qa_file, resolve_names
from videobench.errors import InputError

ROW = {
    "vid_path": "Eval_video/MSVD/clip.avi",
    "video_id": "clip",
    "question": "what is it?",
    "choices": {"A": "a cat", "B": "a dog"},
}


def load(tmp_path, rows, name="MSVD"):
    path = tmp_path / "qa.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return load_questions(path, name, Path("videos").joinpath)


@pytest.mark.parametrize(
    ("choices", "options"),
    [
        pytest.param({"A": "x", "B": "y"}, {"A": "x", "B": "y"}, id="plain"),
        pytest.param({"A": None, "B": "Yes", "C": "No", "D": None}, {"B": "Yes", "C": "No"}, id="two-null-options"),
        pytest.param({"A": "", "B": " ", "C": "x", "D": "y"}, {"C": "x", "D": "y"}, id="empty-options"),
        pytest.param({"A": 3, "B": 2.5, "C": 0}, {"A": "3", "B": "2.5", "C": "0"}, id="numeric-options"),
        pytest.param({"A": "x"}, {"A": "x"}, id="one-option-only"),
        pytest.param({"A": "1", "B": "2", "D": "4", "C": "3"}, {"A": "1", "B": "2", "C": "3", "D": "4"}, id="A-B-D-C"),
        pytest.param({"A": " Keep left"}, {"A": " Keep left"}, id="leading-space-is-kept"),
        pytest.param(dict(zip("ABCDEF", "123456", strict=True)), dict(zip("ABCDEF", "123456", strict=True)), id="six"),
    ],
)
def test_the_options_are_those_with_a_text_in_the_order_of_letters(tmp_path, choices, options):
    [question] = load(tmp_path, {"1": {**ROW, "choices": choices}})
    assert list(question.options.items()) == list(options.items())


def test_a_row_keeps_what_identifies_it(tmp_path):
    [question] = load(tmp_path, {"170890": {**ROW, "vid_path": "Eval_video/MSRVTT/v.mp4", "video_id": 7011}}, "MSRVTT")
    assert (question.source, question.dataset, question.id, question.key) == ("MSRVTT", "MSRVTT", "170890", "170890")
    assert (question.video_id, question.video) == (7011, Path("videos/Eval_video/MSRVTT/v.mp4"))


def test_a_sample_names_the_set_in_each_row_and_key(tmp_path):
    [question] = load(tmp_path, {"MSVD/7": {**ROW, "dataset": "MSVD"}}, "sampling_data")
    assert (question.source, question.dataset, question.id, question.key) == ("sampling_data", "MSVD", "7", "MSVD/7")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        pytest.param({"vid_path": None}, "vid_path is missing", id="no-path"),
        pytest.param({"vid_path": "clip.avi"}, "is not Eval_video/<data set>/<file>", id="path-without-folders"),
        pytest.param({"vid_path": "Eval_video/MSVD/../../x.mp4"}, "below the video root", id="path-leaves-the-root"),
        pytest.param({"vid_path": "/etc/MSVD/x.mp4"}, "below the video root", id="absolute-path"),
        pytest.param({"vid_path": "Eval_video/MSVD/a\0.avi"}, "control character", id="path-with-a-zero"),
        pytest.param({"vid_path": "Eval_video/MSVD/" + "a/" * 600}, "longer than any", id="path-too-long"),
        pytest.param({"question": {"en": "?"}}, "question is an object", id="question-is-no-text"),
        pytest.param({"question": "  "}, "question is an empty text", id="empty-question"),
        pytest.param({"choices": None}, "choices is missing", id="no-choices"),
        pytest.param({"choices": {"G": "x"}}, "option 'G' is not a letter", id="seventh-letter"),
        pytest.param({"choices": {"A": ["x"]}}, "option A is a list", id="option-is-a-list"),
        pytest.param({"choices": {"A": None, "B": ""}}, "no option has a text", id="no-option-left"),
        pytest.param({"video_id": True}, "video_id is true or false", id="video-id-is-a-bool"),
        pytest.param({"video_id": None}, "video_id is missing", id="no-video-id"),
        pytest.param({"video_id": "\ud83d"}, "surrogates not allowed", id="half-a-character-in-the-video-id"),
        pytest.param({"question": "Why? \ud83d"}, "surrogates not allowed", id="half-a-character-in-the-question"),
        pytest.param({"choices": {"A": "\ud83d"}}, "surrogates not allowed", id="half-a-character-in-an-option"),
    ],
)
def test_a_faulty_row_is_named(tmp_path, change, found):
    with pytest.raises(InputError, match=r"qa\.json: question '5': .*" + found):
        load(tmp_path, {"4": ROW, "5": {**ROW, **change}})


@pytest.mark.parametrize(
    ("rows", "found"), [([], "not a QA file"), ({}, "not a QA file"), ({"1": 5}, "'1': is not an object but a number")]
)
def test_a_file_that_is_no_qa_file_is_refused(tmp_path, rows, found):
    with pytest.raises(InputError, match=rf"qa\.json: .*{found}"):
        load(tmp_path, rows)


@pytest.mark.parametrize("key", ["", " ", "a\nb", "a\x1b[2Jb", "\x00", "\ud83d"])
def test_an_id_that_would_break_lines_is_refused(tmp_path, key):
    with pytest.raises(InputError, match=r"the id is empty, or holds a line end|surrogates not allowed"):
        load(tmp_path, {"4": ROW, key: ROW})


@pytest.mark.parametrize(
    ("key", "dataset", "found"),
    [
        pytest.param("MSVD/7", None, "dataset is None", id="unknown-set"),
        pytest.param("NBA/7", "MSVD", "the key names NBA, but the row's dataset is MSVD", id="key-of-another-set"),
        pytest.param("MSVD/", "MSVD", "the key names MSVD", id="key-without-id"),
        pytest.param("4", "MSVD", "repeats question", id="bare-id-and-id-with-set"),
    ],
)
def test_a_sample_whose_rows_contradict_their_keys_is_refused(tmp_path, key, dataset, found):
    with pytest.raises(InputError, match=found):
        load(tmp_path, {"MSVD/4": ROW | {"dataset": "MSVD"}, key: ROW | {"dataset": dataset}}, "sampling_data")


def test_answers_in_both_forms(tmp_path):
    path = tmp_path / "ANSWER.json"
    path.write_text(json.dumps({"MSVD": {"1": {"answer": "A"}, "2": "B"}, "MOT": {"MOT/1": {"answer": " F "}}}))
    assert load_answers(path) == {("MSVD", "1"): "A", ("MSVD", "2"): "B", ("MOT", "1"): "F"}


def test_names_of_sets_may_be_spelt_in_other_ways(tmp_path):
    spelt = {"Driving_exam": "Driving-exam", "msvd": "MSVD", "sampling_data": "sampling_data", " MOT": "MOT"}
    assert {each: canonical_name(each) for each in spelt} == spelt
    with pytest.raises(InputError, match=r"'Kinetics'.*ActivityNet.*SQA3D"):
        canonical_name("Kinetics")
    path = tmp_path / "ANSWER.json"
    path.write_text(json.dumps({"Driving_exam": {"1": "A", "Driving_exam/2": "B"}, "my_own": {"1": "C"}}))
    assert load_answers(path) == {("Driving-exam", "1"): "A", ("Driving-exam", "2"): "B", ("my_own", "1"): "C"}


@pytest.mark.parametrize(
    ("sets", "found"),
    [
        pytest.param([], "not an answer file", id="list"),
        pytest.param({}, "not an answer file", id="no-set"),
        pytest.param({"MSVD": {}}, "holds no answer", id="no-answer"),
        pytest.param({"MSVD": 1}, "data set 'MSVD' holds a number", id="set-is-a-number"),
        pytest.param({"MSVD": {"1": "A", "MSVD/1": "B"}}, "MSVD/1 is answered twice", id="two-spellings-of-one-id"),
        *(
            pytest.param({"MSVD": {"1": each}}, r"MSVD/1: answer .* is not a letter of ABCDEF", id=f"answer-{each}")
            for each in ("G", "", "AB", None, 1, ["A"], {"answer": None}, {"right": "A"})
        ),
    ],
)
def test_a_wrong_answer_file_is_named(tmp_path, sets, found):
    path = tmp_path / "ANSWER.json"
    path.write_text(json.dumps(sets))
    with pytest.raises(InputError, match=rf"ANSWER\.json: .*{found}"):
        load_answers(path)


def test_all_takes_the_sets_that_are_there_and_names_the_others(tmp_path, capsys):
    for name in DATASET_NAMES[:-1]:
        qa_file(tmp_path, name).parent.mkdir(exist_ok=True)
        qa_file(tmp_path, name).write_text("{}")
    assert resolve_names("all", tmp_path) == list(DATASET_NAMES[:-1])
    assert "SQA3D; left out" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"SQA3D_QA_new\.json: missing"):
        resolve_names("MSVD,SQA3D", tmp_path)
    with pytest.raises(InputError, match="named twice"):
        resolve_names("MSVD,msvd", tmp_path)
    with pytest.raises(InputError, match="holds no QA file"):
        resolve_names("all", tmp_path / "elsewhere")


REAL_QA = os.environ.get("VIDEO_BENCH_QA", "")


@pytest.mark.skipif(not REAL_QA, reason="VIDEO_BENCH_QA does not name the folder of the real QA files")
def test_the_real_files_hold_17036_distinct_questions():
    sets = {name: load_questions(Path(REAL_QA) / f"{name}_QA_new.json", name, Path) for name in DATASET_NAMES}
    questions = [each for questions in sets.values() for each in questions]
    assert len({(each.dataset, each.id) for each in questions}) == len(questions) == 17036
    assert len({each.video for each in questions}) == 5917
    assert Counter(len(each.options) for each in questions)[1] == 1
    assert {name: len(sets[name]) for name in ("Ucfcrime", "NBA", "Driving-decision-making", "MOT")} == {
        "Ucfcrime": 290,
        "NBA": 686,
        "Driving-decision-making": 780,
        "MOT": 18,
    }
