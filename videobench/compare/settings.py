"""The settings of a comparison. Does not import numpy, so that `precision_test.py --help` answers at once."""

from dataclasses import dataclass
from pathlib import Path

from videobench.commands import Command

SCORINGS = ("strict", "logprob", "mindie")
SIDES = {"npu": "candidate", "gpu": "reference"}  # a side's key in reports -> its name in code


@dataclass(frozen=True)
class Name:
    """What a side is called."""

    label: str  # "npu": in the terminal's tables
    title: str  # "NPU": in other tables and before a number
    phrase: str  # "the NPU": in a sentence


@dataclass(frozen=True)
class Names:
    """What the two runs are called: the candidate, which is judged, and the reference."""

    candidate: Name = Name("npu", "NPU", "the NPU")
    reference: Name = Name("gpu", "GPU", "the GPU")
    are_devices: bool = True  # the flags say NPU and GPU, so that a file of the other device is a mistake
    cluster: str = "video"  # what dependent questions have in common


NPU_AND_GPU = Names()
EVALUATED_RUN = Name("eval", "evaluated", "the evaluated run")
REFERENCE_RUN = Name("ref", "reference", "the reference run")


@dataclass(frozen=True)
class Margin:
    """Accuracy differences smaller than this count as equal."""

    size: float = 1.0  # points of accuracy; if relative, the percentage of the reference's accuracy that must be kept
    is_relative: bool = False
    one_sided: bool = False  # only a loss counts: a better NPU never fails

    def points(self, reference: float) -> float:
        """The margin in points, if the reference's accuracy is `reference` (0 to 1)."""
        return reference * (100 - self.size) if self.is_relative else self.size


@dataclass(frozen=True)
class Tolerance:
    """By how much a question's log-probabilities may differ."""

    nats: float | None = None  # None: what rounding in the coarser dtype explains
    is_judged: bool = True  # False: other numbers are expected, as from a quantised port; only accuracy is judged


@dataclass(frozen=True)
class ComparisonSettings:
    candidate_path: Path  # result file, or folder of result files
    reference_path: Path
    answer_path: Path | None  # sampling_answer.json or ANSWER.json; None: two logs, which hold their own right answers
    repeat_path: Path | None = None  # a second run of either device
    facts_path: Path | None = None  # facts of the requests that a service answered, written by --export_requests
    scoring: str = SCORINGS[0]  # of SCORINGS: how a reply becomes a letter
    margin: Margin = Margin()
    tolerance: Tolerance = Tolerance()
    log_filter: str = ""  # for tasks of a log with several filters; empty: the first one
    cluster_by: str = ""  # field of a log's documents; empty: every document is its own cluster
    names: Names = NPU_AND_GPU
    command: Command | None = None  # what was typed
