"""Were the inputs of both runs the same, question by question and in all? Asked before any accuracy is compared."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import PurePosixPath
from typing import Any

from videobench.compare.pairing import Pair, Pairing
from videobench.compare.settings import NPU_AND_GPU, Name, Names
from videobench.data.rows import SHA256, Reply, folded_text

# What a run stores beside its replies, in the order of the table; what it has beyond these follows by name.
FIRST_SETTINGS = (
    *("device", "device_name", "checkpoint", "checkpoint_sha256", "weights_sha256", "qa_sha256", "dtype", "num_frames"),
    *("max_new_tokens", "max_input_length", "batch_size", "tensor_parallel", "deterministic"),
)
# Batch size and number of cards are no inputs of the model: they move the last bits only, as the device does.
MAY_DIFFER = {"device", "device_name", "torch_npu", "cann", "npu_driver", "cuda", "batch_size", "tensor_parallel"}
SAMPLE_FILES = {"qa_sha256", "manifest_sha256"}  # which sample was answered: each row holds its own question, too
# Runs with other values of these are no two runs of one thing: nothing can be concluded from comparing them.
NEVER_COMPARABLE = {"num_frames", "checkpoint_sha256", "weights_sha256"}
FIRST_SUITE = "0.1.0"  # its checkpoint_sha256 changed with files that nothing reads
# One run has one value of each: a file with two of them was put together from two runs.
ONE_IN_A_RUN = ("device", "dtype", "num_frames", "weights_sha256", "model")
FLOATING = {"float32", "float16", "bfloat16"}  # dtypes of one kind; a quantised run is another model
SAME, DIFFERS, EXPECTED, UNKNOWN = "same", "DIFFERS", "differs, as it may", "not stored"
SHOWN_HASH_LENGTH = 12
SHOWN_VALUES = 2  # of one setting: each set of a whole run has a QA file of its own
# Up to so many questions with another number of prompt tokens are odd ones; more, and the two sides were asked other
# questions, of which some have the same number by chance.
FEW_LENGTHS, FEW_LENGTHS_SHARE = 3, 0.02


@dataclass(frozen=True)
class InputRow:
    name: str  # "dtype"
    candidate: str  # "float16"
    reference: str
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
    devices: dict[str, dict[str, int]]  # "candidate" or "reference" -> device -> replies; "not stored" is one of them
    mixed: list[str]  # sentences: a setting that has several values within one side, where one run has one

    @property
    def are_unlike(self) -> bool:
        """Whether so many prompts differ in length that equal lengths prove nothing either."""
        return len(self.other_lengths) > max(FEW_LENGTHS, FEW_LENGTHS_SHARE * self.lengths)

    @property
    def cpu_sides(self) -> list[str]:
        """Sides all of whose replies come from a CPU."""
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
    replies = [pair.replies for pair in compared]
    sides = {"candidate": [first for first, _ in replies], "reference": [second for _, second in replies]}
    lengths = [each for each in map(_prompt_lengths, compared) if each]
    rows = [
        _question_row(pairing),
        _asked_row(compared),
        _hash_row("videos (bytes)", "video_sha256", compared),
        _hash_row("prompts (token ids)", "prompt_sha256", compared),
        *([_length_row(lengths, sides.values())] if lengths else []),
        _hash_row("pixels", "pixels_sha256", compared),
    ]
    # A sample that was enlarged, or answered as a part of a larger one, is of another file with the same questions.
    same_questions = all(row.state == SAME for row in rows[:2])
    settings = [
        replace(row, state=EXPECTED) if same_questions and row.name in SAMPLE_FILES and row.state == DIFFERS else row
        for row in _setting_rows(*map(_settings, sides.values()))
    ]
    logprobs = [
        (candidate.logprobs, reference.logprobs)
        for candidate, reference in replies
        if len(candidate.logprobs.keys() & reference.logprobs) > 1
    ]
    return Inputs(
        rows=[*rows, *settings],
        other_questions=[pair.key for pair in compared if question_differs(pair)],
        other_prompts=[pair.key for pair in compared if hashes_differ(pair, "prompt_sha256")],
        other_lengths=[pair.key for pair in compared if _prompt_lengths_differ(pair)],
        other_pixels=[pair.key for pair in compared if hashes_differ(pair, "pixels_sha256")],
        known=all(each.prompt_sha256 and each.pixels_sha256 for each in chain(*sides.values()) if not each.error),
        lengths=len(lengths),
        with_logprobs=len(logprobs),
        identical=sum(candidate == reference for candidate, reference in logprobs),
        devices={side: _count(own, "device") for side, own in sides.items()},
        mixed=[text for side, own in sides.items() for text in _mixed(own, getattr(names, side))],
    )


def _count(replies: Iterable[Reply], name: str) -> dict[str, int]:
    """Value of a setting -> number of replies that have it, the most frequent first."""
    return dict(Counter(str(each.run.get(name, UNKNOWN)) for each in replies).most_common())


def _mixed(replies: Sequence[Reply], side: Name) -> Iterator[str]:
    """A failed reply may lack what a run knows only later, so that a missing value is not another one."""
    for name in ONE_IN_A_RUN:
        counts = {value: count for value, count in _count(replies, name).items() if value != UNKNOWN}
        if len(counts) > 1:
            values = " and ".join(f"{_shown([value])} in {count:,}" for value, count in counts.items())
            yield f"{side.phrase} has replies of several runs: {name} is {values}"


def _question_row(pairing: Pairing) -> InputRow:
    common = len(pairing.compared)
    candidate = sum(pair.candidate.reply is not None for pair in pairing.pairs) + sum(
        pairing.sets_only_candidate.values()
    )
    reference = sum(pair.reference.reply is not None for pair in pairing.pairs) + sum(
        pairing.sets_only_reference.values()
    )
    state = SAME if candidate == reference == common else DIFFERS
    return InputRow("questions", f"{candidate} ({common} in both)", f"{reference} ({common} in both)", state)


def _equal(known: Sequence[bool]) -> tuple[str, str]:
    """How many are, in words, and the state of the row."""
    if not known:
        return "not stored", UNKNOWN
    return f"{sum(known)} of {len(known)} equal", SAME if all(known) else DIFFERS


def _asked_row(compared: Sequence[Pair]) -> InputRow:
    equal, state = _equal([not each for each in map(question_differs, compared) if each is not None])
    knows_videos = any(same_video(*pair.replies) is not None for pair in compared)
    return InputRow("question, video" if knows_videos or not compared else "question", equal, equal, state)


def _hash_row(name: str, field: str, compared: Sequence[Pair]) -> InputRow:
    stored = [[getattr(reply, field) for reply in pair.replies] for pair in compared]
    equal, state = _equal([candidate == reference for candidate, reference in stored if candidate and reference])
    candidate, reference = (equal if any(each[side] for each in stored) else "not stored" for side in (0, 1))
    return InputRow(name, candidate, reference, state)


def _length_row(lengths: Sequence[tuple[int, int]], sides: Iterable[Sequence[Reply]]) -> InputRow:
    equal, state = _equal([candidate == reference for candidate, reference in lengths])
    counted = [any(each.prompt_tokens is not None for each in replies) for replies in sides]
    candidate, reference = (equal if each else "as exported" for each in counted)
    return InputRow("prompt tokens (number)", candidate, reference, state)


def _setting_rows(candidate: dict[str, list[str]], reference: dict[str, list[str]]) -> list[InputRow]:
    names = [name for name in FIRST_SETTINGS if name in candidate or name in reference]
    names += sorted((candidate.keys() | reference.keys()) - set(names))
    never = set(NEVER_COMPARABLE)
    weights = candidate.get("weights_sha256")
    if (
        weights
        and weights == reference.get("weights_sha256")
        and FIRST_SUITE in candidate.get("suite", []) + reference.get("suite", [])
    ):
        never.remove("checkpoint_sha256")
    if not (candidate.get("checkpoint_sha256") and reference.get("checkpoint_sha256")):
        never.add("checkpoint")  # its folder's name
    return [_setting_row(name, candidate.get(name, []), reference.get(name, []), name in never) for name in names]


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


def _setting_row(name: str, candidate: list[str], reference: list[str], is_crucial: bool) -> InputRow:
    if UNKNOWN in (candidate + reference) or not candidate or not reference:
        state = UNKNOWN
    elif sorted(candidate) == sorted(reference):
        state = SAME
    else:
        is_same_release = name == "torch" and _releases(candidate) == _releases(reference)
        state = EXPECTED if name in MAY_DIFFER or is_same_release else DIFFERS
    is_other_kind = name == "dtype" and _kinds(candidate) != _kinds(reference)
    allows_verdict = state != DIFFERS or not (is_crucial or is_other_kind)
    return InputRow(name, _shown(candidate), _shown(reference), state, allows_verdict)


def _kinds(dtypes: Iterable[str]) -> set[str]:
    names = (name.removeprefix("torch.") for name in dtypes)
    return {"floating" if name in FLOATING else name for name in names}


def _releases(versions: Iterable[str]) -> set[str]:
    """Without the build: an NPU needs torch "2.13.0+cpu" where a GPU has "2.13.0+cu130"."""
    return {version.split("+")[0] for version in versions}


def _shown(values: list[str]) -> str:
    shown = [value[:SHOWN_HASH_LENGTH] if SHA256.fullmatch(value) else value for value in values[:SHOWN_VALUES]]
    more = [f"{len(values) - SHOWN_VALUES} more"] if len(values) > SHOWN_VALUES else []
    return ", ".join(shown + more) or "not stored"


def inputs_differ(pair: Pair) -> bool:
    """Whether the sides are known to have been given different things."""
    hashes = any(hashes_differ(pair, field) for field in ("prompt_sha256", "pixels_sha256"))
    return bool(question_differs(pair)) or hashes or _prompt_lengths_differ(pair)


def hashes_differ(pair: Pair, field: str) -> bool:
    """False where a side stores none."""
    candidate, reference = (getattr(reply, field) for reply in pair.replies)
    return bool(candidate and reference and candidate != reference)


def _prompt_lengths_differ(pair: Pair) -> bool:
    """False where they are not known."""
    return len(set(_prompt_lengths(pair) or ())) > 1


def _prompt_lengths(pair: Pair) -> tuple[int, int] | None:
    """The numbers of prompt tokens of both sides, where one does not store the tokens themselves: a check, no proof.

    A side that does not count them is taken to have as many as the checkpoint's template makes of the exported request,
    so that another number on the other side is not passed over. None where they are not known."""
    candidate, reference = pair.replies
    if candidate.prompt_sha256 and reference.prompt_sha256:
        return None
    if candidate.prompt_tokens is None and reference.prompt_tokens is None:
        return None
    expected = next(
        (each.expected_prompt_tokens for each in (candidate, reference) if each.expected_prompt_tokens), None
    )
    first, second = (expected if each.prompt_tokens is None else each.prompt_tokens for each in (candidate, reference))
    return None if first is None or second is None else (first, second)


def question_differs(pair: Pair) -> bool | None:
    """Whether the rows hold another question or instruction, other choices or another video; None where they share no
    such field."""
    candidate, reference = pair.replies
    same = [same_video(candidate, reference), _same_text(candidate, reference)]
    if _both_state_options(candidate, reference):
        same.append(candidate.options == reference.options)
    known = [each for each in same if each is not None]
    return not all(known) if known else None


def same_video(candidate: Reply, reference: Reply) -> bool | None:
    """By the pixels that were seen, else by the file's bytes, else by name: a sample has folders of its own.

    None if that is not known. A name that the other side has lent proves nothing."""
    if candidate.pixels_sha256 and candidate.pixels_sha256 == reference.pixels_sha256:
        return True
    if candidate.video_sha256 and reference.video_sha256:
        return candidate.video_sha256 == reference.video_sha256
    if candidate.vid_path_is_lent or reference.vid_path_is_lent:
        return None
    names = [(PurePosixPath(each.vid_path).name, str(each.video_id)) for each in (candidate, reference)]
    known = [first == second for first, second in zip(*names, strict=True) if first and second]
    return all(known) if known else None


def _same_text(candidate: Reply, reference: Reply) -> bool | None:
    """Of question and instruction. A row without choices holds them in the question's text, in a form of its own."""
    if candidate.question and (candidate.question, candidate.options) == (reference.question, reference.options):
        return True  # nearly always: the rest takes longer
    options = candidate.options or reference.options
    sides = [each if each.options else replace(each, options=options) for each in (candidate, reference)]
    candidate_text, reference_text = (folded_text(each.own_question) for each in sides)
    if not candidate_text or not reference_text:
        return None
    if candidate.states_prompt or reference.states_prompt:
        first, second = (each.instruction for each in sides)
        if first and second and first != second:
            return False
    if _both_state_options(candidate, reference):
        return candidate_text == reference_text
    return candidate_text.startswith(reference_text) or reference_text.startswith(candidate_text)


def _both_state_options(candidate: Reply, reference: Reply) -> bool:
    return all(each.options and not each.options_are_lent for each in (candidate, reference))
