"""The three lines to act on, for each kind of verdict, and the commands to run next."""

import inspect
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.simulated_runs import (
    Fault,
    Loss,
    World,
    build_pairs,
    pair_rows,
    sample_questions,
    simulate,
    simulate_rows,
)  # fmt: skip
from videobench.commands import CARDS
from videobench.compare import associations, divergence, obstacles
from videobench.compare.advice import LOOK_AT, NEXT_STEP, OF_OTHERS
from videobench.compare.comparison import compare_pairs
from videobench.compare.divergence import diagnose, measure
from videobench.compare.pairing import Pairing, Side, tabulate
from videobench.compare.same_inputs import CAUSES, NEVER_COMPARABLE, TASK_SETTINGS
from videobench.compare.settings import ComparisonSettings, Margin, Names, Tolerance
from videobench.report.build import summarize


def pairs_of(count, noise=0.0, unreadable=0, stores_logprobs=True):
    """Sound in float16, but for the NPU's noise in nats and its unreadable replies."""
    rng = np.random.default_rng(0)
    logits = simulate(sample_questions(count, rng), rng, World((0.005, 0.005)))
    logits.candidate[:] += noise * rng.normal(size=logits.candidate.shape)
    logits.unreadable[:unreadable] = True
    return build_pairs(logits, stores_logprobs)


def with_reply(pairs, side, **more):
    """That side's replies with other fields."""
    sides = (getattr(each, side) for each in pairs)
    return [
        replace(each, **{side: replace(own, reply=replace(own.reply, **more))})
        for each, own in zip(pairs, sides, strict=True)
    ]


def without(pairs, count):
    """The NPU lacks the first `count` answers."""
    return [replace(each, candidate=Side(None, None, "missing")) for each in pairs[:count]] + pairs[count:]


def failed(pairs, count):
    """The first `count` questions failed on the NPU."""
    bad = with_reply(pairs[:count], "candidate", error="out of memory", logprobs={})
    return [replace(each, candidate=Side(each.candidate.reply, None, "failed")) for each in bad] + pairs[count:]


def silent(pairs, count):
    """Neither side's reply to the first `count` questions can be read."""
    unread = [[Side(side.reply, None, "unreadable") for side in each.sides] for each in pairs[:count]]
    silenced = [replace(each, candidate=one, reference=two) for each, (one, two) in zip(pairs, unread, strict=False)]
    return silenced + pairs[count:]


def one_way():
    """A small loss: nine answers flip one way, one the other way."""
    rng = np.random.default_rng(0)
    return build_pairs(simulate(sample_questions(1500, rng), rng, World((0.015, 0.015)), Loss("shift", 0.25)))


def comparison_of(pairs, repeat=None, **settings):
    again = measure(tabulate(repeat())) if repeat else None
    return compare_pairs(Pairing(pairs), ComparisonSettings("n", "g", "sampling_answer.json", **settings), again)


def summary_of(pairs, **more):
    return summarize(comparison_of(pairs, **more))


def shaken(pairs):
    """The GPU's run once more, on a device that does not repeat itself."""
    again = [replace(each, candidate=each.reference) for each in pairs]
    for index, each in enumerate(again[1::2]):
        logprobs = {letter: value - 0.1 * (letter == "A") for letter, value in each.candidate.reply.logprobs.items()}
        [again[2 * index + 1]] = with_reply([each], "candidate", logprobs=logprobs)
    return again


def of_devices(candidate, reference):
    pairs = with_reply(pairs_of(600), "candidate", run={"dtype": "float16", "device": candidate})
    return with_reply(pairs, "reference", run={"dtype": "float16", "device": reference})


SOUND = "OK: median difference 0.0"
CASES = {
    "pass": (
        lambda: pairs_of(600), {},
        "PASS: the NPU answers like the GPU, within 1 point", SOUND, "done: keep",
    ),
    "pass-one-sided": (
        lambda: pairs_of(600), {"margin": Margin(one_sided=True)},
        "PASS: no loss on the NPU beyond 1 point", SOUND, "done: keep",
    ),
    "too-few": (
        lambda: pairs_of(300), {}, "INCONCLUSIVE: too few questions to show 1 point", SOUND,
        "draw 4",
    ),
    "too-narrow": (
        lambda: pairs_of(300), {"margin": Margin(0.02)}, "INCONCLUSIVE: too few questions to show 0.02 points", SOUND,
        "56,800 questions would be needed, and 17,036 are all of Video-Bench",
    ),
    "no-log-probabilities": (
        lambda: pairs_of(300, stores_logprobs=False), {},
        "INCONCLUSIVE: too few", "not known: a side stores no log-prob", "draw ",
    ),
    "loss": (
        lambda: pairs_of(600, unreadable=60), {}, "FAIL: the NPU loses ", SOUND, NEXT_STEP["flips"],
    ),
    "everywhere": (
        lambda: pairs_of(300, noise=0.2), {},
        "FAIL: numerically broken: half of all 300 questions differ by", "broken: median difference 0.27 nats",
        NEXT_STEP["broken"],
    ),
    "missing": (
        lambda: without(pairs_of(600), 30), {}, "INCONCLUSIVE: 30 questions are in one file only", SOUND,
        "start the run again: it asks only what failed or is missing (30 on the NPU)",
    ),
    "failed": (
        lambda: failed(pairs_of(1000), 20), {}, "INCONCLUSIVE: smoothed accuracy differs by", SOUND,
        "start the run again: it asks only what failed or is missing (20 on the NPU)",
    ),
    "silent": (
        lambda: silent(pairs_of(460), 80), {}, "INCONCLUSIVE: 80 questions have no letter on either side", SOUND,
        "read the replies that have no letter",
    ),
    "flips": (
        one_way, {}, "INCONCLUSIVE: flips favour the GPU more than chance explains", SOUND, NEXT_STEP["flips"],
    ),
    "swapped": (
        lambda: of_devices("cuda", "npu"), {}, "INCONCLUSIVE: not comparable: the NPU and GPU files look swapped",
        SOUND, "exchange --eval_npu_path and --eval_gpu_path",
    ),
    "not-repeated": (
        lambda: pairs_of(600), {"repeat": lambda: shaken(pairs_of(600))},
        "PASS: ", "a run does not repeat itself", NEXT_STEP["repeat"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_three_lines(case):
    build, more, verdict, numbers, next_step = CASES[case]
    summary = summary_of(build(), **more)
    assert summary.verdict.startswith(verdict)
    assert numbers in summary.numbers
    assert summary.next_step.startswith(next_step.format(candidate="the NPU"))


def test_unreadable_replies_of_one_side_are_a_finding():
    pairs = pairs_of(300, unreadable=30)
    answers = tabulate(pairs)
    [finding] = diagnose(answers, measure(answers), []).findings
    assert (finding.cause, finding.breaks) == ("unreadable", False)
    assert finding.text.endswith("replies of the NPU alone cannot be read")
    assert "gibberish at rope" in finding.look_at


def causes_in(module, kind):
    """The causes that the code gives to an Obstacle, a Finding or a Subgroup."""
    return set(re.findall(rf'(?:{kind}|_by_value|_by_size)\(\s*"([a-z_ ]+)"', inspect.getsource(module)))


def test_every_obstacle_and_finding_has_advice_and_there_is_no_other_advice():
    settings = {*NEVER_COMPARABLE, "checkpoint", "dtype"}
    named = causes_in(obstacles, "Obstacle") | {"swapped", "one_device", "mixed", "sampling", *CAUSES, *settings}
    found = causes_in(divergence, "Finding") | causes_in(associations, "Subgroup|Association") - {"level"}
    assert LOOK_AT.keys() == (named | found) - {*TASK_SETTINGS}
    assert named <= NEXT_STEP.keys() | OF_OTHERS.keys()


def words_of(command):
    """The script's name, and what it is given, as bash reads them."""
    python, script, *words = shlex.split(command)
    assert Path(python).name.startswith("python")
    return Path(script).name, words


BLANK = ["--model_path", "MODEL", "--Eval_QA_root", "QA_ROOT", "--Eval_Video_root", "VIDEO_ROOT",
         "--chat_conversation_output_folder", "OUTPUT"]  # fmt: skip


def test_the_command_that_finds_the_module_names_the_questions_that_differ_most():
    pairs = pairs_of(300, noise=0.2)
    differences = measure(tabulate(pairs))
    worst = sorted(zip(differences.largest, (each.key for each in differences.pairs), strict=True), reverse=True)[:4]
    summary = summary_of(pairs)
    questions = ",".join(key for _, key in worst)
    check = ["--check_model", "--check_questions", questions]
    assert [words_of(each) for each in summary.next_commands] == [("run_npu.py", [*BLANK, *check])]
    assert summary.next_step == (
        f"{NEXT_STEP['broken']}; replace MODEL by the checkpoint's folder, QA_ROOT by the folder that holds Eval_QA/, "
        "VIDEO_ROOT by the folder that holds Eval_video/, OUTPUT by that run's output folder"
    )


def of_run(run):
    """Broken on the NPU; both sides with this run."""
    pairs = with_reply(pairs_of(300, noise=0.9), "candidate", run=run)
    return with_reply(pairs, "reference", run={name: value for name, value in run.items() if name != "device"})


def test_the_command_asks_for_what_the_run_was_asked_for():
    run = {"num_frames": 4, "dtype": "bfloat16", "deterministic": True, "device": "npu"}
    [command] = summary_of(of_run(run)).next_commands
    assert " OUTPUT --num_frames 4 --dtype bfloat16 --deterministic --check_model " in command


@pytest.mark.parametrize(
    ("run", "named", "cards"),
    [
        pytest.param({}, "NPU card 2", ["2"], id="of-an-earlier-release"),
        pytest.param({"tensor_parallel": 2}, "NPU cards 4 and 5", ["4", "5"], id="of-an-earlier-release-in-pairs"),
        pytest.param({"cards": "7"}, "NPU card 7 of replica 2", ["7"], id="of-several-machines"),
        pytest.param({2: {"cards": "6,7"}}, "NPU cards 6 and 7", ["6", "7"], id="as-the-machine-counts-them"),
    ],
)
def test_a_broken_card_is_named_as_the_user_counts_them_and_the_command_checks_it(run, named, cards):
    pairs = pair_rows(simulate_rows(300, fault=Fault("card", 0.2)))
    runs = (run.get(each.candidate.reply.rank, run if 2 not in run else {}) for each in pairs)
    full = [{"dtype": "float16", **each} for each in runs]
    spoilt = [with_reply([each], "candidate", run=run)[0] for each, run in zip(pairs, full, strict=True)]
    summary = summary_of(spoilt)
    assert summary.verdict == f"FAIL: numerically broken: {named}"
    assert [each.partition(" ")[0] for each in summary.next_commands] == [f"{CARDS['npu']}={each}" for each in cards]
    for command in summary.next_commands:
        keys = shlex.split(command)[-1].split(",")
        assert all(each.candidate.reply.rank == 2 for each in pairs if each.key in keys)


@pytest.mark.parametrize(("side", "script"), [("candidate", "run_npu.py"), ("reference", "run_gpu.py")])
def test_if_numbers_overflow_their_questions_are_looked_at(side, script):
    pairs = pairs_of(300)
    hit = with_reply(pairs[100:106], side, nonfinite=True, logprobs={})
    summary = summary_of(pairs[:100] + hit + pairs[106:])
    assert summary.next_step.startswith("run that side again with --dtype bfloat16")
    again, compared, check = map(words_of, summary.next_commands)
    assert (again[0], again[1][-4:-2]) == (script, ["--dtype", "bfloat16"])
    assert compared[0] == "precision_test.py"
    assert (check[0], check[1][-2:]) == (script, ["--check_questions", ",".join(each.key for each in hit[:4])])


@pytest.mark.parametrize(
    ("device", "script", "flag"),
    [("npu", "run_npu.py", []), ("cuda", "run_gpu.py", []), ("cpu", "run_gpu.py", ["cpu"])],
)
def test_the_command_is_of_the_script_that_ran(device, script, flag):
    [command] = summary_of(of_run({"device": device}), names=Names(are_devices=False)).next_commands
    name, words = words_of(command)
    assert name == script
    assert words[len(BLANK) : -3] == ["--device", *flag] * bool(flag)


def test_a_name_in_the_command_says_nothing_to_a_shell():
    """Keys and settings come from a result file, and the command is there to be copied."""
    pairs = [replace(each, id=f"{each.id};touch $(x)") for each in of_run({"dtype": "bfloat16 | sh"})]
    [command] = summary_of(pairs).next_commands
    words = shlex.split(command)
    assert words[-1].count(";touch $(x)") == 4
    assert "bfloat16 | sh" in words


def test_accuracy_alone_was_judged_only_if_it_was_judged():
    pairs = pairs_of(600)
    overflow = with_reply(pairs[:6], "candidate", nonfinite=True, logprobs={}) + pairs[6:]
    other_frames = with_reply(pairs, "candidate", run={"num_frames": 16})
    for shown, is_said in ((pairs, True), (overflow, False), (other_frames, False)):
        verdict = summary_of(shown, tolerance=Tolerance(is_judged=False)).verdict
        assert ("only accuracy was judged" in verdict) == is_said


def test_a_service_without_a_finish_reason_is_not_sent_to_our_own_engine():
    pairs = with_reply(pairs_of(300, noise=0.9), "candidate", run={"model": "m"})
    assert summary_of(pairs).next_step.startswith(NEXT_STEP["service"])


def test_what_one_side_lacks_of_another_benchmark_is_answered_before_more_questions_are_asked():
    few = [replace(each, dataset="arc") for each in pairs_of(300)]
    assert summary_of(few).next_step.startswith("compare ")
    assert summary_of(without(few, 30)).next_step == OF_OTHERS["sample"]
