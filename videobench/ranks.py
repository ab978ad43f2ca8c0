"""The processes of one job, as torchrun starts them: who does what, and when all are done.

Work is drawn from a counter in torch.distributed's store, not cut up beforehand, so that a slow card does not hold the
others. Without torchrun there is one rank and no store.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from videobench.errors import InputError, OtherRankFailed

CONNECT = timedelta(minutes=10)  # for all ranks to start, on a slow shared disk
POLL_S = 0.1


class Ranks:
    """This process among the others."""

    def __init__(
        self, rank: int = 0, world_size: int = 1, local_rank: int = 0, local_world_size: int = 1, store: Any = None
    ):
        self.rank = rank
        self.world_size = world_size
        self.local_rank = local_rank  # the index of this rank's card
        self.local_world_size = local_world_size  # ranks on this machine
        self._store = store
        self._drawn = 0

    @classmethod
    def from_environment(cls) -> "Ranks":
        """From torchrun's variables; one rank where there are none. Raises InputError where they make no sense."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls(local_rank=int(os.environ.get("LOCAL_RANK", "0")))
        try:
            rank, world_size, local_rank, local_world_size, port = (
                int(os.environ[name])
                for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")
            )
            host = os.environ["MASTER_ADDR"]
        except (KeyError, ValueError) as error:
            raise InputError(
                f"WORLD_SIZE is set but the other variables of torchrun are not ({error}); use torchrun"
            ) from None
        from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

        # torchrun's agent serves the store itself; started in another way, rank 0 does.
        has_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        store = TCPStore(host, port, world_size, is_master=rank == 0 and not has_agent, timeout=CONNECT)
        # The agent's store outlives a restart of the ranks: their counters start anew.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return cls(rank, world_size, local_rank, local_world_size, PrefixStore(f"videobench/{attempt}", store))

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, content: Any) -> Any:
        """What rank 0 passes, on every rank; JSON."""
        if self._store is None:
            return content
        if self.is_first:
            self._store.set("shared", json.dumps(content))
        self._poll(lambda: self._store.check(["shared"]))
        return json.loads(self._store.get("shared"))

    def draw(self, count: int) -> Iterator[int]:
        """Numbers below `count` in ascending order, each of them on one rank only."""
        while (number := self._next()) < count:
            self._check_others()
            yield number

    def wait_for_all(self) -> None:
        """Returns on rank 0 when every rank has come here, on the others at once."""
        if self._store is None:
            return
        self._store.add("finished", 1)
        if self.is_first:
            self._poll(lambda: self._store.add("finished", 0) == self.world_size)

    def stop_others(self) -> None:
        """Makes the other ranks raise OtherRankFailed at their next call."""
        if self._store is not None:
            self._store.set("stopped", "")

    def _next(self) -> int:
        if self._store is not None:
            return int(self._store.add("drawn", 1)) - 1
        self._drawn += 1
        return self._drawn - 1

    def _poll(self, is_done: Callable[[], bool]) -> None:
        while not is_done():
            self._check_others()
            time.sleep(POLL_S)

    def _check_others(self) -> None:
        if self._store is not None and self._store.check(["stopped"]):
            raise OtherRankFailed
