"""The statistics of a paired comparison, in plain Python and numpy; tested against scipy and statsmodels."""

import math
from collections.abc import Hashable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Interval = tuple[float, float]
FloatArray = NDArray[Any]
_erfc = np.frompyfunc(math.erfc, 1, 1)
Clusters = NDArray[np.intp]  # for each value, the number of its cluster (its video)

Z95 = 1.959963984540054  # two-sided 95 % point of the normal distribution
PRIOR_CORRELATION = 0.1  # of flips within a video, assumed if there are too few to estimate it


def sign_flip_p(sums: ArrayLike) -> float:
    """Exact two-sided p of |sum| if each cluster's sum may have either sign: McNemar's test with clusters.

    `sums` are integers; if all of them are -1, 0 or 1, it is McNemar's test itself."""
    whole = np.rint(np.asarray(sums, dtype=float)).astype(int)
    sizes = np.abs(whole[whole != 0]).tolist()
    reach = sum(sizes)
    chances = np.zeros(2 * reach + 1)  # chances[reach + s]: probability of the sum s
    chances[reach] = 1.0
    for size in sizes:
        shifted = np.zeros_like(chances)
        shifted[size:] = chances[:-size]
        shifted[:-size] += chances[size:]
        chances = shifted / 2
    return float(min(1.0, chances[np.abs(np.arange(-reach, reach + 1)) >= abs(whole.sum())].sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """Apply Holm's correction for multiple tests; the order is kept."""
    corrected, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = running
    return corrected


def cohen_kappa(first: NDArray[np.intp], second: NDArray[np.intp]) -> float | None:
    """Agreement of two raters beyond chance, for labels from 0; None if both gave one label throughout."""
    total = len(first)
    if not total:
        return None
    counts = (np.bincount(labels, minlength=max(first.max(), second.max()) + 1) for labels in (first, second))
    observed, expected = float((first == second).mean()), float(np.prod(list(counts), axis=0).sum()) / total**2
    return None if expected >= 1 else (observed - expected) / (1 - expected)


def number_clusters(clusters: Iterable[Hashable]) -> Clusters:
    """Number the clusters from 0 in order of appearance."""
    order: dict[Hashable, int] = {}
    return np.array([order.setdefault(cluster, len(order)) for cluster in clusters], dtype=np.intp)


def cluster_sums(values: ArrayLike, clusters: Clusters) -> tuple[FloatArray, FloatArray]:
    """Sum and number of the values in each cluster that is not empty."""
    sizes = np.bincount(clusters).astype(float)
    sums = np.bincount(clusters, weights=np.asarray(values, dtype=float)).astype(float)
    return sums[sizes > 0], sizes[sizes > 0]


def design_effect(values: FloatArray, clusters: Clusters) -> float:
    """Variance of the mean with clusters over that without: 1 if questions on one video are independent."""
    (sums, sizes), total = cluster_sums(values, clusters), len(values)
    count, mean = len(sizes), float(values.mean())
    if count < 2 or np.ptp(values) == 0:
        return 1.0
    independent = float(((values - mean) ** 2).sum()) * total / (total - 1)
    return float(((sums - mean * sizes) ** 2).sum()) * count / (count - 1) / independent


def flip_effect(flips: ArrayLike, clusters: Clusters) -> float:
    """Design effect of rare flips (-1 or 1 among zeros), at least that of PRIOR_CORRELATION."""
    values = np.asarray(flips, dtype=float)
    _, sizes = cluster_sums(values, clusters)
    shared = float((sizes**2).sum() / sizes.sum()) - 1  # other questions on a question's video, on average
    return max(design_effect(values, clusters), 1 + PRIOR_CORRELATION * shared)


def cluster_error(values: ArrayLike, clusters: Clusters) -> float:
    """Cluster-robust standard error of the mean, with the factor G / (G - 1) for G clusters; 0 for a single cluster."""
    listed = np.asarray(values, dtype=float)
    sums, sizes = cluster_sums(listed, clusters)
    count = len(sizes)
    if count < 2:
        return 0.0
    residuals = sums - sizes * listed.mean()
    return math.sqrt(count / (count - 1) * float((residuals**2).sum())) / len(listed)


def normal_cdf(values: FloatArray) -> FloatArray:
    """Distribution function of the standard normal distribution."""
    return np.asarray(_erfc(-values / math.sqrt(2)) / 2, dtype=float)


@lru_cache(maxsize=4096)
def student_quantile(level: float, degrees: int) -> float:
    """Two-sided quantile of Student's t: |t| is below it with a chance of `level`.

    With t = tan(angle) sqrt(degrees) the density is a power of the cosine, which is integrated in small steps."""
    angles = np.linspace(0, math.pi / 2, 20_001)
    density = np.cos(angles) ** (degrees - 1)
    mass = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return math.sqrt(degrees) * math.tan(np.interp(level, mass / mass[-1], angles))


def rank_sum_z(ranks: FloatArray, in_group: NDArray[np.bool_], clusters: Clusters) -> float:
    """Wilcoxon's rank-sum statistic with its variance times the design effect; above 0 if the group has larger values.

    `ranks` are the values' average_ranks. 0 if the group or the rest is empty."""
    inside, total = int(in_group.sum()), len(ranks)
    if inside in (0, total):
        return 0.0
    gap = ranks[in_group].mean() - ranks[~in_group].mean()
    residuals = ranks - np.where(in_group, ranks[in_group].mean(), ranks[~in_group].mean())
    effect = max(1.0, design_effect(residuals, clusters))
    variance = ranks.var(ddof=1) * (1 / inside + 1 / (total - inside)) * effect
    return float(gap / math.sqrt(variance)) if variance > 0 else 0.0


def average_ranks(values: FloatArray) -> FloatArray:
    """Rank from 1; equal values get the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def normal_p(z: float) -> float:
    """Two-sided p of a standard normal statistic."""
    return math.erfc(abs(z) / math.sqrt(2))
