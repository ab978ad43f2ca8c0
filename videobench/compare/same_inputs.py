"""Were the inputs of both runs the same? The question to ask before any accuracy is compared."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from videobench.compare.pairing import Pair, Pairing
from videobench.compare.same_question import (
    hashes_differ,
    pixels_differ,
    prompt_lengths,
    prompt_lengths_differ,
    prompts_differ,
    question_differs,
    same_video,
)
from videobench.compare.settings import NPU_AND_GPU, Names
from videobench.data.rows import Reply

# What a run stores beside its replies, in the order of the table; what it has beyond these follows by name.
FIRST_SETTINGS = (
    "device",
    "device_name",
    "checkpoint",
    "checkpoint_sha256",
    "weights_sha256",
    "qa_sha256",
    "dtype",
    "num_frames",
    "max_new_tokens",
    "max_input_length",
    "batch_size",
    "tensor_parallel",
    "deterministic",
)
# Batch size and number of cards are no inputs of the model: they move the last bits only, as the device does.
MAY_DIFFER = {
    *("device", "device_name", "torch_npu", "cann", "npu_driver", "cuda"),
    *("batch_size", "tensor_parallel"),
}
SAMPLE_FILES = {"qa_sha256", "manifest_sha256"}  # which sample was answered: each row holds its own question, too
# Runs with other values of these are no two runs of one thing: nothing can be concluded from comparing them.
NEVER_COMPARABLE = {"num_frames", "checkpoint_sha256", "weights_sha256"}
FIRST_SUITE = "0.1.0"  # its checkpoint_sha256 changed with files that nothing reads
# One run has one value of each: a file with two of them was put together from two runs.
ONE_IN_A_RUN = ("device", "dtype", "num_frames", "weights_sha256", "model")
FLOATING = {"float32", "float16", "bfloat16"}  # dtypes of one kind; a quantised run is another model
SAME, DIFFERS, EXPECTED, UNKNOWN = "same", "DIFFERS", "differs, as it may", "not stored"
SIDES = ("npu", "gpu")
SHOWN_HASH_LENGTH = 12
SHOWN_VALUES = 2  # of one setting: each set of a whole run has a QA file of its own
# Up to so many questions with another number of prompt tokens are odd ones; more, and the two sides were asked other
# questions, of which some have the same number by chance.
FEW_LENGTHS, FEW_LENGTHS_SHARE = 3, 0.02


@dataclass(frozen=True)
class InputRow:
    name: str  # "dtype"
    npu: str  # "float16"
    gpu: str
    state: str  # of SAME, DIFFERS, EXPECTED, UNKNOWN
    allows_verdict: bool = True  # False: the runs are not comparable at all


@dataclass(frozen=True)
class Inputs:
    """Of all questions that both files have; the lists hold the keys of those that differ, in the files' order."""

    rows: list[InputRow]
    other_questions: list[str]  # other question, choices or video
    other_prompts: list[str]  # other token ids
    other_lengths: list[str]  # another number of them, where a side does not store the ids
    other_pixels: list[str]
    known: bool  # whether both sides store prompts and pixels of every question that they answered
    lengths: int  # questions whose number of prompt tokens could be compared
    with_logprobs: int  # questions with log-probabilities of the same two options or more on both sides
    identical: int  # of those: every log-probability is the same number, to the last bit
    devices: dict[str, dict[str, int]]  # side -> device -> replies; "not stored" is one of them
    mixed: list[str]  # sentences: a setting that has several values within one side, where one run has one

    @property
    def are_unlike(self) -> bool:
        """Whether so many prompts differ in length that equal lengths prove nothing either."""
        return len(self.other_lengths) > max(FEW_LENGTHS, FEW_LENGTHS_SHARE * self.lengths)

    @property
    def cpu_sides(self) -> list[str]:
        """Sides, "npu" or "gpu", all of whose replies come from a CPU."""
        return [side for side, devices in self.devices.items() if set(devices) == {"cpu"}]

    @property
    def differing(self) -> list[str]:
        return [row.name for row in self.rows if row.state == DIFFERS]

    @property
    def answer(self) -> str:
        """To the question whether the inputs were the same."""
        if self.differing:
            return f"no: {', '.join(self.differing)}"
        return "yes" if self.known else "not known to be the same: prompts or pixels are not stored"


def compare_inputs(pairing: Pairing, names: Names = NPU_AND_GPU) -> Inputs:
    compared = pairing.compared
    rows = [
        _question_row(pairing),
        _asked_row(compared),
        _hash_row("videos (bytes)", "video_sha256", compared),
        _hash_row("prompts (token ids)", "prompt_sha256", compared),
        *_length_rows(compared),
        _hash_row("pixels", "pixels_sha256", compared),
    ]
    answered = [each for replies in _replies(compared) for each in replies if not each.error]
    # A sample that was enlarged, or answered as a part of a larger one, is of another file with the same questions.
    same_questions = all(row.state == SAME for row in rows[:2])
    settings = [
        replace(row, state=EXPECTED) if same_questions and row.name in SAMPLE_FILES and row.state == DIFFERS else row
        for row in _setting_rows(compared)
    ]
    return Inputs(
        rows=[*rows, *settings],
        other_questions=[pair.key for pair in compared if question_differs(pair)],
        other_prompts=[pair.key for pair in compared if prompts_differ(pair)],
        other_lengths=[pair.key for pair in compared if prompt_lengths_differ(pair)],
        other_pixels=[pair.key for pair in compared if pixels_differ(pair)],
        known=all(each.prompt_sha256 and each.pixels_sha256 for each in answered),
        lengths=sum(prompt_lengths(pair) is not None for pair in compared),
        with_logprobs=sum(_share_logprobs(pair) for pair in compared),
        identical=sum(_share_logprobs(pair) and _are_identical(pair) for pair in compared),
        devices={side: _count(replies, "device") for side, replies in zip(SIDES, _replies(compared), strict=True)},
        mixed=list(_mixed(compared, names)),
    )


def _share_logprobs(pair: Pair) -> bool:
    npu, gpu = pair.npu.reply, pair.gpu.reply
    return npu is not None and gpu is not None and len(npu.logprobs.keys() & gpu.logprobs.keys()) > 1


def _are_identical(pair: Pair) -> bool:
    npu, gpu = pair.npu.reply, pair.gpu.reply
    return npu is not None and gpu is not None and npu.logprobs == gpu.logprobs


def _count(replies: Iterable[Reply], name: str) -> dict[str, int]:
    """Value of a setting -> number of replies that have it, the most frequent first."""
    return dict(Counter(str(each.run.get(name, UNKNOWN)) for each in replies).most_common())


def _mixed(compared: Sequence[Pair], names: Names) -> Iterator[str]:
    """A failed reply may lack what a run knows only later, so that a missing value is not another one."""
    for side, replies in zip(SIDES, _replies(compared), strict=True):
        for name in ONE_IN_A_RUN:
            counts = {value: count for value, count in _count(replies, name).items() if value != UNKNOWN}
            if len(counts) > 1:
                values = " and ".join(f"{_shown([value])} in {count:,}" for value, count in counts.items())
                yield f"{getattr(names, side).phrase} has replies of several runs: {name} is {values}"


def _question_row(pairing: Pairing) -> InputRow:
    common = len(pairing.compared)
    npu = sum(pair.npu.reply is not None for pair in pairing.pairs) + sum(pairing.sets_only_npu.values())
    gpu = sum(pair.gpu.reply is not None for pair in pairing.pairs) + sum(pairing.sets_only_gpu.values())
    return InputRow(
        "questions", f"{npu} ({common} in both)", f"{gpu} ({common} in both)", SAME if npu == gpu == common else DIFFERS
    )


def _asked_row(compared: Sequence[Pair]) -> InputRow:
    differ = [each for each in map(question_differs, compared) if each is not None]
    equal = f"{len(differ) - sum(differ)} of {len(differ)} equal" if differ else "not stored"
    knows_videos = any(same_video(pair.npu.reply, pair.gpu.reply) is not None for pair in compared)
    name = "question, video" if knows_videos or not compared else "question"
    return InputRow(name, equal, equal, DIFFERS if any(differ) else SAME if differ else UNKNOWN)


def _hash_row(name: str, field: str, compared: Sequence[Pair]) -> InputRow:
    stored = [sum(bool(getattr(side, field, "")) for side in sides) for sides in _replies(compared)]
    differing = sum(hashes_differ(pair, field) for pair in compared)
    known = sum(bool(getattr(pair.npu.reply, field, "") and getattr(pair.gpu.reply, field, "")) for pair in compared)
    state = DIFFERS if differing else SAME if known else UNKNOWN
    equal = f"{known - differing} of {known} equal" if known else "not stored"
    return InputRow(name, equal if stored[0] else "not stored", equal if stored[1] else "not stored", state)


def _length_rows(compared: Sequence[Pair]) -> list[InputRow]:
    known = [lengths for lengths in map(prompt_lengths, compared) if lengths]
    same = sum(npu == gpu for npu, gpu in known)
    counted = [any(each.prompt_tokens is not None for each in replies) for replies in _replies(compared)]
    npu, gpu = (f"{same} of {len(known)} equal" if each else "as exported" for each in counted)
    state = SAME if same == len(known) else DIFFERS
    return [InputRow("prompt tokens (number)", npu, gpu, state)] if known else []


def _replies(compared: Sequence[Pair]) -> tuple[list[Reply], list[Reply]]:
    return (
        [pair.npu.reply for pair in compared if pair.npu.reply],
        [pair.gpu.reply for pair in compared if pair.gpu.reply],
    )


def _setting_rows(compared: Sequence[Pair]) -> list[InputRow]:
    npu, gpu = (_settings(replies) for replies in _replies(compared))
    names = [name for name in FIRST_SETTINGS if name in npu or name in gpu]
    names += sorted((npu.keys() | gpu.keys()) - set(names))
    never = set(NEVER_COMPARABLE)
    weights = npu.get("weights_sha256")
    if weights and weights == gpu.get("weights_sha256") and FIRST_SUITE in npu.get("suite", []) + gpu.get("suite", []):
        never.remove("checkpoint_sha256")
    if not (npu.get("checkpoint_sha256") and gpu.get("checkpoint_sha256")):
        never.add("checkpoint")  # its folder's name
    return [_setting_row(name, npu.get(name, []), gpu.get(name, []), name in never) for name in names]


def _settings(replies: Iterable[Reply]) -> dict[str, list[str]]:
    """Setting -> its values among the replies, in order of appearance: of a batch size there may be several."""
    settings: dict[str, list[str]] = {}
    seen: list[Any] = []
    for run in (reply.run for reply in replies):
        if run in seen[-3:]:  # rows of one run repeat one entry: looked at once, not 17,036 times
            continue
        seen.append(run)
        for name, value in run.items():
            values = settings.setdefault(name, [])
            if str(value) not in values:
                values.append(str(value))
    if any("device" not in run for run in seen):
        settings.setdefault("device", []).append(UNKNOWN)
    return settings


def _setting_row(name: str, npu: list[str], gpu: list[str], is_crucial: bool) -> InputRow:
    if UNKNOWN in (npu + gpu) or not npu or not gpu:
        state = UNKNOWN
    elif sorted(npu) == sorted(gpu):
        state = SAME
    else:
        state = EXPECTED if name in MAY_DIFFER or (name == "torch" and _releases(npu) == _releases(gpu)) else DIFFERS
    is_other_kind = name == "dtype" and _kinds(npu) != _kinds(gpu)
    allows_verdict = state != DIFFERS or not (is_crucial or is_other_kind)
    return InputRow(name, _shown(npu), _shown(gpu), state, allows_verdict)


def _kinds(dtypes: Iterable[str]) -> set[str]:
    names = (name.removeprefix("torch.") for name in dtypes)
    return {"floating" if name in FLOATING else name for name in names}


def _releases(versions: Iterable[str]) -> set[str]:
    """Without the build: an NPU needs torch "2.13.0+cpu" where a GPU has "2.13.0+cu130"."""
    return {version.split("+")[0] for version in versions}


def _shown(values: list[str]) -> str:
    shown = [value[:SHOWN_HASH_LENGTH] if _is_hash(value) else value for value in values[:SHOWN_VALUES]]
    more = [f"{len(values) - SHOWN_VALUES} more"] if len(values) > SHOWN_VALUES else []
    return ", ".join(shown + more) or "not stored"


def _is_hash(value: str) -> bool:
    return len(value) == 64 and all(character in "0123456789abcdef" for character in value)
