"""Two judged runs -> paired statistics: overall, by level and by data set."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from videobench.compare.answers import Answers, tabulate
from videobench.compare.pairing import Pair
from videobench.compare.scoring import LEVEL_OF, Score, score, weighted_average
from videobench.compare.settings import SIDES
from videobench.compare.smoothed import Estimate, estimate_accuracy
from videobench.compare.statistics import cluster_sums, cohen_kappa, holm, sign_flip_p
from videobench.data.dataset import DATASET_NAMES


@dataclass(frozen=True)
class Paired:
    """The questions that both files have."""

    both_right: int
    candidate_only: int  # right on the candidate alone
    reference_only: int
    both_wrong: int
    same_letter: int  # both unreadable or failed counts as the same
    kappa: float | None  # of the letters; None if both always gave one and the same
    estimate: Estimate  # of the difference of accuracy
    p_value: float  # exact McNemar
    p_clustered: float  # of the sign test with whole videos as units

    @property
    def questions(self) -> int:
        return self.estimate.questions

    @property
    def agreement(self) -> float:
        return self.same_letter / self.questions

    @property
    def candidate_accuracy(self) -> float:
        """Over these questions, 0 to 1."""
        return (self.both_right + self.candidate_only) / self.questions

    @property
    def reference_accuracy(self) -> float:
        return (self.both_right + self.reference_only) / self.questions


@dataclass(frozen=True)
class Group:
    """A data set, a level, or everything."""

    candidate: Score  # missing answers count as wrong here
    reference: Score
    paired: Paired | None  # None if no question has a row on both sides
    p_corrected: float | None = None  # p_clustered, Holm's correction over the data sets


@dataclass(frozen=True)
class Groups:
    overall: Group
    per_dataset: dict[str, Group]  # in the order of the benchmark
    per_level: dict[int, Group]
    weighted: dict[str, dict[int | str, float]]  # side -> level or "all" -> leaderboard average, 0 to 1


def compare_groups(pairs: Sequence[Pair]) -> Groups:
    """`pairs` may lack a reply on one side: it counts as wrong in the scores and is left out of what is paired."""
    names = sorted({pair.dataset for pair in pairs}, key=_benchmark_order)
    per_dataset = {name: compare([pair for pair in pairs if pair.dataset == name]) for name in names}
    tested = {name: group.paired.p_clustered for name, group in per_dataset.items() if group.paired}
    corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
    per_dataset = {name: replace(group, p_corrected=corrected.get(name)) for name, group in per_dataset.items()}
    levels = sorted({LEVEL_OF[name] for name in names if name in LEVEL_OF})
    return Groups(
        overall=compare(pairs),
        per_dataset=per_dataset,
        per_level={level: compare([each for each in pairs if LEVEL_OF.get(each.dataset) == level]) for level in levels},
        weighted={
            side: weighted_average({name: getattr(group, side).accuracy for name, group in per_dataset.items()})
            for side in SIDES.values()
        },
    )


def compare(pairs: Sequence[Pair]) -> Group:
    """Scores over all `pairs`, paired statistics over those that have a row on both sides."""
    compared = [pair for pair in pairs if pair.candidate.reply and pair.reference.reply]
    return Group(
        candidate=score(pair.candidate.outcome for pair in pairs),
        reference=score(pair.reference.outcome for pair in pairs),
        paired=compare_paired(tabulate(compared)) if compared else None,
    )


def compare_paired(answers: Answers) -> Paired:
    """Of one question or more."""
    candidate, reference = answers.is_right.T
    first, second = answers.letters.T
    moved = candidate.astype(float) - reference
    return Paired(
        both_right=int((candidate & reference).sum()),
        candidate_only=int((moved > 0).sum()),
        reference_only=int((moved < 0).sum()),
        both_wrong=int((~candidate & ~reference).sum()),
        same_letter=int((first == second).sum()),
        kappa=cohen_kappa(first + 1, second + 1),
        estimate=estimate_accuracy(answers),
        p_value=sign_flip_p(moved),
        p_clustered=sign_flip_p(cluster_sums(moved, answers.videos)[0]),
    )


def _benchmark_order(name: str) -> tuple[int, str]:
    return (DATASET_NAMES.index(name) if name in DATASET_NAMES else len(DATASET_NAMES)), name
