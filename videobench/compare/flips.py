"""The questions on which the two runs gave different letters, each in one class."""

from collections.abc import Sequence
from dataclasses import dataclass

from videobench.compare.pairing import Pair
from videobench.compare.same_inputs import inputs_differ
from videobench.compare.scoring import FAILED, UNREADABLE
from videobench.data.rows import Reply

CLASSES = {  # in the order in which they deserve a look
    "drift": "a lead clearer than the noise, and yet another letter",
    "format": "one side's reply cannot be read",
    "failed": "one side failed, or its logits held NaN or infinity",
    "input": "the sides were given different questions, prompts or pixels",
    "unknown": "no log-probabilities to judge by",
    "tie": "the lead is within the noise on both sides",
}


@dataclass(frozen=True)
class Flip:
    pair: Pair
    kind: str  # of CLASSES
    candidate_lead: float | None  # nats: the side's best option less its second best
    reference_lead: float | None


def find_flips(compared: Sequence[Pair], noise_lead: float) -> list[Flip]:
    """Of pairs that both files have; those that deserve a look first, the clearest leads of a class first."""
    flips = [_build_flip(pair, noise_lead) for pair in compared if pair.candidate.letter != pair.reference.letter]
    order = list(CLASSES)
    return sorted(flips, key=lambda f: (order.index(f.kind), -min(f.candidate_lead or 0.0, f.reference_lead or 0.0)))


def _build_flip(pair: Pair, noise_lead: float) -> Flip:
    candidate, reference = map(_top_lead, pair.replies)
    return Flip(pair, _classify(pair, [candidate, reference], noise_lead), candidate, reference)


def _top_lead(reply: Reply) -> float | None:
    values = sorted(reply.scores.values())
    return values[-1] - values[-2] if len(values) > 1 else None


def _classify(pair: Pair, leads: Sequence[float | None], noise_lead: float) -> str:
    if FAILED in (pair.candidate.outcome, pair.reference.outcome) or any(reply.nonfinite for reply in pair.replies):
        return "failed"
    if inputs_differ(pair):
        return "input"
    if UNREADABLE in (pair.candidate.outcome, pair.reference.outcome):
        return "format"
    known = [lead for lead in leads if lead is not None]
    if len(known) < 2:
        return "unknown"
    return "tie" if max(known) <= noise_lead else "drift"
