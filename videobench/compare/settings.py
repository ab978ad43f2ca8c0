"""What a comparison is given. Without numpy, so that `precision_test.py --help` answers at once."""

from dataclasses import dataclass
from pathlib import Path

SCORINGS = ("strict", "logprob", "mindie")


@dataclass(frozen=True)
class ComparisonSettings:
    npu_path: Path  # result file, or folder of result files
    gpu_path: Path
    answer_path: Path  # sampling_answer.json or ANSWER.json
    repeat_path: Path | None = None  # a second run of either device
    scoring: str = SCORINGS[0]  # of SCORINGS: how a reply becomes a letter
    margin: float = 1.0  # points of accuracy, over 0
    seed: int = 0  # of the bootstrap
