"""Two result files and the answers -> everything that a report shows."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from videobench.compare.accuracy import Groups, compare_groups
from videobench.compare.answers import knows_videos, tabulate
from videobench.compare.associations import find_levels, find_subgroups
from videobench.compare.diagnosis import Diagnosis, diagnose
from videobench.compare.divergence import Differences, NoiseFloor, coarser_dtype, find_noise_floor, measure
from videobench.compare.flips import Flip, find_flips
from videobench.compare.obstacles import ServiceNote, check_services, find_obstacles
from videobench.compare.pairing import Pair, Pairing, Side, pair_runs
from videobench.compare.same_inputs import Inputs, compare_inputs, inputs_differ
from videobench.compare.scoring import chance_level
from videobench.compare.settings import SIDES, ComparisonSettings
from videobench.compare.verdict import Verdict, decide, weigh
from videobench.data.results import Asked, load_results
from videobench.errors import InputError


@dataclass(frozen=True)
class Comparison:
    """What the reports are built from."""

    settings: ComparisonSettings
    pairing: Pairing
    inputs: Inputs
    groups: Groups
    differences: Differences
    noise: NoiseFloor
    diagnosis: Diagnosis
    flips: list[Flip]
    verdict: Verdict
    services: list[ServiceNote]
    knows_videos: bool  # whether any row names its video
    chance: float | None  # 0 to 1: of these very questions


def compare_runs(settings: ComparisonSettings) -> Comparison:
    """Raises InputError where a file is wrong or the files have no question in common."""
    pairing = pair_runs(
        settings.candidate_path, settings.reference_path, settings.answer_path, settings.scoring, settings.facts_path
    )
    compared, names = pairing.compared, settings.names
    inputs = compare_inputs(pairing, names)
    services = check_services(compared, names)
    # A question with other inputs says nothing about the port; nor do equal lengths among many that differ.
    same = [] if inputs.are_unlike else [pair for pair in compared if not inputs_differ(pair)]
    answers, groups, dtype = tabulate(same), find_subgroups(same, names), coarser_dtype(same)
    differences = measure(answers)
    by_key = settings.scoring == "mindie"
    repeat = measure_repeat(compared, settings.repeat_path, by_key) if settings.repeat_path else None
    diagnosis = diagnose(answers, differences, groups, dtype, settings.tolerance, repeat, names)
    counted, within = (answers, [*groups, *find_levels(same)]) if same else (tabulate(compared), [])
    evidence = weigh(counted, within, settings.margin, diagnosis, names)
    obstacles = find_obstacles(pairing, inputs, names, services, settings.tolerance)
    noise = find_noise_floor(differences, dtype, repeat)
    return Comparison(
        settings=settings,
        pairing=pairing,
        inputs=inputs,
        groups=compare_groups(pairing.pairs),
        differences=differences,
        noise=noise,
        diagnosis=diagnosis,
        flips=find_flips(compared, noise.lead),
        verdict=decide(pairing, evidence, obstacles, has_same_inputs=bool(same)),
        services=services,
        knows_videos=knows_videos(compared),
        chance=chance_level(pair.reply for pair in compared),
    )


def measure_repeat(compared: list[Pair], repeat_path: Path, by_key: bool) -> Differences:
    """A second run against the side that it repeats: the one whose log-probabilities it is nearer to.

    `by_key` as of load_results. Raises InputError where the second run has no log-probabilities to compare."""
    names = [(pair.dataset, pair.id) for pair in compared]
    replies = load_results(repeat_path, names, by_key, Asked([pair.reply for pair in compared]))
    measured = []
    for side in SIDES.values():
        pairs = []
        for pair in compared:
            first: Side = getattr(pair, side)
            again = replies.get(("", first.reply.key) if by_key and first.reply else (pair.dataset, pair.id))
            if again:
                pairs.append(Pair(pair.dataset, pair.id, pair.right, Side(again, None, ""), first))
        measured.append(measure(tabulate([each for each in pairs if not inputs_differ(each)])))
    usable = [each for each in measured if each.pairs]
    if not usable:
        raise InputError(
            f"{repeat_path}: no reply with log-probabilities to a question that was compared; name a second run"
        )
    return min(usable, key=lambda each: float(np.mean(each.largest)))
