"""What is asked of the device at once: whole videos, with as many questions as its memory takes."""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from videobench.device.devices import DEFAULT_BATCH_SIZES, Device
from videobench.device.memory import memory_bytes, release_memory
from videobench.model.cost import question_bytes
from videobench.run.options import RunSettings
from videobench.run.plan import Plan, VideoWork

if TYPE_CHECKING:
    from videobench.model.checkpoint import Checkpoint
    from videobench.video.prepared import PreparedVideo

# The rest is for what is counted nowhere: workspaces of matrix libraries, blocks too small to be used again.
USABLE_SHARE = 0.9

Prepared = tuple[VideoWork, "PreparedVideo"]


def batch_size_for(
    settings: RunSettings, device: Device, checkpoint: "Checkpoint", plan: Plan, weights_bytes: int
) -> int:
    """Questions to answer together: --batch_size, or the device's default where its memory takes as many.

    `weights_bytes` are those that are still to be loaded. One question at the least: it is then tried."""
    if settings.batch_size is not None:
        return settings.batch_size
    most = DEFAULT_BATCH_SIZES[device.kind]
    asked = [prompt for question, prompt in plan.prompts.items() if question not in plan.failures]
    if device.kind == "cpu" or not asked:
        return most
    longest = max(asked, key=len)
    needed = question_bytes(
        checkpoint,
        settings.dtype,
        settings.num_frames,
        len(longest.prefix_ids),
        len(longest) + settings.max_new_tokens,
        settings.tensor_parallel,
    )
    release_memory(device)  # what reading the weights has left in torch's own store is free, too
    usable = int((memory_bytes(device)[0] - weights_bytes) * USABLE_SHARE)
    return max(1, min(most, usable // needed))


def make_batches(
    prepared: Iterable[Prepared], batch_size: int, most_videos: Callable[[], int]
) -> Iterator[list[Prepared]]:
    """Whole videos, as many as have `batch_size` questions, or more on a single one; no more than `most_videos()`."""
    batch: list[Prepared] = []
    for work, video in prepared:
        num_questions = sum(len(each.questions) for each, _ in batch) + len(work.questions)
        if batch and (num_questions > batch_size or _prefix_length(work) != _prefix_length(batch[0][0])):
            yield batch
            batch = []
        batch.append((work, video))
        if len(batch) >= most_videos():
            yield batch
            batch = []
    if batch:
        yield batch


def _prefix_length(work: VideoWork) -> int:
    return len(work.prompts[0].prefix_ids)
