"""The next step: a sentence, and commands made from what the runs and the sampler stored."""

import json
import math
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.simulated_runs import simulate_rows
from videobench.commands import SAMPLE_COMMAND_FILE, Command, keep_command
from videobench.compare.comparison import compare_runs
from videobench.compare.settings import ComparisonSettings, Margin, Tolerance
from videobench.report.next_steps import next_step

SET = "sampling_data"
DATA = ("--Eval_QA_root", "/d/qa", "--Eval_Video_root", "/d/v d", "--chat_conversation_output_folder", "/d/out")
TYPED = ("/m", "/d/v", "/d/qa", "/d/out")
RUN = {
    "npu": Command("run_npu.py", ("--model_path", "/m", *DATA), "run_pa_videobench.sh", TYPED),
    "gpu": Command("run_gpu.py", ("--model_path", "/m", *DATA)),
}
SAMPLER = Command("extract_dataset.py", ("--Eval_QA_root", "/d/qa", "--nums", "300"), available=900)


@pytest.fixture(scope="module")
def rows():
    return simulate_rows(300)


@pytest.fixture
def step(tmp_path, rows):
    """(sentence, words of each command) of two sound runs that were changed; without `runs` nothing was stored."""

    def find(change=lambda npu, gpu: None, runs=RUN, sampler=SAMPLER, set=SET, answers="sampling_answer.json", **more):
        sides = [{"/".join(name): dict(both[side]) for name, both in rows.items()} for side in (0, 1)]
        change(*sides)
        paths = [tmp_path / side / f"{set}_eval.json" for side in RUN]
        for path, content, side in zip(paths, sides, RUN, strict=True):
            (path.parent / "journal").mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content))
            if runs:
                keep_command(path.parent / f"journal/{set}.command.json", runs[side])
        right = {}
        for (dataset, id), (*_, letter) in rows.items():
            right.setdefault(dataset, {})[f"{dataset}/{id}"] = {"answer": letter}
        (tmp_path / answers).write_text(json.dumps(right))
        if sampler:
            keep_command(tmp_path / SAMPLE_COMMAND_FILE, sampler)
        own = Command("precision_test.py", ("--eval_npu_path", str(paths[0]), "--eval_gpu_path", str(paths[1])))
        settings = ComparisonSettings(*paths, tmp_path / answers, command=own, **more)
        found = next_step(compare_runs(settings))
        return found.text, [shlex.split(each) for each in found.commands]

    return find


def with_runs(npu, gpu):
    """A change of both sides: what their replies say of their run."""

    def change(*sides):
        for side, run in zip(sides, (npu, gpu), strict=True):
            for row in side.values():
                row["run"] = row["run"] | run

    return change


def scripts(commands):
    return [next(Path(word).name for word in words if word.endswith((".py", ".sh"))) for words in commands]


ALL = ["extract_dataset.py", "run_pa_videobench.sh", "run_gpu.py", "precision_test.py"]


def test_more_questions_are_drawn_asked_and_compared(step):
    text, commands = step()
    assert text == "draw 440 questions, start both runs again (they ask only what is new), then compare again"
    assert scripts(commands) == ALL
    assert commands[0][-4:] == ["--Eval_QA_root", "/d/qa", "--nums", "440"]
    assert commands[1][2:] == list(RUN["npu"].launched)
    assert commands[2][2:] == list(RUN["gpu"].arguments)


@pytest.mark.parametrize(
    ("drawn", "begin", "wanted", "limit"),
    [(1000, "take 440 questions of the sample", ALL[1:], ["--limit", "440"]), (300, "draw 440 questions", ALL, [])],
)
def test_a_limit_is_raised_as_far_as_questions_are_drawn_and_else_dropped(step, drawn, begin, wanted, limit):
    runs = {side: run.with_flag("limit", 300) for side, run in RUN.items()}
    text, commands = step(runs=runs, sampler=SAMPLER.with_flag("nums", drawn))
    assert text.startswith(f"{begin}, start both runs again")
    assert scripts(commands) == wanted
    assert [words[words.index("--limit") :] if "--limit" in words else [] for words in commands[-3:-1]] == [limit] * 2


def test_no_more_questions_are_asked_for_than_there_are(step):
    text, [compare] = step(sampler=replace(SAMPLER, available=339))
    assert text.startswith(
        "440 questions would be needed, and 339 can be drawn from these sets; read what flipped in /"
    )
    assert scripts([compare]) == ALL[3:]


def test_what_is_for_another_machine_says_so(step):
    runs = RUN | {"npu": replace(RUN["npu"], host="node7", environment={"NNODES": "2", "NODE_RANK": "0"})}
    text, commands = step(runs=runs)
    assert text.endswith(
        "; start what has NNODES on each machine, with its own NODE_RANK; run_npu.py on node7, in the suite's folder, "
        "with a copy of the new sample there; before comparing, copy the results from there, unless the machines share "
        "the disk"
    )
    assert commands[1][:4] == ["NNODES=2", "NODE_RANK=0", "bash", "run_pa_videobench.sh"]


@pytest.mark.parametrize(
    ("failed", "begin", "wanted"),
    [
        pytest.param((0, 40), "start the run again: it asks only what failed or is missing (40 on the GPU)", ALL[2:],
                     id="on-one-side"),
        pytest.param((1, 1), "draw ", ALL, id="on-both-sides-as-with-a-bad-video-which-would-fail-for-ever"),
    ],
)  # fmt: skip
def test_what_only_one_side_lacks_is_asked_again(step, failed, begin, wanted):
    def change(*sides):
        for side, count in zip(sides, failed, strict=True):
            for row in list(side.values())[:count]:
                row |= {"error": "cannot be decoded", "output_sequence": [""], "letter_logprobs": {}}

    text, commands = step(change)
    assert text.startswith(begin)
    assert scripts(commands) == wanted


def test_a_sample_is_enlarged_only_if_a_sample_was_compared(step):
    text, commands = step(answers="ANSWER.json")
    wanted = "answer more sets on both sides, or a sample of so many (extract_dataset.py --nums)"
    assert (text, commands) == (f"440 questions would be enough: {wanted}", [])


@pytest.mark.parametrize(
    ("setting", "values", "flags"),
    [
        ("num_frames", (16, 8), ["--num_frames", "8", "/d/out_8"]),
        ("checkpoint_sha256", ("1" * 64, "2" * 64), ["--model_path", "MODEL", "/d/out_MODEL"]),
        ("dtype", ("int8", "float16"), ["--dtype", "float16", "/d/out_float16"]),
        ("dtype", ("float16", "int8"), None),
    ],
)
def test_another_setting_is_taken_over_into_another_folder_if_a_flag_can_ask_for_it(step, setting, values, flags):
    _, commands = step(with_runs(*({setting: value} for value in values)))
    assert [[*words[-4:-2], words[-1]] for words in commands[:1]] == ([flags] if flags else [])
    assert [words[-1] for words in commands[1:]] == ([f"{flags[-1]}/{SET}_eval.json"] if flags else [])


def test_a_sample_is_verified_where_its_videos_are(step, tmp_path):
    def ask_otherwise(npu, _):
        for row in npu.values():
            row["question"] = "Another one?"

    (tmp_path / "sampling_manifest.json").write_text("{}")
    _, commands = step(ask_otherwise, sampler=SAMPLER.with_flag("Eval_Video_root", "/d/v d"))
    assert scripts(commands) == ALL
    place = ["--sampling_output_folder", "/d/v d/Eval_video"]
    assert commands[0][2:] == ["--verify", str(tmp_path / "sampling_manifest.json"), *place]


@pytest.mark.parametrize("run", [pytest.param({"model": "m"}, id="service"), pytest.param({}, id="MindIE")])
def test_another_engine_is_not_started_by_a_command_of_this_suite(step, run):
    def serve(npu, _):
        for row in npu.values():
            row["run"] = run

    text, commands = step(serve, runs=None)
    ask = "let the NPU's engine answer what is new (for a service: --export_requests)"
    assert text.startswith(f"draw 440 questions, {ask}, start the GPU's run again (it asks only what is new), then")
    assert scripts(commands) == [ALL[0], *ALL[2:]]

    def fail(npu, gpu):
        serve(npu, gpu)
        next(iter(npu.values()))["error"] = "cut off"

    text, commands = step(fail, runs=None)
    assert text == "ask again what failed or is missing (1 on the NPU); then compare again"
    assert scripts(commands) == ALL[3:]


def test_files_in_each_others_place_are_exchanged(step):
    _, [compare] = step(with_runs({"device": "cuda"}, {"device": "npu"}))
    paths = dict(zip(compare[2::2], compare[3::2], strict=True))
    assert "/gpu/" in paths["--eval_npu_path"]
    assert "/npu/" in paths["--eval_gpu_path"]


def shake(npu, _):
    for index, row in enumerate(npu.values()):
        row["letter_logprobs"] = {name: each - index % 3 for name, each in row["letter_logprobs"].items()}
        row["letter_logprobs"]["A"] -= 0.5


def test_broken_numbers_are_looked_for_with_what_the_run_was_given(step):
    runs = RUN | {"npu": RUN["npu"].with_flag("batch_size", 4).with_flag("tensor_parallel", 2)}
    text, [check] = step(shake, runs=runs)
    assert text == "find the module that breaks"
    flags = check[2:-1]
    assert flags == ["--model_path", "/m", *DATA, "--check_model", "--check_questions"]
    assert scripts([check]) == ["run_npu.py"]


@pytest.mark.parametrize("runs", [None, RUN | {"npu": RUN["npu"].with_flag("dataset_name", "MSVD")}])
def test_a_check_reads_the_sets_of_its_questions(step, runs):
    """Neither the sample, if no command is known, nor only the set of the first run into a folder."""
    _, [check] = step(shake, runs=runs, set="MSVD")
    sets = {key.split("/")[0] for key in check[-1].split(",")}
    assert len(sets) > 1
    assert check[check.index("--dataset_name") + 1] == ",".join(sorted(sets))


@pytest.mark.parametrize("is_there", [True, False])
def test_flips_are_read_with_the_videos_of_the_run_if_they_are_still_there(step, tmp_path, is_there):
    def lose(npu, _):
        for row in list(npu.values())[:150]:
            row["output_sequence"] = ["no idea"]

    root = tmp_path if is_there else tmp_path / "gone"
    runs = {side: run.with_flag("Eval_Video_root", root) for side, run in RUN.items()}
    text, [compare] = step(lose, runs=runs)
    report = Path("report.html").absolute()
    assert text == f"read what flipped in {report}"
    assert compare[6:] == ["--report_html", str(report), *(["--Eval_Video_root", str(root)] if is_there else [])]


@pytest.mark.parametrize(("dtype", "wider"), [("float16", ["bfloat16"]), ("bfloat16", [])])
def test_only_float16_is_left_for_a_dtype_that_does_not_overflow(step, dtype, wider):
    def overflow(npu, gpu):
        with_runs({"dtype": dtype}, {"dtype": dtype})(npu, gpu)
        for row in list(npu.values())[:5]:
            row |= {"nonfinite": True, "letter_logprobs": {}}

    _, commands = step(overflow)
    assert [words[-3] for words in commands if "--dtype" in words] == wider
    assert "--check_model" in commands[-1]


def test_what_a_run_is_asked_again_in_goes_to_a_new_folder_if_its_own_is_not_known(step):
    text, [again, compare] = step(with_runs({"num_frames": 4}, {"num_frames": 8}), runs=None)
    assert text.endswith(", NEW_OUTPUT by a new folder")
    assert again[-1] == "NEW_OUTPUT"
    assert compare[-1] == f"NEW_OUTPUT/{SET}_eval.json"


@pytest.mark.parametrize(
    ("margin", "begin"), [(3, "the runs differ: a loss of"), (1, "no letter differs: see how the leads moved in /")]
)
def test_nobody_is_sent_to_flips_if_there_are_none(step, rows, margin, begin):
    def flatten(npu, gpu):
        """Give the GPU's replies, but a lead that is hardly one if it is right."""
        for name, (*_, right) in rows.items():
            own, other = npu["/".join(name)], gpu["/".join(name)]
            own |= {each: other[each] for each in ("output_sequence", "letter_logprobs")}
            if other["output_sequence"] == [right]:
                level = -math.log(len(other["letter_logprobs"]))
                own["letter_logprobs"] = {each: level - 0.1 * (each != right) for each in other["letter_logprobs"]}

    text, _ = step(flatten, margin=Margin(margin), tolerance=Tolerance(is_judged=False))
    assert text.startswith(begin)
    assert "flip" not in text


def test_the_run_that_overflows_is_asked_again_though_a_service_answered_on_the_other_side(step):
    def overflow(npu, gpu):
        for row in npu.values():
            row["run"] = {"model": "m"}
        for row in list(gpu.values())[:5]:
            row |= {"nonfinite": True, "letter_logprobs": {}}

    text, commands = step(overflow, runs=None)
    assert text.startswith("run that side again with --dtype bfloat16, into another folder")
    assert scripts(commands) == ["run_gpu.py", "precision_test.py", "run_gpu.py"]


def test_what_the_original_leaves_out_is_scored_otherwise_since_no_page_lists_it(step):
    def fall_silent(*sides):
        for side in sides:
            for row in list(side.values())[:30]:
                row["output_sequence"] = ["?"]

    text, [compare] = step(fall_silent, scoring="mindie", margin=Margin(3))
    assert text == "score by --scoring strict, which counts replies without a letter as wrong, and lists them"
    assert compare[-2:] == ["--scoring", "strict"]


@pytest.mark.parametrize("is_of_service", [True, False])
def test_a_service_that_lacks_new_questions_is_not_started_again(step, is_of_service):
    def enlarge(npu, gpu):
        for row in gpu.values():
            row["run"] = row["run"] | {"manifest_sha256": "2" * 64}
        for index, (name, row) in enumerate([*npu.items()]):
            row["run"] = {"model": "m"} if is_of_service else row["run"] | {"manifest_sha256": "1" * 64}
            if index < 100 or name.startswith("MSVD/"):
                del npu[name]

    text, commands = step(enlarge, runs=None)
    begin = "let the NPU's engine answer what is new (for a service: --export_requests), then compare again"
    assert text.startswith("the NPU's run lacks 1")
    assert text.partition(": ")[2].startswith(begin if is_of_service else "start it again (it asks only what is new)")
    assert scripts(commands) == (ALL[3:] if is_of_service else ["run_npu.py", *ALL[3:]])


@pytest.mark.parametrize(("other", "limit"), [(None, []), (280, ["--limit", "280"])])
def test_what_a_limit_left_out_is_asked_up_to_the_other_sides_limit(step, other, limit):
    def leave_out(npu, _):
        for name in [name for name in npu if name.startswith("MSVD/")][1:]:
            del npu[name]

    runs = RUN | {"npu": RUN["npu"].with_flag("limit", 250)}
    runs["gpu"] = runs["gpu"].with_flag("limit", other) if other else runs["gpu"]
    text, [again, _] = step(leave_out, runs=runs)
    assert text.startswith("start the run again: it asks only what failed or is missing (")
    assert again[2:] == [*TYPED, *limit]
