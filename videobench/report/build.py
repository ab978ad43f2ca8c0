"""Build the report, which --output_json writes and text and page are made from; docs/files.md explains its keys."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from videobench.compare.accuracy import Accuracy, Estimate, Paired, Smoothed
from videobench.compare.advice import OF_OTHERS, look_at
from videobench.compare.associations import Association, association_text
from videobench.compare.comparison import CLASSES, Comparison, Flip
from videobench.compare.divergence import Differences, list_groups
from videobench.compare.pairing import Pair, Pairing
from videobench.compare.same_inputs import CAUSES, Inputs
from videobench.compare.scoring import FAILED, LEVEL_NAMES, LEVEL_OF, MISSING, UNREADABLE
from videobench.compare.settings import SIDES, Names
from videobench.compare.statistics import FloatArray
from videobench.compare.verdict import DIVERGENCE, INPUTS, Evidence, Verdict
from videobench.report.next_steps import most_different, next_step

Json = dict[str, Any]
FEW_IDENTICAL = 0.02  # share of the questions whose log-probabilities may be equal by chance
MANY_BEYOND = 0.2  # share of the questions beyond the tolerance up to which numbers are called OK


def build_report(comparison: Comparison) -> Json:
    """Collect every number and list of questions that a report shows, and the sentences that text and page share.

    It holds only what JSON can: dicts with text keys, lists, texts, finite numbers, bools and None. Accuracies and
    agreement are 0 to 1; differences in accuracy and their intervals are points, NPU minus GPU; divergence is in nats.
    """
    verdict, groups, summary = comparison.verdict, comparison.groups, summarize(comparison)
    kinds = Counter(flip.kind for flip in comparison.flips)
    return {
        "verdict": verdict.name,
        "summary": {"verdict": summary.verdict, "numbers": summary.numbers, "next_step": summary.next_step},
        "next_commands": summary.next_commands,
        "decided_by": verdict.decided_by,
        "comparable": not verdict.evidence.obstacles,
        "obstacles": [
            vars(each) | {"look_at": _look_at(each.cause, comparison)} for each in verdict.evidence.obstacles
        ],
        "benchmark": comparison.benchmark,
        "cluster": comparison.settings.names.cluster,
        "margin_points": verdict.evidence.margin,
        "margin": vars(comparison.settings.margin),
        "reasons": verdict.reasons,
        "questions_needed": {"if_no_difference": verdict.questions_needed, "text": verdict.advice},
        "names": {side: vars(getattr(comparison.settings.names, name)) for side, name in SIDES.items()},
        "scoring": _scoring(comparison),
        "tolerance": vars(comparison.settings.tolerance),
        "files": _files(comparison),
        "inputs": _inputs(comparison),
        "services": [vars(each) for each in comparison.services],
        **_group(groups.overall),
        "smoothed": _smoothed(verdict.evidence.smoothed),
        "knows_videos": comparison.knows_videos,
        "outliers": [vars(each) | {"text": each.text} for each in verdict.evidence.outliers],
        "over": _over(groups.overall, verdict.evidence, comparison.settings.names),
        "points_at_best": verdict.evidence.estimate.unseen,
        "per_level": {
            str(level): {"name": LEVEL_NAMES[level], **_group(group)} for level, group in groups.per_level.items()
        },
        "per_dataset": {name: _dataset(comparison, name, group) for name, group in groups.per_dataset.items()},
        "weighted_average": _weighted(comparison),
        "divergence": _divergence(comparison),
        "most_different": most_different(comparison.differences),
        "flip_classes": {kind: kinds[kind] for kind in CLASSES if kinds[kind]},
        "flips": [_flip(flip) for flip in comparison.flips],
        "listed": {side: _listed(comparison.pairing.pairs, name) for side, name in SIDES.items()},
    }


def _scoring(comparison: Comparison) -> str:
    """Name the scoring; for logs, the tasks' own metrics with their filters."""
    if not comparison.pairing.is_of_logs:
        return comparison.settings.scoring
    runs = [pair.reply.run for pair in comparison.pairing.pairs]
    found = dict.fromkeys((run["metric"].split()[-1], run["filter"].split()[-1]) for run in runs)
    return "by the log's " + ", ".join(name if each == "none" else f"{name} ({each})" for name, each in found)


def _look_at(cause: str, comparison: Comparison) -> str:
    return (OF_OTHERS.get(cause) if comparison.is_of_others else None) or look_at(cause)


def _over(overall: Accuracy, evidence: Evidence, names: Names) -> list[str]:
    """Explain why some figures are not over the same questions; empty if all are."""
    paired, notes = overall.paired, []
    if paired and not overall.candidate.total == overall.reference.total == paired.questions:
        own, other = (f"{100 * each:.2f} %" for each in (paired.candidate_accuracy, paired.reference_accuracy))
        notes.append(
            f"the differences are over the {paired.questions:,} questions that both files have ({own} on "
            f"{names.candidate.phrase}, {other} on {names.reference.phrase}); each side's own percentage counts "
            "missing answers as wrong"
        )
    if paired and evidence.estimate.questions != paired.questions:
        notes.append(f"the verdict looks at the {evidence.estimate.questions:,} of them whose inputs are the same")
    return notes


def _smoothed(smoothed: Smoothed | None) -> Json | None:
    """None if a side stores no log-probabilities."""
    if smoothed is None:
        return None
    own = {"questions": smoothed.estimate.questions, "by_logprobs": smoothed.share, "median_lead": smoothed.lead}
    return own | {"bandwidth": smoothed.bandwidth} | _estimate(smoothed.estimate)


def _estimate(estimate: Estimate) -> Json:
    return {
        "difference_points": estimate.difference,
        "difference_ci95": list(estimate.interval(0.95)),
        "difference_ci99": list(estimate.interval(0.99)),
    }


def _files(comparison: Comparison) -> Json:
    each = comparison.settings
    paths = (each.candidate_path, each.reference_path, each.answer_path, each.repeat_path)
    return {name: str(path) for name, path in zip(("npu", "gpu", "answers", "repeat"), paths, strict=True) if path}


def _inputs(comparison: Comparison) -> Json:
    pairing, inputs = comparison.pairing, comparison.inputs
    return {
        "table": [dict(zip(("name", "npu", "gpu", "state"), vars(row).values(), strict=False)) for row in inputs.rows],
        "same": inputs.answer,
        "differing": inputs.differing,
        **{f"other_{cause}": inputs.other[cause] for cause in CAUSES},
        "only_npu": [pair.key for pair in pairing.pairs if not pair.reference.reply],
        "only_gpu": [pair.key for pair in pairing.pairs if not pair.candidate.reply],
        "datasets_only_npu": pairing.sets_only_candidate,
        "datasets_only_gpu": pairing.sets_only_reference,
        "without_answer": pairing.without_answer,
        "answers_without_reply": pairing.answers_unused,
        "dropped_as_the_original_does": pairing.dropped,
    }


def _group(group: Accuracy) -> Json:
    sides = (("npu", group.candidate), ("gpu", group.reference))
    content: Json = {side: vars(score) | {"accuracy": score.accuracy} for side, score in sides}
    return content | (_paired(group.paired) if group.paired else {})


def _paired(paired: Paired) -> Json:
    return {
        "compared": {
            "questions": paired.questions,
            "videos": paired.estimate.videos,
            "both_right": paired.both_right,
            "both_wrong": paired.both_wrong,
            "npu_accuracy": paired.candidate_accuracy,
            "gpu_accuracy": paired.reference_accuracy,
        },
        **_estimate(paired.estimate),
        "agreement": paired.agreement,
        "same_letter": paired.same_letter,
        "kappa": paired.kappa,
        "mcnemar": {"npu_only": paired.candidate_only, "gpu_only": paired.reference_only, "p_value": paired.p_value},
        "p_clustered": paired.p_clustered,
    }


def _dataset(comparison: Comparison, name: str, group: Accuracy) -> Json:
    differences = comparison.differences
    own = np.array([pair.dataset == name for pair in differences.pairs], dtype=bool)
    return {
        "level": LEVEL_OF.get(name),
        **_group(group),
        "p_corrected": group.p_corrected,
        "divergence": {
            "questions": int(own.sum()),
            "largest_difference": _distribution(differences.largest[own]),
            "kl": _distribution(differences.kl[own]),
        },
    }


def _weighted(comparison: Comparison) -> Json:
    """Report the averages that Video-Bench's leaderboard shows, in percent; none for other benchmarks."""
    weighted = {} if comparison.is_of_others else comparison.groups.weighted
    averages = {
        side: {str(level): 100 * each for level, each in weighted.get(name, {}).items()} for side, name in SIDES.items()
    }
    return averages | {"chance_of_these_questions": None if comparison.chance is None else 100 * comparison.chance}


def _flip(flip: Flip) -> Json:
    pair, (candidate, reference) = flip.pair, flip.pair.replies
    return {
        "key": pair.key,
        "class": flip.kind,
        "npu_letter": pair.candidate.letter,
        "gpu_letter": pair.reference.letter,
        "right_letter": pair.right,
        "npu_margin": flip.candidate_lead,
        "gpu_margin": flip.reference_lead,
        "npu_reply": candidate.text,
        "gpu_reply": reference.text,
    }


def _listed(pairs: Sequence[Pair], side: str) -> dict[str, list[str]]:
    outcomes = (UNREADABLE, FAILED, MISSING)
    return {each: [pair.key for pair in pairs if getattr(pair, side).outcome == each] for each in outcomes}


def _divergence(comparison: Comparison) -> Json:
    """Report the divergence in nats, except `same_top` (0 to 1)."""
    differences, noise, diagnosis = comparison.differences, comparison.noise, comparison.diagnosis
    return {
        "questions": len(differences.pairs),
        "unknown": None if differences.pairs else why_unknown(comparison.verdict, comparison.pairing),
        "broken": bool(diagnosis.broken),
        "findings": [vars(each) for each in diagnosis.findings],
        "strongest_association": _association(diagnosis.associations[0]) if diagnosis.associations else None,
        "associations": [_association(each) for each in diagnosis.associations],
        "dtype": diagnosis.dtype,
        "tolerance": diagnosis.limit,
        "beyond_tolerance": diagnosis.beyond,
        "judged": diagnosis.is_judged,
        **_distributions(differences),
        "same_top": float(differences.same_top.mean()) if differences.pairs else None,
        "noise_floor": {
            "margin": noise.lead,
            "source": noise.source,
            "repeat": _distributions(noise.repeat) if noise.repeat else None,
        },
        "unit": "nats",
    }


def _distributions(differences: Differences) -> Json:
    return {
        "largest_difference": _distribution(differences.largest),
        "margin_shift": _distribution(np.abs(differences.shift)),
        "kl": _distribution(differences.kl),
    }


def _distribution(values: FloatArray) -> Json | None:
    """Summarise values; None if there are none."""
    if not len(values):
        return None
    quantiles = np.quantile(values, [0.5, 0.9, 0.99, 0.999])
    shown = (values.mean(), *quantiles, values.max())
    return dict(zip(("mean", "median", "p90", "p99", "p999", "max"), map(float, shown), strict=True))


def _association(each: Association) -> Json:
    return {
        "cause": each.cause,
        "text": association_text(each),
        "group": each.label,
        "questions": each.questions,
        "inside": each.inside,
        "elsewhere": each.outside,
        "unit": each.unit,
        "p_corrected": each.p_corrected,
    }


@dataclass(frozen=True)
class Summary:
    verdict: str  # "PASS: the NPU answers as well as the GPU, within 1 point"
    numbers: str  # "OK: median difference 0.01 nats, 0.3 % beyond the 0.1 nats that float16 rounding explains, ..."
    next_step: str  # what to do
    next_commands: list[str]  # for a shell


def summarize(comparison: Comparison) -> Summary:
    verdict, inputs, step = comparison.verdict, comparison.inputs, next_step(comparison)
    is_by_accuracy = not comparison.settings.tolerance.is_judged and verdict.decided_by not in (INPUTS, DIVERGENCE)
    agreement = 100 * verdict.evidence.accuracy.agreement
    only = f"; only accuracy was judged (--tolerance none), {agreement:.1f} % of the letters agree"
    known = "" if not inputs.lacking or verdict.evidence.obstacles else "; inputs not known to be the same"
    return Summary(
        f"{verdict.name}: {verdict.headline}{only if is_by_accuracy else ''}{_stand_ins(comparison)}",
        f"{_numbers(comparison)}{_identical(inputs)}{known}",
        step.text,
        step.commands,
    )


def _stand_ins(comparison: Comparison) -> str:
    """Name the sides for which a CPU answered in place of their device."""
    names, sides = comparison.settings.names, comparison.inputs.cpu_sides
    if not names.are_devices or not sides:
        return ""
    return f" (a CPU ran in place of {' and '.join(getattr(names, side).phrase for side in sides)})"


def _identical(inputs: Inputs) -> str:
    """Warn if many numbers are equal to the last bit: two devices round differently, so it may be one run twice."""
    if inputs.identical <= FEW_IDENTICAL * inputs.with_logprobs:
        return ""
    of = f"{inputs.identical:,} of {inputs.with_logprobs:,} question{'' if inputs.with_logprobs == 1 else 's'}"
    return f"; every log-probability of {of} is equal to the last bit on both sides"


def _numbers(comparison: Comparison) -> str:
    diagnosis = comparison.diagnosis
    repeats = not any(each.cause == "repeat" for each in diagnosis.findings)
    more = "" if repeats else "; a run does not repeat itself"
    is_named = comparison.verdict.decided_by == DIVERGENCE and diagnosis.measured  # by line 1
    if diagnosis.broken and not is_named:
        return f"broken: {list_groups(diagnosis.broken)}{more}"
    if not diagnosis.measured:
        return f"not known: {why_unknown(comparison.verdict, comparison.pairing)}{more}"
    of = f"{diagnosis.measured:,} of {diagnosis.compared:,} questions"
    if not diagnosis.is_known and not diagnosis.broken:
        return f"not known: log-probabilities of only {of} can be compared{more}"
    median = f"median difference {diagnosis.median:.2g} nats"
    if not diagnosis.is_judged and not diagnosis.broken:
        groups = list_groups([each for each in diagnosis.findings if each.cause not in ("unreadable", "repeat")])
        return f"not judged: {median}, {of}{f'; what stands out: {groups}' if groups else ''}{more}"
    percent = 100 * diagnosis.beyond
    beyond = f"{format(percent, '.0f' if percent >= 10 else '.2g')} % beyond the {diagnosis.explained}"
    sound = "OK" if diagnosis.beyond <= MANY_BEYOND else "no fault found"
    return f"{'broken' if diagnosis.broken else sound}: {median}, {beyond}, {of}{more}"


def why_unknown(verdict: Verdict, pairing: Pairing) -> str:
    """Explain why there is no numeric divergence."""
    if not verdict.evidence.has_same_inputs:
        return "no question is known to have the same inputs"
    sides = [[reply for pair in pairing.pairs if (reply := getattr(pair, side).reply)] for side in SIDES.values()]
    if not all(any(reply.logprobs for reply in side) for side in sides):
        return "a side stores no log-probabilities"
    if any(reply.bounded for side in sides for reply in side):
        return "options are known by their bounds alone"
    return "no question with the same inputs has log-probabilities of the same two options on both sides"
