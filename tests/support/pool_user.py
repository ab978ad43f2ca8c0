"""A script that uses the decode pool as a run does, for tests that interrupt it: `pool_user.py <folder> <names>`.

It has no `if __name__ == "__main__"`: workers must not import the script that starts them."""

import signal
import sys
from pathlib import Path

from tests.support.stubborn_worker import SPEC, STUBBORN
from videobench.video.pool import DecodePool

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts jobs in the background with it ignored

with DecodePool(SPEC, 8, 1, worker_command=STUBBORN) as pool:
    for number, prepared in enumerate(pool.prepare([Path(sys.argv[1]) / f"{name}.avi" for name in sys.argv[2:]])):
        (worker,) = pool._workers
        print(number, prepared.error, worker._process.pid, flush=True)
