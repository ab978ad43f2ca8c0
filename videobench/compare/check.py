"""--check_file: is this a result file, and what does it lack for which part of a comparison?"""

from collections.abc import Callable, Iterator
from pathlib import Path

from videobench.console import one_line
from videobench.data.results import read_replies
from videobench.data.rows import Reply

# Part of a comparison, the fields that it takes, whether a reply has them.
PARTS: tuple[tuple[str, str, Callable[[Reply], object]], ...] = (
    ("accuracy", "output_sequence", lambda reply: not reply.error),
    ("texts of options as letters", "choices", lambda reply: reply.options),
    ("intervals by video", "vid_path or video_id", lambda reply: reply.vid_path or reply.video_id != ""),
    ("same question?", "question", lambda reply: reply.question),
    ("same prompts?", "prompt_sha256", lambda reply: reply.prompt_sha256),
    ("at least as long?", "prompt_tokens", lambda reply: reply.prompt_tokens is not None),
    ("same pixels?", "pixels_sha256", lambda reply: reply.pixels_sha256),
    ("smoothed accuracy, divergence", "letter_logprobs", lambda reply: reply.logprobs),
    ("what rounding explains", "run.dtype", lambda reply: reply.run.get("dtype")),
    ("which card is broken", "rank", lambda reply: reply.rank is not None),
    (
        "long videos, large frames",
        "frames_decoded, resolution",
        lambda reply: reply.frames_decoded and reply.resolution,
    ),
)


def check_file(path: Path) -> Iterator[str]:
    """Lines to print. Raises InputError, naming the file and the row, where it is none."""
    kind, replies = read_replies(path)
    failed = sum(bool(reply.error) for reply in replies)
    yield one_line(f"{path}: {kind}, {len(replies):,} replies, {failed:,} of them failed")
    yield f"  {'part of a comparison':30} {'takes':28} replies that have it"
    answered = [reply for reply in replies if not reply.error] or replies
    for part, fields, has in PARTS:
        count = sum(bool(has(reply)) for reply in answered)
        mark = " " if count == len(answered) else "!"
        yield f"{mark} {part:30} {fields:28} {count:,} of {len(answered):,}"
