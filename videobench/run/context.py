"""What stays the same from a run's first batch to its last."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from videobench.device.devices import Device
from videobench.jobs.job import Job
from videobench.model.cost import DTYPE_BYTES
from videobench.model.sharding import weights_per_card
from videobench.run.options import RunSettings
from videobench.run.plan import Plan

if TYPE_CHECKING:
    from videobench.model.checkpoint import Checkpoint


@dataclass(frozen=True)
class RunContext:
    settings: RunSettings
    job: Job
    device: Device
    checkpoint: "Checkpoint"
    plan: Plan

    @property
    def weights_bytes(self) -> int:
        """On each card."""
        numbers = weights_per_card(self.checkpoint.weights, self.settings.tensor_parallel)
        return numbers * DTYPE_BYTES[self.settings.dtype]
