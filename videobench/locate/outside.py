"""Check what a run computes outside of the modules: pixels, cache copies, positions, tokens, log-probabilities."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from videobench.locate.deviation import Deviation, deviation
from videobench.locate.operators import COPIES, LETTERS, PIXELS, POSITIONS, TOKENS
from videobench.locate.recording import (
    DECODE,
    SUFFIX,
    VISION,
    Forward,
    Given,
    Result,
    Rows,
    States,
    held_states,
    on_host,
)
from videobench.model.engine import Engine
from videobench.video.pixels import normalise


@dataclass(frozen=True)
class Outside:
    """One result that was computed outside of the modules."""

    name: str  # one of operators.OUTSIDE
    kind: str  # of recording.KINDS: the forward pass that receives it, or whose result it is computed from
    found: torch.Tensor
    deviation: Deviation


class OutsideCheck:
    """Checks some rows of one batch; they must not end before its last forward pass."""

    def __init__(self, engine: Engine, pixels: Sequence[torch.Tensor], rows: Rows) -> None:
        self._engine, self._rows = engine, rows
        self._pixels = pixels  # for each video uint8 (num_frames, 3, height, width), on the host
        self._left: States = {}  # keys and values after the last forward pass
        self._last: torch.Tensor | None = None  # its logits (rows, vocabulary)
        self._letters: list[tuple[torch.Tensor, list[list[float]]]] = []

    @contextmanager
    def watching_letters(self) -> Iterator[None]:
        """Keep the log-probabilities that the device computes from the first position's logits."""

        def watch(logits: torch.Tensor) -> list[list[float]]:
            found = compute(logits)
            self._letters.append((logits.cpu(), found))
            return found

        compute = self._engine.letter_logprobs
        self._engine.letter_logprobs = watch  # type: ignore[method-assign]
        try:
            yield
        finally:
            del self._engine.letter_logprobs

    def letters(self) -> Iterator[Outside]:
        """Check the log-probabilities, once the batch is answered."""
        for logits, found in self._letters:
            yield _compared(LETTERS, SUFFIX, torch.tensor(found), torch.tensor(self._engine.letter_logprobs(logits)))

    def of(self, forward: Forward) -> Iterator[Outside]:
        """Check the inputs of this forward pass. Passes must come in order: each is compared with the one before."""
        given, result = forward.events[0], forward.events[-1]
        assert isinstance(given, Given)
        assert isinstance(result, Result)
        yield from self._prepared(forward.kind, given)
        if forward.kind == VISION:
            return
        yield from self._copies(forward)
        self._left = self._rows.keep(forward.kind, held_states((*given.args, *given.kwargs.values())))
        yield from _positions(forward.kind, given)
        if forward.kind == DECODE:
            yield from self._chosen(given.kwargs["input_ids"][:, -1].cpu())
        self._last = result.output.logits[:, -1].cpu()

    def _prepared(self, kind: str, given: Given) -> Iterator[Outside]:
        for found in (*given.args, *given.kwargs.values()):
            if isinstance(found, torch.Tensor) and found.is_floating_point() and found.dim() == 5:
                expected = normalise(torch.stack([*self._pixels]), self._engine.pixel_spec, torch.float32)
                yield _compared(PIXELS, kind, found, expected)

    def _copies(self, forward: Forward) -> Iterator[Outside]:
        """A pass must begin with the keys and values that the pass before it left, to the last bit; the rows of the
        suffix begin with copies of their video's."""
        for layer, begun in forward.cache.items():
            for one, other in zip(self._left.get(layer, ()), begun, strict=False):
                expected = one.cpu()[list(self._rows.places)] if forward.kind == SUFFIX else one.cpu()
                same_shape = expected.shape == other.shape
                if not same_shape or not torch.allclose(expected, other.cpu(), 0, 0, equal_nan=True):
                    yield Outside(COPIES, forward.kind, other, Deviation(math.inf, where=f"different in layer {layer}"))
                    return

    def _chosen(self, ids: torch.Tensor) -> Iterator[Outside]:
        """A row's next token must have the largest logit, unless a logit is NaN or infinite."""
        assert self._last is not None
        is_known = self._last.isfinite().all(-1)
        is_largest = self._last.gather(1, ids[:, None])[:, 0] == self._last.amax(-1)
        yield Outside(TOKENS, DECODE, ids, deviation(is_largest | ~is_known, torch.ones_like(is_known), torch.bool))


def _positions(kind: str, given: Given) -> Iterator[Outside]:
    """A seen token's position must be the number of seen tokens before it."""
    given_both = [given.kwargs.get(name) for name in ("position_ids", "attention_mask")]
    tensors = [each.cpu() for each in given_both if isinstance(each, torch.Tensor) and each.dim() == 2]
    if len(tensors) < 2:
        return  # the model's own code computes them, and is checked like a module
    positions, mask = tensors
    expected = (mask.long().cumsum(-1) - 1)[:, -positions.shape[1] :]
    is_seen = mask[:, -positions.shape[1] :] != 0
    found, expected = (each.expand_as(is_seen).where(is_seen, 0) for each in (positions, expected))
    wrong = deviation(found[..., None], expected[..., None], found.dtype)  # a column: the text names positions
    yield Outside(POSITIONS, kind, found, wrong)


def _compared(name: str, kind: str, found: torch.Tensor, expected: torch.Tensor) -> Outside:
    return Outside(name, kind, found, deviation(on_host(found), expected, found.dtype))
