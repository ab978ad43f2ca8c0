"""A script that uses the decode pool as a run does: `pool_user.py <folder> <names>`.

It has no `if __name__ == "__main__"`: workers must not import the script that starts them."""

import sys
from pathlib import Path

from tests.support.stubborn_worker import SPEC, STUBBORN
from videobench.video.pool import DecodePool

with DecodePool(SPEC, 8, 1, worker_command=STUBBORN) as pool:
    for number, prepared in enumerate(pool.prepare([Path(sys.argv[1]) / f"{name}.avi" for name in sys.argv[2:]])):
        (worker,) = pool._workers
        print(number, prepared.error, worker._process.pid, flush=True)
