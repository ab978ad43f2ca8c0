"""What the verdict can show: false verdicts, coverage of its interval, questions that it needs, faults that it finds.

python benchmarks/verdict_power.py                        # the tables of docs/verdict.md; 2 to 3 hours on a core
python benchmarks/verdict_power.py --comparisons 40       # nearly the same; about 20 minutes
python benchmarks/verdict_power.py --tables sound,needed  # some of them
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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # called as a script, Python looks beside it only

from tests.support import simulated_losses, simulated_runs
from tests.support.simulated_losses import LOSSES, Logits, Loss, simulate
from tests.support.simulated_runs import LONG_PROMPT, Fault, all_questions, sample_questions
from videobench.compare.accuracy import Paired
from videobench.compare.diagnosis import Diagnosis, diagnose
from videobench.compare.divergence import measure
from videobench.compare.pairing import Pair, Pairing
from videobench.compare.rule import FAIL, INCONCLUSIVE, PASS, Rule
from videobench.compare.settings import Margin
from videobench.compare.smoothed import BANDWIDTH, Estimate, build_estimate, questions_needed
from videobench.compare.statistics import Z95, normal_cdf, number_clusters, paired_intervals
from videobench.compare.verdict import Verdict, decide

MARGIN = 1.0  # points
SHARED = (
    0.1  # correlation of discordance among a video's questions, with one direction for the video, where there is any
)
BENCHMARK = 17036  # questions of Video-Bench
NOISES = ((0.015, 0.015), (0.03, 0.03), (0.06, 0.015), (0.1, 0.03), (0.1, 0.1))  # nats, NPU and GPU


# ------------------------------------------------------------------------- whole comparisons, judged by three rules


@dataclass(frozen=True)
class Case:
    questions: int
    noise: tuple[float, float]
    loss: Loss | None = None
    stores_logprobs: bool = True


@dataclass
class Rates:
    """Counts of simulated comparisons."""

    comparisons: int = 0
    verdict: Counter[str] = field(default_factory=Counter)  # the suite's: divergence and smoothed accuracy
    smoothed: Counter[str] = field(default_factory=Counter)  # smoothed accuracy alone
    accuracy: Counter[str] = field(default_factory=Counter)  # accuracy alone, by the bootstrap over videos
    normal: Counter[str] = field(default_factory=Counter)  # accuracy's normal interval, videos ignored
    covered: int = 0  # the 95 % interval of the suite's verdict holds the true difference
    half_width: float = 0.0  # points, summed

    def line(self) -> str:
        rules = (self.verdict, self.smoothed, self.accuracy, self.normal)
        shares = (
            " / ".join(f"{self.percent(each[name]):.1f}" for name in (PASS, FAIL, INCONCLUSIVE)) for each in rules
        )
        width = f"{self.half_width / self.comparisons:.2f}"
        return f"{self.comparisons} | {' | '.join(shares)} | {self.percent(self.covered):.1f} | {width}"

    def percent(self, count: int) -> float:
        return 100 * count / self.comparisons


def rates(case: Case, comparisons: int, seed: int = 0) -> Rates:
    rng, everything, counted = np.random.default_rng(seed), all_questions(), Rates()
    truth = -case.loss.points if case.loss else 0.0
    for _ in range(comparisons):
        logits = simulate(sample_questions(everything, case.questions, rng), rng, case.noise, case.loss)
        pairs = simulated_losses.build_pairs(logits, case.stores_logprobs)
        verdict, _ = judge(pairs, int(rng.integers(2**31)))
        low, high = verdict.evidence.interval(Z95)
        counted.comparisons += 1
        counted.verdict[verdict.name] += 1
        rule, plain = Rule(MARGIN, one_sided=False), replace(verdict.evidence, is_smoothed=False)
        counted.smoothed[rule.judge(verdict.evidence).name] += 1
        counted.accuracy[rule.judge(plain).name] += 1
        counted.normal[_by_normal_approximation(verdict.evidence.accuracy)] += 1
        counted.covered += low <= truth <= high
        counted.half_width += (high - low) / 2
    return counted


def judge(pairs: Sequence[Pair], seed: int) -> tuple[Verdict, Diagnosis]:
    diagnosis = diagnose(pairs, measure(pairs))
    return decide(Pairing(list(pairs), {}, {}, [], 0, 0), [], diagnosis, Margin(MARGIN), seed), diagnosis


def _by_normal_approximation(paired: Paired) -> str:
    """Mean and standard deviation of the differences of -1, 0 and 1, each question for itself."""
    count = paired.questions
    mean = (paired.npu_only - paired.gpu_only) / count
    spread = ((paired.npu_only + paired.gpu_only) / count - mean**2) ** 0.5
    half = 100 * Z95 * spread / count**0.5
    low, high = 100 * mean - half, 100 * mean + half
    if low > -MARGIN and high < MARGIN:
        return PASS
    return FAIL if high < -MARGIN or low > MARGIN else INCONCLUSIVE


def comparisons_of(questions: int, comparisons: int) -> int:
    """Large samples take longer."""
    return max(1, comparisons // (1 if questions <= 1000 else 4 if questions <= 3000 else 16))


SOUND_CASES = [Case(questions, noise) for noise in NOISES for questions in (300, 500, 1000, 3000, BENCHMARK)]
MARGIN_CASES = [
    Case(questions, noise, Loss(kind, MARGIN))
    for kind in LOSSES
    for questions, noise in ((1000, (0.015, 0.015)), (1000, (0.06, 0.015)), (3000, (0.015, 0.015)))
]
LARGE_CASES = [Case(questions, (0.015, 0.015), Loss(kind, 3.0)) for kind in LOSSES for questions in (500, 1000)]
PLAIN_CASES = [
    Case(questions, noise, loss, stores_logprobs=False)
    for noise in ((0.015, 0.015), (0.06, 0.015))
    for loss in (None, Loss("unreadable", MARGIN), Loss("unreadable", 3.0))
    for questions in (1000, 3000, BENCHMARK)
]


def case_line(case: Case, comparisons: int) -> str:
    noise = ", ".join(f"{each:g}" for each in case.noise)
    loss = f"| {LOSSES[case.loss.kind]} " if case.loss else ""
    counted = rates(case, comparisons_of(case.questions, comparisons), seed=case.questions)
    return f"{loss}| {noise} | {case.questions} | {counted.line()} |"


def plain_line(case: Case, comparisons: int) -> str:
    points = case.loss.points if case.loss else 0
    counted = rates(case, comparisons_of(case.questions, comparisons), seed=case.questions)
    return f"| {', '.join(f'{each:g}' for each in case.noise)} | {points:g} | {case.questions} | {counted.line()} |"


# ------------------------------------------------------------------------- how many questions would decide it


@dataclass(frozen=True)
class Needed:
    noise: tuple[float, float]
    seen: int  # questions that the number is said from
    is_smoothed: bool


NEEDED = [Needed(noise, 250, True) for noise in ((1e-4, 1e-4), *NOISES)]
NEEDED += [Needed(noise, 1000, False) for noise in ((0.015, 0.015), (0.06, 0.015))]


def needed_line(case: Needed, comparisons: int) -> str:
    """The number that the verdict gives, beside the one from which four comparisons in five lie within the margin."""
    rng = np.random.default_rng(case.seen)
    said = [
        questions_needed(_estimate(case, case.seen, rng), 0.0, MARGIN, one_sided=False) or BENCHMARK
        for _ in range(comparisons)
    ]
    low, high = 100, BENCHMARK
    while high - low > 0.02 * low:
        middle = (low + high) // 2
        inside = np.mean([_is_inside(case, middle, rng) for _ in range(comparisons)])
        low, high = (low, middle) if inside >= 0.8 else (middle, high)
    p10, median, p90 = np.quantile(said, [0.1, 0.5, 0.9])
    measured = "smoothed accuracy" if case.is_smoothed else "accuracy alone"
    noise = ", ".join(f"{each:g}" for each in case.noise)
    spread = f"{median:.0f} | {p10:.0f} to {p90:.0f}"
    return f"| {measured} | {noise} | {case.seen} | {spread} | {high} | {median / high:.2f} |"


def _draw(case: Needed, questions: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(questions, 2) credits, and the numbers of the videos."""
    logits = simulate(sample_questions(all_questions(), questions, rng), rng, case.noise, None)
    credits = np.stack([_credits(logits, side, case.is_smoothed) for side in ("npu", "gpu")], axis=1)
    return credits, number_clusters(logits.questions.video.tolist())


def _credits(logits: Logits, side: str, is_smoothed: bool) -> np.ndarray:
    return normal_cdf(logits.margins(side) / BANDWIDTH) if is_smoothed else logits.is_right(side).astype(float)


def _estimate(case: Needed, questions: int, rng: np.random.Generator) -> Estimate:
    return build_estimate(*_draw(case, questions, rng))


def _is_inside(case: Needed, questions: int, rng: np.random.Generator) -> bool:
    credits, clusters = _draw(case, questions, rng)
    if case.is_smoothed:
        low, high = build_estimate(credits, clusters).interval()
    else:
        low, high = (100 * end for end in paired_intervals(credits[:, 0] - credits[:, 1], clusters, 0)[0])
    return low > -MARGIN and high < MARGIN


# ------------------------------------------------------------------------- accuracy's own interval


@dataclass(frozen=True)
class Scenario:
    questions: int
    flips: float  # proportion of questions that one side alone has right
    difference: float  # true, NPU minus GPU, in points; at most 100 * flips
    correlation: float  # within videos


@dataclass(frozen=True)
class IntervalRates:
    """Proportions of simulated comparisons."""

    coverage: float  # the 95 % interval holds the true difference
    passed: float
    failed: float
    half_width: float  # points, in the mean


def simulate_differences(videos: np.ndarray, scenario: Scenario, rng: np.random.Generator) -> np.ndarray:
    """-1, 0 or 1 for each question, NPU right less GPU right; `videos` numbers each question's video from 0.

    Where a video's questions correlate, some videos flip more than others, and all in one direction."""
    count, rho = int(videos.max()) + 1, scenario.correlation
    upwards = (1 + scenario.difference / 100 / scenario.flips) / 2
    if not rho:
        chances, directions = scenario.flips, np.where(rng.random(len(videos)) < upwards, 1, -1)
    else:
        strength = (1 - rho) / rho
        chances = rng.beta(scenario.flips * strength, (1 - scenario.flips) * strength, count)[videos]
        directions = np.where(rng.random(count) < upwards, 1, -1)[videos]
    return np.where(rng.random(len(videos)) < chances, directions, 0)


def interval_rates(scenario: Scenario, comparisons: int, seed: int = 0) -> IntervalRates:
    rng, everything = np.random.default_rng(seed), all_questions().video
    covered = passed = failed = width = 0.0
    for _ in range(comparisons):
        chosen = rng.choice(everything, scenario.questions, replace=False)
        videos = np.unique(chosen, return_inverse=True)[1]
        values = simulate_differences(videos, scenario, rng)
        ci95, ci99 = paired_intervals(values, videos, int(rng.integers(2**31)))
        (low, high), (low99, high99) = ((100 * low, 100 * high) for low, high in (ci95, ci99))
        covered += low <= scenario.difference <= high
        passed += low > -MARGIN and high < MARGIN
        failed += low99 > MARGIN or high99 < -MARGIN
        width += (high - low) / 2
    return IntervalRates(*(value / comparisons for value in (covered, passed, failed, width)))


SCENARIOS = [
    Scenario(questions, flips, difference, correlation)
    for questions in (300, 1000, 3000, BENCHMARK)
    for flips in (0.02, 0.05, 0.10)
    for difference, correlation in ((0.0, 0.0), (0.0, SHARED), (MARGIN, SHARED), (3.0, SHARED))
    if difference <= 100 * flips
]


def interval_line(each: Scenario, comparisons: int) -> str:
    found = interval_rates(each, comparisons_of(each.questions, 5 * comparisons))
    alike = "alike" if each.correlation else "independent"
    return (
        f"| {each.questions} | {100 * each.flips:g} | {each.difference:g} | {alike} | {100 * found.coverage:.1f} "
        f"| {found.half_width:.2f} | {100 * found.passed:.1f} | {100 * found.failed:.1f} |"
    )


# ------------------------------------------------------------------------- planted faults


def verdicts(
    dtypes: tuple[str, str], fault: Fault | None, questions: int, comparisons: int, seed: int = 0
) -> Counter[str]:
    """How often each verdict, and under "cause: ..." each first finding, comes out of whole comparisons."""
    rng, everything, counts = np.random.default_rng(seed), all_questions(), Counter[str]()
    for _ in range(comparisons):
        rows = simulated_runs.simulate_rows(sample_questions(everything, questions, rng), rng, dtypes, fault)
        pairs = simulated_runs.build_pairs(rows)
        verdict, diagnosis = judge(pairs, seed)
        counts[verdict.name] += 1
        if diagnosis.findings:
            counts[f"cause: {diagnosis.findings[0].cause}"] += 1
        counts["flips"] += sum(pair.npu.letter != pair.gpu.letter for pair in pairs)
    return counts


FAULTS = [
    Fault(name, size)
    for name, sizes in (
        ("layer noise", (0.05, 0.08, 0.1, 0.15)),
        ("letter", (0.02, 0.04, 0.06, 0.1)),
        ("truncated", (0.05, 0.1, 0.2, 0.3)),
        ("frame order", (0.05, 0.1, 0.2, 0.3)),
        ("card", (0.05, 0.08, 0.1, 0.2)),
        ("mass", (0.05, 0.08, 0.1, 0.2)),
        ("overflow", (120, 60, 0)),
    )
    for size in sizes
]


def fault_line(fault: Fault, comparisons: int) -> str:
    times = max(5, comparisons // 20)
    found = [verdicts(("float16", "float16"), fault, count, times) for count in (100, 300, 1000)]
    by_size = " | ".join(f"{100 * _found(counts) / times:.0f}" for counts in found)
    causes = [cause.removeprefix("cause: ") for cause, _ in found[1].most_common() if cause.startswith("cause")]
    size = f"beyond {LONG_PROMPT + fault.size:g} tokens" if fault.name == "overflow" else f"{fault.size:g}"
    flips = 100 * found[1]["flips"] / times / 300
    return f"| {fault.name} | {size} | {flips:.1f} | {by_size} | {', '.join(causes[:2]) or '-'} |"


def _found(counts: Counter[str]) -> int:
    return sum(count for name, count in counts.items() if name.startswith("cause"))


RULES = (
    "comparisons | PASS / FAIL / INCONCLUSIVE, % | smoothed accuracy alone | accuracy alone | normal | covered | +/- |"
)
# Name -> (head, cases, one case and the number of comparisons -> its line).
TABLES: dict[str, tuple[str, Sequence[Any], Callable[[Any, int], str]]] = {
    "sound": (f"| noise, nats | questions | {RULES}", SOUND_CASES, case_line),
    "margin": (f"| true loss of 1 point | noise, nats | questions | {RULES}", MARGIN_CASES, case_line),
    "loss": (f"| true loss of 3 points | noise, nats | questions | {RULES}", LARGE_CASES, case_line),
    "plain": (f"| noise, nats, no log-probabilities | true loss | questions | {RULES}", PLAIN_CASES, plain_line),
    "needed": (
        "| by | noise, nats | said from | questions needed, median | 10 to 90 % | needed in fact | ratio |",
        NEEDED,
        needed_line,
    ),
    "interval": (
        "| questions | one-sided, % | true difference | videos | covered, % | half-width | PASS, % | FAIL, % |",
        SCENARIOS,
        interval_line,
    ),
    "faults": (
        "| fault in float16 | size, nats | flips, % | found with 100 questions, % | with 300 | with 1000 | named as |",
        FAULTS,
        fault_line,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=200, help="simulated per line (default: %(default)s)")
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
