"""Result files of every origin: how a row finds its question, and which rows are refused."""

import json
import math
import re
from pathlib import Path

import pytest

import precision_test
from tests.support.simulated_runs import simulate_rows
from videobench.compare.pairing import number_videos, pair_runs
from videobench.data.results import load_results
from videobench.errors import InputError

ANSWERS = {("MSVD", "1"): "A", ("MSVD", "2"): "B", ("MOT", "1"): "F", ("Driving-exam", "7"): "C"}


def write(path: Path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def row(text="A", **more):
    return {"output_sequence": [text], **more}


@pytest.mark.parametrize(
    ("file_name", "key", "content", "name"),
    [
        pytest.param("x.json", "MSVD/1", {}, ("MSVD", "1"), id="key-of-a-sample"),
        pytest.param("x.json", "mot/1", {"dataset": "MOT"}, ("MOT", "1"), id="key-and-dataset"),
        pytest.param("x.json", "1", {"dataset": "MOT"}, ("MOT", "1"), id="dataset-of-the-row"),
        pytest.param("MOT_eval.json", "1", {}, ("MOT", "1"), id="name-of-the-file"),
        pytest.param("MOT_eval.json", "1", {"dataset": "MSVD"}, ("MSVD", "1"), id="dataset-before-file"),
        pytest.param(
            "sampling_data_eval.json", "2", {"dataset": "sampling_data"}, ("MSVD", "2"), id="sample-is-no-set"
        ),
        pytest.param("x.json", "7", {}, ("Driving-exam", "7"), id="bare-id-of-one-set"),
        pytest.param("Driving_exam_eval.json", "7", {}, ("Driving-exam", "7"), id="file-spelt-with-underscore"),
        pytest.param("x.json", "driving_exam/7", {}, ("Driving-exam", "7"), id="key-spelt-with-underscore"),
        pytest.param("x.json", "99", {}, ("", "99"), id="unknown-everywhere"),
        pytest.param("MSVD_eval.json", "a/b", {}, ("MSVD", "a/b"), id="slash-in-an-id"),
    ],
)
def test_a_row_finds_its_question(tmp_path, file_name, key, content, name):
    path = write(tmp_path / file_name, {key: row(**content)})
    assert list(load_results(path, ANSWERS)) == [name]


def test_an_ambiguous_bare_id_is_refused(tmp_path):
    path = write(tmp_path / "results.json", {"1": row()})
    with pytest.raises(
        InputError, match=r"results.json: row '1': the id is ambiguous: 2 data sets have it \(MSVD, MOT\).*call"
    ):
        load_results(path, ANSWERS)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        pytest.param({"output_sequence": ["B"]}, "B", id="list-of-one"),
        pytest.param({"output_sequence": "The answer is B"}, "The answer is B", id="bare-text-whole"),
        pytest.param({"error": "video missing"}, "", id="failed-without-output"),
        pytest.param({"output_sequence": [""], "error": "video missing"}, "", id="failed"),
    ],
)
def test_replies_of_every_form(tmp_path, content, text):
    reply = load_results(write(tmp_path / "MSVD_eval.json", {"1": content}), ANSWERS)["MSVD", "1"]
    assert (reply.text, reply.error) == (text, content.get("error", ""))


def test_every_field_is_read(tmp_path):
    content = row(
        "B",
        video_id=7011,
        vid_path="Eval_video/MSVD/x.avi",
        question="what? A.cat B.dog \n Among",
        choices={"A": "cat", "B": "dog", "C": None, "D": ""},
        letter_logprobs={"A": -1.5, "B": -0.25, "C": None},
        option_mass=1.0,
        prompt_tokens=1290,
        frames_decoded=120,
        resolution=[320, 240],
        nonfinite=True,
        rank=3,
        run={"dtype": "float16"},
    )
    reply = load_results(write(tmp_path / "MSVD_eval.json", {"1": content}), ANSWERS)["MSVD", "1"]
    assert (reply.video_id, reply.options, reply.own_question) == (7011, {"A": "cat", "B": "dog"}, "what?")
    assert (reply.logprobs, reply.resolution, reply.rank) == ({"A": -1.5, "B": -0.25}, "320x240", 3)
    assert (reply.nonfinite, reply.prompt_tokens, reply.run["dtype"]) == (True, 1290, "float16")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        pytest.param({"1": {"question": "what?"}}, "output_sequence is None", id="no-reply"),
        pytest.param({"1": {"output_sequence": [7]}}, "output_sequence is [7]", id="number"),
        pytest.param({"1": "B"}, "row '1' is no object", id="no-row"),
        pytest.param({}, "not a result file", id="empty-file"),
        pytest.param({"1": row(letter_logprobs={"A": "high"})}, "letter_logprobs is", id="logprob-no-number"),
        pytest.param({"1": row(letter_logprobs={" A": -1})}, "{' A': -1}, not letters of ABCDEF", id="spaced"),
        pytest.param({"1": row(run="fast")}, "run is 'fast'", id="run-no-object"),
        pytest.param(
            {"MSVD/1": row(dataset="NBA")},
            "row 'MSVD/1': its key names MSVD, its dataset is 'NBA'; fix",
            id="other-set",
        ),
        pytest.param({"1": row(nonfinite="false")}, "nonfinite is 'false', not true", id="flag-is-a-text"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path, content, found):
    """test_schema.py tries every field with every kind of value."""
    path = write(tmp_path / "MSVD_eval.json", content)
    with pytest.raises(InputError) as error:
        load_results(path, ANSWERS)
    assert str(path) in str(error.value)
    assert found in str(error.value)


def test_a_folder_of_result_files(tmp_path):
    write(tmp_path / "MSVD_eval.json", {"1": row(), "2": row()})
    write(tmp_path / "MOT_eval.json", {"1": row()})
    write(tmp_path / "journal" / "MOT.rank0.jsonl", {})
    write(tmp_path / "notes.json", {})
    assert sorted(load_results(tmp_path, ANSWERS)) == [("MOT", "1"), ("MSVD", "1"), ("MSVD", "2")]


def test_two_rows_for_one_question_are_refused(tmp_path):
    write(tmp_path / "MSVD_eval.json", {"1": row()})
    write(tmp_path / "sampling_data_eval.json", {"MSVD/1": row()})
    with pytest.raises(InputError, match="answers the same question as"):
        load_results(tmp_path, ANSWERS)


@pytest.fixture
def sides(tmp_path):
    """Folders npu and gpu and ANSWER.json; MOT is the GPU's alone, as is one question of MSVD."""
    write(tmp_path / "npu" / "MSVD_eval.json", {"1": row("A"), "9": row("A")})
    write(tmp_path / "gpu" / "MSVD_eval.json", {"1": {"output_sequence": "Answer: A"}, "2": row("A"), "9": row("A")})
    write(tmp_path / "gpu" / "MOT_eval.json", {"1": row("F")})
    answers = {"MSVD": {"1": {"answer": "A"}, "2": "B", "3": "C"}, "MOT": {"1": {"answer": "F"}}}
    return tmp_path / "npu", tmp_path / "gpu", write(tmp_path / "ANSWER.json", answers)


def test_both_sides_are_compared_on_what_both_have(sides):
    pairing = pair_runs(*sides, "strict")
    assert [(pair.key, pair.candidate.outcome, pair.reference.outcome) for pair in pairing.pairs] == [
        ("MSVD/1", "right", "right"),
        ("MSVD/2", "missing", "wrong"),
    ]
    assert [pair.key for pair in pairing.compared] == ["MSVD/1"]
    assert (pairing.sets_only_candidate, pairing.sets_only_reference) == ({}, {"MOT": 1})
    assert (pairing.without_answer, pairing.answers_unused) == (["MSVD/9"], 1)


def test_no_question_in_common_is_refused(sides, tmp_path):
    npu = write(tmp_path / "other" / "MSVD_eval.json", {"3": row()})
    with pytest.raises(InputError, match="have no question in common"):
        pair_runs(npu, sides[1], sides[2], "strict")


def test_leaderboard_form(sides, tmp_path, capsys):
    write(sides[0] / "MOT_eval.json", {"1": row("no idea", video_id=5, question="how many?")})
    assert precision_test.main([f"--eval_npu_path={sides[0]}", f"--export_leaderboard={tmp_path / 'form.json'}"]) == 0
    form = json.loads((tmp_path / "form.json").read_text())
    assert form["MSVD"]["1"] == {"video_id": "", "question": "", "output_sequence": ["A"], "output_chatgpt_choice": "A"}
    assert form["MOT"]["1"] == {
        "video_id": 5,
        "question": "how many?",
        "output_sequence": ["no idea"],
        "output_chatgpt_choice": "",
    }
    printed = capsys.readouterr().out
    assert re.search(r"form.json: 3 replies of .*, letters read by --scoring strict, 1 without a letter", printed)


def test_leaderboard_form_needs_the_data_set(tmp_path):
    path = write(tmp_path / "x.json", {"99": row()})
    with pytest.raises(InputError, match="names no data set"):
        precision_test.main([f"--eval_npu_path={path}", f"--export_leaderboard={tmp_path / 'form.json'}"])


def test_one_video_with_two_ids_is_one_cluster(sides):
    """As in Driving-decision-making, where 34 videos go by 116 ids."""
    for side in sides[:2]:
        rows = {key: row("A", video_id=f"id{key}", vid_path="Eval_video/MSVD/10.mp4") for key in ("1", "2")}
        write(side / "MSVD_eval.json", rows)
    assert len(set(number_videos(pair_runs(*sides, "strict").pairs))) == 1


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("base", "found"),
    [
        pytest.param(math.e, None, id="natural"),
        pytest.param(10, r"add up to more than 1 .to \d.\d\d. in \d+ of 300 replies, .*by 2.302585", id="10"),
    ],
)
def test_log_probabilities_to_another_base_are_refused(tmp_path, seed, base, found):
    content = {"/".join(name): npu for name, (npu, _, _) in simulate_rows(300, seed).items()}
    for each in content.values():
        each["letter_logprobs"] = {letter: value / math.log(base) for letter, value in each["letter_logprobs"].items()}
    path = write(tmp_path / "x.json", content)
    if found is None:
        assert len(load_results(path, [])) == 300
    else:
        with pytest.raises(InputError, match=f"x.json: .*{found}"):
            load_results(path, [])


@pytest.mark.parametrize("logprobs", [{"A": 0.0, "B": -4.0}, {"A": -0.69, "B": -0.69}])
def test_a_sum_a_little_above_1_is_rounding(tmp_path, logprobs):
    path = write(tmp_path / "x.json", {f"MSVD/{number}": row(letter_logprobs=logprobs) for number in range(20)})
    assert len(load_results(path, [])) == 20
