"""Checkpoint -> answers; the only user of the weights.

The text model reads each video once: its prompt up to the last video token, shared by all questions on it, goes through
`generate` into a cache, and a second `generate` answers the questions from copies of that cache. Both calls are
public API of transformers and take the same masks and positions as the plain way, so in float32 the ids are equal to
those of one plain `generate` per question (tests/model/test_engine.py).
"""

import copy
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import transformers
from transformers import DynamicCache, GenerationConfig, LlavaNextVideoForConditionalGeneration

from videobench.data.dataset import LETTERS
from videobench.device.devices import Device, reading_weights
from videobench.errors import InputError
from videobench.model.cache import CACHE_ARGUMENT, Prefixes, select_rows
from videobench.model.checkpoint import Checkpoint, naming_checkpoint
from videobench.model.cost import Usage
from videobench.model.prompts import Answer, Prompt, VideoQuestions
from videobench.video.pixels import normalise


@dataclass
class GeneratedRow:
    """What one row of a batch has generated so far."""

    ids: list[int] = field(default_factory=list)  # with the end-of-sequence token where it came
    is_finite: bool = True  # False if a logit of its positions is NaN or infinite
    has_ended: bool = False

    def add(self, ids: Sequence[int], finite: Sequence[bool], end_ids: Sequence[int]) -> None:
        """What the batch computes after the row's end is left out."""
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
    """The rows, and the logits (rows, vocabulary) of their first position, in the model's dtype.

    `ids` and `mask` are int64 (rows, length); `cache` holds the keys and values of their first positions, for the same
    rows, has room for the rest and for `max_new_tokens`, and is used up."""
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
    """The model's own, for so many tokens. Given whole: from single arguments `generate` makes and checks one of its
    own, for milliseconds in which a card has nothing to do."""
    config = copy.copy(model.generation_config)
    config.max_new_tokens = num_tokens
    config.return_dict_in_generate = config.output_logits = True
    return config


def _stages(max_new_tokens: int) -> Iterator[int]:
    """Tokens to generate before rows that have ended leave: 1, 3, 4, 8, 16, ..., in all `max_new_tokens`: the first
    alone, since most replies are a letter and the end; then rarely, since leaving costs a copy of the cache."""
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
    """Weights straight from safetensors to the device in `dtype` ("float16", "bfloat16", "float32").

    In a `world`, the environment in which transformers finds the processes that share them, they are split over those;
    with a `device_map` (module -> device, or "disk") some stay in the files.
    Raises InputError if the device has too little memory, and if the files do not hold exactly the weights of the
    config's model: transformers fills in random numbers, and drops what it does not know."""
    with (
        reading_weights(device),
        world or nullcontext(),
        _kept_output(),
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
            # By name: of a torch.device transformers takes the number alone, which older safetensors read as CUDA's.
            **(_split_arguments() if world else {"device_map": device_map or {"": str(device.torch_device)}}),
        )
    for kind, words in WRONG_WEIGHTS.items():
        # A key of another size comes with both sizes since transformers 5.
        if names := sorted(each if isinstance(each, str) else each[0] for each in info[kind]):
            found = f"{len(names)} weights {words}, {names[0]} first"
            raise InputError(f"{checkpoint.path}: {found}; get the checkpoint again, all files of one upload")
    drop_unread_layers(model)
    return Engine(model.eval(), checkpoint, max_new_tokens, length_multiple)


def _split_arguments() -> dict[str, Any]:
    """Split the weights over torch.distributed's world: arguments of from_pretrained, in old and new transformers."""
    try:
        from transformers.distributed import DistributedConfig

        return {"distributed_config": DistributedConfig(tp_plan="auto")}
    except (ImportError, TypeError):
        return {"tp_plan": "auto"}


@contextmanager
def _kept_output() -> Iterator[None]:
    """Restores the streams: transformers up to 5.0 drops what a process of a group prints, tracebacks too."""
    streams = sys.stdout, sys.stderr
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


def _greedy(checkpoint: Checkpoint) -> GenerationConfig:
    """Greedy and nothing else, whatever the checkpoint's own file asks for: penalties would change the comparison."""
    tokenizer = checkpoint.tokenizer
    pad = tokenizer.pad_token_id  # masked wherever it stands: any id would do
    return GenerationConfig(
        do_sample=False,
        eos_token_id=list(checkpoint.end_ids),
        pad_token_id=pad if pad is not None else checkpoint.end_ids[0],
        bos_token_id=tokenizer.bos_token_id,
    )


def batch_rows(videos: Sequence[VideoQuestions]) -> list[tuple[int, int]]:
    """The questions of all videos in the order in which they are answered: (number of the video, of its question).

    Questions of about one length go together, so that little is padded; the longest first, whose room serves all."""
    rows = [(index, number) for index, video in enumerate(videos) for number in range(len(video.prompts))]
    return sorted(rows, key=lambda row: -len(videos[row[0]].prompts[row[1]].suffix_ids))


class Engine:
    """Greedy answers of one model on one device."""

    def __init__(
        self,
        model: LlavaNextVideoForConditionalGeneration,
        checkpoint: Checkpoint,
        max_new_tokens: int,
        length_multiple: int = 1,
    ) -> None:
        self._model = model
        self._tokenizer = checkpoint.tokenizer
        self.pixel_spec = checkpoint.pixel_spec
        self._max_new_tokens = max_new_tokens
        self._length_multiple = length_multiple
        self.usage = Usage()
        model.generation_config = _greedy(checkpoint)
        self.end_ids = checkpoint.end_ids
        self.pad_id: int = model.generation_config.pad_token_id

    @property
    def model(self) -> LlavaNextVideoForConditionalGeneration:
        """For locate/."""
        return self._model

    def answer(self, videos: Sequence[VideoQuestions], batch_size: int) -> list[list[Answer]]:
        """Answers in the order of the questions, video by video; at most `batch_size` questions at once.

        The prefixes of all `videos` have the same length, as those of one template and number of frames do. Raises
        RuntimeError with whatever the device reports, also where it is out of memory (devices.is_out_of_memory)."""
        # 1. Each video once: the prompt up to its last frame goes through the model into a cache.
        prefixes = Prefixes(self._read_prefixes(videos))
        # 2. The questions on all videos.
        rows = batch_rows(videos)
        answers: dict[tuple[int, int], Answer] = {}
        for start in range(0, len(rows), batch_size):
            chunk = rows[start : start + batch_size]
            # 3. The whole prompt of each row; the padding stands between video and question.
            ids, mask = self._join([videos[index].prompts[number] for index, number in chunk])
            # 4. For each row a copy of its video's keys and values, with room for question and reply.
            room = ids.shape[1] - prefixes.length + self._max_new_tokens
            is_last = start + batch_size >= len(rows)
            cache = prefixes.rows([index for index, _ in chunk], room, is_last)
            # 5. The replies; a row that has ended leaves the batch.
            generated, logits = generate_rows(
                self._model, ids, mask, cache, self._max_new_tokens, self.end_ids, self.usage
            )
            # 6. Of each row its text, and the log-probabilities of its options' letters as first token.
            for row, reply, by_letter in zip(chunk, generated, self.letter_logprobs(logits), strict=True):
                index, number = row
                answers[row] = self._answer(reply, by_letter, videos[index].letters[number])
        return [[answers[index, number] for number in range(len(video.prompts))] for index, video in enumerate(videos)]

    def answer_plainly(self, video: VideoQuestions, number: int) -> Answer:
        """One question by one `generate`, with nothing shared, padded or batched: what `answer` must be equal to."""
        prompt = video.prompts[number]
        ids = self._tensor([[*prompt.prefix_ids, *prompt.suffix_ids]])
        output = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values_videos=normalise(self.to_device([video.pixels]), self.pixel_spec, self._model.dtype),
            max_new_tokens=self._max_new_tokens,
            return_dict_in_generate=True,
            output_logits=True,
        )
        row = GeneratedRow()
        finite = torch.stack([step.isfinite().all() for step in output.logits]).tolist()
        row.add(output.sequences[0, ids.shape[1] :].tolist(), finite, self.end_ids)
        return self._answer(row, self.letter_logprobs(output.logits[0])[0], video.letters[number])

    def next_logits(self, ids: Sequence[int]) -> torch.Tensor:
        """float32 (1, vocabulary), of the token after a text: for a check of the device, not for answers."""
        with torch.no_grad():
            logits: torch.Tensor = self._model(input_ids=self._tensor([ids])).logits
        return logits[:, -1].float()

    def count_held_weights(self) -> int:
        """Numbers that this process holds of the text model and the projector, which may be split over processes."""
        weights = [each for name, each in self._model.named_parameters() if "vision_tower" not in name]
        held = (getattr(each, "to_local", lambda each=each: each)() for each in weights)
        return sum(each.numel() for each in held)

    def _read_prefixes(self, videos: Sequence[VideoQuestions]) -> DynamicCache:
        """The cache of exactly the prefixes' positions, one row per video."""
        with self.usage.measure("prefix"):
            prefixes = self._tensor([video.prompts[0].prefix_ids for video in videos])
            pixels = self.to_device([video.pixels for video in videos])
            cache = DynamicCache()
            self._model.generate(
                input_ids=prefixes,
                attention_mask=torch.ones_like(prefixes),
                pixel_values_videos=normalise(pixels, self.pixel_spec, self._model.dtype),
                **{CACHE_ARGUMENT: cache},
                generation_config=num_tokens_config(self._model, 1),
            )
        self.usage.prefix_tokens += prefixes.numel()
        if cache.get_seq_length() != prefixes.shape[1]:
            raise RuntimeError(
                f"transformers {transformers.__version__} left {cache.get_seq_length()} positions in the cache of a "
                f"prefix of {prefixes.shape[1]}: this version cannot share prefixes"
            )
        return cache

    def to_device(self, pixels: list[torch.Tensor]) -> torch.Tensor:
        """uint8 (videos, num_frames, 3, height, width); by way of pinned memory on CUDA, from where the card copies
        while this process goes on.

        Elsewhere the copy is waited for: older torch_npu reads memory that is not pinned after it has been freed."""
        stacked, device = torch.stack(pixels), self._model.device
        if device.type == "cuda" and stacked.device.type == "cpu":  # neither staged nor of a group's cards
            return stacked.pin_memory().to(device, non_blocking=True)
        return stacked.to(device)

    def letter_logprobs(self, logits: torch.Tensor) -> list[list[float]]:
        """From logits (rows, vocabulary): for each row, the letters' values in the order of `_letter_ids`."""
        logprobs = logits.float().log_softmax(-1)
        by_letter = [logprobs[:, same].logsumexp(-1) for same in self._letter_ids.values()]
        return list(torch.stack(by_letter, -1).tolist())

    def _join(self, prompts: Sequence[Prompt]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask (rows, length): the padding stands between prefix and suffix, so that all rows end together."""
        longest = max(len(prompt) for prompt in prompts)
        length = math.ceil(longest / self._length_multiple) * self._length_multiple
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
        """Letter -> the vocabulary entries that read as it: `A`, `\u2581A`, `\u0120A`, `<0x41>`, by decoding each one.

        Encoding the letter would give one of them only: which one depends on the tokenizer and what stands before."""
        read = [text.strip() for text in self._tokenizer.batch_decode([[id] for id in range(len(self._tokenizer))])]
        return {letter: [id for id, text in enumerate(read) if text == letter] for letter in LETTERS}

    def _tensor(self, content: Any) -> torch.Tensor:
        return torch.tensor(content, device=self._model.device)


def drop_unread_layers(model: LlavaNextVideoForConditionalGeneration) -> None:
    """Drops the vision layers whose output is unused: 1 of 24 in the five checkpoints."""
    index = model.config.vision_feature_layer
    [encoder] = [module for module in model.modules() if type(module).__name__ == "CLIPEncoder"] or [None]
    if encoder is None or not isinstance(index, int):
        return
    # Of the states, number 0 goes into the first layer.
    num_read = index if index >= 0 else len(encoder.layers) + 1 + index
    del encoder.layers[num_read:]
    model.config.vision_feature_layer = num_read
    model.config.vision_config.num_hidden_layers = num_read
