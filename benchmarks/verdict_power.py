"""What the verdict can tell: coverage of its interval, false verdicts, faults that are found with so many questions.

python benchmarks/verdict_power.py                        # the README's tables; about 15 minutes on one core
python benchmarks/verdict_power.py --comparisons 200      # nearly the same; about 2 minutes
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # called as a script, Python looks beside it only

from benchmarks.simulated_runs import (
    LONG_PROMPT,
    Fault,
    all_questions,
    build_pairs,
    sample_questions,
    simulate_rows,
)
from videobench.compare.accuracy import Groups, compare
from videobench.compare.diagnosis import diagnose
from videobench.compare.divergence import measure
from videobench.compare.pairing import Pairing
from videobench.compare.same_inputs import compare_inputs
from videobench.compare.statistics import paired_intervals
from videobench.compare.verdict import FAIL, INCONCLUSIVE, PASS, decide

MARGIN = 1.0  # points
SHARED = (
    0.1  # correlation of discordance among a video's questions, with one direction for the video, where there is any
)


@dataclass(frozen=True)
class Scenario:
    questions: int
    flips: float  # share of questions that one side alone has right
    difference: float  # true, NPU minus GPU, in points; at most 100 * flips
    correlation: float  # within videos


@dataclass(frozen=True)
class Rates:
    """Shares of simulated comparisons."""

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


def interval_rates(scenario: Scenario, comparisons: int, seed: int = 0) -> Rates:
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
    return Rates(*(value / comparisons for value in (covered, passed, failed, width)))


def verdicts(
    dtypes: tuple[str, str], fault: Fault | None, questions: int, comparisons: int, seed: int = 0
) -> Counter[str]:
    """How often each verdict, and under "cause: ..." each first finding, comes out of whole comparisons."""
    rng, everything, counts = np.random.default_rng(seed), all_questions(), Counter[str]()
    for _ in range(comparisons):
        pairs = build_pairs(simulate_rows(sample_questions(everything, questions, rng), rng, dtypes, fault))
        pairing = Pairing(pairs, {}, {}, [], 0, 0)
        diagnosis = diagnose(pairs, measure(pairs))
        groups = Groups(compare(pairs, seed), {}, {}, {})  # the verdict looks at the whole only
        counts[decide(pairing, groups, compare_inputs(pairing), diagnosis, MARGIN, seed).name] += 1
        if diagnosis.findings:
            counts[f"cause: {diagnosis.findings[0].cause}"] += 1
        flips = sum(pair.npu.letter != pair.gpu.letter for pair in pairs)
        counts["flips"] += flips
    return counts


SCENARIOS = [
    Scenario(questions, flips, difference, correlation)
    for questions in (300, 1000, 3000, 17036)
    for flips in (0.02, 0.05, 0.10)
    for difference, correlation in ((0.0, 0.0), (0.0, SHARED), (MARGIN, SHARED), (3.0, SHARED))
    if difference <= 100 * flips
]


def interval_line(each: Scenario, comparisons: int) -> str:
    fewer = 1 if each.questions <= 1000 else 4 if each.questions <= 3000 else 8  # large samples take longer
    rates = interval_rates(each, comparisons // fewer)
    alike = "alike" if each.correlation else "independent"
    return (
        f"| {each.questions} | {100 * each.flips:g} | {each.difference:g} | {alike} | {100 * rates.coverage:.1f} "
        f"| {rates.half_width:.2f} | {100 * rates.passed:.1f} | {100 * rates.failed:.1f} |"
    )


SOUND_RUNS = [
    (dtypes, questions, fewer)
    for dtypes in (("float16", "float16"), ("bfloat16", "float32"), ("bfloat16", "bfloat16"))
    for questions, fewer in ((300, 4), (1000, 40), (3000, 80))
]


def sound_line(case: tuple[tuple[str, str], int, int], comparisons: int) -> str:
    dtypes, questions, fewer = case
    times = max(1, comparisons // fewer)
    counts = verdicts(dtypes, None, questions, times)
    shares = " | ".join(f"{100 * counts[name] / times:.1f}" for name in (PASS, INCONCLUSIVE, FAIL))
    flips = 100 * counts["flips"] / times / questions
    return f"| {', '.join(dtypes)} | {questions} | {times} | {flips:.2f} | {shares} |"


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
    times = max(5, comparisons // 100)
    found = [verdicts(("float16", "float16"), fault, count, times) for count in (100, 300, 1000)]
    rates = " | ".join(f"{100 * _found(counts) / times:.0f}" for counts in found)
    causes = [cause.removeprefix("cause: ") for cause, _ in found[1].most_common() if cause.startswith("cause")]
    size = f"beyond {LONG_PROMPT + fault.size:g} tokens" if fault.name == "overflow" else f"{fault.size:g}"
    flips = 100 * found[1]["flips"] / times / 300
    return f"| {fault.name} | {size} | {flips:.1f} | {rates} | {', '.join(causes[:2]) or '-'} |"


def _found(counts: Counter[str]) -> int:
    return sum(count for name, count in counts.items() if name.startswith("cause"))


# Name -> (head, cases, one case and the number of comparisons -> its line).
TABLES: dict[str, tuple[str, Sequence[Any], Callable[[Any, int], str]]] = {
    "interval": (
        "| questions | one-sided, % | true difference | videos | covered, % | half-width | PASS, % | FAIL, % |",
        SCENARIOS,
        interval_line,
    ),
    "sound": (
        "| dtypes of two sound runs | questions | comparisons | flips, % | PASS, % | INCONCLUSIVE, % | FAIL, % |",
        SOUND_RUNS,
        sound_line,
    ),
    "faults": (
        "| fault in float16 | size, nats | flips, % | found with 100 questions, % | with 300 | with 1000 | named as |",
        FAULTS,
        fault_line,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=2000, help="simulated per line (default: %(default)s)")
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
