"""What the verdict can show: wrong verdicts, coverage of its interval, questions that it needs, faults that it finds.

python benchmarks/verdict_power.py                       # the tables of README.md beside it; about 35 minutes on a core
python benchmarks/verdict_power.py --tables sound,needed # some of them
python benchmarks/verdict_power.py --comparisons 40      # rougher
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # called as a script, Python looks beside it only

from tests.support.simulated_runs import (
    CANCEL,
    LOSSES,
    NOISES,
    TEMPERATURE,
    Logits,
    Loss,
    World,
    find_levels,
    find_subgroups,
    sample_questions,
    simulate,
    tabulate,
)
from videobench.compare.accuracy import questions_needed
from videobench.compare.divergence import diagnose, measure
from videobench.compare.settings import Margin, Tolerance
from videobench.compare.verdict import FAIL, INCONCLUSIVE, PASS, Evidence, judge, weigh

MARGIN = 1.0  # points
FLOAT16, BFLOAT16 = (0.015, 0.015), (0.06, 0.06)  # nats of rounding noise, candidate and reference
SCALES = (1.0, 0.5, 0.3, 0.15, 0.05)


@dataclass(frozen=True)
class Case:
    questions: int
    world: World
    loss: Loss | None = None
    stores_logprobs: bool = True
    videos: int | None = None  # all questions are about so many
    copies: int = 1  # of each question
    is_whole: bool = False  # whether the divergence is judged too, and groups are looked at
    tolerance: Tolerance = Tolerance()  # noqa: RUF009


@dataclass
class Rates:
    """Counts of simulated comparisons."""

    comparisons: int = 0
    whole: Counter[str] = field(default_factory=Counter)  # verdicts by all rules
    interval: Counter[str] = field(default_factory=Counter)  # without divergence and groups that stand out
    accuracy: Counter[str] = field(default_factory=Counter)  # as if no log-probabilities were stored
    covered: int = 0  # the 95 % interval that decides holds the true difference
    width: float = 0.0  # half of it, points, summed
    ok: int = 0  # line 2 says OK
    agreement: list[float] = field(default_factory=list)

    def shares(self, counts: Counter[str]) -> str:
        return " / ".join(self.percent(counts[name]) for name in (PASS, FAIL, INCONCLUSIVE))

    def percent(self, count: float) -> str:
        return f"{100 * count / self.comparisons:.1f}"


def draw(case: Case, rng: np.random.Generator) -> Logits:
    questions = sample_questions(case.questions // case.copies, rng)
    if case.videos:
        questions = replace(questions, video=np.arange(len(questions.video)) % case.videos)
    logits = simulate(questions, rng, case.world, case.loss)
    return logits.take(np.tile(np.arange(len(logits.right)), case.copies))


def weigh_case(case: Case, logits: Logits) -> Evidence:
    """By the very code that weighs two result files, from arrays."""
    found, diagnosis = tabulate(logits, case.stores_logprobs), None
    if not case.is_whole:
        return weigh(found, [], Margin(MARGIN))
    groups = find_subgroups(logits)
    if case.tolerance.is_judged:
        diagnosis = diagnose(found, measure(found), groups, case.tolerance)
    return weigh(found, [*groups, *find_levels(logits)], Margin(MARGIN), diagnosis)


def rates(case: Case, comparisons: int, seed: int = 0) -> Rates:
    rng, counted = np.random.default_rng(seed), Rates()
    truth = -case.loss.points if case.loss and case.loss.kind in LOSSES else 0.0
    for _ in range(comparisons):
        evidence = weigh_case(case, draw(case, rng))
        low, high = evidence.estimate.interval()
        counted.comparisons += 1
        counted.whole[judge(evidence).name] += 1
        alone = replace(evidence, diagnosis=None, outliers=())
        counted.interval[judge(alone).name] += 1
        counted.accuracy[judge(replace(alone, smoothed=None)).name] += 1
        counted.covered += low <= truth <= high
        counted.width += (high - low) / 2
        counted.ok += evidence.diagnosis is not None and evidence.diagnosis.is_known and not evidence.diagnosis.broken
        counted.agreement.append(evidence.accuracy.agreement)
    return counted


def comparisons_of(questions: int, comparisons: int) -> int:
    """Large samples take longer."""
    return max(1, comparisons // (1 if questions <= 1000 else 2))


def upper_bound(hits: int, count: int) -> float:
    """Clopper and Pearson's upper bound of a proportion, 95 % one-sided."""
    return float(stats.beta.ppf(0.95, hits + 1, count - hits)) if hits < count else 1.0


def _noise(world: World) -> str:
    return f"{world.kind} {', '.join(f'{each:g}' for each in world.noise)}"


def sound_line(case: Case, comparisons: int) -> str:
    found = rates(
        case, comparisons_of(case.questions, comparisons) // (1 + (case.questions > 1000)), seed=case.questions
    )
    ok = found.percent(found.ok) if case.is_whole else "-"
    low, middle = np.quantile(found.agreement, [0.01, 0.5])
    return (
        f"| {case.world.scale:g} | {_noise(case.world)} | {case.questions} | {found.comparisons} "
        f"| {found.shares(found.whole)} | {found.shares(found.accuracy)} | {ok} | {100 * low:.1f}, {100 * middle:.1f} "
        f"| {found.width / found.comparisons:.2f} |"
    )


def loss_line(case: Case, comparisons: int) -> str:
    assert case.loss
    count = comparisons_of(case.questions, comparisons)
    for times in (1, 4):  # the same comparisons, and three times as many besides if that does not settle it
        found = rates(case, times * count, seed=case.questions)
        bound = upper_bound(found.interval[PASS], found.comparisons)
        if bound <= 0.08 or case.loss.kind == "tiny leads":
            break
    return (
        f"| {case.world.scale:g} | {case.loss.kind} | {_noise(case.world)} | {case.questions} | {found.comparisons} "
        f"| {found.shares(found.interval)} | {100 * bound:.1f} | {found.percent(found.covered)} "
        f"| {found.width / found.comparisons:.2f} |"
    )


def other_line(case: Case, comparisons: int) -> str:
    what = f"{case.loss.kind} {case.loss.points:g}" if case.loss else "sound"
    what += f", {case.videos} videos" if case.videos else ""
    what += f", each question {case.copies} times" if case.copies > 1 else ""
    what += f", quantised {case.world.quantised:g} nats" if case.world.quantised else ""
    what += "" if case.stores_logprobs else ", no log-probabilities"
    found = rates(case, comparisons_of(case.questions, comparisons), seed=case.questions)
    return (
        f"| {what} | {case.world.scale:g} | {_noise(case.world)} | {case.questions} | {found.comparisons} "
        f"| {found.shares(found.whole)} | {found.shares(found.interval)} | {found.percent(found.covered)} |"
    )


SOUND = [
    Case(questions, World(noise, 1.0, kind), is_whole=True)
    for kind, noises in (
        ("normal", (FLOAT16, (0.03, 0.03), (0.06, 0.015), BFLOAT16, (0.1, 0.1))),
        ("heavy", (FLOAT16, (0.03, 0.03), BFLOAT16)),
        ("videos", (FLOAT16, BFLOAT16)),
    )
    for noise in noises
    for questions in (1000, 3000)
] + [
    Case(questions, World(noise, scale, kind))
    for scale in SCALES[1:]
    for kind in NOISES
    for noise in (FLOAT16, BFLOAT16)
    for questions in (1000, 3000)
]
AT_MARGIN = [
    Case(questions, World(noise, scale), Loss(kind, MARGIN))
    for scale in SCALES
    for kind in LOSSES
    for noise in (FLOAT16, BFLOAT16)
    for questions in (1000, 3000)
    if questions == 3000 or scale == 1 or noise == FLOAT16
] + [
    Case(questions, World(noise, 1.0, noise_kind), Loss(kind, MARGIN))
    for noise_kind in ("heavy", "videos")
    for kind in ("shift", "noise", "corrupted")
    for noise in (FLOAT16, BFLOAT16)
    for questions in (1000, 3000)
]
LARGE = [
    Case(questions, World(FLOAT16, scale), Loss(kind, 3.0))
    for scale in (1.0, 0.3)
    for kind in LOSSES
    if kind != "unsure"  # cannot lose so much
    for questions in (500, 1000)
]
QUANTISED = [
    Case(
        questions, World(BFLOAT16, quantised=noise), Loss("shift", points),
        is_whole=True, tolerance=Tolerance(is_judged=False),
    )
    for noise in (0.3, 0.5, 1.0)
    for points in (0.0, 0.3, 1.0, 3.0)
    for questions in (1000, 3000)
]  # fmt: skip
OTHERS = [
    Case(3000, World(FLOAT16), Loss(CANCEL, 10.0), is_whole=True, tolerance=Tolerance(is_judged=False)),
    *(Case(3000, World(FLOAT16, scale), Loss(TEMPERATURE, 0.2)) for scale in (1.0, 0.3)),
    *(
        Case(500 * videos, World(FLOAT16), loss, videos=videos)
        for videos in (1, 2, 5)
        for loss in (None, Loss("shift", MARGIN), Loss("noise", MARGIN))
    ),
    *(Case(2000, World(FLOAT16), loss, copies=4) for loss in (None, Loss("shift", MARGIN), Loss("corrupted", MARGIN))),
    *(
        Case(questions, World(noise), loss, stores_logprobs=False)
        for noise in (FLOAT16, BFLOAT16)
        for loss in (None, Loss("unreadable", MARGIN), Loss("unreadable", 3.0))
        for questions in (1000, 3000)
    ),
]


# ------------------------------------------------------------------------- five looks, and how many questions it takes


def looks_line(case: Case, comparisons: int) -> str:
    """PASS at any of five looks at one sample that grows."""
    rng, passed, passed_last = np.random.default_rng(5), 0, 0
    for _ in range(comparisons):
        logits = draw(case, rng)
        order = rng.permutation(case.questions)
        seen = []
        for count in np.linspace(case.questions / 6, case.questions, 5).astype(int):
            seen.append(judge(weigh_case(case, logits.take(np.sort(order[:count])))).name == PASS)
        passed += any(seen)
        passed_last += seen[-1]
    assert case.loss
    bound = 100 * upper_bound(passed, comparisons)
    return (
        f"| {case.world.scale:g} | {case.loss.kind} | {_noise(case.world)} | {comparisons} "
        f"| {100 * passed / comparisons:.1f} | {bound:.1f} | {100 * passed_last / comparisons:.1f} |"
    )


LOOKS = [
    Case(3000, World(noise, scale), Loss(kind, MARGIN))
    for scale, noise in ((1.0, FLOAT16), (1.0, BFLOAT16), (0.15, FLOAT16))
    for kind in ("corrupted", "unreadable", "noise", "letter")
]


def needed_line(case: Case, comparisons: int) -> str:
    """The number that two sound runs are told, and how often as many PASS."""
    rng, said, passed = np.random.default_rng(7), [], 0
    for _ in range(comparisons):
        estimate = weigh_case(case, draw(case, rng)).estimate
        count = min(17036, questions_needed(estimate, MARGIN, one_sided=False) or 17036)
        said.append(count)
        passed += judge(weigh_case(case, draw(replace(case, questions=count), rng))).name == PASS
    low, middle, high = np.quantile(said, [0.1, 0.5, 0.9])
    measured = "smoothed accuracy" if case.stores_logprobs else "accuracy alone"
    return (
        f"| {measured} | {case.world.scale:g} | {_noise(case.world)} | {case.questions} | {comparisons} "
        f"| {middle:.0f} | {low:.0f} to {high:.0f} | {100 * passed / comparisons:.1f} |"
    )


NEEDED = [
    *(Case(300, World(noise)) for noise in (FLOAT16, (0.06, 0.015), BFLOAT16, (0.1, 0.1))),
    *(Case(1000, World(noise), stores_logprobs=False) for noise in (FLOAT16, BFLOAT16)),
    Case(500, World(FLOAT16, 0.15)),
]


VERDICTS = "PASS / FAIL / INCONCLUSIVE, %"
LOSS_HEAD = (
    f"| scale | loss | noise, nats | questions | comparisons | {VERDICTS} | bound of PASS | covered, % | half width |"
)
OTHER_HEAD = f"| what | scale | noise, nats | questions | comparisons | {VERDICTS} | interval alone | covered, % |"
# Name -> (head, cases, one case and the number of comparisons -> its line).
TABLES: dict[str, tuple[str, Sequence[Any], Callable[[Any, int], str]]] = {
    "sound": (
        f"| scale | noise, nats | questions | comparisons | {VERDICTS} | accuracy alone | numbers OK, % "
        "| agreement: 1 %, median | half width |",
        SOUND,
        sound_line,
    ),
    "margin": (LOSS_HEAD, AT_MARGIN, loss_line),
    "loss": (LOSS_HEAD, LARGE, loss_line),
    "quantised": (OTHER_HEAD, QUANTISED, other_line),
    "others": (OTHER_HEAD, OTHERS, other_line),
    "looks": (
        "| scale | loss | noise, nats | comparisons | PASS at any look, % | bound | PASS at the last |",
        LOOKS,
        looks_line,
    ),
    "needed": (
        "| by | scale | noise, nats | from | comparisons | said, median | 10 to 90 % | so many PASS, % |",
        NEEDED,
        needed_line,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=400, help="simulated per line (default: %(default)s)")
    parser.add_argument("--tables", default=",".join(TABLES), help="some of them (default: %(default)s)")
    args = parser.parse_args()
    started = time.monotonic()
    for name in args.tables.split(","):
        head, cases, line = TABLES[name]
        print(f"\n{head}\n{'|---' * (head.count('|') - 1)}|", flush=True)
        for number, case in enumerate(cases, start=1):
            print(line(case, args.comparisons), flush=True)
            print(f"{name}: {number} of {len(cases)} lines, {time.monotonic() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
