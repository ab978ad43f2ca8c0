"""A comparison as the dict that --output_json writes, and that text and HTML are made from; its keys: docs/files.md."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from videobench.compare.accuracy import Group, Paired
from videobench.compare.advice import look_at
from videobench.compare.comparison import Comparison
from videobench.compare.flips import CLASSES, Flip
from videobench.compare.pairing import Pair
from videobench.compare.report.divergence_json import distribution, divergence_json
from videobench.compare.scoring import FAILED, LEVEL_NAMES, LEVEL_OF, MISSING, REFERENCE_ROWS, UNREADABLE, Score
from videobench.compare.settings import Names
from videobench.compare.smoothed import Estimate, Smoothed
from videobench.compare.summary import most_different, summarize
from videobench.compare.verdict import Evidence
from videobench.data.dataset import DATASET_NAMES

Json = dict[str, Any]


def build_report(comparison: Comparison) -> Json:
    """Every number and list of questions that a report shows, and the sentences that text and HTML share.

    Made of dicts with text keys, lists, texts, finite numbers, bools and None. Accuracies and agreement are 0 to 1,
    differences of accuracy and their intervals points, NPU minus GPU; what measures divergence is in nats.
    """
    verdict, groups = comparison.verdict, comparison.groups
    return {
        "verdict": verdict.name,
        "summary": vars(summarize(comparison)),
        "decided_by": verdict.decided_by,
        "comparable": not verdict.evidence.obstacles,
        "obstacles": [vars(each) | {"look_at": look_at(each.cause)} for each in verdict.evidence.obstacles],
        "margin_points": verdict.evidence.margin,
        "margin": vars(comparison.settings.margin),
        "reasons": verdict.reasons,
        "questions_needed": {"if_no_difference": verdict.questions_needed, "text": verdict.advice},
        "names": {side: vars(getattr(comparison.settings.names, side)) for side in ("npu", "gpu")},
        "scoring": comparison.settings.scoring,
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
        "divergence": divergence_json(comparison),
        "most_different": most_different(comparison.differences),
        "flip_classes": _flip_classes(comparison.flips),
        "flips": [_flip(flip) for flip in comparison.flips],
        "listed": {side: _listed(comparison.pairing.pairs, side) for side in ("npu", "gpu")},
    }


def _over(overall: Group, evidence: Evidence, names: Names) -> list[str]:
    """Why some figures are not over the same questions; nothing where all are."""
    paired, notes = overall.paired, []
    if paired and not overall.npu.total == overall.gpu.total == paired.questions:
        npu, gpu = (f"{100 * each:.2f} %" for each in (paired.npu_accuracy, paired.gpu_accuracy))
        accuracies = f"{npu} on {names.npu.phrase}, {gpu} on {names.gpu.phrase}"
        notes.append(
            f"the differences are over the {paired.questions:,} questions that both files have ({accuracies}); each "
            "side's own percentage counts missing answers as wrong"
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
    settings = comparison.settings
    paths = {
        "npu": settings.npu_path,
        "gpu": settings.gpu_path,
        "answers": settings.answer_path,
        "repeat": settings.repeat_path,
    }
    return {name: str(path) for name, path in paths.items() if path}


def _inputs(comparison: Comparison) -> Json:
    pairing, inputs = comparison.pairing, comparison.inputs
    return {
        "table": [{"name": row.name, "npu": row.npu, "gpu": row.gpu, "state": row.state} for row in inputs.rows],
        "same": inputs.answer,
        "differing": inputs.differing,
        "differing_prompts": len(inputs.other_prompts),
        "differing_pixels": len(inputs.other_pixels),
        "other_prompt_tokens": inputs.other_lengths,
        "other_questions": inputs.other_questions,
        "other_prompts": inputs.other_prompts,
        "other_pixels": inputs.other_pixels,
        "only_npu": [pair.key for pair in pairing.pairs if not pair.gpu.reply],
        "only_gpu": [pair.key for pair in pairing.pairs if not pair.npu.reply],
        "datasets_only_npu": pairing.sets_only_npu,
        "datasets_only_gpu": pairing.sets_only_gpu,
        "without_answer": pairing.without_answer,
        "answers_without_reply": pairing.answers_unused,
        "dropped_as_the_original_does": pairing.dropped,
    }


def _score(score: Score) -> Json:
    return vars(score) | {"accuracy": score.accuracy}


def _group(group: Group) -> Json:
    content: Json = {"npu": _score(group.npu), "gpu": _score(group.gpu)}
    return content | (_paired(group.paired) if group.paired else {})


def _paired(paired: Paired) -> Json:
    return {
        "compared": {
            "questions": paired.questions,
            "videos": paired.estimate.videos,
            "both_right": paired.both_right,
            "both_wrong": paired.both_wrong,
            "npu_accuracy": paired.npu_accuracy,
            "gpu_accuracy": paired.gpu_accuracy,
        },
        **_estimate(paired.estimate),
        "agreement": paired.agreement,
        "same_letter": paired.same_letter,
        "kappa": paired.kappa,
        "mcnemar": {"npu_only": paired.npu_only, "gpu_only": paired.gpu_only, "p_value": paired.p_value},
        "p_clustered": paired.p_clustered,
    }


def _dataset(comparison: Comparison, name: str, group: Group) -> Json:
    differences = comparison.differences
    own = np.array([pair.dataset == name for pair in differences.pairs], dtype=bool)
    return {
        "level": LEVEL_OF.get(name),
        **_group(group),
        "p_corrected": group.p_corrected,
        "divergence": {
            "questions": int(own.sum()),
            "largest_difference": distribution(differences.largest[own]),
            "kl": distribution(differences.kl[own]),
        },
    }


def _weighted(comparison: Comparison) -> Json:
    present = comparison.groups.per_dataset
    return {
        side: {str(level): 100 * value for level, value in averages.items()}
        for side, averages in comparison.groups.weighted.items()
    } | {
        "unit": "percent",
        "missing_datasets": [name for name in DATASET_NAMES if name not in present],
        "chance_of_these_questions": None if comparison.chance is None else 100 * comparison.chance,
        "reference": REFERENCE_ROWS,
    }


def _flip_classes(flips: Sequence[Flip]) -> dict[str, int]:
    """Number of flips of each class that has any, in the order of CLASSES."""
    counts = Counter(flip.kind for flip in flips)
    return {kind: counts[kind] for kind in CLASSES if counts[kind]}


def _flip(flip: Flip) -> Json:
    pair = flip.pair
    return {
        "key": pair.key,
        "class": flip.kind,
        "npu_letter": pair.npu.letter,
        "gpu_letter": pair.gpu.letter,
        "right_letter": pair.right,
        "npu_margin": flip.npu_margin,
        "gpu_margin": flip.gpu_margin,
        "npu_reply": pair.npu.reply.text if pair.npu.reply else None,
        "gpu_reply": pair.gpu.reply.text if pair.gpu.reply else None,
    }


def _listed(pairs: Sequence[Pair], side: str) -> dict[str, list[str]]:
    return {
        outcome: [pair.key for pair in pairs if getattr(pair, side).outcome == outcome]
        for outcome in (UNREADABLE, FAILED, MISSING)
    }
