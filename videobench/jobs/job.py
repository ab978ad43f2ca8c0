"""Coordinate the processes of one job started by torchrun: share out the work and wait for each other.

`process` and `local_rank` are torchrun's RANK and LOCAL_RANK. A replica is one copy of the weights: one process, or
with tensor parallel a group of processes with consecutive numbers, whose first is its leader. Work is claimed from a
counter in `store` (of torch.distributed) instead of being split beforehand, so a slow card does not delay the others.
Without torchrun there is one process and no store.
"""

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import cache
from itertools import accumulate
from typing import Any
from uuid import uuid4

from videobench.errors import InputError, OtherProcessFailed, ProcessLost

BEAT_S = 5.0
SILENCE_S = 60.0  # heartbeats come from a thread, so also while swapping or waiting for a disk


class Heartbeats:
    """Heartbeats of all processes, counted in the store of torch.distributed. They are needed because torchrun notices
    a lost machine only when one of its own processes dies."""

    def __init__(self, store: Any, process: int) -> None:
        self._store = store
        self._heard: dict[int, tuple[int, float]] = {}  # process -> its count, and when that last changed
        self._next_check = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, args=(process,), name="heartbeats", daemon=True)
        self._thread.start()

    def check(self, processes: Iterable[int]) -> None:
        """Raises ProcessLost if one of the processes has been silent for SILENCE_S; call this regularly."""
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + BEAT_S
        for process in processes:
            count = int(self._store.add(f"alive/{process}", 0))
            heard, since = self._heard.get(process, (-1, now))
            if count != heard:
                self._heard[process] = count, now
            elif now - since > SILENCE_S:
                raise ProcessLost(
                    f"process {process} of this job has been silent for {SILENCE_S:g} s: its machine or its torchrun "
                    "is gone; start the same command again on all machines, but without --overwrite: what was answered "
                    "is kept"
                )

    def close(self) -> None:
        """Stop the thread: one still inside torch's library when Python ends would crash it. If it is waiting for a
        lost machine, it is left behind."""
        self._ended.set()
        self._thread.join(BEAT_S)

    def _beat(self, process: int) -> None:
        with suppress(RuntimeError):  # the store is gone, which the main thread notices itself
            while not self._ended.is_set():
                self._store.add(f"alive/{process}", 1)
                self._ended.wait(BEAT_S)


CONNECT = timedelta(minutes=10)  # time for all processes to start from a slow shared disk
POLL_S = 0.1


class Job:
    """This process's view of its job.

    Methods that wait for other processes raise OtherProcessFailed if one of them has ended the job, and ProcessLost if
    one that they wait for is gone."""

    def __init__(
        self,
        process: int = 0,
        num_processes: int = 1,
        local_rank: int = 0,
        store: Any = None,
        tensor_parallel: int = 1,
    ):
        self.process = process
        self.is_first = process == 0
        self.replica, self.shard = divmod(process, tensor_parallel)  # which copy of the weights, and which part of it
        self.is_leader = self.shard == 0  # speaks for its replica
        self.num_replicas = num_processes // tensor_parallel
        self.tensor_parallel = tensor_parallel
        self.local_rank = local_rank  # the index of this process's card
        self.store = store
        self._heartbeats = Heartbeats(store, process) if store is not None else None
        self._group = range(self.replica * tensor_parallel, (self.replica + 1) * tensor_parallel)
        self.num_claimed = 0  # by all replicas, as of this one's last claim
        self._counts: Counter[str] = Counter()

    @classmethod
    def from_environment(cls, tensor_parallel: int = 1) -> "Job":
        """Create the job from torchrun's variables, or for one process if unset. Raises InputError if they make no
        sense."""
        num_processes = int(os.environ.get("WORLD_SIZE", "1"))
        local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        # A group must be on one machine: it exchanges data after every layer, too often for links between machines.
        if local_world_size % tensor_parallel or num_processes % tensor_parallel:
            raise InputError(
                f"--tensor_parallel {tensor_parallel}: {num_processes} processes, {local_world_size} of them on this "
                "machine, cannot be grouped so; start a multiple of it on each machine, one for each card"
            )
        if num_processes == 1:
            return cls(local_rank=local_rank)
        store, process = _connect()
        return cls(process, num_processes, local_rank, _join(store, process, num_processes), tensor_parallel)

    def close(self) -> None:
        """End the heartbeats: this process is done with the job."""
        if self._heartbeats:
            self._heartbeats.close()

    def broadcast(self, name: str, content: Any) -> Any:
        """Return process 0's `content` (JSON) on every process. Use a `name` only once per job."""
        if self.store is None:
            return content
        if self.is_first:
            self.store.set(name, json.dumps(content))
        self._poll(lambda: self.store.check([name]), [0])
        return json.loads(self.store.get(name))

    def wait_for(self, key: str) -> str:
        """Wait until another process of the group has set a key in the store; returns its value."""
        self._poll(lambda: self.store.check([key]), self._group)
        return str(self.store.get(key).decode())

    def meet_group(self, place: str) -> None:
        """Wait until all processes of this replica have reached a place (once per place). Raises if one has failed on
        the way; a torch collective would keep waiting for it."""
        key = f"met/{self.replica}/{place}"
        self.store.add(key, 1)
        self._poll(lambda: self.store.add(key, 0) >= self.tensor_parallel, self._group)

    def claim(self, count: int) -> Iterator[int]:
        """Yield numbers below `count` in ascending order; every number goes to only one replica."""
        while True:
            self.num_claimed = self.num_claimed + 1 if self.store is None else int(self.store.add("claimed", 1))
            if self.num_claimed > count:
                return
            self.check_others()
            yield self.num_claimed - 1

    def count(self, name: str, number: int) -> int:
        """Add to this process's counter of that name; returns the sum over all processes."""
        self._counts[name] += number
        return self._counts[name] if self.store is None else int(self.store.add(f"counted/{name}", number))

    def wait_for_all(self, while_waiting: Callable[[], object] = lambda: None) -> None:
        """Make process 0 wait until every replica has called this; the others return at once."""
        if self.store is None or not self.is_leader:
            return
        self.store.add("finished", 1)
        if self.is_first:
            everyone = range(self.num_replicas * self.tensor_parallel)
            self._poll(lambda: self.store.add("finished", 0) >= self.num_replicas, everyone, while_waiting)

    def was_noted(self, note: str) -> bool:
        """Whether `note` was called with this in any start of the job: torchrun keeps notes across restarts."""
        return _is_under_torchrun() and bool(_connect()[0].check([note]))

    def note(self, note: str) -> None:
        if _is_under_torchrun():
            _connect()[0].set(note, "")

    def check_others(self) -> None:
        """Raises OtherProcessFailed if another process has ended the job by stop_others."""
        if self.store is not None:
            _check_stopped(_connect()[0])

    def _poll(
        self, is_done: Callable[[], bool], waited_for: Iterable[int], while_waiting: Callable[[], object] | None = None
    ) -> None:
        while not is_done():
            self.check_others()
            if self._heartbeats:
                self._heartbeats.check(waited_for)
            if while_waiting:
                while_waiting()
            time.sleep(POLL_S)


def stop_others() -> None:
    """Make the other processes of the job raise OtherProcessFailed, including those that are still starting."""
    is_connected = _connect.cache_info().currsize or _is_under_torchrun()
    if is_connected and os.environ.get("WORLD_SIZE", "1") != "1":
        with suppress(InputError):  # torchrun's variables make no sense: that is what is being reported
            _connect()[0].set("stopped", "")


def _is_under_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


@cache
def _connect() -> tuple[Any, int]:
    """Connect to the job's store; returns it and the number of this process."""
    try:
        process, world_size, port = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
        host = os.environ["MASTER_ADDR"]
    except (KeyError, ValueError) as error:
        raise InputError(
            f"WORLD_SIZE is set but the other variables of torchrun are not ({error}); use torchrun"
        ) from None
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    # Usually torchrun's agent serves the store, otherwise process 0.
    has_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        store = TCPStore(host, port, world_size, is_master=process == 0 and not has_agent, timeout=CONNECT)
    except (RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"MASTER_ADDR {host}, MASTER_PORT {port}: the job has no store there ({reason}); use torchrun, or another "
            "port"
        ) from None
    return PrefixStore("videobench", store), process


def _join(store: Any, process: int, num_processes: int) -> Any:
    """Return a part of the store that only this start of the processes uses.

    torchrun's store outlives restarts, and on several machines every torchrun counts restarts on its own, so its
    variables cannot tell this start from the last one. Therefore every process writes a hello with a random name, and
    process 0 answers all hellos until all live processes have received the answer."""
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

    ends = time.monotonic() + CONNECT.total_seconds()
    if process == 0:
        start = uuid4().hex
        answered: dict[int, str] = {}
        while int(store.add(f"joined/{start}", 0)) < num_processes - 1:
            _check_start(store, ends)
            for other in range(1, num_processes):
                if store.check([f"hello/{other}"]):
                    hello = store.get(f"hello/{other}").decode()
                    if answered.get(other) != hello:
                        store.set(f"start/{hello}", start)
                    answered[other] = hello
            time.sleep(POLL_S)
    else:
        hello = uuid4().hex
        store.set(f"hello/{process}", hello)
        while not store.check([f"start/{hello}"]):
            _check_start(store, ends)
            time.sleep(POLL_S)
        start = store.get(f"start/{hello}").decode()
        store.add(f"joined/{start}", 1)
    return PrefixStore(start, store)


def _check_start(store: Any, ends: float) -> None:
    _check_stopped(store)
    if time.monotonic() > ends:
        raise ProcessLost(
            f"other processes of this job did not start within {CONNECT}; start the same command again on all machines"
        )


def _check_stopped(store: Any) -> None:
    if store.check(["stopped"]):
        raise OtherProcessFailed


# Videos that a replica has claimed, to decode ahead or for a batch, are lost to the others. It claims for either at
# most a sixth of its even share of the remaining work, so that all replicas finish at about the same time.
HELD_PART = 6


def limit_held(job: Job, costs: Sequence[float]) -> Callable[[], int]:
    """Return a function that gives the most videos, all like the next one, that this replica should decode ahead or
    answer together. `costs` are those of all videos, in the order of claiming and in any unit."""
    left = [*accumulate(reversed(costs), initial=0)][::-1]  # cost from each number on

    def most_held() -> int:
        if job.num_replicas == 1:
            return len(costs)
        if job.num_claimed >= len(costs):
            return 1
        return max(1, int(left[job.num_claimed] / (HELD_PART * job.num_replicas * costs[job.num_claimed])))

    return most_held
