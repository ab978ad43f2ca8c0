"""Did both runs have the same inputs? Checked for each question and overall, before any accuracy is compared."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby
from pathlib import PurePosixPath

from videobench.compare.pairing import Pair, Pairing
from videobench.compare.settings import NPU_AND_GPU, Name, Names
from videobench.data.rows import SHA256, Reply, folded_text
from videobench.tolerances import TOLERANCES

# What a run stores beside its replies, in the order of the table; other settings follow by name.
FIRST_SETTINGS = (
    *("task_version", "num_fewshot", "limit", "filter", "metric", "chat_template", "model", "model_args"),
    *("device", "device_name", "checkpoint", "checkpoint_sha256", "weights_sha256", "qa_sha256", "dtype", "num_frames"),
    *("max_new_tokens", "max_input_length", "batch_size", "tensor_parallel", "deterministic"),
)
# Batch size and number of cards are not inputs of the model: like the device they change only the last bits.
MAY_DIFFER = {"device", "device_name", "torch_npu", "cann", "npu_driver", "cuda", "batch_size", "tensor_parallel"}
SAMPLE_FILES = ("manifest_sha256", "qa_sha256")  # which sample was answered; each row also holds its own question
# Settings of lm-eval and lmms-eval.
TASK_SETTINGS = ("task_version", "num_fewshot", "chat_template", "generation", "filter", "metric")
# If these differ, nothing can be concluded from comparing the runs.
NEVER_COMPARABLE = {"num_frames", "checkpoint_sha256", "weights_sha256", *TASK_SETTINGS}
FIRST_SUITE = "0.1.0"  # its checkpoint_sha256 also depended on files that nothing reads
# A run has one value of each of these: a file with two was put together from two runs.
ONE_IN_A_RUN = ("device", "dtype", "num_frames", "weights_sha256", "model")
# What may differ in one question: text, choices or video; token ids, or their number if a side does not store them.
CAUSES = ("questions", "prompts", "prompt_tokens", "pixels")
SAME, DIFFERS, EXPECTED, UNKNOWN = "same", "DIFFERS", "differs, as it may", "not stored"
Settings = dict[str, Counter[str]]  # setting -> its value in words -> number of replies
SHOWN_HASH_LENGTH = 12
SHOWN_VALUES = 2  # of one setting; for example each data set has its own QA file
# Up to so many questions with another number of prompt tokens are exceptions. If there are more, the sides were asked
# different questions, and some lengths are equal by chance.
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
    """Whether both sides got the same inputs, over all questions that both files have."""

    rows: list[InputRow]
    other: dict[str, list[str]]  # one of CAUSES -> keys of the questions that differ in it, in the files' order
    lacking: str  # what some reply does not store, so that equal inputs are not known: "prompts or pixels"; "" if none
    lengths: int  # questions whose number of prompt tokens could be compared
    with_logprobs: int  # questions with log-probabilities of the same two options or more on both sides
    identical: int  # number of those whose log-probabilities are all equal to the last bit
    devices: dict[str, set[str]]  # "candidate" or "reference" -> devices of its replies, "not stored" among them
    mixed: list[str]  # sentences about settings that have several values within one side, though a run has only one

    @property
    def are_unlike(self) -> bool:
        """Whether so many prompts differ in length that equal lengths prove nothing."""
        return len(self.other["prompt_tokens"]) > max(FEW_LENGTHS, FEW_LENGTHS_SHARE * self.lengths)

    @property
    def cpu_sides(self) -> list[str]:
        """Sides whose replies all come from a CPU."""
        return [side for side, devices in self.devices.items() if devices == {"cpu"}]

    @property
    def differing(self) -> list[str]:
        return [row.name for row in self.rows if row.state == DIFFERS]

    @property
    def answer(self) -> str:
        """Say whether the inputs were the same."""
        if self.differing:
            return f"no: {', '.join(self.differing)}"
        return f"not known to be the same: {self.lacking} are not stored" if self.lacking else "yes"


def compare_inputs(pairing: Pairing, names: Names = NPU_AND_GPU) -> Inputs:
    compared = pairing.compared
    replies = [pair.replies for pair in compared]
    sides = {"candidate": [first for first, _ in replies], "reference": [second for _, second in replies]}
    questions = [(pair.key, compare_question(pair)) for pair in compared]
    same = {cause: [each[cause] for _, each in questions] for cause in CAUSES}
    settings = {side: _count_settings(own) for side, own in sides.items()}
    rows = [_question_row(pairing), *_input_rows(compared, same), *_setting_rows(*settings.values())]
    # If a sample was enlarged, or is part of a larger one, the file differs but the questions are the same.
    if all(row.state == SAME for row in rows[:2]):
        rows = [
            replace(row, state=EXPECTED) if row.name in SAMPLE_FILES and row.state == DIFFERS else row for row in rows
        ]
    stored = [(first.logprobs, second.logprobs) for first, second in replies]
    equal = [first == second for first, second in stored if len(first.keys() & second) > 1]
    return Inputs(
        rows=rows,
        other={cause: [key for key, each in questions if each[cause] is False] for cause in CAUSES},
        lacking=next(filter(None, map(_lacking, chain(*replies))), ""),
        lengths=sum(each is not None for each in same["prompt_tokens"]),
        with_logprobs=len(equal),
        identical=sum(equal),
        devices={side: set(counts["device"]) for side, counts in settings.items()},
        mixed=[text for side, counts in settings.items() for text in _mixed(counts, getattr(names, side))],
    )


def unlike_settings(first: Sequence[Reply], second: Sequence[Reply]) -> list[str]:
    """Name the settings that are the same in any two runs of one thing, and differ here."""
    rows = _setting_rows(_count_settings(first), _count_settings(second))
    return [row.name for row in rows if row.state == DIFFERS and (row.name == "dtype" or not row.allows_verdict)]


def _lacking(reply: Reply) -> str:
    """Name what a reply would have to store to prove its inputs; "" if it does."""
    if reply.error:
        return ""
    if reply.logged and not reply.run.get("checkpoint"):
        return "model and settings (the results beside a log)"
    if reply.logged:
        return "" if reply.prompt_sha256 and reply.logged.doc_sha256 else "hashes of the documents"
    return "" if reply.prompt_sha256 and reply.pixels_sha256 else "prompts or pixels"


def _input_rows(compared: Sequence[Pair], same: Mapping[str, Sequence[bool | None]]) -> Iterator[InputRow]:
    """Compare what each row stores of its own question; `same` is compare_question of each pair, by cause."""
    replies = [pair.replies for pair in compared]
    if all(side.logged for each in replies for side in each):
        parts = [_document_parts(*each) for each in replies]
        for name in ("documents", "right answers", "options"):
            if any(each[name] is not None for each in parts):
                yield _row(name, [each[name] for each in parts])
        yield _hash_row("prompts", "prompt_sha256", compared)
        return
    knows_videos = any(_same_video(*each) is not None for each in replies)
    yield _row("question, video" if knows_videos else "question", same["questions"])
    yield _hash_row("videos (bytes)", "video_sha256", compared)
    yield _hash_row("prompts (token ids)", "prompt_sha256", compared)
    if any(each is not None for each in same["prompt_tokens"]):
        counted = [any(each.prompt_tokens is not None for each in own) for own in zip(*replies, strict=True)]
        yield _row("prompt tokens (number)", same["prompt_tokens"], counted, "as exported")
    yield _hash_row("pixels", "pixels_sha256", compared)


def _document_parts(first: Reply, second: Reply) -> dict[str, bool | None]:
    """Whether each part of a log's document is the same; None if the logs do not say."""
    assert first.logged, "of a log"
    assert second.logged, "likewise"
    parts = {
        "documents": (first.logged.doc_sha256, second.logged.doc_sha256),
        "right answers": (first.logged.target_sha256, second.logged.target_sha256),
        "options": (first.options, second.options),
    }
    return {name: one == other if one and other else None for name, (one, other) in parts.items()}


def _mixed(counts: Settings, side: Name) -> Iterator[str]:
    """Say which settings have several values within one side.

    A missing value does not count: a failed reply may lack what a run learns later. A log's model is known only by its
    name."""
    for name in (*ONE_IN_A_RUN, *(["checkpoint"] if "task_version" in counts else [])):
        found = [(value, count) for value, count in counts.get(name, Counter()).most_common() if value != UNKNOWN]
        if len(found) > 1:
            values = " and ".join(f"{_shown([value])} in {count:,}" for value, count in found)
            yield f"{side.phrase} has replies of several runs: {name} is {values}"


def _question_row(pairing: Pairing) -> InputRow:
    common = len(pairing.compared)
    first, second = (
        sum(getattr(pair, side).reply is not None for pair in pairing.pairs) + sum(sets.values())
        for side, sets in (("candidate", pairing.sets_only_candidate), ("reference", pairing.sets_only_reference))
    )
    state = SAME if first == second == common else DIFFERS
    return InputRow("questions", f"{first} ({common} in both)", f"{second} ({common} in both)", state)


def _row(
    name: str, same: Iterable[bool | None], stored: Iterable[bool] = (True, True), lacking: str = UNKNOWN
) -> InputRow:
    """Count how many of the known values are equal; `lacking` is shown for a side that stores none."""
    known = [each for each in same if each is not None]
    equal = f"{sum(known)} of {len(known)} equal" if known else UNKNOWN
    state = (SAME if all(known) else DIFFERS) if known else UNKNOWN
    first, second = (equal if each else lacking for each in stored)
    return InputRow(name, first, second, state)


def _hash_row(name: str, field: str, compared: Sequence[Pair]) -> InputRow:
    sides = zip(*(pair.replies for pair in compared), strict=True)
    stored = [any(getattr(reply, field) for reply in own) for own in sides]
    return _row(name, [same_hash(pair, field) for pair in compared], stored)


def _count_settings(replies: Iterable[Reply]) -> Settings:
    counts: Settings = {}
    for run, equal in groupby(reply.run for reply in replies):
        number = len(list(equal))
        for name, value in {"device": UNKNOWN, **run}.items():
            counts.setdefault(name, Counter())[str(value)] += number
    return counts


def _setting_rows(first: Settings, second: Settings) -> list[InputRow]:
    names = [name for name in FIRST_SETTINGS if name in first or name in second]
    names += sorted((first.keys() | second.keys()) - set(names))
    never, none = {*NEVER_COMPARABLE}, Counter[str]()
    weights, others = (settings.get("weights_sha256", none).keys() for settings in (first, second))
    suites = first.get("suite", none) + second.get("suite", none)
    if weights and weights == others and FIRST_SUITE in suites:
        never.remove("checkpoint_sha256")
    if not ("checkpoint_sha256" in first and "checkpoint_sha256" in second):
        never.add("checkpoint")  # the name of its folder
    return [_setting_row(name, first.get(name, none), second.get(name, none), name in never) for name in names]


def _setting_row(name: str, first: Counter[str], second: Counter[str], is_crucial: bool) -> InputRow:
    if UNKNOWN in first + second or not first or not second:
        state = UNKNOWN
    elif first.keys() == second.keys():
        state = SAME
    else:
        # Ignore the build: an NPU needs torch "2.13.0+cpu" while a GPU has "2.13.0+cu130".
        releases = [{each.split("+")[0] for each in own} for own in (first, second)]
        may_differ = name in MAY_DIFFER or (name == "torch" and releases[0] == releases[1])
        state = EXPECTED if may_differ else DIFFERS
    values = [[value for value, _ in own.most_common()] for own in (first, second)]
    if state == DIFFERS:  # of many tasks show only those that differ
        values = [[each for each in own if each not in other] or own for own, other in (values, values[::-1])]
    is_other_kind = name == "dtype" and _kinds(first) != _kinds(second)
    shown, others = map(_shown, values)
    return InputRow(name, shown, others, state, state != DIFFERS or not (is_crucial or is_other_kind))


def _kinds(dtypes: Iterable[str]) -> set[str]:
    names = (name.removeprefix("torch.") for name in dtypes)
    return {"floating" if name in TOLERANCES else name for name in names}


def _shown(values: list[str]) -> str:
    shown = [value[:SHOWN_HASH_LENGTH] if SHA256.fullmatch(value) else value for value in values[:SHOWN_VALUES]]
    more = [f"{len(values) - SHOWN_VALUES} more"] if len(values) > SHOWN_VALUES else []
    return ", ".join(shown + more) or UNKNOWN


def compare_question(pair: Pair) -> dict[str, bool | None]:
    """For each of CAUSES, whether both sides got the same; None if the files do not say."""
    return {
        "questions": _same_question(*pair.replies),
        "prompts": same_hash(pair, "prompt_sha256"),
        "prompt_tokens": _same_length(*pair.replies),
        "pixels": same_hash(pair, "pixels_sha256"),
    }


def inputs_differ(pair: Pair) -> bool:
    """Whether the sides are known to have got different inputs."""
    return False in compare_question(pair).values()


def same_hash(pair: Pair, field: str) -> bool | None:
    first, second = (getattr(reply, field) for reply in pair.replies)
    return bool(first == second) if first and second else None


def _same_length(first: Reply, second: Reply) -> bool | None:
    """Compare the numbers of prompt tokens if a side does not store the tokens themselves: a check, not a proof.

    A side that does not count them is assumed to have as many as the checkpoint's template gives for the exported
    request, so that a different number on the other side is noticed."""
    counts = {first.prompt_tokens, second.prompt_tokens}
    if (first.prompt_sha256 and second.prompt_sha256) or counts == {None}:
        return None
    expected = first.expected_prompt_tokens or second.expected_prompt_tokens
    counts = {expected if count is None else count for count in counts}
    return None if None in counts else len(counts) == 1


def _same_question(first: Reply, second: Reply) -> bool | None:
    """Compare text, instruction, choices and video, as far as both rows hold them."""
    if first.logged and second.logged:
        return False not in _document_parts(first, second).values()
    same = [_same_video(first, second), _same_text(first, second)]
    if _both_state_options(first, second):
        same.append(first.options == second.options)
    known = [each for each in same if each is not None]
    return all(known) if known else None


def _same_video(first: Reply, second: Reply) -> bool | None:
    """Compare the pixels that the model saw, else the files' bytes, else their names (not folders: a sample has its
    own). None if that is not known."""
    if first.pixels_sha256 and first.pixels_sha256 == second.pixels_sha256:
        return True
    if first.video_sha256 and second.video_sha256:
        return first.video_sha256 == second.video_sha256
    names = [(PurePosixPath(each.vid_path).name, str(each.video_id)) for each in (first, second)]
    known = [one == other for one, other in zip(*names, strict=True) if one and other]
    return all(known) if known else None


def _same_text(first: Reply, second: Reply) -> bool | None:
    """Compare question and instruction. A row without choices has them in the question's text, in its own format."""
    if first.question and (first.question, first.options) == (second.question, second.options):
        return True  # nearly always the case, and fast
    options = first.options or second.options
    sides = [each if each.options else replace(each, options=options) for each in (first, second)]
    one, other = (folded_text(each.own_question) for each in sides)
    if not one or not other:
        return None
    if _both_state_options(first, second):
        return one == other
    return one.startswith(other) or other.startswith(one)


def _both_state_options(*sides: Reply) -> bool:
    return all(each.options and not each.options_are_lent for each in sides)
