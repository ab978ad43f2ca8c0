"""The statistics of a paired comparison, in plain Python and numpy; tests hold them against scipy and statsmodels."""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Interval = tuple[float, float]
FloatArray = NDArray[np.float64]
Clusters = NDArray[np.intp]  # for each value the number of its cluster: its video

Z95, Z99 = 1.959963984540054, 2.5758293035489004  # two-sided 95 and 99 % points of the normal distribution
BOOTSTRAP_REPLICATES = 4000
# With fewer videos that hold a discordant question, the bootstrap alone covers the truth in 92 to 94 % of comparisons
# instead of 95, and without any its width is zero: benchmarks/verdict_power.py.
FEW_DISCORDANT_CLUSTERS = 20
PRIOR_CORRELATION = 0.1  # of discordance within a video, where there is too little of it to be estimated


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar p: the sign test on the questions that one side alone has right."""
    count, few = only_first + only_second, min(only_first, only_second)
    if count == 0:
        return 1.0
    logs = (math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) for k in range(few + 1))
    return min(1.0, 2 * math.fsum(math.exp(value - count * math.log(2)) for value in logs))


def sign_flip_p(sums: ArrayLike) -> float:
    """Exact two-sided p of |sum| where each cluster's whole sum may have either sign: McNemar's test with clusters.

    `sums` are whole numbers; with every one of them -1, 0 or 1 it is McNemar's test itself."""
    sizes = [abs(round(value)) for value in np.asarray(sums, dtype=float) if round(value)]
    reach = sum(sizes)
    chances = np.zeros(2 * reach + 1)  # chances[reach + s]: of the sum s
    chances[reach] = 1.0
    for size in sizes:
        chances = (np.roll(chances, size) + np.roll(chances, -size)) / 2
    observed = abs(round(float(np.sum(sums))))
    return float(min(1.0, chances[np.abs(np.arange(-reach, reach + 1)) >= observed].sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction for looking at several tests, in the order given."""
    corrected, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = running
    return corrected


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | None:
    """Agreement beyond chance of two raters; None where both always gave one and the same."""
    total = len(first)
    if not total:
        return None
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / total
    counts = Counter(first), Counter(second)
    expected = sum(counts[0][label] * counts[1][label] for label in counts[0]) / total**2
    return None if expected >= 1 else (observed - expected) / (1 - expected)


def tango_interval(only_first: float, only_second: float, total: float, z: float = Z95) -> Interval:
    """Tango's score interval for the difference of two paired proportions, (only_first - only_second) / total.

    It has a sensible width even without any discordant pair. Counts may be fractions (counts over a design effect).
    T. Tango, Equivalence test and confidence interval for the difference in proportions for the paired-sample design,
    Statistics in Medicine 17 (1998), 891-908."""

    def is_outside(delta: float) -> bool:
        linear = -only_first - only_second + (2 * total - only_first + only_second) * delta
        constant = -only_second * delta * (1 - delta)
        second = (math.sqrt(max(0.0, linear**2 - 8 * total * constant)) - linear) / (4 * total)  # of "only second"
        variance = max(0.0, total * (2 * second + delta * (1 - delta)))
        return abs(only_first - only_second - total * delta) > z * math.sqrt(variance)

    middle = (only_first - only_second) / total
    return _last_inside(is_outside, middle, -1.0), _last_inside(is_outside, middle, 1.0)


def _last_inside(is_outside: Callable[[float], bool], inside: float, outside: float) -> float:
    """The end of the interval between a point inside and a bound, by halving."""
    if not is_outside(outside):
        return outside
    for _ in range(60):
        half = (inside + outside) / 2
        inside, outside = (inside, half) if is_outside(half) else (half, outside)
    return (inside + outside) / 2


def wilson_interval(correct: int, total: int, z: float = Z95) -> Interval:
    """Wilson's score interval of a proportion, 0 to 1, for independent questions."""
    if not total:
        return 0.0, 1.0
    observed, shrink = correct / total, 1 + z**2 / total
    half = z * math.sqrt(observed * (1 - observed) / total + (z / (2 * total)) ** 2) / shrink
    middle = (observed + z**2 / (2 * total)) / shrink
    return max(0.0, middle - half), min(1.0, middle + half)


def number_clusters(clusters: Iterable[Hashable]) -> Clusters:
    """The number of each value's cluster, from 0, in order of appearance."""
    order: dict[Hashable, int] = {}
    return np.array([order.setdefault(cluster, len(order)) for cluster in clusters], dtype=np.intp)


def cluster_sums(values: ArrayLike, clusters: Clusters) -> tuple[FloatArray, FloatArray]:
    """Sum of the values and number of values in each cluster that has any."""
    sizes = np.bincount(clusters).astype(float)
    sums = np.bincount(clusters, weights=np.asarray(values, dtype=float)).astype(float)
    return sums[sizes > 0], sizes[sizes > 0]


def bootstrap_means(sums: FloatArray, sizes: FloatArray, replicates: int, rng: np.random.Generator) -> FloatArray:
    """Means of `replicates` samples of as many clusters, drawn with replacement.

    Clusters of equal sum and size are alike, so how often each kind is drawn is multinomial: some 60 kinds instead of
    5917 videos, and the same distribution."""
    kinds, counts = np.unique(np.stack([sums, sizes]), axis=1, return_counts=True)
    drawn = rng.multinomial(len(sums), counts / len(sums), size=replicates)
    return np.asarray((drawn @ kinds[0]) / (drawn @ kinds[1]), dtype=float)


def mirrored_bootstrap_means(sums: FloatArray, sizes: FloatArray, seed: int) -> FloatArray:
    """BOOTSTRAP_REPLICATES means; half of them drawn from the negated sums, so that exchanged sides give the negated
    means, to the last bit."""
    half = BOOTSTRAP_REPLICATES // 2
    means, negated = (bootstrap_means(sign * sums, sizes, half, np.random.default_rng(seed)) for sign in (1, -1))
    return np.concatenate([means, -negated])


def design_effect(values: FloatArray, sums: FloatArray, sizes: FloatArray) -> float:
    """Variance of the mean with its clusters over that without: 1 where questions on one video are independent."""
    total, clusters = len(values), len(sizes)
    if clusters < 2 or np.ptp(values) == 0:
        return 1.0
    mean = float(values.mean())
    independent = float(((values - mean) ** 2).sum()) * total / (total - 1)
    return float(((sums - mean * sizes) ** 2).sum()) * clusters / (clusters - 1) / independent


def paired_intervals(differences: ArrayLike, clusters: Clusters, seed: int) -> tuple[Interval, Interval]:
    """95 % and 99 % interval of the mean of differences of -1, 0 or 1, where one video has several questions.

    The percentile bootstrap over videos; where fewer than FEW_DISCORDANT_CLUSTERS of them hold a discordant question,
    each end is the outer one of it and of Tango's interval, its counts divided by the clusters' design effect (that of
    PRIOR_CORRELATION at least)."""
    values = np.asarray(differences, dtype=float)
    sums, sizes = cluster_sums(values, clusters)
    means = mirrored_bootstrap_means(sums, sizes, seed)
    low99, low95, high95, high99 = (float(end) for end in np.quantile(means, [0.005, 0.025, 0.975, 0.995]))
    discordant = int((cluster_sums(values != 0, clusters)[0] > 0).sum())
    if discordant >= FEW_DISCORDANT_CLUSTERS:
        return (low95, high95), (low99, high99)
    effect = flip_effect(values, clusters)
    up, down = (float((values == sign).sum()) / effect for sign in (1, -1))
    score95, score99 = (tango_interval(up, down, len(values) / effect, z) for z in (Z95, Z99))
    return _outer((low95, high95), score95), _outer((low99, high99), score99)


def flip_effect(flips: ArrayLike, clusters: Clusters) -> float:
    """Design effect of rare events of -1 or 1 among zeros: that of PRIOR_CORRELATION at least."""
    values = np.asarray(flips, dtype=float)
    sums, sizes = cluster_sums(values, clusters)
    shared = float((sizes**2).sum() / sizes.sum()) - 1  # other questions on a question's video, on average
    return max(design_effect(values, sums, sizes), 1 + PRIOR_CORRELATION * shared)


def cluster_error(values: ArrayLike, clusters: Clusters) -> float:
    """Cluster-robust standard error of the mean, with the factor G / (G - 1) of G clusters; 0 of a single cluster."""
    listed = np.asarray(values, dtype=float)
    sums, sizes = cluster_sums(listed, clusters)
    count = len(sizes)
    if count < 2:
        return 0.0
    residuals = sums - sizes * listed.mean()
    return math.sqrt(count / (count - 1) * float((residuals**2).sum())) / len(listed)


def join_intervals(parts: Iterable[tuple[float, Interval]]) -> Interval:
    """Of a sum of independent estimates, from (estimate, interval) of each: the MOVER, method of variance estimates
    recovery. With normal intervals it is the normal interval of the sum.

    G. Zou, A. Donner, Construction of confidence limits about effect measures: a general approach, Statistics in
    Medicine 27 (2008), 1693-1702."""
    listed = list(parts)
    middle = math.fsum(estimate for estimate, _ in listed)
    low = math.hypot(*(estimate - interval[0] for estimate, interval in listed))
    high = math.hypot(*(interval[1] - estimate for estimate, interval in listed))
    return middle - low, middle + high


def normal_cdf(values: FloatArray) -> FloatArray:
    """Distribution function of the standard normal distribution."""
    return np.array([math.erfc(-value / math.sqrt(2)) / 2 for value in values.ravel()]).reshape(values.shape)


def _outer(first: Interval, second: Interval) -> Interval:
    return min(first[0], second[0]), max(first[1], second[1])


def rank_sum_z(ranks: FloatArray, in_group: NDArray[np.bool_], clusters: Clusters) -> float:
    """Wilcoxon's rank-sum statistic, its variance times the design effect; above 0 where the group has larger values.

    `ranks` are the values' average_ranks. 0 where the group, or the rest, is empty."""
    inside, total = int(in_group.sum()), len(ranks)
    if inside in (0, total):
        return 0.0
    gap = ranks[in_group].mean() - ranks[~in_group].mean()
    residuals = ranks - np.where(in_group, ranks[in_group].mean(), ranks[~in_group].mean())
    effect = max(1.0, design_effect(residuals, *cluster_sums(residuals, clusters)))
    variance = ranks.var(ddof=1) * (1 / inside + 1 / (total - inside)) * effect
    return float(gap / math.sqrt(variance)) if variance > 0 else 0.0


def average_ranks(values: FloatArray) -> FloatArray:
    """Ranks from 1; equal values have the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], dtype=float)


def normal_p(z: float) -> float:
    """Two-sided p of a standard normal statistic."""
    return math.erfc(abs(z) / math.sqrt(2))
