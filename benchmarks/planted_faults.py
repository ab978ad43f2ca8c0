"""Does --check_model name a broken operator? python benchmarks/planted_faults.py [FAULT...]

Plants faults of real ports, one at a time, into the simulated NPU (tests/sim_npu), answers four questions of the small
data with the small model in each dtype, and checks the model. The table: how far each fault moves a log-probability of
the first position, and which module, operator and call the check names first; nothing where nothing departs.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOUBLE = ROOT / "tests" / "sim_npu"
DTYPES = ("float32", "float16", "bfloat16")
FRAMES = {"long-mask": 56}  # more than 512 keys; 8 frames otherwise
MOVED = 0.1  # nats: what moves a log-probability by more must be found in 16 bits, too


def main() -> int:
    """1 where a fault was missed that moved an answer, or where a sound device departs."""
    if str(DOUBLE) not in sys.path:
        environment = os.environ | {"PYTHONPATH": f"{DOUBLE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        os.execve(sys.executable, [sys.executable, "-W", "ignore", *sys.argv], environment)
    sys.path.insert(0, str(ROOT))
    from videobench.device.devices import open_device

    device = open_device("npu")
    import torch_npu._wrong as wrong  # the double's
    from transformers.utils import logging

    logging.disable_progress_bar()
    missed = 0
    print(f"{'fault':15} {'dtype':9} {'moves, nats':>11}  first named: module, operator, call")
    for fault in sys.argv[1:] or ["none", *wrong.SOUND, *wrong.WRONG]:
        frames = FRAMES.get(fault, 8)
        for dtype in DTYPES:
            sound = answers(device, dtype, frames)[0]
            if fault != "none":
                wrong.plant(fault)
            found, first = answers(device, dtype, frames)
            wrong.mend()
            moved = max(abs(one - other) for one, other in zip(sound, found, strict=True))
            is_sound = fault == "none" or fault in wrong.SOUND
            is_missed = bool(first) if is_sound else not first and (moved > MOVED or (moved > 0 and dtype == "float32"))
            missed += is_missed
            print(f"{fault:15} {dtype:9} {moved:11.2g}  {first}{'  MISSED' if is_missed else ''}", flush=True)
    return min(missed, 1)


def answers(device, dtype: str, num_frames: int) -> tuple[list[float], str]:
    """Log-probabilities of the options of all questions, and what the check names first."""
    import torch

    from tests.support.model_checks import check_videos, small_questions

    torch.manual_seed(0)
    given, findings = check_videos(device, dtype, *small_questions(num_frames))
    logprobs = [value for rows in given for row in rows for value in row.letter_logprobs.values()]
    if not findings.departures:
        return logprobs, ""
    first = findings.departures[0]
    operator = [first.operator.name] if first.operator else []
    return logprobs, ", ".join([first.family, *operator, first.call])


if __name__ == "__main__":
    sys.exit(main())
