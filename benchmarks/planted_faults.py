"""Does --check_model name a broken operator? python benchmarks/planted_faults.py [--dtypes DTYPE...] [FAULT...]

Plants faults of real ports, one at a time, into the simulated NPU (tests/sim_npu) and checks the small model on the
small data, in each dtype. The table: how far each fault moves a log-probability of the first position, in batches as in
a run, and which module, operator and forward pass the check names first; nothing if nothing deviates.
"""

import argparse
import contextlib
import functools
import io
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOUBLE = ROOT / "tests" / "sim_npu"
DTYPES = ("float32", "float16", "bfloat16")
FRAMES = {"long-mask": 56}  # more than 512 keys; 8 frames otherwise
STEPS = {"late": 6}  # decoding steps; 2 otherwise
CARDS = {"card-1": 1}  # 0 otherwise
FEW_ROWS = 6  # of a batch, for most faults; a sound device is tried with as many as a run has
ROWS = {"rows-16": 18}


def main() -> int:
    """1 if a fault was missed that moved an answer, or if a sound device deviates."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "faults", nargs="*", metavar="FAULT", help="of tests/sim_npu/torch_npu/_wrong.py (default: all)"
    )
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    args = parser.parse_args()
    if str(DOUBLE) not in sys.path:
        paths = f"{DOUBLE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        environment = os.environ | {"PYTHONPATH": paths, "SIM_NPU_COUNT": "2"}
        os.execve(sys.executable, [sys.executable, "-W", "ignore", *sys.argv], environment)
    sys.path.insert(0, str(ROOT))
    from videobench.device.devices import DEFAULT_BATCH_SIZES, open_device
    from videobench.tolerances import TOLERANCES

    open_device("npu")  # before transformers
    import torch
    import torch_npu._wrong as wrong  # the double's

    missed = 0
    print(f"{'fault':15} {'dtype':9} {'moves, nats':>11}  first named: module, operator, forward pass")
    for fault in args.faults or ["none", *wrong.SOUND, *wrong.WRONG]:
        is_sound = fault == "none" or fault in wrong.SOUND
        rows = DEFAULT_BATCH_SIZES["npu"] if is_sound else ROWS.get(fault, FEW_ROWS)
        frames, steps, card = FRAMES.get(fault, 8), STEPS.get(fault, 2), CARDS.get(fault, 0)
        for dtype in args.dtypes:
            check, engine, sound = sound_device(dtype, frames, steps, card, rows)
            torch.npu.set_device(card)  # the check before may have used another
            if fault != "none":
                wrong.plant(fault)
            first = first_named(check, engine, dtype)
            moved = max(abs(one - other) for one, other in zip(sound, logprobs(check, engine), strict=True))
            wrong.mend()
            # In 16 bits it must be found if it moves a log-probability by more than rounding does.
            least = 0 if dtype == "float32" else TOLERANCES[dtype].devices
            is_missed = bool(first) if is_sound else not first and moved > least
            missed += is_missed
            print(f"{fault:15} {dtype:9} {moved:11.2g}  {first}{'  MISSED' if is_missed else ''}", flush=True)
    return min(missed, 1)


@functools.cache
def sound_device(dtype: str, num_frames: int, steps: int, card: int, rows: int):
    """The check of the small model on one card, its engine, and the log-probabilities of its batches."""
    from tests.support.model_checks import small_check
    from videobench.device.devices import open_device

    check = small_check(open_device("npu", card), num_frames, steps, rows, dtype)
    engine = check.load(dtype)
    return check, engine, logprobs(check, engine)


def logprobs(check, engine) -> list[float]:
    answers = [answer for batch in check.batches() for rows in batch.answer(engine) for answer in rows]
    return [value for answer in answers for value in answer.letter_logprobs.values()]


def first_named(check, engine, dtype: str) -> str:
    """Module, operator and forward pass."""
    import torch

    from tests.support import model_checks

    torch.manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()):
        report = check.in_dtype(engine, dtype)
    if first := model_checks.first_named(report):
        operator = [first["operator"].partition("(")[0]] if first["operator"] else []
        return ", ".join([first["module"], *operator, first["kind"]])
    return "" if report["agrees"] else "rows of a batch"


if __name__ == "__main__":
    sys.exit(main())
