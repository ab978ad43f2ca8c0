"""One copy of the weights on several cards: `--tensor_parallel N`.

transformers splits the text model over all processes of torch.distributed's world (5.23 silently ignores another mesh).
So each replica's N processes form a world of their own before they load the weights. Their leader claims the work,
decodes, journals, and tells the others what to compute; they repeat its calls.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videobench.device.devices import BACKENDS, Device
from videobench.errors import InputError
from videobench.jobs.job import Job
from videobench.model.prompts import Prompt
from videobench.run.journals import InFlight
from videobench.tolerances import SAME_LOGITS

if TYPE_CHECKING:
    import torch

    from videobench.model.checkpoint import Checkpoint
    from videobench.model.engine import Engine
    from videobench.model.prompts import Answer, VideoQuestions

TIMEOUT = timedelta(minutes=10)  # for one collective: a card that hangs longer ends its job
CALL_POLL_S = 0.002
CHECK_OTHERS_S = 1.0


class GroupFailed(Exception):
    """One process of a group could not answer.

    The others may be waiting for it in a collective, so it does not try again: the group ends, and torchrun restarts
    it."""


class Group:
    """The processes that share a copy of the weights, as a world of torch.distributed."""

    def __init__(self, job: Job, device: Device) -> None:
        """Wait until all of them have joined. Raise OtherProcessFailed if a process of the job has failed."""
        import torch.distributed as dist
        from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

        self.job = job
        self.size = job.tensor_parallel
        self.device = device
        key = f"group/{job.replica}"
        if job.is_leader:
            served = TCPStore("127.0.0.1", 0, self.size, is_master=True, wait_for_workers=False)
            job.store.set(key, str(served.port))
        else:
            served = TCPStore("127.0.0.1", int(job.wait_for(key)), self.size, is_master=False)
        self.store = PrefixStore("calls", served)
        job.meet_group("start")
        dist.init_process_group(
            BACKENDS[device.kind],
            store=PrefixStore("world", served),
            rank=job.shard,
            world_size=self.size,
            timeout=TIMEOUT,
        )

    @contextmanager
    def as_world(self) -> Iterator[None]:
        """Set torchrun's variables, which transformers reads, to the group's; LOCAL_RANK stays."""
        from accelerate.utils import patch_environment

        with patch_environment(RANK=self.job.shard, WORLD_SIZE=self.size):
            yield

    def broadcast(self, tensor: "torch.Tensor") -> "torch.Tensor":
        """Copy the leader's tensor to every card of the group; the others pass a tensor of its shape and dtype."""
        import torch.distributed as dist

        tensor = tensor.to(self.device.torch_device)
        dist.broadcast(tensor, src=0)
        return tensor

    def gather(self, tensor: "torch.Tensor") -> list["torch.Tensor"]:
        """Return all processes' tensors (of one shape), in the order of the group, on every process."""
        import torch
        import torch.distributed as dist

        everyone = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(everyone, tensor.contiguous())
        return everyone

    def close(self) -> None:
        import torch.distributed as dist

        dist.destroy_process_group()


class GroupEngine:
    """An engine of several processes; the first one has the interface of Engine."""

    def __init__(self, engine: "Engine", group: Group, in_flight: InFlight) -> None:
        self._engine = engine
        self._group = group
        self._in_flight = in_flight
        self.usage = engine.usage
        self._calls = 0

    def answer(self, videos: Sequence["VideoQuestions"], batch_size: int) -> list[list["Answer"]]:
        """Do what Engine.answer does. Raises GroupFailed for any exception of it."""
        call = {
            "batch_size": batch_size,
            "in_flight": self._in_flight.videos,
            "videos": [
                {
                    "shape": list(video.pixels.shape),
                    "prompts": [[list(each.prefix_ids), list(each.suffix_ids)] for each in video.prompts],
                    "letters": [list(each) for each in video.letters],
                }
                for video in videos
            ],
        }
        self._send(call)
        return self._answer(videos, batch_size)

    def follow(self) -> None:
        """On the other processes, compute what the first one asks for until it has finished."""
        import torch

        from videobench.model.prompts import VideoQuestions

        while (call := self._receive()) is not None:
            self._in_flight.take(map(Path, call["in_flight"]))
            videos = [
                VideoQuestions(
                    torch.empty(each["shape"], dtype=torch.uint8),
                    [Prompt(tuple(prefix), tuple(suffix)) for prefix, suffix in each["prompts"]],
                    each["letters"],
                )
                for each in call["videos"]
            ]
            self._answer(videos, call["batch_size"])
        self._in_flight.drop()
        self._group.store.add("finished", 1)
        self._group.close()

    def finish(self) -> None:
        """On the first process, let the others return from `follow`, and wait for that."""
        self._send(None)
        while self._group.store.add("finished", 0) < self._group.size - 1:  # this process serves the store
            self._group.job.check_others()
            time.sleep(CALL_POLL_S)
        self._group.close()

    def _answer(self, videos: Sequence["VideoQuestions"], batch_size: int) -> list[list["Answer"]]:
        from videobench.model.prompts import VideoQuestions

        try:
            there = [VideoQuestions(self._group.broadcast(each.pixels), each.prompts, each.letters) for each in videos]
            return self._engine.answer(there, batch_size)
        except Exception as error:
            raise GroupFailed(
                f"process {self._group.job.process}, one of {self._group.size} with the same weights: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _send(self, call: Any) -> None:
        """Send a call to the others. They have read the previous one, since they took part in its collectives."""
        self._group.store.set(f"{self._calls}", json.dumps(call))
        if self._calls:
            self._group.store.delete_key(f"{self._calls - 1}")
        self._calls += 1

    def _receive(self) -> Any:
        """Poll for the next call. Not by a collective: a group may be idle for longer than its timeout."""
        key, next_check = f"{self._calls}", 0.0
        while not self._is_there(key):
            if time.monotonic() > next_check:
                self._group.job.check_others()
                next_check = time.monotonic() + CHECK_OTHERS_S
            time.sleep(CALL_POLL_S)
        self._calls += 1
        return json.loads(self._group.store.get(key))

    def _is_there(self, key: str) -> bool:
        try:
            return bool(self._group.store.check([key]))
        except RuntimeError:  # the first process, which serves the store, has ended: did it say why?
            self._group.job.check_others()
            raise


CHECK_TEXT = "What is the man in the video doing?"


def check_group(engine: "Engine", group: Group, checkpoint: "Checkpoint") -> None:
    """Raise InputError unless the text model is split and the group's processes agree on one forward pass."""
    import transformers

    held, whole = engine.count_held_weights(), checkpoint.weights.in_rest
    logits = engine.next_logits(checkpoint.tokenizer(CHECK_TEXT)["input_ids"])
    tolerance = SAME_LOGITS * logits.abs().max()
    agree = all(bool((other - logits).abs().max() <= tolerance) for other in group.gather(logits))  # False if NaN
    if held >= whole:
        found = f"each card holds {held} of {whole} text weights: nothing was split"
    elif not agree:
        found = f"the cards of replica {group.job.replica} disagree on one forward pass"
    else:
        return
    raise InputError(
        f"--tensor_parallel does not work with transformers {transformers.__version__}: {found}; use one of the "
        "versions in docs/running.md, or --tensor_parallel 1"
    )
