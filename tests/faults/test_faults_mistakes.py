"""What people get wrong on their first day: each mistake gets a line that says so, and what to do instead."""

import json
import shutil
import subprocess

import pytest

from tests.support.fault_tools import SAMPLE, SET, Bench, assert_refused


@pytest.fixture
def bench(tmp_path, capsys):
    bench = Bench(tmp_path / "数据 set+@", capsys).shorten(24)
    bench.write_replies("npu.json")
    bench.write_replies("gpu.json")
    return bench


@pytest.mark.parametrize(
    ("given", "wanted", "found"),
    [
        pytest.param("qa", "answers", "holds questions, not right answers; --sampling_an", id="qa-as-answers"),
        pytest.param("npu.json", "answers", "holds a run's replies, not right answers; --sa", id="result-as-answers"),
        pytest.param("ANSWER.json", "npu", "holds right answers, not a run's replies; name", id="answers-as-result"),
        pytest.param("qa", "npu", "holds questions, not a run's replies; name a run's", id="qa-as-result"),
        pytest.param("manifest", "npu", "holds a sample's manifest, not a run's replies", id="manifest-as-result"),
    ],
)
def test_a_file_in_the_place_of_another_kind_is_called_by_its_name(bench, given, wanted, found):
    assert bench.sample().status == 0
    names = {"qa": bench.qa, "ANSWER.json": bench.folder / "qa/ANSWER.json"}
    names |= {"manifest": bench.folder / "qa/Eval_QA/sampling_manifest.json"}
    path = names.get(given, bench.folder / given)
    flags = {"answers": "--sampling_answer_path", "npu": "--eval_npu_path"}
    assert_refused(bench.compare(flags[wanted], path), path, found)


def test_a_sample_that_was_not_made_yet_names_the_script_that_makes_it(bench):
    outcome = bench.answer("--dataset_name", SAMPLE)
    assert_refused(outcome, "sampling_datasets_QA_new.json", "missing; run extract_dataset.py first, or check")


def test_a_file_of_another_kind_is_named_with_the_flag_it_was_given_for(bench):
    for flag, start in (("--correct_answer_file", bench.sample), ("--answer_path", bench.answer)):
        assert_refused(start(flag, bench.qa), bench.qa, f"holds questions, not right answers; .*{flag}")
    bench.qa.write_bytes((bench.folder / "npu.json").read_bytes())
    assert_refused(bench.answer(), bench.qa, "holds a run's replies, not questions; questions are found through")


@pytest.mark.parametrize(
    ("folder", "fix"),
    [
        ("qa/Eval_QA", f"{SET}_QA_new.json lies in --Eval_QA_root itself: give the folder above it"),
        ("questions", f"{SET}_QA_new.json lies in --Eval_QA_root itself: move it into a folder Eval_QA there"),
        ("", "it is in .*qa/Eval_QA: give .*qa$"),
        ("qa/empty", "it is in .*qa/Eval_QA: give .*qa$"),
    ],
)
def test_a_qa_root_at_a_wrong_level_gets_the_right_folder_told(bench, folder, fix):
    root = bench.folder / folder
    root.mkdir(exist_ok=True)
    if folder == "questions":
        shutil.move(bench.qa, root)
    flags = ("--Eval_QA_root", root)
    for outcome in (bench.answer(*flags), bench.sample(*flags), bench.sample(*flags, "--datasets", "all")):
        assert_refused(outcome, root / "Eval_QA", fix)


def test_a_name_of_the_hub_gets_the_command_that_downloads_it(bench):
    name, folder = "llava-hf/LLaVA-NeXT-Video-7B-hf", "LLaVA-NeXT-Video-7B-hf"
    found = f"not a folder; hf download llava-hf/{folder} --local-dir {folder}, then --model_path {folder}"
    assert_refused(bench.answer("--model_path", name), name, found)


@pytest.mark.parametrize("name", [f"{SET}/", "msvd/", " MSVD", "ALL"])
def test_a_set_may_be_written_as_its_folder(bench, name):
    assert bench.answer("--dataset_name", name, "--dry_run").status == 0
    assert bench.sample("--datasets", name).status == 0


def test_a_question_that_holds_the_placeholder_of_the_video_is_refused(bench):
    rows = bench.rows()
    key = next(iter(rows))
    bench.qa.write_text(json.dumps(rows | {key: rows[key] | {"question": "What is <video>?"}}))
    outcome = bench.answer("--dry_run")
    assert outcome.status == 2
    assert f"question {key} of {SET} holds <video>, which stands for the video; reword it in the QA file" in outcome.err


@pytest.mark.parametrize("given", ["out", f"out/{SET}_eval.json"])
@pytest.mark.parametrize("keeps", [True, False])
def test_a_run_that_was_stopped_is_compared(bench, given, keeps):
    """The command below the error finishes it; what an earlier release began is named without one."""
    bench.write_journal()
    command = bench.folder / f"out/journal/{SET}.command.json"
    if not keeps:
        command.unlink()
    outcome = bench.compare(npu=given)
    line, _, below = outcome.err.partition("\n")
    again = "start it again" if keeps else "start it again with the command that began it"
    assert line == f"error: {bench.folder / given}: this run is not finished, and has no result file yet; {again}"
    assert outcome.status == 2
    assert bool(below) == keeps
    if keeps:
        done = subprocess.run(["bash", "-c", below], cwd="/", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "2 kept" in done.stderr
        assert bench.compare(npu=given).status == 0


def test_a_stopped_run_of_another_machine_is_gone_on_with_there(bench):
    bench.write_journal()
    command = bench.folder / f"out/journal/{SET}.command.json"
    command.write_text(json.dumps(json.loads(command.read_text()) | {"host": "npu-7"}))
    line, _, below = bench.compare(npu="out").err.partition("\n")
    assert line.endswith("start it again on npu-7, in the suite's folder there, and copy its folder here")
    assert below.lstrip().startswith("python run_")


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        pytest.param(("--nums", 99), r"only 24 can be drawn .*; use --nums 24 or fewer\n", id="more-than-there-are"),
        pytest.param(("--num", 6), r"--num 6; did you mean --nums\?; ", id="misspelt-flag"),
        pytest.param(("--datasets", f"{SET}，MOT"), "MOT_QA_new.json: missing; check", id="chinese-comma"),
        pytest.param(
            ("--correct_answer_file", "{}/other.json"), "; check --correct_answer_file, or", id="other-answers"
        ),
        pytest.param(("--json_output_path", "{}/npu.json"), "cannot be written", id="file-in-place-of-a-folder"),
        pytest.param(("--Eval_Video_root", "{}/none"), "none: no such folder of videos; check --Eval", id="no-videos"),
    ],
)
def test_a_slip_in_the_call_of_the_sampler_copies_nothing_and_says_what_to_write(bench, flags, found):
    (bench.folder / "other.json").write_text('{"TVQA": {"1": "A"}}')
    before = bench.contents()
    assert_refused(bench.sample(*(str(each).format(bench.folder) for each in flags)), "", found)
    assert bench.contents() == before


def test_answers_that_were_not_downloaded_are_named_with_the_flag(bench):
    (bench.folder / "qa/ANSWER.json").unlink()
    assert_refused(bench.sample(), bench.folder / "qa/ANSWER.json", "missing; download it .*, or name it by --correct_")
