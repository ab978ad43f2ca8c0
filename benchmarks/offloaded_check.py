"""What --check_model takes and finds on the middle-sized model, if it fits its card or if it does not.

python benchmarks/offloaded_check.py [--room MB] [--fault NAME] [--dtype DTYPE]

On the simulated NPU (tests/sim_npu), whose memory is the process's own. With --room, so many MB of the weights lie on
the card, the others stay in the files. Prints the findings, processor time, and the most memory of card and process.
"""

import argparse
import math
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parents[1]
DOUBLE = ROOT / "tests" / "sim_npu"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--room", type=float, metavar="MB")
    parser.add_argument("--fault", help="one of tests/sim_npu/torch_npu/_wrong.py")
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    if str(DOUBLE) not in sys.path:
        paths = f"{DOUBLE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        command = [sys.executable, "-W", "ignore", *sys.argv]
        os.execve(sys.executable, command, os.environ | {"PYTHONPATH": paths})
    sys.path.insert(0, str(ROOT))
    from videobench.device.devices import memory_bytes, open_device

    device = open_device("npu")
    import torch
    import torch_npu._wrong as wrong  # the double's

    from tests.support import model_checks
    from tests.support.random_checkpoint import SHAPES, make_model, save_checkpoint, write_checkpoint
    from videobench.locate import check as locate_check

    with tempfile.TemporaryDirectory() as folder:
        hollow, whole = write_checkpoint(SHAPES["mid"], Path(folder) / "hollow"), Path(folder) / "mid"
        save_checkpoint(hollow, whole, make_model(hollow, torch.device("cpu"), torch.float32))
        with mock.patch.object(model_checks, "SMALL_MODEL", whole):
            check = model_checks.small_check(device, rows=4, dtype=args.dtype)
        if args.fault:
            wrong.plant(args.fault)
        began = time.process_time()
        if args.room is not None:
            locate_check.ROOM, locate_check.OFFLOAD_ROOM = math.inf, args.room * 1e6 / memory_bytes(device)[0]
        engine = check.load(args.dtype)
        report = check.in_dtype(engine, args.dtype)
    card = torch.npu.max_memory_allocated() / 1e9
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(f"{time.process_time() - began:.0f} s of processor time, {card:.2f} GB on the card, {host:.2f} GB in all")
    return 0 if report["agrees"] else 1


if __name__ == "__main__":
    sys.exit(main())
