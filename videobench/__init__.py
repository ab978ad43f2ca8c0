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
    """cli.start. What stops it from being imported, as a Ctrl-C that comes so early, gets a line and its status, too:
    Python's own would be 1, which says that some questions failed."""
    try:
        from videobench.cli import start
    except KeyboardInterrupt:
        sys.stderr.write("stopped by SIGINT before anything had begun\n")
        status = 130
    except EnvironmentError as error:  # noqa: UP024
        found = "error: the suite cannot be loaded ({}); check ulimit -n and its files\n"
        sys.stderr.write(found.format(error))
        status = 2
    except Exception:
        sys.excepthook(*sys.exc_info())
        status = 70
    else:
        start(main)
    sys.stderr.flush()
    os._exit(status)
