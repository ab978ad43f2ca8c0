"""Were the inputs of both runs the same? The question to ask before any accuracy is compared."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from videobench.compare.pairing import Pair, Pairing
from videobench.results.replies import Reply

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
SAME, DIFFERS, EXPECTED, UNKNOWN = "same", "DIFFERS", "differs, as it may", "not stored"
SHOWN_HASH_LENGTH = 12
SHOWN_VALUES = 2  # of one setting: each set of a whole run has a QA file of its own


@dataclass(frozen=True)
class InputRow:
    name: str  # "dtype"
    npu: str  # "float16"
    gpu: str
    state: str  # of SAME, DIFFERS, EXPECTED, UNKNOWN


@dataclass(frozen=True)
class Inputs:
    rows: list[InputRow]
    differing_prompts: int  # questions whose token ids differ
    differing_pixels: int

    @property
    def look_exchanged(self) -> bool:
        """Whether the replies' `device` fields name the other side's device."""
        return any(
            row.name == "device" and row.npu != row.gpu and (row.npu == "cuda" or row.gpu == "npu") for row in self.rows
        )

    @property
    def differing(self) -> list[str]:
        return [row.name for row in self.rows if row.state == DIFFERS]


def compare_inputs(pairing: Pairing) -> Inputs:
    compared = pairing.compared
    return Inputs(
        rows=[
            _question_row(pairing),
            _hash_row("prompts (token ids)", "prompt_sha256", compared),
            _hash_row("pixels", "pixels_sha256", compared),
            *_setting_rows(compared),
        ],
        differing_prompts=sum(prompts_differ(pair) for pair in compared),
        differing_pixels=sum(pixels_differ(pair) for pair in compared),
    )


def prompts_differ(pair: Pair) -> bool:
    """Whether the token ids differ; False where a side stores no hash."""
    return _hashes_differ(pair, "prompt_sha256")


def pixels_differ(pair: Pair) -> bool:
    return _hashes_differ(pair, "pixels_sha256")


def _hashes_differ(pair: Pair, field: str) -> bool:
    npu, gpu = getattr(pair.npu.reply, field, ""), getattr(pair.gpu.reply, field, "")
    return bool(npu and gpu and npu != gpu)


def _question_row(pairing: Pairing) -> InputRow:
    common = len(pairing.compared)
    npu = sum(pair.npu.reply is not None for pair in pairing.pairs) + sum(pairing.sets_only_npu.values())
    gpu = sum(pair.gpu.reply is not None for pair in pairing.pairs) + sum(pairing.sets_only_gpu.values())
    return InputRow(
        "questions", f"{npu} ({common} in both)", f"{gpu} ({common} in both)", SAME if npu == gpu == common else DIFFERS
    )


def _hash_row(name: str, field: str, compared: Sequence[Pair]) -> InputRow:
    stored = [sum(bool(getattr(side, field, "")) for side in sides) for sides in _replies(compared)]
    differing = sum(_hashes_differ(pair, field) for pair in compared)
    known = sum(bool(getattr(pair.npu.reply, field, "") and getattr(pair.gpu.reply, field, "")) for pair in compared)
    state = DIFFERS if differing else SAME if known else UNKNOWN
    equal = f"{known - differing} of {known} equal" if known else "not stored"
    return InputRow(name, equal if stored[0] else "not stored", equal if stored[1] else "not stored", state)


def _replies(compared: Sequence[Pair]) -> tuple[list[Reply], list[Reply]]:
    return (
        [pair.npu.reply for pair in compared if pair.npu.reply],
        [pair.gpu.reply for pair in compared if pair.gpu.reply],
    )


def _setting_rows(compared: Sequence[Pair]) -> list[InputRow]:
    npu, gpu = (_settings(replies) for replies in _replies(compared))
    names = [name for name in FIRST_SETTINGS if name in npu or name in gpu]
    names += sorted((npu.keys() | gpu.keys()) - set(names))
    return [_setting_row(name, npu.get(name, []), gpu.get(name, [])) for name in names]


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
    return settings


def _setting_row(name: str, npu: list[str], gpu: list[str]) -> InputRow:
    if not npu or not gpu:
        state = UNKNOWN
    elif sorted(npu) == sorted(gpu):
        state = SAME
    else:
        state = EXPECTED if name in MAY_DIFFER or (name == "torch" and _releases(npu) == _releases(gpu)) else DIFFERS
    return InputRow(name, _shown(npu), _shown(gpu), state)


def _releases(versions: Iterable[str]) -> set[str]:
    """Without the build: an NPU needs torch "2.13.0+cpu" where a GPU has "2.13.0+cu130"."""
    return {version.split("+")[0] for version in versions}


def _shown(values: list[str]) -> str:
    shown = [value[:SHOWN_HASH_LENGTH] if _is_hash(value) else value for value in values[:SHOWN_VALUES]]
    more = [f"{len(values) - SHOWN_VALUES} more"] if len(values) > SHOWN_VALUES else []
    return ", ".join(shown + more) or "not stored"


def _is_hash(value: str) -> bool:
    return len(value) == 64 and all(character in "0123456789abcdef" for character in value)
