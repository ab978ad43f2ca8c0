"""Compare two result files, given the answers: all that a report shows, and a class for each flip."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from videobench.compare.accuracy import Accuracies, compare_groups
from videobench.compare.associations import find_levels, find_subgroups
from videobench.compare.divergence import (
    Diagnosis,
    Differences,
    NoiseFloor,
    diagnose,
    find_noise_floor,
    measure,
)
from videobench.compare.obstacles import OTHER_MODEL, ServiceNote, check_services, find_obstacles
from videobench.compare.pairing import Pair, Pairing, Side, knows_videos, pair_logs, pair_runs, tabulate
from videobench.compare.same_inputs import Inputs, compare_inputs, inputs_differ, unlike_settings
from videobench.compare.scoring import FAILED, UNREADABLE, chance_level
from videobench.compare.settings import SIDES, ComparisonSettings
from videobench.compare.verdict import Verdict, decide, weigh
from videobench.data.dataset import DATASET_NAMES
from videobench.data.eval_logs import load_logs
from videobench.data.results import Asked, load_results
from videobench.data.rows import Reply
from videobench.errors import InputError

VIDEO_BENCH = "Video-Bench"
SHOWN_SETS = 3  # in a title
CLASSES = {  # the most important first
    "drift": "the lead is larger than the noise, and the letters still differ",
    "format": "one side's reply cannot be read",
    "failed": "one side failed, or its logits held NaN or infinity",
    "input": "the sides were given different questions, prompts or pixels",
    "unknown": "no log-probabilities to judge by",
    "tie": "the lead is within the noise on both sides",
    "wording": "another text, and both sides are right or both are wrong",
}


@dataclass(frozen=True)
class Flip:
    pair: Pair
    kind: str  # of CLASSES
    candidate_lead: float | None  # nats: the side's best option less its second best
    reference_lead: float | None


@dataclass(frozen=True)
class Comparison:
    """What the reports are built from."""

    settings: ComparisonSettings
    pairing: Pairing
    inputs: Inputs
    groups: Accuracies
    differences: Differences
    noise: NoiseFloor
    diagnosis: Diagnosis
    flips: list[Flip]
    verdict: Verdict
    services: list[ServiceNote]
    knows_videos: bool  # whether any row names its video
    chance: float | None  # chance level of these questions, 0 to 1

    @property
    def benchmark(self) -> str:
        """ "Video-Bench", or the names of other sets."""
        names = [name for name in self.groups.per_dataset if name]
        if not self.pairing.is_of_logs and all(name in DATASET_NAMES for name in names):
            return VIDEO_BENCH
        return ", ".join(names[:SHOWN_SETS]) + (", ..." if len(names) > SHOWN_SETS else "")

    @property
    def is_of_others(self) -> bool:
        """Whether the questions are from another benchmark, so that no script of this suite asked them."""
        return self.benchmark != VIDEO_BENCH


def compare_runs(settings: ComparisonSettings) -> Comparison:
    """Compare two runs. Raises InputError if a file is wrong or the files have no question in common."""
    paths = settings.candidate_path, settings.reference_path
    if settings.answer_path:
        pairing = pair_runs(*paths, settings.answer_path, settings.scoring, settings.facts_path)
    else:
        pairing = pair_logs(*paths, settings.log_filter, settings.cluster_by)
    path = settings.repeat_path
    return compare_pairs(pairing, settings, measure_repeat(pairing.compared, path, settings) if path else None)


def compare_pairs(pairing: Pairing, settings: ComparisonSettings, repeat: Differences | None = None) -> Comparison:
    """Compare paired replies; `repeat` is a second run of one side compared with its first."""
    compared, names = pairing.compared, settings.names
    inputs = compare_inputs(pairing, names)
    services = check_services(compared, names)
    # A question with other inputs says nothing about the port; if many lengths differ, equal ones say nothing either.
    same = [] if inputs.are_unlike else [pair for pair in compared if not inputs_differ(pair)]
    answers, groups = tabulate(same), find_subgroups(same, names)
    differences = measure(answers)
    obstacles = find_obstacles(pairing, inputs, names, services, settings.tolerance)
    tolerance = settings.tolerance
    if any(each.cause in OTHER_MODEL for each in obstacles):  # another model's numbers do not mean a broken run
        tolerance = replace(tolerance, is_judged=False)
    diagnosis = diagnose(answers, differences, groups, tolerance, repeat, names)
    counted, within = (answers, [*groups, *find_levels(same)]) if same else (tabulate(compared), [])
    evidence = weigh(counted, within, settings.margin, diagnosis, names)
    noise = find_noise_floor(differences, diagnosis.dtype, repeat)
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


def measure_repeat(compared: list[Pair], repeat_path: Path, settings: ComparisonSettings) -> Differences:
    """Compare a second run with the side that it repeats: the one with the closer log-probabilities.

    Raises InputError if it is a run of something else than both, or has no log-probabilities to compare."""
    by_key = settings.scoring == "mindie"
    if settings.answer_path:
        names = [(pair.dataset, pair.id) for pair in compared]
        replies = load_results(repeat_path, names, by_key, Asked([pair.reply for pair in compared]))
    else:
        replies = load_logs(repeat_path, settings.log_filter, settings.cluster_by)
    measured, unlike = [], list[list[str]]()
    for side in SIDES.values():
        pairs = []
        for pair in compared:
            first = getattr(pair, side)
            if again := replies.get(("", first.reply.key) if by_key else (pair.dataset, pair.id)):
                pairs.append(replace(pair, candidate=Side(again, None, ""), reference=first))
        if found := unlike_settings(*zip(*(each.replies for each in pairs), strict=True)) if pairs else []:
            unlike.append(found)
        elif (repeat := measure(tabulate([each for each in pairs if not inputs_differ(each)]))).pairs:
            measured.append(repeat)
    if measured:
        return min(measured, key=lambda each: float(np.mean(each.largest)))
    if len(unlike) == len(SIDES):
        least = min(unlike, key=len)
        raise InputError(f"{repeat_path}: repeats neither run: other {', '.join(least)}; name a second run of one")
    lacks = "no reply with log-probabilities to a question that was compared, with the same inputs"
    raise InputError(f"{repeat_path}: {lacks}; name a second run")


def find_flips(compared: Sequence[Pair], noise_lead: float) -> list[Flip]:
    """Classify the flips among pairs that both files have: the most important class first, then the clearest lead."""
    flipped = [pair for pair in compared if pair.candidate.letter != pair.reference.letter]
    flips = [Flip(pair, _classify(pair, noise_lead), *map(_lead, pair.replies)) for pair in flipped]
    order = list(CLASSES)
    return sorted(flips, key=lambda f: (order.index(f.kind), -min(f.candidate_lead or 0.0, f.reference_lead or 0.0)))


def _lead(reply: Reply) -> float | None:
    values = sorted(reply.scores.values())
    return values[-1] - values[-2] if len(values) > 1 else None


def _classify(pair: Pair, noise_lead: float) -> str:
    outcomes, leads = [side.outcome for side in pair.sides], [_lead(reply) for reply in pair.replies]
    if FAILED in outcomes or any(reply.nonfinite for reply in pair.replies):
        return "failed"
    if inputs_differ(pair):
        return "input"
    if UNREADABLE in outcomes:
        return "format"
    if pair.reply.logged and not pair.reply.options and pair.candidate.outcome == pair.reference.outcome:
        return "wording"
    known = [lead for lead in leads if lead is not None]
    if len(known) < 2:
        return "unknown"
    return "tie" if max(known) <= noise_lead else "drift"
