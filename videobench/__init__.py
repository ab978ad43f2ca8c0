"""Answer Video-Bench with LLaVA-NeXT-Video on an NPU or a GPU, and compare the two."""

# This file and the scripts must be valid in any Python: one that is too old stops here, with one line and status 2.
import os
import sys

if sys.version_info[:2] < (3, 10):  # noqa: UP036
    found = "error: Python 3.10 to 3.13 is needed, {} is {}; start the script with another one, as: python3.11 {}\n"
    sys.stderr.write(found.format(sys.executable, sys.version.split()[0], " ".join(sys.argv)))
    sys.exit(2)

# By default, `import torch` also imports an installed torch_npu, and fails if CANN is missing. Turn that off:
# device/npu.py imports torch_npu when an NPU is requested, and says what is wrong.
os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"


def start(main):  # type: ignore[no-untyped-def]
    """Run a script's main function and end the process with its exit status."""
    from videobench.cli import run_script

    sys.exit(run_script(main))
