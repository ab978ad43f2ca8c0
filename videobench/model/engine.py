"""Load the weights and answer questions.

The text model reads every video once: `generate` puts the prompt up to the last video token, which all questions on the
video share, into a cache, and a second `generate` answers the questions from copies of that cache. Both are public API
of transformers and use the same masks and positions as one plain `generate` per question, so in float32 the token ids
are equal (tests/model/test_engine.py).
"""

import copy
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import transformers
from transformers import DynamicCache, GenerationConfig, LlavaNextVideoForConditionalGeneration

from videobench.data.dataset import LETTERS
from videobench.device.devices import Device, reading_weights
from videobench.errors import InputError
from videobench.model.cache import CACHE_ARGUMENT, select_rows, shallow_copy
from videobench.model.checkpoint import Checkpoint, naming_checkpoint
from videobench.model.cost import Usage
from videobench.model.prompts import Answer, Prompt, VideoQuestions
from videobench.video.pixels import normalise


@dataclass
class GeneratedRow:
    """What one row of a batch has generated so far."""

    ids: list[int] = field(default_factory=list)  # including the end-of-sequence token, if generated
    is_finite: bool = True  # False if a logit of its positions is NaN or infinite
    has_ended: bool = False

    def add(self, ids: Sequence[int], finite: Sequence[bool], end_ids: Sequence[int]) -> None:
        """Append new tokens, dropping what the batch computed after the row's end."""
        for id, is_finite in zip(ids, finite, strict=True):
            self.ids.append(id)
            self.is_finite = self.is_finite and is_finite
            if id in end_ids:
                self.has_ended = True
                return


def generate_rows(
    model: Any,
    ids: torch.Tensor,
    mask: torch.Tensor,
    cache: DynamicCache,
    max_new_tokens: int,
    end_ids: Sequence[int],
    usage: Usage,
) -> tuple[list[GeneratedRow], torch.Tensor]:
    """Generate replies; returns rows and the logits (rows, vocabulary) of their first position, in the model's dtype.

    `ids` and `mask` are int64 (rows, length); `cache` has the keys and values of their first positions for the
    same rows, with room for the rest and for `max_new_tokens`; it cannot be used again."""
    rows = [GeneratedRow() for _ in ids]
    going = list(rows)
    first: torch.Tensor | None = None
    room = max_new_tokens
    for num_tokens in _stages(max_new_tokens):
        room -= num_tokens
        with usage.measure("suffix" if first is None else "decode"):
            output = model.generate(
                input_ids=ids,
                attention_mask=mask,
                **{CACHE_ARGUMENT: cache},
                generation_config=num_tokens_config(model, num_tokens),
            )
            finite = torch.stack([step.isfinite().all(-1) for step in output.logits], -1).tolist()
        first = output.logits[0] if first is None else first
        generated = output.sequences[:, ids.shape[1] :].tolist()
        for row, tokens, flags in zip(going, generated, finite, strict=True):
            row.add(tokens, flags, end_ids)
        left = [number for number, row in enumerate(going) if not row.has_ended]
        if not left:
            break
        if len(left) < len(going):
            select_rows(cache, left, room)
        going = [going[number] for number in left]
        ids, num_new = output.sequences[left], output.sequences.shape[1] - mask.shape[1]
        mask = torch.nn.functional.pad(mask[left], (0, num_new), value=1)
    assert first is not None
    return rows, first


def num_tokens_config(model: Any, num_tokens: int) -> GenerationConfig:
    """Copy the model's generation config for this many tokens. It is passed as a whole: from single arguments
    `generate` would build and check its own, leaving the card idle for milliseconds."""
    config = copy.copy(model.generation_config)
    config.max_new_tokens = num_tokens
    config.return_dict_in_generate = config.output_logits = True
    return config


def _stages(max_new_tokens: int) -> Iterator[int]:
    """Yield how many tokens to generate before ended rows are dropped: 1, 3, 4, 8, 16, ..., up to `max_new_tokens`.
    First after one token, since most replies are a letter and the end; then rarely, since dropping copies the cache."""
    done = 0
    while done < max_new_tokens:
        end = min({0: 1, 1: 4}.get(done, 2 * done), max_new_tokens)
        yield end - done
        done = end


WRONG_WEIGHTS = {  # as transformers reports them -> in words
    "missing_keys": "missing",
    "unexpected_keys": "not in the model of its config.json",
    "mismatched_keys": "of another shape than in the model of its config.json",
}


def load_engine(
    checkpoint: Checkpoint,
    device: Device,
    dtype: str,
    max_new_tokens: int,
    length_multiple: int = 1,
    world: AbstractContextManager[None] | None = None,
    device_map: Mapping[str, str] | None = None,
) -> "Engine":
    """Load the weights from safetensors straight to the device in `dtype` ("float16", "bfloat16", "float32").

    In a `world`, the environment in which transformers finds the processes of a group, the weights are split over them.
    With a `device_map` (module -> device, or "disk") some stay in the files. Raise InputError if the device has too
    little memory, or if the files do not have exactly the weights of the config's model: transformers would fill in
    random numbers for missing ones and drop unknown ones."""
    with (
        reading_weights(device),
        world or nullcontext(),
        redirect_stdout(sys.stdout),  # restores both at the end:
        redirect_stderr(sys.stderr),  # transformers up to 5.0 discards what the processes of a group print
        naming_checkpoint(checkpoint.path, RuntimeError),
    ):
        model, info = LlavaNextVideoForConditionalGeneration.from_pretrained(
            checkpoint.path,
            config=copy.deepcopy(checkpoint.config),  # the model changes it
            generation_config=_greedy(checkpoint),
            attn_implementation="sdpa",  # its default; config.json may name a kernel to be fetched
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below
            local_files_only=True,
            use_safetensors=True,
            dtype=getattr(torch, dtype),
            # By name: from a torch.device transformers uses only the number, which older safetensors read as CUDA's.
            **(_split_arguments() if world else {"device_map": device_map or {"": str(device.torch_device)}}),
        )
    for kind, words in WRONG_WEIGHTS.items():
        # Since transformers 5, a key of another shape comes with both shapes.
        if names := sorted(each if isinstance(each, str) else each[0] for each in info[kind]):
            found = f"{len(names)} weights {words}, such as {names[0]}"
            raise InputError(f"{checkpoint.path}: {found}; download the checkpoint again, all files of one upload")
    drop_unread_layers(model)
    return Engine(model.eval(), checkpoint, max_new_tokens, length_multiple)


def _split_arguments() -> dict[str, Any]:
    """Arguments of from_pretrained that split the weights over torch.distributed's world."""
    try:
        from transformers.distributed import DistributedConfig

        return {"distributed_config": DistributedConfig(tp_plan="auto")}
    except (ImportError, TypeError):
        return {"tp_plan": "auto"}


def _greedy(checkpoint: Checkpoint) -> GenerationConfig:
    """Return a greedy config, ignoring the checkpoint's own: penalties would change the comparison."""
    tokenizer = checkpoint.tokenizer
    pad = tokenizer.pad_token_id  # always masked, so any id would do
    return GenerationConfig(
        do_sample=False,
        eos_token_id=list(checkpoint.end_ids),
        pad_token_id=pad if pad is not None else checkpoint.end_ids[0],
        bos_token_id=tokenizer.bos_token_id,
    )


def batch_rows(videos: Sequence[VideoQuestions]) -> list[tuple[int, int]]:
    """Order the questions of all videos for answering, as (index of the video, index of the question).

    Questions of similar length are together, to need little padding; the longest come first, so that a lack of memory
    shows at once."""
    rows = [(index, number) for index, video in enumerate(videos) for number in range(len(video.prompts))]
    return sorted(rows, key=lambda row: -len(videos[row[0]].prompts[row[1]].suffix_ids))


class Engine:
    """Answers greedily, with one model on one device."""

    def __init__(
        self,
        model: LlavaNextVideoForConditionalGeneration,
        checkpoint: Checkpoint,
        max_new_tokens: int,
        length_multiple: int = 1,
    ) -> None:
        self.model = model
        self._tokenizer = checkpoint.tokenizer
        self.pixel_spec = checkpoint.pixel_spec
        self._max_new_tokens = max_new_tokens
        self._length_multiple = length_multiple
        self.usage = Usage()
        model.generation_config = _greedy(checkpoint)
        self.end_ids = checkpoint.end_ids
        self.pad_id: int = model.generation_config.pad_token_id

    def answer(self, videos: Sequence[VideoQuestions], batch_size: int) -> list[list[Answer]]:
        """Return answers in the order of the questions, video by video, computing at most `batch_size` at once.

        The prefixes of all `videos` must have the same length, as they do with one template and number of frames.
        Errors of the device are RuntimeErrors, also out of memory (devices.is_out_of_memory)."""
        # 1. Each video once: the prompt up to its last frame goes through the model into a cache.
        prefixes = self._read_prefixes(videos)
        prefix_length = prefixes.get_seq_length()
        # 2. The questions on all videos.
        rows = batch_rows(videos)
        answers: dict[tuple[int, int], Answer] = {}
        for start in range(0, len(rows), batch_size):
            chunk = rows[start : start + batch_size]
            # 3. The whole prompt of every row, with the padding between video and question.
            ids, mask = self._join([videos[index].prompts[number] for index, number in chunk])
            # 4. For each row a copy of its video's keys and values, with room for question and reply.
            is_last = start + batch_size >= len(rows)
            cache = prefixes if is_last else shallow_copy(prefixes)
            select_rows(cache, [index for index, _ in chunk], ids.shape[1] - prefix_length + self._max_new_tokens)
            # 5. The replies; a row that has ended leaves the batch.
            generated, logits = generate_rows(
                self.model, ids, mask, cache, self._max_new_tokens, self.end_ids, self.usage
            )
            del cache  # its memory is free for the next one
            # 6. Every row's text, and the log-probabilities of its options' letters as first token.
            for row, reply, by_letter in zip(chunk, generated, self.letter_logprobs(logits), strict=True):
                index, number = row
                answers[row] = self._answer(reply, by_letter, videos[index].letters[number])
        return [[answers[index, number] for number in range(len(video.prompts))] for index, video in enumerate(videos)]

    def answer_plainly(self, video: VideoQuestions, number: int) -> Answer:
        """Answer one question with a plain `generate`, without sharing, padding or batches, as the reference."""
        prompt = video.prompts[number]
        ids = self._tensor([[*prompt.prefix_ids, *prompt.suffix_ids]])
        output = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values_videos=normalise(self.to_device([video.pixels]), self.pixel_spec, self.model.dtype),
            max_new_tokens=self._max_new_tokens,
            return_dict_in_generate=True,
            output_logits=True,
        )
        row = GeneratedRow()
        finite = torch.stack([step.isfinite().all() for step in output.logits]).tolist()
        row.add(output.sequences[0, ids.shape[1] :].tolist(), finite, self.end_ids)
        return self._answer(row, self.letter_logprobs(output.logits[0])[0], video.letters[number])

    def next_logits(self, ids: Sequence[int]) -> torch.Tensor:
        """Return float32 logits (1, vocabulary) of the token after a text; for the device check, not for answers."""
        with torch.no_grad():
            logits: torch.Tensor = self.model(input_ids=self._tensor([ids])).logits
        return logits[:, -1].float()

    def count_held_weights(self) -> int:
        """Count weight elements of text model and projector in this process; they may be split over processes."""
        weights = [each for name, each in self.model.named_parameters() if "vision_tower" not in name]
        held = (getattr(each, "to_local", lambda each=each: each)() for each in weights)
        return sum(each.numel() for each in held)

    def _read_prefixes(self, videos: Sequence[VideoQuestions]) -> DynamicCache:
        """Compute a cache of exactly the prefixes' positions, one row per video."""
        with self.usage.measure("prefix"):
            prefixes = self._tensor([video.prompts[0].prefix_ids for video in videos])
            pixels = self.to_device([video.pixels for video in videos])
            cache = DynamicCache()
            self.model.generate(
                input_ids=prefixes,
                attention_mask=torch.ones_like(prefixes),
                pixel_values_videos=normalise(pixels, self.pixel_spec, self.model.dtype),
                **{CACHE_ARGUMENT: cache},
                generation_config=num_tokens_config(self.model, 1),
            )
        self.usage.prefix_tokens += prefixes.numel()
        if cache.get_seq_length() != prefixes.shape[1]:
            raise RuntimeError(
                f"transformers {transformers.__version__} left {cache.get_seq_length()} positions in the cache of a "
                f"prefix of {prefixes.shape[1]}: this version cannot share prefixes"
            )
        return cache

    def to_device(self, pixels: list[torch.Tensor]) -> torch.Tensor:
        """Stack to uint8 (videos, num_frames, 3, height, width) on the device. CUDA copies from pinned memory while
        this process goes on.

        Other devices wait for the copy: older torch_npu may read memory that is not pinned after it has been freed."""
        stacked, device = torch.stack(pixels), self.model.device
        if device.type == "cuda" and stacked.device.type == "cpu":  # not on the card yet
            return stacked.pin_memory().to(device, non_blocking=True)
        return stacked.to(device)

    def letter_logprobs(self, logits: torch.Tensor) -> list[list[float]]:
        """Compute every row's letter log-probabilities, in the order of `_letter_ids`; logits (rows, vocabulary)."""
        logprobs = logits.float().log_softmax(-1)
        by_letter = [logprobs[:, same].logsumexp(-1) for same in self._letter_ids.values()]
        return list(torch.stack(by_letter, -1).tolist())

    def padded_length(self, prompts: Sequence[Prompt]) -> int:
        """Tokens of each row of a batch."""
        return math.ceil(max(map(len, prompts)) / self._length_multiple) * self._length_multiple

    def _join(self, prompts: Sequence[Prompt]) -> tuple[torch.Tensor, torch.Tensor]:
        """Build ids and mask (rows, length), padded between prefix and suffix so that all rows end together."""
        length = self.padded_length(prompts)
        ids, mask = [], []
        for prompt in prompts:
            padding = length - len(prompt)
            ids.append([*prompt.prefix_ids, *[self.pad_id] * padding, *prompt.suffix_ids])
            mask.append([1] * len(prompt.prefix_ids) + [0] * padding + [1] * len(prompt.suffix_ids))
        return self._tensor(ids), self._tensor(mask)

    def _answer(self, row: GeneratedRow, by_letter: list[float], letters: Sequence[str]) -> Answer:
        named = dict(zip(self._letter_ids, by_letter, strict=True))
        text = self._tokenizer.decode(row.ids, skip_special_tokens=True).strip()
        return Answer(tuple(row.ids), text, {letter: named[letter] for letter in letters}, row.is_finite)

    @cached_property
    def _letter_ids(self) -> dict[str, list[int]]:
        """Find the vocabulary entries that decode to a letter: `A`, `\u2581A`, `\u0120A`, `<0x41>`.

        Encoding the letter would give only one of them, depending on the tokenizer and the text before it."""
        read = [text.strip() for text in self._tokenizer.batch_decode([[id] for id in range(len(self._tokenizer))])]
        return {letter: [id for id, text in enumerate(read) if text == letter] for letter in LETTERS}

    def _tensor(self, content: Any) -> torch.Tensor:
        return torch.tensor(content, device=self.model.device)


def drop_unread_layers(model: LlavaNextVideoForConditionalGeneration) -> None:
    """Drop the vision layers whose output is unused: 1 of 24 in the five checkpoints."""
    index = model.config.vision_feature_layer
    [encoder] = [module for module in model.modules() if type(module).__name__ == "CLIPEncoder"] or [None]
    if encoder is None or not isinstance(index, int):
        return
    # Hidden state 0 is the input of the first layer.
    num_read = index if index >= 0 else len(encoder.layers) + 1 + index
    del encoder.layers[num_read:]
    model.config.vision_feature_layer = num_read
    model.config.vision_config.num_hidden_layers = num_read
