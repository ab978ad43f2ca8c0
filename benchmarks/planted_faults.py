"""Does --check_model name a broken operator? python benchmarks/planted_faults.py [FAULT...]

Plants faults of real ports, one at a time, into the simulated NPU (tests/sim_npu) and checks the small model on the
small data, in each dtype. The table: how far each fault moves a log-probability of the first position, in batches as in
a run, and which module, operator and forward pass the check names first; nothing if nothing deviates.
"""

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
    if str(DOUBLE) not in sys.path:
        paths = f"{DOUBLE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        environment = os.environ | {"PYTHONPATH": paths, "SIM_NPU_COUNT": "2"}
        os.execve(sys.executable, [sys.executable, "-W", "ignore", *sys.argv], environment)
    sys.path.insert(0, str(ROOT))
    from videobench.device.devices import DEFAULT_BATCH_SIZES, open_device
    from videobench.tolerances import TOLERANCES

    open_device("npu")  # before transformers
    import torch_npu._wrong as wrong  # the double's
    from transformers.utils import logging

    logging.disable_progress_bar()
    missed = 0
    print(f"{'fault':15} {'dtype':9} {'moves, nats':>11}  first named: module, operator, forward pass")
    for fault in sys.argv[1:] or ["none", *wrong.SOUND, *wrong.WRONG]:
        is_sound = fault == "none" or fault in wrong.SOUND
        rows = DEFAULT_BATCH_SIZES["npu"] if is_sound else ROWS.get(fault, FEW_ROWS)
        for dtype in DTYPES:
            checked = Checked(dtype, FRAMES.get(fault, 8), STEPS.get(fault, 2), CARDS.get(fault, 0), rows)
            if fault != "none":
                wrong.plant(fault)
            first, moved = checked.first(), checked.moved()
            wrong.mend()
            # In 16 bits it must be found if it moves a log-probability by more than rounding does.
            least = 0 if dtype == "float32" else TOLERANCES[dtype].devices
            is_missed = bool(first) if is_sound else not first and moved > least
            missed += is_missed
            print(f"{fault:15} {dtype:9} {moved:11.2g}  {first}{'  MISSED' if is_missed else ''}", flush=True)
    return min(missed, 1)


class Checked:
    """The small model on one card, which is sound when this is made."""

    def __init__(self, dtype: str, num_frames: int, steps: int, card: int, rows: int) -> None:
        from tests.support.model_checks import small_check

        self._dtype = dtype
        self._check, self._engine, self._sound = _sound(small_check, dtype, num_frames, steps, card, rows)

    def moved(self) -> float:
        """The largest difference of a log-probability from those of the sound device, in nats."""
        pairs = zip(self._sound, _logprobs(self._check, self._engine), strict=True)
        return max(abs(one - other) for one, other in pairs)

    def first(self) -> str:
        """Module, operator and forward pass."""
        import torch

        from tests.support.model_checks import first_named

        torch.manual_seed(0)
        with contextlib.redirect_stdout(io.StringIO()):
            report = self._check.in_dtype(self._engine, self._dtype)
        if first := first_named(report):
            operator = [first["operator"].partition("(")[0]] if first["operator"] else []
            return ", ".join([first["module"], *operator, first["kind"]])
        return "" if report["agrees"] else "rows of a batch"


@functools.cache
def _sound(small_check, dtype: str, num_frames: int, steps: int, card: int, rows: int):
    """The check, its engine, and the log-probabilities of its batches."""
    from videobench.device.devices import open_device

    check = small_check(open_device("npu", card), num_frames, steps, rows)
    engine = check.load(dtype)
    return check, engine, _logprobs(check, engine)


def _logprobs(check, engine) -> list[float]:
    answers = [answer for batch in check.batches() for rows in batch.answer(engine) for answer in rows]
    return [value for answer in answers for value in answer.letter_logprobs.values()]


if __name__ == "__main__":
    sys.exit(main())
