"""Does a side's reply show that its service was not asked as ours is? What to set, before its answers are trusted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from videobench.compare.pairing import Pair
from videobench.compare.settings import Names
from videobench.data.rows import Reply

FIXES = {
    "sampling": "temperature 0 in each request, and no penalties: vLLM takes some from the checkpoint's "
    "generation_config.json unless started with --generation-config vllm",
    "prompt_tokens": "the service's chat template (the checkpoint's own), its begin-of-text token (vLLM: "
    "add_special_tokens in the request, as --export_requests writes it), the number of frames that it takes of a video",
    "model": "the service's model: the exported checkpoint, under its folder's name (vLLM: --served-model-name)",
    "cut_off": "a larger max_tokens (--max_new_tokens of the export), and no reasoning mode",
    "no_logprobs": "logprobs true and top_logprobs 20 in each request, as --export_requests writes them; AISBench and "
    "lmms-eval store none",
    "bounded": "a larger top_logprobs, where the service takes one (vLLM: --max-logprobs)",
}


@dataclass(frozen=True)
class ServiceNote:
    side: str  # "npu" or "gpu"
    cause: str  # of FIXES
    questions: int  # that show it
    text: str  # one sentence
    fix: str  # what to set


def check_services(compared: Sequence[Pair], names: Names) -> list[ServiceNote]:
    """`compared` are pairs with a reply on both sides."""
    notes = []
    for side in ("npu", "gpu"):
        replies = [getattr(pair, side).reply for pair in compared]
        title = getattr(names, side).title
        for cause, questions, text in _found([each for each in replies if not each.error]):
            notes.append(ServiceNote(side, cause, questions, f"{title}: {text}", FIXES[cause]))
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
        yield "cut_off", cut, f"{_of(cut, total)} were cut off at the most tokens that they may have"
    if answered and not any(each.logprobs or each.nonfinite for each in answered):
        yield "no_logprobs", total, "no reply has log-probabilities: accuracy alone decides, which takes more questions"
    if bounded := sum(bool(each.bounded) for each in answered):
        text = "have an option beyond the top entries: its bound counts, and the divergence leaves them out"
        yield "bounded", bounded, f"{_of(bounded, total)} {text}"


def _of(count: int, total: int) -> str:
    return f"{count:,} of {total:,} replies"
