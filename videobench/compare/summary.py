"""The three lines to act on: the verdict, what the numbers show, and the next command."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from videobench.compare.comparison import Comparison
from videobench.compare.diagnosis import Diagnosis
from videobench.compare.divergence import Differences
from videobench.compare.look_at import NEXT_STEP
from videobench.compare.pairing import Pairing
from videobench.compare.rule import ACCURACY, COUNTS, DIVERGENCE, FAIL, FLIPS, INCONCLUSIVE, INPUTS, PASS
from videobench.compare.scoring import FAILED, MISSING
from videobench.compare.settings import ComparisonSettings, Names
from videobench.compare.verdict import Verdict

ALL_QUESTIONS = 17_036  # of Video-Bench
SHOWN_GROUPS = 3
CHECKED = 4  # questions that --check_model is asked to look at
SCRIPTS = {"npu": "run_npu.py", "cuda": "run_gpu.py", "cpu": "run_gpu.py"}  # by the device that a run stores
USUAL = {"num_frames": 8, "dtype": "float16"}  # of a run without the flag, on an NPU and a GPU


@dataclass(frozen=True)
class Summary:
    verdict: str  # "PASS: the NPU answers as well as the GPU, within 1 point"
    numbers: str  # "sound within float16's rounding: median 0.01 nats, 0.1 explained"
    next_step: str  # what to do, with the command or flag


def summarize(comparison: Comparison) -> Summary:
    verdict, diagnosis = comparison.verdict, comparison.diagnosis
    return Summary(
        f"{verdict.name}: {_meaning(verdict, diagnosis, comparison.settings)}",
        _numbers(verdict, diagnosis, comparison.differences, comparison.pairing),
        _next_step(comparison),
    )


def points_text(points: float) -> str:
    """ "1 point", "0.455 points"."""
    return f"{points:.3g} point" + ("" if points == 1 else "s")


def _meaning(verdict: Verdict, diagnosis: Diagnosis, settings: ComparisonSettings) -> str:
    npu, gpu = settings.names.npu.phrase, settings.names.gpu.phrase
    margin, (low, high) = points_text(verdict.margin), verdict.evidence.interval()
    if verdict.name == PASS:
        no_loss = f"no loss on {npu} beyond {margin}"
        return no_loss if settings.margin.one_sided else f"{npu} answers like {gpu}, within {margin}"
    if verdict.decided_by == DIVERGENCE:
        return f"numerically broken: {_groups(diagnosis)}"
    if verdict.name == FAIL:
        by_accuracy = verdict.decided_by == ACCURACY
        lost = verdict.evidence.accuracy.difference if by_accuracy else verdict.evidence.estimate.difference
        return f"{npu} {'loses' if lost < 0 else 'gains'} {points_text(abs(lost))}, where {margin} may differ"
    if verdict.decided_by in (INPUTS, COUNTS):
        return verdict.reasons[0]
    if verdict.decided_by == FLIPS:
        return "the answers that flipped went one way"
    if verdict.too_few:
        return f"too few questions to show {margin}"
    return f"the difference lies between {low:+.2f} and {high:+.2f} points, where {margin} may differ"


def _groups(diagnosis: Diagnosis) -> str:
    """The findings' groups, without figures: "NPU card 2; TVQA"."""
    named = [each.text.split(": ")[0] for each in diagnosis.findings if each.breaks]
    more = [f"{len(named) - SHOWN_GROUPS} more"] if len(named) > SHOWN_GROUPS else []
    return "; ".join(named[:SHOWN_GROUPS] + more)


def _numbers(verdict: Verdict, diagnosis: Diagnosis, differences: Differences, pairing: Pairing) -> str:
    repeats = not any(each.cause == "repeat" for each in diagnosis.findings)
    more = "" if repeats else "; a run does not repeat itself"
    if diagnosis.broken:
        return f"broken: {_groups(diagnosis)}{more}"
    if not differences.pairs:
        return f"not known: {why_unknown(verdict, pairing)}{more}"
    typical = sorted(differences.largest)[len(differences.largest) // 2]
    rounding = f"median {typical:.2g} nats, {diagnosis.limit:g} explained"
    return f"sound within {diagnosis.dtype}'s rounding: {rounding}{more}"


def most_different(differences: Differences) -> list[str]:
    """Keys of the questions whose log-probabilities differ most, the most first: for --check_model."""
    order = sorted(range(len(differences.pairs)), key=lambda index: -differences.largest[index])
    return [differences.pairs[index].key for index in order[:CHECKED]]


def why_unknown(verdict: Verdict, pairing: Pairing) -> str:
    """Why there is no numeric divergence."""
    if verdict.obstacles:
        return "no question is known to have the same inputs"
    npu, gpu = ([getattr(pair, side).reply for pair in pairing.pairs] for side in ("npu", "gpu"))
    both_store = all(any(each and each.logprobs for each in side) for side in (npu, gpu))
    if both_store and any(each and each.bounded for each in npu + gpu):
        return "options are known by their bounds alone"
    return "a side stores no log-probabilities"


def _next_step(comparison: Comparison) -> str:
    verdict, diagnosis, pairing = comparison.verdict, comparison.diagnosis, comparison.pairing
    names = comparison.settings.names
    if verdict.decided_by == INPUTS:
        return NEXT_STEP[verdict.obstacles[0].cause]
    unanswered = _unanswered(pairing, names)
    if verdict.decided_by == COUNTS:
        return unanswered or "give --sampling_answer_path the file that has all the right answers"
    if verdict.decided_by == DIVERGENCE:
        if diagnosis.findings[0].cause == "nonfinite":
            return f"{NEXT_STEP['nonfinite']}{_see_where_it_overflows(pairing)}"
        return f"{NEXT_STEP['broken']}{_check_command(most_different(comparison.differences), pairing)}"
    if verdict.name == FAIL:
        return unanswered or NEXT_STEP["flips"]
    if verdict.name == INCONCLUSIVE:
        if verdict.evidence.is_smoothed:
            return _more(verdict)
        return f"{_more(verdict)}; fewer decide where both sides store log-probabilities, as this suite does"
    return NEXT_STEP["repeat"] if any(each.cause == "repeat" for each in diagnosis.findings) else NEXT_STEP["pass"]


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
    seen, equal = verdict.questions_needed, verdict.questions_needed_if_equal
    needed = (equal if verdict.too_few else seen or equal) or 2 * verdict.evidence.accuracy.questions
    if needed > ALL_QUESTIONS:
        return f"choose a wider --margin: {needed:,} questions would be needed, Video-Bench has {ALL_QUESTIONS:,}"
    return f"extract_dataset.py --nums {needed}, then both runs again (new ones only)"
