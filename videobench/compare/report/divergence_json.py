"""The report's part on numeric divergence."""

from typing import Any

import numpy as np

from videobench.compare.associations import Association, association_text
from videobench.compare.comparison import Comparison
from videobench.compare.divergence import Differences, right_chance_change
from videobench.compare.statistics import FloatArray
from videobench.compare.summary import why_unknown

Json = dict[str, Any]


def divergence_json(comparison: Comparison) -> Json:
    """In nats, but for `right_probability`, in points, and `same_top`, 0 to 1."""
    differences, noise, diagnosis = comparison.differences, comparison.noise, comparison.diagnosis
    return {
        "questions": len(differences.pairs),
        "unknown": None if differences.pairs else why_unknown(comparison.verdict, comparison.pairing),
        "broken": diagnosis.broken,
        "findings": [vars(each) for each in diagnosis.findings],
        "strongest_association": _association(diagnosis.associations[0]) if diagnosis.associations else None,
        "associations": [_association(each) for each in diagnosis.associations],
        "dtype": diagnosis.dtype,
        "tolerance": diagnosis.limit,
        "beyond_tolerance": diagnosis.beyond,
        "judged": diagnosis.is_judged,
        **_distributions(differences),
        "same_top": float(differences.same_top.mean()) if differences.pairs else None,
        "right_probability": _right_probability(differences),
        "noise_floor": {
            "margin": noise.lead,
            "source": noise.source,
            "repeat": _distributions(noise.repeat) if noise.repeat else None,
        },
        "unit": "nats",
    }


def _right_probability(differences: Differences) -> Json | None:
    change = right_chance_change(differences)
    return {"difference_points": 100 * change[0], "error_points": 100 * change[1]} if change else None


def _distributions(differences: Differences) -> Json:
    return {
        "largest_difference": distribution(differences.largest),
        "margin_shift": distribution(np.abs(differences.shift)),
        "kl": distribution(differences.kl),
    }


def distribution(values: FloatArray) -> Json | None:
    """None of no values."""
    if not len(values):
        return None
    quantiles = zip(("median", "p90", "p99", "p999"), np.quantile(values, [0.5, 0.9, 0.99, 0.999]), strict=True)
    return (
        {"mean": float(values.mean())} | {name: float(each) for name, each in quantiles} | {"max": float(values.max())}
    )


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
