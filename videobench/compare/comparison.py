"""Two result files and the answers -> everything that a report tells."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from videobench.compare.accuracy import Groups, compare_groups
from videobench.compare.diagnosis import Diagnosis, diagnose
from videobench.compare.divergence import Differences, NoiseFloor, find_noise_floor, measure
from videobench.compare.flips import Flip, find_flips
from videobench.compare.pairing import Pair, Pairing, Side, pair_runs
from videobench.compare.same_inputs import Inputs, compare_inputs
from videobench.compare.scoring import chance_level
from videobench.compare.verdict import Verdict, decide
from videobench.errors import InputError
from videobench.results.replies import load_results


@dataclass(frozen=True)
class Comparison:
    npu_path: Path
    gpu_path: Path
    answer_path: Path
    repeat_path: Path | None
    scoring: str
    seed: int
    pairing: Pairing
    inputs: Inputs
    groups: Groups
    differences: Differences
    noise: NoiseFloor
    diagnosis: Diagnosis
    flips: list[Flip]
    verdict: Verdict
    chance: float | None  # 0 to 1: of these very questions


def compare_runs(
    npu_path: Path, gpu_path: Path, answer_path: Path, repeat_path: Path | None, scoring: str, margin: float, seed: int
) -> Comparison:
    """Raises InputError where a file is wrong or the files have no question in common."""
    pairing = pair_runs(npu_path, gpu_path, answer_path, scoring)
    compared = pairing.compared
    inputs = compare_inputs(pairing)
    groups = compare_groups(pairing.pairs, seed)
    differences = measure(compared)
    diagnosis = diagnose(compared, differences)
    repeat = measure_repeat(compared, repeat_path, by_key=scoring == "mindie") if repeat_path else None
    noise = find_noise_floor(differences, diagnosis.dtype, repeat)
    return Comparison(
        npu_path=npu_path,
        gpu_path=gpu_path,
        answer_path=answer_path,
        repeat_path=repeat_path,
        scoring=scoring,
        seed=seed,
        pairing=pairing,
        inputs=inputs,
        groups=groups,
        differences=differences,
        noise=noise,
        diagnosis=diagnosis,
        flips=find_flips(compared, noise.margin),
        verdict=decide(pairing, groups, inputs, diagnosis, margin, seed),
        chance=chance_level(pair.reply for pair in compared),
    )


def measure_repeat(compared: list[Pair], repeat_path: Path, by_key: bool) -> Differences:
    """A second run against the side that it repeats: the one whose log-probabilities it is nearer to."""
    names = [(pair.dataset, pair.id) for pair in compared]
    replies = load_results(repeat_path, names, by_key).replies
    measured = []
    for side in ("npu", "gpu"):
        pairs = []
        for pair in compared:
            first: Side = getattr(pair, side)
            again = replies.get(("", first.reply.key) if by_key and first.reply else (pair.dataset, pair.id))
            if again:
                pairs.append(Pair(pair.dataset, pair.id, pair.right, Side(again, None, ""), first))
        measured.append(measure(pairs))
    usable = [each for each in measured if each.pairs]
    if not usable:
        raise InputError(
            f"{repeat_path}: no reply with log-probabilities to a question that was compared; name a second run"
        )
    return min(usable, key=lambda each: float(np.mean(each.largest)))
