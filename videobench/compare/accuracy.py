"""Two judged runs -> paired statistics: overall, by level and by data set."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from videobench.compare.pairing import Pair
from videobench.compare.scoring import LEVEL_OF, RIGHT, Score, score, weighted_average
from videobench.compare.statistics import (
    Interval,
    cluster_sums,
    cohen_kappa,
    holm,
    mcnemar_p,
    number_clusters,
    paired_intervals,
    sign_flip_p,
)
from videobench.data.dataset import DATASET_NAMES


@dataclass(frozen=True)
class Paired:
    """The questions that both files have; differences are NPU minus GPU, in points of accuracy."""

    questions: int
    videos: int
    both_right: int
    npu_only: int  # right on the NPU alone
    gpu_only: int
    both_wrong: int
    same_letter: int  # both unreadable or failed counts as the same
    kappa: float | None  # of the letters; None where both always gave one and the same
    difference: float
    ci95: Interval  # clustered by video
    ci99: Interval
    p_value: float  # exact McNemar
    p_clustered: float  # of the sign test with whole videos as units

    @property
    def agreement(self) -> float:
        return self.same_letter / self.questions

    @property
    def npu_accuracy(self) -> float:
        """Over these questions, 0 to 1."""
        return (self.both_right + self.npu_only) / self.questions

    @property
    def gpu_accuracy(self) -> float:
        return (self.both_right + self.gpu_only) / self.questions


@dataclass(frozen=True)
class Group:
    """A data set, a level, or everything."""

    npu: Score  # missing answers count as wrong here
    gpu: Score
    paired: Paired | None  # None where no question has a row on both sides
    p_corrected: float | None = None  # p_clustered, Holm's correction over the data sets


@dataclass(frozen=True)
class Groups:
    overall: Group
    per_dataset: dict[str, Group]  # in the order of the benchmark
    per_level: dict[int, Group]
    weighted: dict[str, dict[int | str, float]]  # "npu" and "gpu" -> level or "all" -> leaderboard average, 0 to 1


def compare_groups(pairs: Sequence[Pair], seed: int) -> Groups:
    """`pairs` may lack a reply on one side: it counts as wrong in the scores and is left out of what is paired.

    `seed` is the bootstrap's."""
    names = sorted({pair.dataset for pair in pairs}, key=_benchmark_order)
    per_dataset = {name: compare(_of_dataset(pairs, name), seed) for name in names}
    tested = {name: group.paired.p_clustered for name, group in per_dataset.items() if group.paired}
    corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
    per_dataset = {
        name: Group(group.npu, group.gpu, group.paired, corrected.get(name)) for name, group in per_dataset.items()
    }
    levels = sorted({LEVEL_OF[name] for name in names if name in LEVEL_OF})
    return Groups(
        overall=compare(pairs, seed),
        per_dataset=per_dataset,
        per_level={
            level: compare([each for each in pairs if LEVEL_OF.get(each.dataset) == level], seed) for level in levels
        },
        weighted={
            "npu": weighted_average({name: group.npu.accuracy for name, group in per_dataset.items()}),
            "gpu": weighted_average({name: group.gpu.accuracy for name, group in per_dataset.items()}),
        },
    )


def compare(pairs: Sequence[Pair], seed: int) -> Group:
    """Scores over all `pairs`, paired statistics over those that have a row on both sides."""
    compared = [pair for pair in pairs if pair.npu.reply and pair.gpu.reply]
    return Group(
        npu=score(pair.npu.outcome for pair in pairs),
        gpu=score(pair.gpu.outcome for pair in pairs),
        paired=compare_paired(compared, seed) if compared else None,
    )


def compare_paired(pairs: Sequence[Pair], seed: int) -> Paired:
    """`pairs` are one or more, each with an outcome on both sides; one without a reply counts as wrong there."""
    npu = np.array([pair.npu.outcome == RIGHT for pair in pairs])
    gpu = np.array([pair.gpu.outcome == RIGHT for pair in pairs])
    clusters = number_clusters(pair.video for pair in pairs)
    differences = npu.astype(float) - gpu.astype(float)
    ci95, ci99 = ((100 * low, 100 * high) for low, high in paired_intervals(differences, clusters, seed))
    letters = [pair.npu.letter for pair in pairs], [pair.gpu.letter for pair in pairs]
    npu_only, gpu_only = int((npu & ~gpu).sum()), int((gpu & ~npu).sum())
    return Paired(
        questions=len(pairs),
        videos=int(clusters.max()) + 1,
        both_right=int((npu & gpu).sum()),
        npu_only=npu_only,
        gpu_only=gpu_only,
        both_wrong=int((~npu & ~gpu).sum()),
        same_letter=sum(a == b for a, b in zip(*letters, strict=True)),
        kappa=cohen_kappa(*letters),
        difference=100 * float(differences.mean()),
        ci95=ci95,
        ci99=ci99,
        p_value=mcnemar_p(npu_only, gpu_only),
        p_clustered=sign_flip_p(cluster_sums(differences, clusters)[0]),
    )


def _of_dataset(pairs: Sequence[Pair], name: str) -> list[Pair]:
    return [pair for pair in pairs if pair.dataset == name]


def _benchmark_order(name: str) -> tuple[int, str]:
    return (DATASET_NAMES.index(name) if name in DATASET_NAMES else len(DATASET_NAMES)), name
