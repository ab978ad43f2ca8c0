"""The processes of one job, as torchrun starts them: who does what, and when all are done.

Work is drawn from a counter in torch.distributed's store, not cut up beforehand, so that a slow card does not hold the
others. Without torchrun there is one rank and no store. With tensor parallel, `size` processes with following numbers
form a group that holds one copy of the weights; what is called a rank here is then such a group, and its first process
speaks for it.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from functools import cache
from typing import Any
from uuid import uuid4

from videobench.errors import InputError, OtherRankFailed, ProcessLost
from videobench.jobs.heartbeats import Heartbeats

CONNECT = timedelta(minutes=10)  # for all ranks to start, on a slow shared disk
POLL_S = 0.1


class Ranks:
    """This process among the others."""

    def __init__(
        self,
        process: int = 0,
        num_processes: int = 1,
        local_rank: int = 0,
        store: Any = None,
        tensor_parallel: int = 1,
    ):
        self.process = process
        self.rank, self.member = divmod(process, tensor_parallel)  # the copy of the weights; the place within it
        self.world_size = num_processes // tensor_parallel  # copies of the weights
        self.tensor_parallel = tensor_parallel
        self.local_rank = local_rank  # the index of this process's card
        self.store = store
        self._heartbeats = Heartbeats(store, process) if store is not None else None
        self._group = range(self.rank * tensor_parallel, (self.rank + 1) * tensor_parallel)
        self._drawn = 0
        self._counted = 0

    @classmethod
    def from_environment(cls, tensor_parallel: int = 1) -> "Ranks":
        """From torchrun's variables; one rank where there are none. Raises InputError where they make no sense."""
        try:
            num_processes = int(os.environ.get("WORLD_SIZE", "1"))
            local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
            local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        except ValueError as error:
            raise InputError(
                f"WORLD_SIZE, LOCAL_WORLD_SIZE or LOCAL_RANK is no number ({error}); use torchrun, or unset them"
            ) from None
        # Of one machine: the processes of a group meet after each layer, which links between machines are too slow for.
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
        """When this process does nothing more for the job."""
        if self._heartbeats:
            self._heartbeats.close()

    @property
    def is_first(self) -> bool:
        return self.process == 0

    @property
    def is_leader(self) -> bool:
        """Whether this process speaks for its copy of the weights."""
        return self.member == 0

    def share(self, content: Any) -> Any:
        """What the first process passes, on every process; JSON. Once for each job.

        This and all below that wait raise OtherRankFailed, and ProcessLost where whoever they wait for is gone."""
        return self._share("shared", content)

    def share_status(self, status: int | None) -> int:
        """The exit status of the job, which the first process passes, on every process."""
        return int(self._share("status", status))

    def wait_for(self, key: str) -> str:
        """The value that another process of the group has given to a key of the store."""
        self._poll(lambda: self.store.check([key]), self._group)
        return str(self.store.get(key).decode())

    def meet_group(self, place: str) -> None:
        """Returns when all processes that share this copy of the weights have come to a place, each of them once.

        Where one has failed on the way it raises: in a collective of torch they would wait for that one."""
        key = f"met/{self.rank}/{place}"
        self.store.add(key, 1)
        self._poll(lambda: self.store.add(key, 0) >= self.tensor_parallel, self._group)

    def draw(self, count: int) -> Iterator[int]:
        """Numbers below `count` in ascending order, each of them on one rank only. Raises OtherRankFailed."""
        while (number := self._next()) < count:
            self.check_others()
            yield number

    @property
    def drawn(self) -> int:
        """How many numbers all ranks had drawn when this one last drew."""
        return self._drawn

    def count(self, number: int) -> int:
        """Add to what is done; what all ranks have done."""
        self._counted += number
        return self._counted if self.store is None else int(self.store.add("counted", number))

    def wait_for_all(self, while_waiting: Callable[[], object] = lambda: None) -> None:
        """Returns on the first rank when every rank has come here, on the others at once."""
        if self.store is None or not self.is_leader:
            return
        self.store.add("finished", 1)
        if self.is_first:
            everyone = range(self.world_size * self.tensor_parallel)
            self._poll(lambda: self.store.add("finished", 0) >= self.world_size, everyone, while_waiting)

    def was_noted(self, note: str) -> bool:
        """By `note`, in any start of this job's processes by torchrun, which keeps notes over restarts."""
        return _is_under_torchrun() and bool(_connect()[0].check([note]))

    def note(self, note: str) -> None:
        if _is_under_torchrun():
            _connect()[0].set(note, "")

    def check_others(self) -> None:
        """Raises OtherRankFailed where another process has ended the job by stop_others."""
        if self.store is not None:
            _check_stopped(_connect()[0])

    def _share(self, key: str, content: Any) -> Any:
        if self.store is None:
            return content
        if self.is_first:
            self.store.set(key, json.dumps(content))
        self._poll(lambda: self.store.check([key]), [0])
        return json.loads(self.store.get(key))

    def _next(self) -> int:
        self._drawn = self._drawn + 1 if self.store is None else int(self.store.add("drawn", 1))
        return self._drawn - 1

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
    """Makes the other processes of the job raise OtherRankFailed, also those that are still starting."""
    is_connected = _connect.cache_info().currsize or _is_under_torchrun()
    if is_connected and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _connect()[0].set("stopped", "")


def _is_under_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


@cache
def _connect() -> tuple[Any, int]:
    """The store of the whole job, and the number of this process."""
    try:
        process, world_size, port = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
        host = os.environ["MASTER_ADDR"]
    except (KeyError, ValueError) as error:
        raise InputError(
            f"WORLD_SIZE is set but the other variables of torchrun are not ({error}); use torchrun"
        ) from None
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    # torchrun's agent serves the store itself; started in another way, rank 0 does.
    has_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = TCPStore(host, port, world_size, is_master=process == 0 and not has_agent, timeout=CONNECT)
    return PrefixStore("videobench", store), process


def _join(store: Any, process: int, num_processes: int) -> Any:
    """A part of the store for this start of the processes alone.

    torchrun's store outlives a restart of the processes, and on many machines each torchrun counts its restarts by
    itself: no variable of its tells all processes of one start from those of the last. So each process says hello with
    a name of its own, and the first one, which answers every hello it finds, is done when all live ones have heard it.
    """
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
            f"other processes of this job have not come within {CONNECT}; start the same command again on all machines"
        )


def _check_stopped(store: Any) -> None:
    if store.check(["stopped"]):
        raise OtherRankFailed
