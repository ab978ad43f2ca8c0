"""The three lines to act on: the verdict, what the numbers show, and the next command."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from videobench.compare.advice import NEXT_STEP
from videobench.compare.comparison import Comparison
from videobench.compare.diagnosis import list_groups
from videobench.compare.divergence import Differences
from videobench.compare.pairing import Pairing
from videobench.compare.same_inputs import Inputs
from videobench.compare.scoring import FAILED, MISSING
from videobench.compare.settings import Names
from videobench.compare.verdict import AGREEMENT, COUNTS, DIVERGENCE, FAIL, GROUPS, INCONCLUSIVE, INPUTS, Verdict

ALL_QUESTIONS = 17_036  # of Video-Bench
CHECKED = 4  # questions that --check_model is asked to look at
SCRIPTS = {"npu": "run_npu.py", "cuda": "run_gpu.py", "cpu": "run_gpu.py"}  # by the device that a run stores
USUAL = {"num_frames": 8, "dtype": "float16"}  # of a run without the flag, on an NPU and a GPU


@dataclass(frozen=True)
class Summary:
    verdict: str  # "PASS: the NPU answers as well as the GPU, within 1 point"
    numbers: str  # "OK: median difference 0.01 nats, 0.3 % beyond the 0.1 nats that float16 rounding explains, ..."
    next_step: str  # what to do, with the command or flag


def summarize(comparison: Comparison) -> Summary:
    verdict, inputs = comparison.verdict, comparison.inputs
    only = "" if comparison.settings.tolerance.is_judged else "; only accuracy was judged (--tolerance none)"
    known = "" if inputs.known or verdict.evidence.obstacles else "; inputs not known to be the same"
    return Summary(
        f"{verdict.name}: {verdict.headline}{only}{_stand_ins(comparison)}",
        f"{_numbers(comparison)}{_identical(inputs)}{known}",
        _next_step(comparison),
    )


def _stand_ins(comparison: Comparison) -> str:
    """Says of a device that was not there that a CPU answered in its place."""
    names, sides = comparison.settings.names, comparison.inputs.cpu_sides
    if not names.are_devices or not sides:
        return ""
    return f" (a CPU stands in for {' and '.join(getattr(names, side).phrase for side in sides)})"


def _identical(inputs: Inputs) -> str:
    """Two devices round differently: equal numbers everywhere may be one file twice."""
    if not inputs.with_logprobs or inputs.identical < inputs.with_logprobs:
        return ""
    return f"; every log-probability of {inputs.identical:,} questions is equal to the last bit on both sides"


def _numbers(comparison: Comparison) -> str:
    diagnosis = comparison.diagnosis
    repeats = not any(each.cause == "repeat" for each in diagnosis.findings)
    more = "" if repeats else "; a run does not repeat itself"
    if diagnosis.broken:
        return f"broken: {diagnosis.broken_groups}{more}"
    if not diagnosis.measured:
        return f"not known: {why_unknown(comparison.verdict, comparison.pairing)}{more}"
    of = f"{diagnosis.measured:,} of {diagnosis.compared:,} questions"
    if not diagnosis.is_known:
        return f"not known: log-probabilities of only {of} can be compared{more}"
    median = f"median difference {diagnosis.median:.2g} nats"
    if not diagnosis.is_judged:
        groups = list_groups([each for each in diagnosis.findings if each.cause not in ("unreadable", "repeat")])
        return f"not judged: {median}, {of}{f'; {groups} stand out' if groups else ''}{more}"
    beyond = f"{100 * diagnosis.beyond:.2g} % beyond the {diagnosis.explained}"
    return f"OK: {median}, {beyond}, {of}{more}"


def most_different(differences: Differences) -> list[str]:
    """Keys of the questions whose log-probabilities differ most, the most first: for --check_model."""
    order = sorted(range(len(differences.pairs)), key=lambda index: -differences.largest[index])
    return [differences.pairs[index].key for index in order[:CHECKED]]


def why_unknown(verdict: Verdict, pairing: Pairing) -> str:
    """Why there is no numeric divergence."""
    if verdict.evidence.obstacles:
        return "no question is known to have the same inputs"
    npu, gpu = ([getattr(pair, side).reply for pair in pairing.pairs] for side in ("npu", "gpu"))
    both_store = all(any(each and each.logprobs for each in side) for side in (npu, gpu))
    if both_store and any(each and each.bounded for each in npu + gpu):
        return "options are known by their bounds alone"
    return "a side stores no log-probabilities"


def _next_step(comparison: Comparison) -> str:
    verdict, diagnosis, pairing = comparison.verdict, comparison.diagnosis, comparison.pairing
    unanswered = _unanswered(pairing, comparison.settings.names)
    if verdict.decided_by == INPUTS:
        return NEXT_STEP[verdict.evidence.obstacles[0].cause]
    if verdict.decided_by == COUNTS:
        return unanswered or "give --sampling_answer_path the file that has all the right answers"
    if verdict.decided_by == DIVERGENCE:
        if _is_service(pairing):
            return NEXT_STEP["service"]
        if diagnosis.findings[0].cause == "nonfinite":
            return f"{NEXT_STEP['nonfinite']}{_see_where_it_overflows(pairing)}"
        return f"{NEXT_STEP['broken']}{_check_command(most_different(comparison.differences), pairing)}"
    if verdict.name == FAIL or verdict.decided_by in (AGREEMENT, GROUPS):
        return unanswered or NEXT_STEP["flips"]
    if verdict.name == INCONCLUSIVE:
        fewer = "; fewer decide if both sides store log-probabilities, as this suite does"
        return f"{_more(verdict)}{'' if verdict.evidence.smoothed else fewer}"
    return NEXT_STEP["repeat"] if any(each.cause == "repeat" for each in diagnosis.findings) else NEXT_STEP["pass"]


def _is_service(pairing: Pairing) -> bool:
    """Whether a service answered for the candidate: --check_model tests this suite's own engine."""
    return any(pair.npu.reply and pair.npu.reply.finish_reason for pair in pairing.pairs)


def _check_command(keys: Sequence[str], pairing: Pairing, side: str = "npu") -> str:
    """As that side was started. Names and settings are the files' own: none of them may say more to a shell."""
    replies = (getattr(each, side).reply for each in pairing.pairs)
    run: Mapping[str, Any] = next((each.run for each in replies if each), {})
    flags = [
        f"--{name} {shlex.quote(str(run[name]))}" for name, usual in USUAL.items() if run.get(name, usual) != usual
    ]
    flags += ["--deterministic"] if run.get("deterministic") is True else []
    flags += ["--device cpu"] if run.get("device") == "cpu" else []
    script = SCRIPTS.get(str(run.get("device")), f"run_{side}.py")
    questions = shlex.quote(",".join(keys))
    return " ".join([f": python {script} --check_model --model_path FOLDER --check_questions {questions}", *flags])


def _see_where_it_overflows(pairing: Pairing) -> str:
    hit = {
        side: [each.key for each in pairing.pairs if (reply := getattr(each, side).reply) and reply.nonfinite]
        for side in ("npu", "gpu")
    }
    side = "npu" if hit["npu"] else "gpu"
    return _check_command(hit[side][:CHECKED], pairing, side)


def _unanswered(pairing: Pairing, names: Names) -> str:
    """ "" where both sides answered all."""
    lacking = {
        side: sum(getattr(pair, side).outcome in (FAILED, MISSING) for pair in pairing.pairs) for side in ("npu", "gpu")
    }
    named = " and ".join(f"{count} on {getattr(names, side).phrase}" for side, count in lacking.items() if count)
    return f"start the run again: it asks only what failed or is missing ({named})" if named else ""


def _more(verdict: Verdict) -> str:
    needed = verdict.questions_needed
    if verdict.advice and needed is None:
        return verdict.advice
    if needed is not None and needed > ALL_QUESTIONS:
        return f"{needed:,} questions would be needed, and Video-Bench has {ALL_QUESTIONS:,}"
    count = needed or 2 * verdict.evidence.estimate.questions
    return f"extract_dataset.py --nums {count}, then both runs again (new ones only)"
