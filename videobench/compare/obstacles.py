"""Why two runs cannot be compared, in whole or in part: what comes before any verdict on the port."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from videobench.compare.pairing import Pairing
from videobench.compare.same_inputs import DIFFERS, InputRow, Inputs
from videobench.compare.services import ServiceNote
from videobench.compare.settings import NPU_AND_GPU, Names

SHOWN_KEYS = 3  # in a sentence; the JSON has all
SAMPLE_SETTINGS = ("manifest_sha256", "qa_sha256")  # which sample was answered


@dataclass(frozen=True)
class Obstacle:
    cause: str  # of look_at.LOOK_AT: "swapped", "sampling", a setting ("num_frames"), "questions", "prompts", ...
    text: str  # one sentence
    allows_fail: bool  # whether the questions with the same inputs can still show a loss


def find_obstacles(
    pairing: Pairing, inputs: Inputs, names: Names = NPU_AND_GPU, services: Sequence[ServiceNote] = ()
) -> list[Obstacle]:
    """Those that allow no verdict at all come first."""
    exchanged = _of_devices(inputs, names) if names.are_devices else []
    sampled = [Obstacle(each.cause, each.text, allows_fail=False) for each in services if each.cause == "sampling"]
    return [*exchanged, *sampled, *_of_settings(inputs, names), *_of_questions(pairing, inputs, names)]


def _of_devices(inputs: Inputs, names: Names) -> Iterator[Obstacle]:
    if inputs.look_exchanged:
        row = next(row for row in inputs.rows if row.name == "device")
        fields = f"{row.npu} in {names.npu.phrase}'s, {row.gpu} in {names.gpu.phrase}'s"
        text = (
            f"the {names.npu.title} and {names.gpu.title} files look swapped, judging by their `device` field: {fields}"
        )
        yield Obstacle("swapped", text, allows_fail=False)


def _of_settings(inputs: Inputs, names: Names) -> Iterator[Obstacle]:
    for row in inputs.rows:
        if not row.allows_verdict:
            yield Obstacle(row.name, _both_values(row, names), allows_fail=False)


def _both_values(row: InputRow, names: Names) -> str:
    return f"{row.name} is {row.npu} on {names.npu.phrase} and {row.gpu} on {names.gpu.phrase}"


def _of_questions(pairing: Pairing, inputs: Inputs, names: Names) -> Iterator[Obstacle]:
    alone = len(pairing.pairs) - len(pairing.compared)
    samples = [row for row in inputs.rows if row.name in SAMPLE_SETTINGS and row.state == DIFFERS]
    if alone and samples:
        row = min(samples, key=lambda each: SAMPLE_SETTINGS.index(each.name))
        text = f"different samples: {alone:,} of {_questions(len(pairing.pairs))} are in one file only"
        yield Obstacle("sample", f"{text} ({_both_values(row, names)})", allows_fail=True)
    for cause, keys, text in (
        ("questions", inputs.other_questions, "text, choices or video differ"),
        ("prompt_tokens", inputs.other_lengths, "the numbers of prompt tokens differ"),
        ("prompts", inputs.other_prompts, "the prompts' token ids differ"),
        ("pixels", inputs.other_pixels, "the pixels differ"),
    ):
        if keys:
            yield Obstacle(cause, f"{text} in {_questions(len(keys))} ({_some(keys)})", allows_fail=True)
    left_out = {**pairing.sets_only_npu, **pairing.sets_only_gpu}
    if left_out:
        text = f"sets that only one file has are left out ({', '.join(left_out)}, {_questions(sum(left_out.values()))})"
        yield Obstacle("sets", f"{text}: answer them on both sides, or name files of the same sets", allows_fail=True)


def _questions(count: int) -> str:
    return f"{count:,} question{'' if count == 1 else 's'}"


def _some(keys: Sequence[str]) -> str:
    more = [f"{len(keys) - SHOWN_KEYS:,} more"] if len(keys) > SHOWN_KEYS else []
    return ", ".join([*keys[:SHOWN_KEYS], *more])
