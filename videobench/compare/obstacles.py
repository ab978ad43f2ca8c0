"""Find what keeps two runs from being compared, fully or in part, and which settings of a service to change."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from videobench.compare.advice import FIXES
from videobench.compare.pairing import LOG_FLOOR, Pair, Pairing, number_videos
from videobench.compare.same_inputs import DIFFERS, SAMPLE_FILES, UNKNOWN, InputRow, Inputs
from videobench.compare.scoring import RIGHT, chance_level
from videobench.compare.settings import NPU_AND_GPU, SIDES, Names, Tolerance
from videobench.data.rows import Reply

SHOWN_KEYS = 3  # in a sentence; the JSON has all
FEW_ANSWERS, FEW_ANSWERS_SHARE = 3, 0.02  # right letters that are not an option: so few are errors in the benchmark
SAMPLES = (*SAMPLE_FILES, "limit")  # settings that tell which questions were asked
LUCK = 3.09  # standard errors: 1 in 1000
MANY_VIDEOS = 200  # with fewer, a model that knows something can look like one that guesses
# A quantised port is expected to differ in these.
OTHER_MODEL = ("checkpoint", "checkpoint_sha256", "weights_sha256", "dtype")


@dataclass(frozen=True)
class Obstacle:
    cause: str  # of advice.LOOK_AT: "swapped", "sampling", a setting ("num_frames"), "questions", "prompts", ...
    text: str  # one sentence
    allows_fail: bool = False  # if so, the questions with the same inputs can still show a loss


@dataclass(frozen=True)
class ServiceNote:
    side: str  # of SIDES: "npu" or "gpu"
    cause: str  # of advice.FIXES
    questions: int  # that show it
    text: str  # one sentence
    fix: str  # what to set


def find_obstacles(
    pairing: Pairing,
    inputs: Inputs,
    names: Names = NPU_AND_GPU,
    services: Sequence[ServiceNote] = (),
    tolerance: Tolerance = Tolerance(),  # noqa: B008
) -> list[Obstacle]:
    """List the obstacles; those that allow no verdict at all come first."""
    devices = _of_devices(inputs, names) if names.are_devices else []
    mixed = [Obstacle("mixed", text) for text in inputs.mixed]
    sampled = [Obstacle(each.cause, each.text) for each in services if each.cause == "sampling"]
    settings = [
        Obstacle(row.name, _both_values(row, names))
        for row in inputs.rows
        if not row.allows_verdict and (tolerance.is_judged or row.name not in OTHER_MODEL)
    ]
    answers = [] if pairing.is_of_logs else _of_answers(pairing)  # a log holds its own right answers
    return [*devices, *mixed, *sampled, *settings, *answers, *_of_questions(pairing, inputs, names)]


def _of_devices(inputs: Inputs, names: Names) -> Iterator[Obstacle]:
    """Find swapped files, and files from the same kind of device. A CPU may replace either device."""
    first, second = [sorted(inputs.devices[side] - {UNKNOWN}) for side in SIDES.values()]
    if first == second and first in (["npu"], ["cuda"]):
        cause, text = "one_device", "both files hold replies of one kind of device"
    elif (first, second) in ((["cuda"], ["npu"]), (["cuda"], ["cpu"]), (["cpu"], ["npu"])):
        cause, text = "swapped", f"the {names.candidate.title} and {names.reference.title} files look swapped"
    elif first == ["cuda"] or second == ["npu"]:
        cause, text = "one_device", "a file holds replies of the other side's device"
    else:  # fine; or a side has several devices, which Inputs.mixed names
        return
    own, other = (" and ".join(each) or UNKNOWN for each in (first, second))
    found = f"{own} in {names.candidate.phrase}'s, {other} in {names.reference.phrase}'s"
    yield Obstacle(cause, f"{text}, judging by their `device` field: {found}")


def _of_answers(pairing: Pairing) -> Iterator[Obstacle]:
    """Find signs that the answer file does not belong to these questions."""
    compared, unknown = pairing.compared, len(pairing.without_answer)
    with_options = [pair for pair in compared if pair.right and pair.reply.options]
    strange = [pair.key for pair in with_options if pair.right not in pair.reply.options]
    if len(strange) > max(FEW_ANSWERS, FEW_ANSWERS_SHARE * len(with_options)):
        text = f"the right letter is none of the options in {len(strange):,} of {_questions(len(with_options))}"
        yield Obstacle("answers", f"wrong answer file: {text} ({_some(strange)})")
    elif unknown > len(compared):
        text = f"it has no answer to {unknown:,} of {_questions(unknown + len(compared))}"
        yield Obstacle("answers", f"wrong answer file: {text}")
    elif read := [pair for pair in with_options if pair.candidate.letter and pair.reference.letter]:
        yield from _of_chance(read)


def _of_chance(pairs: Sequence[Pair]) -> Iterator[Obstacle]:
    """Find letters that are right, or agree, no more often than guesses: a sign of wrong answers or shifted ids.

    A video counts once. `pairs` have a letter on both sides: what failed says nothing of the answer file. If the
    prompts are known to be the same, ids cannot be shifted, and agreement is not tested."""
    videos = len(set(number_videos(pairs).tolist()))
    chance = chance_level(pair.reply for pair in pairs)
    assert chance is not None, "the pairs have options"
    luck = LUCK * math.sqrt(chance * (1 - chance) / videos)
    right = [sum(getattr(pair, side).outcome == RIGHT for pair in pairs) / len(pairs) for side in SIDES.values()]
    found = f"({100 * right[0]:.1f} and {100 * right[1]:.1f} %, chance {100 * chance:.1f} %)"
    if max(right) < chance - luck:
        text = f"both sides are right less often than by chance {found}"
        yield Obstacle("answers", f"{text}: the answer file or the replies are of other questions")
        return
    if videos < MANY_VIDEOS:
        return
    if max(right) < chance + luck:
        text = f"both sides are right no more often than by chance {found}: the answer file may be of other questions"
        yield Obstacle("answers", text)
    agreement = sum(pair.candidate.letter == pair.reference.letter for pair in pairs) / len(pairs)
    are_prompts_known = any(pair.candidate.reply and pair.candidate.reply.prompt_sha256 for pair in pairs)
    if right[1] > chance + luck > agreement and not are_prompts_known:
        text = f"the letters agree no more often than by chance ({100 * agreement:.1f} %, chance {100 * chance:.1f} %)"
        yield Obstacle("ids", f"{text}: the ids may be shifted, or one side answers at random")


def _both_values(row: InputRow, names: Names) -> str:
    return f"{row.name} is {row.candidate} on {names.candidate.phrase} and {row.reference} on {names.reference.phrase}"


def _of_questions(pairing: Pairing, inputs: Inputs, names: Names) -> Iterator[Obstacle]:
    alone, other, logs = len(pairing.pairs) - len(pairing.compared), inputs.other, pairing.is_of_logs
    samples = [row for row in inputs.rows if row.name in SAMPLES and row.state == DIFFERS]
    lacking = "" if logs else lacking_side(pairing)
    is_enlarged = bool(lacking) and (bool(samples) or _is_of_larger_sample(pairing, inputs, lacking))
    if is_enlarged:
        count = alone + sum({**pairing.sets_only_candidate, **pairing.sets_only_reference}.values())
        text = f"{getattr(names, lacking).phrase}'s run lacks {_questions(count)} of this sample"
        yield Obstacle("enlarged", text, allows_fail=True)
    elif alone and samples:
        row = min(samples, key=lambda each: SAMPLES.index(each.name))
        text = f"different samples: {alone:,} of {_questions(len(pairing.pairs))} are in one file only"
        yield Obstacle("sample", f"{text} ({_both_values(row, names)})", allows_fail=True)
    if inputs.are_unlike:
        text = f"the numbers of prompt tokens differ in {len(other['prompt_tokens']):,} of {_questions(inputs.lengths)}"
        yield Obstacle("prompt_tokens", f"{text}: the ids may be shifted, or the prompts are others")
    of_question = "document, options or right answer differ" if logs else "text, choices or video differ"
    for cause, keys, text in (
        ("questions", other["questions"], of_question),
        ("prompt_tokens", [] if inputs.are_unlike else other["prompt_tokens"], "the numbers of prompt tokens differ"),
        ("prompts", other["prompts"], "the prompts differ" if logs else "the prompts' token ids differ"),
        ("pixels", other["pixels"], "the pixels differ"),
    ):
        if keys:
            yield Obstacle(cause, f"{text} in {_questions(len(keys))} ({_some(keys)})", allows_fail=True)
    left_out = {**pairing.sets_only_candidate, **pairing.sets_only_reference}
    if left_out and not is_enlarged:
        text = f"sets that only one file has are left out ({', '.join(left_out)}, {_questions(sum(left_out.values()))})"
        yield Obstacle("sets", f"{text}: answer them on both sides, or name files of the same sets", allows_fail=True)


def lacking_side(pairing: Pairing) -> str:
    """Name the side that has only a part of the other's questions; "" if neither has."""
    lacking = [
        side
        for side, sets in (("candidate", pairing.sets_only_reference), ("reference", pairing.sets_only_candidate))
        if sets or any(not getattr(each, side).reply for each in pairing.pairs)
    ]
    return lacking[0] if len(lacking) == 1 else ""


def _is_of_larger_sample(pairing: Pairing, inputs: Inputs, lacking: str) -> bool:
    """Tell if the other side's additional questions are from a sample that `lacking` has not seen, or are whole sets.

    Replies that were kept when a sample was enlarged name the former sample, on both sides."""
    other = "reference" if lacking == "candidate" else "candidate"
    if getattr(pairing, f"sets_only_{other}"):
        return any(row.name == SAMPLE_FILES[0] for row in inputs.rows)
    both = [(getattr(pair, lacking).reply, getattr(pair, other).reply) for pair in pairing.pairs]
    seen = {str(own.run[name]) for own, _ in both if own for name in SAMPLE_FILES if name in own.run}
    alone = [more.run for own, more in both if more and not own]
    new = {str(run[name]) for run in alone for name in SAMPLE_FILES if name in run}
    return bool(seen) and not new <= seen


def _questions(count: int) -> str:
    return f"{count:,} question{'' if count == 1 else 's'}"


def _some(keys: Sequence[str]) -> str:
    more = [f"{len(keys) - SHOWN_KEYS:,} more"] if len(keys) > SHOWN_KEYS else []
    return ", ".join([*keys[:SHOWN_KEYS], *more])


def check_services(compared: Sequence[Pair], names: Names) -> list[ServiceNote]:
    """Find signs of different settings in services' replies; `compared` are pairs with a reply on both sides."""
    notes = []
    if any(pair.reply.logged for pair in compared):
        return []
    for key, side in SIDES.items():
        replies = [getattr(pair, side).reply for pair in compared]
        title = getattr(names, side).title
        for cause, questions, text in _found([each for each in replies if not each.error]):
            notes.append(ServiceNote(key, cause, questions, f"{title}: {text}", FIXES[cause]))
    return notes


def _found(answered: Sequence[Reply]) -> Iterator[tuple[str, int, str]]:
    total = len(answered)
    if sampled := sum(each.is_greedy is False for each in answered):
        yield "sampling", sampled, f"{_of(sampled, total)} hold a token that was not the most probable: sampled"
    named = [each.run["model"] for each in answered if "model_asked" in each.run and "model" in each.run]
    asked = next((each.run["model_asked"] for each in answered if "model_asked" in each.run), None)
    if strange := [each for each in named if each != asked]:
        text = f"name the model {strange[0]!r:.60}, the requests asked for {asked!r:.60}"
        yield "model", len(strange), f"{_of(len(strange), len(named))} {text}"
    others = [each for each in answered if None not in (each.expected_prompt_tokens, each.prompt_tokens)]
    if other := sum(each.prompt_tokens != each.expected_prompt_tokens for each in others):
        text = "counted another number of prompt tokens than the checkpoint's own template makes"
        yield "prompt_tokens", other, f"{_of(other, len(others))} {text}"
    if cut := sum(each.finish_reason == "length" for each in answered):
        yield "cut_off", cut, f"{_of(cut, total)} were cut off at max_tokens"
    if answered and not any(each.logprobs or each.nonfinite for each in answered):
        yield "no_logprobs", total, "no reply has log-probabilities: accuracy alone decides, which takes more questions"
    if bounded := sum(bool(each.bounded) for each in answered):
        left_out = f"the divergence leaves the question out unless the bound is below {LOG_FLOOR:g} nats"
        text = f"have an option beyond the top entries: its bound counts; {left_out}"
        yield "bounded", bounded, f"{_of(bounded, total)} {text}"


def _of(count: int, total: int) -> str:
    return f"{count:,} of {total:,} replies"
