"""Why two runs are not comparable: other settings, other questions or samples, files of the other side, a wrong answer
file. The reason comes first, with both values, and allows no PASS; what is the same in another form is no reason."""

import json
import shlex
from pathlib import Path

import pytest

import precision_test
from tests.support.runs import write_runs
from tests.support.simulated_runs import simulate_rows
from videobench.compare.comparison import compare_runs
from videobench.compare.obstacles import lacking_side
from videobench.compare.pairing import Pairing
from videobench.compare.settings import EVALUATED_RUN, REFERENCE_RUN, ComparisonSettings, Names, Tolerance
from videobench.report.build import summarize

SETTINGS = {"device": "npu", "dtype": "float16", "num_frames": 8, "checkpoint_sha256": "c" * 64, "qa_sha256": "d" * 64}
CHOICES = {"A": "cat", "B": "dog"}
EQUAL = {"prompt_sha256": "p", "pixels_sha256": "x", "question": "What is it? A.cat B.dog", "choices": CHOICES}


def runs_of(folder, npu_run=(), gpu_run=(), npu_row=(), changed=0, count=1000, lost=0):
    """Two runs of `count` equal answers; the NPU's first `changed` rows are `npu_row`, its first `lost` are wrong."""
    rows = {}
    for number in range(count):
        row = EQUAL | {"output_sequence": ["A"], "video_id": number, "vid_path": f"Eval_video/MSVD/{number}.avi"}
        npu, gpu = row | {"run": SETTINGS | dict(npu_run)}, row | {"run": SETTINGS | {"device": "cuda"} | dict(gpu_run)}
        npu |= {"output_sequence": ["B"]} if number < lost else {}
        npu |= dict(npu_row) if number < changed else {}
        rows["MSVD", str(number)] = npu, gpu, "A"
    return write_runs(folder, rows)


def compare(*paths, **more):
    return compare_runs(ComparisonSettings(*paths, **more))


def verdict_of(*paths, **more):
    return compare(*paths, **more).verdict


def causes_of(verdict):
    return [each.cause for each in verdict.evidence.obstacles]


@pytest.mark.parametrize(
    ("npu_run", "state"), [({}, "same"), ({"qa_sha256": "e" * 64}, "differs, as it may")], ids=["equal", "enlarged"]
)
def test_equal_questions_are_no_obstacle_although_one_side_s_sample_was_enlarged(tmp_path, npu_run, state):
    """Its rows keep the hashes of the smaller sample's files, which they were answered from."""
    comparison = compare(*runs_of(tmp_path, npu_run))
    assert (comparison.verdict.name, causes_of(comparison.verdict), comparison.inputs.answer) == ("PASS", [], "yes")
    assert {row.state for row in comparison.inputs.rows if row.name == "qa_sha256"} == {state}


@pytest.mark.parametrize("pixels", ["x", "y"])
def test_another_video_is_known_by_its_bytes_if_the_model_saw_other_pixels(tmp_path, pixels):
    paths = runs_of(tmp_path, npu_row={"video_sha256": "1", "pixels_sha256": pixels}, changed=3)
    rows = json.loads(paths[1].read_text())
    paths[1].write_text(json.dumps({key: row | {"video_sha256": f"2 {key}"} for key, row in rows.items()}))
    comparison = compare(*paths)
    assert len(comparison.inputs.other["questions"]) == (0 if pixels == "x" else 3)
    assert comparison.verdict.name == ("PASS" if pixels == "x" else "INCONCLUSIVE")


HASHES = "is eeeeeeeeeeee on the NPU and {} on the GPU"


@pytest.mark.parametrize(
    ("npu_run", "first"),
    [
        pytest.param({"num_frames": 16}, "num_frames is 16 on the NPU and 8 on the GPU", id="frames"),
        pytest.param({"checkpoint_sha256": "e" * 64}, f"checkpoint_sha256 {HASHES.format('c' * 12)}", id="checkpoint"),
        pytest.param({"weights_sha256": "e" * 64}, f"weights_sha256 {HASHES.format('f' * 12)}", id="a-damaged-shard"),
        pytest.param({"dtype": "int8"}, "dtype is int8 on the NPU and float16 on the GPU", id="dtype-of-another-kind"),
    ],
)
@pytest.mark.parametrize("lost", [0, 300])
def test_other_settings_allow_no_verdict_at_all(tmp_path, capsys, npu_run, first, lost):
    gpu_run = {"weights_sha256": "f" * 64} if "weights_sha256" in npu_run else {}
    paths = runs_of(tmp_path, npu_run, gpu_run, lost=lost)
    flags = [f"--eval_{side}_path={path}" for side, path in zip(("npu", "gpu"), paths, strict=False)]
    outputs = [f"--output_json={tmp_path / 'r.json'}", f"--report_html={tmp_path / 'r.html'}"]
    assert precision_test.main([*flags, f"--sampling_answer_path={paths[2]}", "--gate", *outputs]) == 3
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["verdict"], report["reasons"][0]) == ("INCONCLUSIVE", f"not comparable: {first}")
    shown = " ".join(capsys.readouterr().out.split())
    page = (tmp_path / "r.html").read_text().replace("&#x27;", "'").replace("&#39;", "'")
    assert first in shown
    assert first in page


@pytest.mark.parametrize(
    "npu_run", [{"dtype": "bfloat16"}, {"dtype": "torch.float32"}, {"batch_size": 4}, {"torch": "3"}]
)
def test_other_settings_of_the_same_kind_do_not_stand_in_the_way(tmp_path, npu_run):
    assert verdict_of(*runs_of(tmp_path, npu_run)).name == "PASS"


@pytest.mark.parametrize(
    ("npu_row", "cause"),
    [
        pytest.param({"question": "What was it? A.cat B.dog"}, "questions", id="text"),
        pytest.param({"choices": {"A": "dog", "B": "cat"}, "question": "What is it?"}, "questions", id="choices"),
        pytest.param({"vid_path": "Eval_video/MSVD/other.avi", "pixels_sha256": ""}, "questions", id="video"),
        pytest.param({"video_id": "other", "pixels_sha256": ""}, "questions", id="video-id"),
        pytest.param({"prompt_sha256": "q"}, "prompts", id="prompts"),
        pytest.param({"pixels_sha256": "y"}, "pixels", id="pixels"),
    ],
)
def test_questions_that_are_not_the_same_are_named_and_allow_no_pass(tmp_path, npu_row, cause):
    comparison = compare(*runs_of(tmp_path, npu_row=npu_row, changed=4))
    assert comparison.verdict.name == "INCONCLUSIVE"
    assert causes_of(comparison.verdict) == [cause]
    assert comparison.verdict.reasons[0].endswith("in 4 questions (MSVD/0, MSVD/1, MSVD/2, 1 more)")
    assert comparison.inputs.answer.startswith("no: ")
    lost = verdict_of(*runs_of(tmp_path, npu_row=npu_row, changed=4, lost=300))
    assert lost.name == "FAIL"  # four questions do not excuse what the others show


@pytest.mark.parametrize(
    "npu_row",
    [
        pytest.param({"vid_path": "Eval_video/sampling_data/MSVD/0.avi"}, id="in-a-sample-s-folder"),
        pytest.param({"vid_path": "a/copy.avi"}, id="another-name-with-the-same-pixels"),
        pytest.param({"question": "what  is it?  A.cat B.dog"}, id="case-and-spaces"),
        pytest.param({"choices": None, "question": "What is it?\nA. cat\nB. dog"}, id="choices-in-the-text-alone"),
        pytest.param({"question": "", "choices": None, "vid_path": "", "video_id": None}, id="nothing-stored"),
    ],
)
def test_the_same_question_in_another_form_is_the_same(tmp_path, npu_row):
    assert verdict_of(*runs_of(tmp_path, npu_row=npu_row, changed=1)).evidence.obstacles == []


def test_what_is_not_stored_is_not_known_to_be_the_same(tmp_path):
    comparison = compare(*runs_of(tmp_path, npu_row={"pixels_sha256": ""}, changed=1))
    assert comparison.inputs.answer == "not known to be the same: prompts or pixels are not stored"
    assert comparison.verdict.name == "PASS"
    assert summarize(comparison).numbers.endswith("; inputs not known to be the same")
    assert "inputs not" not in summarize(compare(*runs_of(tmp_path))).numbers


@pytest.mark.parametrize("npu_run", [{"checkpoint_sha256": "e" * 64}, {"dtype": "int8"}])
def test_other_numbers_may_be_expected_of_another_checkpoint_or_dtype(tmp_path, npu_run):
    paths = runs_of(tmp_path, npu_run)
    comparison = compare(*paths, tolerance=Tolerance(is_judged=False))
    assert (comparison.verdict.name, comparison.inputs.answer) == ("PASS", f"no: {next(iter(npu_run))}")
    assert summarize(comparison).verdict.endswith(
        "; only accuracy was judged (--tolerance none), 100.0 % of the letters agree"
    )
    with_other_frames = runs_of(tmp_path, npu_run | {"num_frames": 16})
    assert verdict_of(*with_other_frames, tolerance=Tolerance(is_judged=False)).decided_by == "inputs"


@pytest.mark.parametrize("npu_run", [{"checkpoint_sha256": "e" * 64}, {"dtype": "int8"}])
def test_numbers_of_another_model_are_not_called_broken(tmp_path, npu_run):
    own, shifted = ({"letter_logprobs": {"A": -0.1, "B": value}} for value in (-3.0, -4.0))
    [npu, gpu, answers] = runs_of(tmp_path, npu_run)
    for path, values in ((npu, shifted), (gpu, own)):
        path.write_text(json.dumps({key: row | values for key, row in json.loads(path.read_text()).items()}))
    comparison = compare(npu, gpu, answers)
    assert comparison.verdict.decided_by == "inputs"
    assert summarize(comparison).numbers.startswith("not judged: median difference 1 nats")
    assert not comparison.diagnosis.broken


def test_another_sample_is_named(tmp_path):
    npu, gpu, answers = runs_of(tmp_path, {"qa_sha256": "f" * 64})
    assert verdict_of(npu, gpu, answers).name == "PASS"  # the same questions, from another file
    rows = json.loads(npu.read_text())
    others = json.loads(gpu.read_text())
    npu.write_text(json.dumps(dict(list(rows.items())[200:])))
    gpu.write_text(json.dumps(dict(list(others.items())[:-5])))
    verdict = verdict_of(npu, gpu, answers)
    assert (verdict.name, verdict.decided_by) == ("INCONCLUSIVE", "inputs")
    assert verdict.reasons[0] == (
        "not comparable: different samples: 205 of 1,000 questions are in one file only (qa_sha256 is ffffffffffff on "
        "the NPU and dddddddddddd on the GPU)"
    )


@pytest.mark.parametrize("side", ["NPU", "GPU"])
@pytest.mark.parametrize("first", ["dddd", "ffff"], ids=["kept-replies", "all-replies"])
def test_the_side_whose_run_lacks_a_part_of_the_sample_is_named(tmp_path, side, first):
    """Only one side was enlarged: its new replies name the larger sample, those that it has kept the former one."""
    npu, gpu, answers = runs_of(tmp_path, {"qa_sha256": "d" * 64})
    path, other = {"NPU": (npu, gpu), "GPU": (gpu, npu)}[side]
    rows, larger = (json.loads(each.read_text()) for each in (path, other))
    left = dict(list(rows.items())[200:])
    path.write_text(json.dumps(left))
    for name, row in larger.items():
        row["run"] = row["run"] | {"qa_sha256": 16 * (first if name in left else "ffff")}
    other.write_text(json.dumps(larger))
    comparison = compare(npu, gpu, answers)
    summary = summarize(comparison)
    found = f"the {side}'s run lacks {len(rows) - len(left)} questions of this sample"
    assert comparison.verdict.reasons[0] == f"not comparable: {found}"
    assert causes_of(comparison.verdict) == ["enlarged"]
    assert summary.next_step.startswith(f"{found}: start it again (it asks only what is new), then compare again")
    scripts = [Path(shlex.split(each)[1]).name for each in summary.next_commands]
    assert scripts == [{"NPU": "run_npu.py", "GPU": "run_gpu.py"}[side], "precision_test.py"]


@pytest.mark.parametrize(
    ("only_candidate", "only_reference", "lacking"),
    [({}, {}, ""), ({"MOT": 4}, {}, "reference"), ({}, {"MOT": 4}, "candidate"), ({"MOT": 4}, {"NBA": 1}, "")],
)
def test_a_side_may_lack_whole_sets_of_the_sample(only_candidate, only_reference, lacking):
    assert lacking_side(Pairing([], only_candidate, only_reference)) == lacking


@pytest.mark.parametrize(
    ("npu_run", "gpu_run", "cause"),
    [
        pytest.param({}, {}, None, id="npu-and-cuda"),
        pytest.param({"device": "cpu"}, {}, None, id="cpu-for-the-npu"),
        pytest.param({}, {"device": "cpu"}, None, id="cpu-for-the-gpu"),
        pytest.param({"device": "cpu"}, {"device": "cpu"}, None, id="cpu-for-both"),
        pytest.param({"device": "cuda"}, {}, "one_device", id="cuda-twice"),
        pytest.param({}, {"device": "npu"}, "one_device", id="npu-twice"),
        pytest.param({"device": "cuda"}, {"device": "cpu"}, "swapped", id="cuda-in-the-npu-s-place"),
        pytest.param({"device": "cpu"}, {"device": "npu"}, "swapped", id="npu-in-the-gpu-s-place"),
        pytest.param({"device": "not stored"}, {"device": "npu"}, "one_device", id="npu-against-another-engine"),
    ],
)
def test_each_side_has_a_device_of_its_own(tmp_path, npu_run, gpu_run, cause):
    comparison = compare(*runs_of(tmp_path, npu_run, gpu_run))
    verdict = comparison.verdict
    assert causes_of(verdict) == ([cause] if cause else [])
    sides = [name for name, run in (("the NPU", npu_run), ("the GPU", gpu_run)) if run.get("device") == "cpu"]
    said = f" (a CPU ran in place of {' and '.join(sides)})" if sides else ""
    assert summarize(comparison).verdict == f"{verdict.name}: {verdict.headline}{said}"
    assert verdict.name == ("INCONCLUSIVE" if cause else "PASS")
    own, other = npu_run.get("device", "npu"), gpu_run.get("device", "cuda")
    found = f"judging by their `device` field: {own} in the NPU's, {other} in the GPU's"
    assert verdict.headline.endswith(found) == bool(cause)


def test_two_runs_of_one_kind_of_device_are_compared_by_the_other_flags(tmp_path):
    names = Names(EVALUATED_RUN, REFERENCE_RUN, are_devices=False)
    assert verdict_of(*runs_of(tmp_path, {"device": "cuda"}), names=names).name == "PASS"


@pytest.mark.parametrize(
    ("suite", "weights", "name"),
    [
        pytest.param("0.1.0", "e" * 64, "PASS", id="first-suite-equal-weights"),
        pytest.param("0.2.0", "e" * 64, "INCONCLUSIVE", id="settings-or-tokenizer-differ"),
        pytest.param("0.1.0", "", "INCONCLUSIVE", id="first-suite-unknown-weights"),
    ],
)
def test_the_first_suite_hashed_files_that_nothing_reads(tmp_path, suite, weights, name):
    """Equal weights are then enough; the table still shows that the hashes differ."""
    both = {"suite": suite} | ({"weights_sha256": weights} if weights else {})
    comparison = compare(*runs_of(tmp_path, both | {"checkpoint_sha256": "e" * 64}, both))
    assert comparison.verdict.name == name
    assert comparison.inputs.answer == "no: checkpoint_sha256"


def test_copied_files_of_the_other_side_are_named(tmp_path):
    paths = runs_of(tmp_path, npu_row={"run": SETTINGS | {"device": "cuda"}}, changed=39)
    found = "the NPU has replies of several runs: device is npu in 961 and cuda in 39"
    assert verdict_of(*paths).reasons[0] == f"not comparable: {found}"


def test_replies_without_a_device_are_seen_in_the_table(tmp_path):
    run = {name: value for name, value in SETTINGS.items() if name != "device"}
    comparison = compare(*runs_of(tmp_path, npu_row={"run": run}, changed=5))
    row = next(row for row in comparison.inputs.rows if row.name == "device")
    assert (row.candidate, row.reference, row.state) == ("npu, not stored", "cuda", "not stored")


NOT_COMPARABLE = "not comparable: "


@pytest.mark.parametrize(
    ("right_letter", "lost", "reason"),
    [
        pytest.param(
            lambda number: "D" if number < 300 else "A", 0,
            f"{NOT_COMPARABLE}wrong answer file: the right letter is none of the options in 300 of 1,000 questions "
            "(MSVD/0, MSVD/1, MSVD/2, 297 more)", id="letters-that-are-no-option",
        ),
        pytest.param(
            lambda number: "A" if number < 300 else None, 20,
            f"{NOT_COMPARABLE}wrong answer file: it has no answer to 700 of 1,000 questions",
            id="most-without-an-answer-and-a-loss",
        ),
        pytest.param(
            lambda number: "B", 0,
            f"{NOT_COMPARABLE}both sides are right less often than by chance (0.0 and 0.0 %, chance 50.0 %): the "
            "answer file or the replies are of other questions", id="below-chance",
        ),
        pytest.param(
            lambda number: "A" if number >= 200 else None, 0,
            "200 of 1000 questions have no right answer in the answer file", id="a-part",
        ),
        pytest.param(lambda number: "A" if number else None, 0, None, id="one-without-an-answer"),
        pytest.param(lambda number: "D" if number < 3 else "A", 0, None, id="three-slips-of-the-benchmark"),
    ],
)  # fmt: skip
def test_a_wrong_answer_file_is_the_first_reason_and_allows_no_pass(tmp_path, right_letter, lost, reason):
    npu, gpu, answers = runs_of(tmp_path, lost=lost)
    known = {str(number): letter for number in range(1000) if (letter := right_letter(number))}
    answers.write_text(json.dumps({"MSVD": known}))
    verdict = verdict_of(npu, gpu, answers)
    assert verdict.name == ("INCONCLUSIVE" if reason else "PASS")
    assert reason is None or verdict.reasons[0].startswith(reason)
    assert bool(verdict.evidence.obstacles) == bool(reason and reason.startswith(NOT_COMPARABLE))


def test_questions_that_failed_on_both_sides_do_not_blame_the_answer_file(tmp_path):
    npu, gpu, answers = runs_of(tmp_path)
    for path in (npu, gpu):
        rows = json.loads(path.read_text())
        failed = {"output_sequence": [""], "error": "no such video"}
        path.write_text(json.dumps({key: row | failed for key, row in rows.items()}))
    comparison = compare(npu, gpu, answers)
    assert causes_of(comparison.verdict) == []
    assert comparison.verdict.reasons[0].startswith("1000 questions have no letter on either side")
    assert summarize(comparison).next_step.startswith("start the run again: it asks only what failed or is missing")


@pytest.mark.parametrize("shifted", [0, 1])
def test_an_answer_key_that_is_shifted_by_one_question_allows_no_verdict(tmp_path, shifted):
    """Both sides are then right as often as by guessing, and would look equal."""
    rows = simulate_rows(1000)
    keys = {name: right for name, (_, _, right) in rows.items() if len(rows[name][0]["choices"]) == 4}
    letters = list(keys.values())
    shown = {
        name: (*rows[name][:2], right) for name, right in zip(keys, letters[shifted:] + letters[:shifted], strict=True)
    }
    paths = write_runs(tmp_path, shown)
    assert causes_of(verdict_of(*paths)) == (["answers"] if shifted else [])


def test_four_questions_on_another_video_call_no_run_broken(tmp_path):
    rows = simulate_rows(120)
    for name, (npu, gpu, right) in list(rows.items())[:4]:
        logprobs = {letter: -3.0 * number for number, letter in enumerate(npu["letter_logprobs"])}
        others = {"letter_logprobs": logprobs, "vid_path": "Eval_video/x.mp4", "pixels_sha256": "other"}
        rows[name] = (npu | others, gpu, right)
    comparison = compare(*write_runs(tmp_path, rows))
    assert comparison.diagnosis.findings == []
    assert len(comparison.differences.pairs) == 116
    assert comparison.verdict.name == "INCONCLUSIVE"
    assert causes_of(comparison.verdict) == ["questions", "pixels"]
