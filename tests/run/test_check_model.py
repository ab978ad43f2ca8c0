"""--check_model on the CPU, which is sound. Devices with faults: tests/device/npu_cases/cases_locate.py."""

import csv
import json
import math
import re
import shlex
import subprocess
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch

import run_gpu
from tests.support.model_checks import small_check
from videobench.data.dataset import Question
from videobench.device.devices import open_device
from videobench.errors import InputError
from videobench.locate.batches import distance
from videobench.locate.modules import ModuleCheck
from videobench.model import engine
from videobench.model.prompts import Answer
from videobench.run.model_check import choose
from videobench.run.options import parse_args
from videobench.run.plan import Plan

MSPROBE = [
    "NPU Name", "Bench Name", "NPU Dtype", "Bench Dtype", "NPU Tensor Shape", "Bench Tensor Shape", "Cosine", "EucDist",
    "MaxAbsErr", "MaxRelativeErr", "One Thousandth Err Ratio", "Five Thousandths Err Ratio", "NPU max", "NPU min",
    "NPU mean", "NPU l2norm", "Bench max", "Bench min", "Bench mean", "Bench l2norm", "Result",
]  # fmt: skip


def check(capsys, flags, *more):
    """(exit status, lines of stdout)"""
    status = run_gpu.main([*flags, "--check_model", *map(str, more)])
    said = capsys.readouterr()
    assert "Loading weights" not in said.err  # transformers' bar is for terminals
    return status, said.out.splitlines()


def test_a_sound_device(capsys, flags, small):
    status, lines = check(capsys, flags, "--output_json", small / "check.json")
    assert status == 0
    assert lines[0] == "4 questions on 2 videos, computed on the CPU, and again on the CPU in float32"
    [agrees] = [line for line in lines if " module calls agree with the CPU's float32 (largest error: " in line]
    assert agrees.startswith("float32: all ")
    assert "the same questions twice, without --deterministic: equal log-probabilities and tokens" in lines
    tried = [line for line in lines if line.endswith(" nats)")]
    assert tried[0].startswith("float32: 8 rows on 2 videos in one prefix, prompts of ")
    assert tried[1].startswith("float32: 5 rows on one video, prompts of ")
    assert all(": each row agrees with a plain generate (up to " in line for line in tried)
    assert lines[-2:] == [f"wrote {small}/check.json", lines[-1]]
    assert lines[-1].startswith("all agrees, in ")
    report = json.loads((small / "check.json").read_text())
    assert report["agrees"] is True
    assert [each["dtype"] for each in report["passes"]] == ["float32"]
    assert report["passes"][0]["first"] is None
    assert f"{report['passes'][0]['module_calls']:,}" in agrees
    assert len(report["questions"]) == 4


def test_replies_that_do_not_repeat_deviate_with_equal_log_probabilities(capsys):
    """Tokens after the first change from call to call."""

    def answer(videos, batch_size):
        answers = answer_as_it_is(videos, batch_size)
        if len(videos) == 1:
            answers = [[replace(each, token_ids=(*each.token_ids[:-1], next(other))) for each in answers[0]]]
        return answers

    check, other = small_check(open_device("cpu")), count()
    loaded = check.load("float32")
    answer_as_it_is = loaded.answer
    loaded.answer = answer
    report = check.in_dtype(loaded, "float32")
    assert (report["repeats"]["nats"], report["repeats"]["agrees"], report["agrees"]) == (0, False, False)
    found = "2 of 2 replies differ in their tokens; try it with --deterministic"
    assert f"the same questions twice, without --deterministic: {found}" in capsys.readouterr().out


def test_a_table_has_a_row_for_each_module_call(capsys, flags, small):
    path = small / "check.csv"
    check(capsys, flags, "--check_questions", keys_of(small)[0], "--output_csv", path, "--batch_size", 1)
    columns, *rows = csv.reader(path.read_text().splitlines())
    assert columns == [*MSPROBE, "Error Over Tolerance"]
    by_name = {row[0]: dict(zip(columns, row, strict=True)) for row in rows}
    assert len(by_name) == len(rows)
    step = "layers.0.input_layernorm.LlamaRMSNorm.forward.2.output.0"
    [norm] = [row for name, row in by_name.items() if name.endswith(step)]
    assert (norm["Bench Name"], norm["NPU Dtype"], norm["Bench Dtype"]) == (norm["NPU Name"], "float32", "float32")
    assert norm["NPU Tensor Shape"] == norm["Bench Tensor Shape"] == "[1, 1, 128]"  # the first decoding step
    assert (float(norm["Cosine"]), norm["Result"]) == (pytest.approx(1), "pass")
    assert {row["Result"] for row in by_name.values()} == {"pass"}
    assert max(float(row["Error Over Tolerance"]) for row in by_name.values()) < 0.1


def keys_of(small):
    [path] = (small / "qa/Eval_QA").glob("MSVD*")
    return [f"MSVD/{key}" for key in json.loads(path.read_text())]


def test_16_bits_come_after_float32_and_questions_may_be_named(capsys, flags, small):
    named = keys_of(small)[2:4]
    more = ("--dtype", "bfloat16", "--check_questions", ",".join(named), "--output_json", small / "check.json")
    status, _ = check(capsys, flags, *more)
    report = json.loads((small / "check.json").read_text())
    assert status == 0
    assert [each["dtype"] for each in report["passes"]] == ["float32", "bfloat16"]
    assert report["questions"] == named


def test_questions_of_a_comparison_that_agree_leave_other_causes_each_with_a_command(capsys, flags, small):
    """The first and the last can be pasted; the others are of a device, or change what is installed."""
    flags = [*flags, "--limit", "2"]
    status, lines = check(capsys, flags, "--check_questions", keys_of(small)[0])
    start = next(index for index, line in enumerate(lines) if line.startswith("If a comparison has found a difference"))
    assert status == 0
    assert lines[start - 1].startswith("all agrees, in ")
    text = "\n".join(lines[start + 1 :])
    causes, commands = re.findall(r"^- (.*):$", text, re.M), re.split(r"^- .*:\n", text, flags=re.M)[1:]
    named = ("pixels or prompts", "a library that", "from run to run", "a service's own kernels")
    assert all(name in cause for name, cause in zip(named, causes, strict=True))
    for command, said in ((commands[0], "first prompt"), (commands[-1], "out_requests.jsonl: 2 requests")):
        done = subprocess.run(["bash", "-c", command], cwd="/", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
    assert shlex.split(commands[2].replace("\\\n", "")).count("--deterministic") == 1


def test_float32_whose_weights_do_not_fit_is_left_out(capsys, monkeypatch, flags):
    def load(*args, **kwargs):
        if kwargs["dtype"] == torch.float32:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return from_pretrained(*args, **kwargs)

    from_pretrained = engine.LlavaNextVideoForConditionalGeneration.from_pretrained
    monkeypatch.setattr(engine.LlavaNextVideoForConditionalGeneration, "from_pretrained", load)
    status, lines = check(capsys, flags, "--dtype", "bfloat16")
    assert status == 0
    assert "float32: left out, the CPU ran out of memory; 16 bits hide small deviations" in lines


def test_out_of_memory_in_the_dtype_that_was_asked_for(monkeypatch, flags):
    def run(self, videos):
        raise RuntimeError("NPU out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(ModuleCheck, "run", run)
    with pytest.raises(InputError, match="the CPU: out of memory in float32; name fewer --check_questions"):
        run_gpu.main([*flags, "--check_model"])


def test_questions_of_a_report(capsys, flags, small):
    named = keys_of(small)[:1]
    for name in ("report.json", "report"):
        (small / name).write_text(json.dumps({"most_different": named}))
        status, lines = check(capsys, flags, "--check_questions", small / name)
        assert status == 0
        assert lines[0].startswith("1 question on 1 video, ")
        assert lines[1].endswith(named[0])


def test_an_id_of_several_sets_is_not_guessed():
    prompts = {Question(name, name, "7", "7", "", Path(), "", "what?", {}): () for name in ("MSVD", "NBA")}
    with pytest.raises(InputError, match="7: is in several data sets; name one of MSVD/7, NBA/7"):
        choose(Plan(prompts, {}), ["7"])


@pytest.mark.parametrize(
    ("first", "second", "nats"),
    [
        pytest.param({"A": -1.0, "B": math.nan}, {"A": -1.5, "B": math.nan}, 0.5, id="NaN-on-both-sides"),
        pytest.param({"A": -1.0, "B": -2.0}, {"A": -1.0, "B": math.nan}, math.inf, id="NaN-on-one"),
        pytest.param({"A": math.nan}, {"A": math.nan}, 0.0, id="NaN-alone"),
    ],
)
def test_how_far_two_answers_are_apart(first, second, nats):
    assert distance(*(Answer((), "", each, True) for each in (first, second))) == nats


@pytest.mark.parametrize(
    ("more", "message"),
    [
        pytest.param(
            ["--check_questions", "MSVD/0815"], "MSVD/0815: no such question among the 61 of these sets", id="unknown"
        ),
        pytest.param(
            ["--check_questions", ",".join(map(str, range(1000)))], "_questions: 0: no such", id="longer-than-any-path"
        ),
        pytest.param(["--check_questions", "{}/qa.json"], "no report of precision_test.py", id="another-file"),
        pytest.param(["--tensor_parallel", "2"], "--check_model uses one card", id="several-cards"),
    ],
)
def test_what_cannot_be_checked(flags, small, more, message):
    (small / "qa.json").write_text("{}")
    with pytest.raises(InputError, match=message):
        run_gpu.main([*flags, "--check_model", *(each.format(small) for each in more)])


@pytest.mark.parametrize(("more", "steps", "longest"), [((), 2, 60), (("--max_new_tokens", "5"), 5, 5)])
def test_the_longest_reply_says_how_many_decoding_steps(flags, more, steps, longest):
    settings = parse_args([*flags, "--check_model", *more], "cuda")
    assert (settings.decoding_steps, settings.run.max_new_tokens) == (steps, longest)


def test_its_flags_are_its_own(flags):
    with pytest.raises(InputError, match="--check_questions, --output_json and --output_csv need --check_model"):
        run_gpu.main([*flags, "--check_questions", "MSVD/1"])


def test_a_video_that_does_not_decode_is_named(flags, small):
    for video in (small / "videos/Eval_video/MSVD").iterdir():
        video.write_bytes(b"no video")
    with pytest.raises(InputError, match=r"choose other questions with --check_questions"):
        run_gpu.main([*flags, "--check_model"])


def test_nothing_to_ask():
    with pytest.raises(InputError, match="no question can be asked; the first: why"):
        choose(Plan({"a": ()}, {"a": "why"}), ())
