"""Answer Video-Bench with LLaVA-NeXT-Video on an NPU or a GPU, and compare the two."""

# Any Python must be able to read this file and the scripts: one that is too old ends here, with one line and status 2.
import os
import sys

if sys.version_info[:2] < (3, 10):  # noqa: UP036
    found = "error: Python 3.10 to 3.13 is needed, {} is {}; start the script with another one, as: python3.11 {}\n"
    sys.stderr.write(found.format(sys.executable, sys.version.split()[0], " ".join(sys.argv)))
    sys.exit(2)

# `import torch` imports an installed torch_npu by itself, and fails where CANN is missing. No script may depend on
# that: device/npu.py imports torch_npu where an NPU is asked for, and says what is wrong.
os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"


def start(main):  # type: ignore[no-untyped-def]
    """Runs a script's main function and ends the process with its exit status."""
    from videobench.cli import run_script

    sys.exit(run_script(main))
