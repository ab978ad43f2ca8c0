"""What an NPU needs beside torch: torch_npu, CANN, the driver. What is missing is reported in one line with the fix.

Only this module imports torch_npu. The order of the checks matters: each runs before the one that would otherwise fail
for its reason with another message, as the wheel of torch_npu 2.13.0 does on machines without CANN.
"""

import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

from videobench.device.packages import installed_version
from videobench.errors import InputError
from videobench.files import read_bytes

# Where CANN lies: the environment first (its set_env.sh sets both), then the folders of its installers, from 8.5 on,
# before 8.5, and for a user who is not root.
CANN_VARIABLES = ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH")
CANN_FOLDERS = ("/usr/local/Ascend/cann", "/usr/local/Ascend/ascend-toolkit/latest", "~/Ascend/cann")
DRIVER_INSTALL_INFO = Path("/etc/ascend_install.info")  # a line Driver_Install_Path_Param=/usr/local/Ascend
DRIVER_FOLDER = Path("/usr/local/Ascend")
SET_ENV = "source /usr/local/Ascend/cann/set_env.sh (before CANN 8.5: ascend-toolkit/set_env.sh)"
# With 1 torch_npu computes as torch is documented; by default gelu is tanh's formula whatever is asked for, and matrix
# products take a way of their own (docs of TorchNPU, TORCH_NPU_USE_COMPATIBLE_IMPL and native gelu; releases before
# TorchNPU 26.0.0 do not know it). torch_npu reads it when it is imported. The reference computes erf's formula, and
# the difference is as large as rounding: it must not stand between two runs that are compared. Whoever has set it is
# obeyed, and each reply stores what was in force.
COMPATIBLE_VARIABLE = "TORCH_NPU_USE_COMPATIBLE_IMPL"
MAX_INFO_BYTES = 1 << 20  # of a file with a version: they have a few lines
UNKNOWN = "unknown"


def count_cards() -> int:
    """How many NPUs are visible; raises InputError if torch_npu cannot be used."""
    os.environ.setdefault(COMPATIBLE_VARIABLE, "1")  # before torch, which imports torch_npu where it may
    import torch

    try:
        import torch_npu  # noqa: F401

        # Not is_available(), which has been seen to be True while the count was 0.
        return int(getattr(torch, "npu").device_count())  # noqa: B009  # made by torch_npu
    except Exception as error:  # ImportError, or of any type: CANN raises it
        raise _explain(error, torch.__version__) from None


def versions() -> dict[str, str]:
    """The versions "torch_npu", "cann" and "npu_driver"; "unknown" if none is recorded."""
    torch_npu = installed_version("torch_npu") or UNKNOWN
    return {"torch_npu": torch_npu, "cann": cann_version(), "npu_driver": driver_version()}


def cann_version() -> str:
    """From `<cpu>-linux/ascend_toolkit_install.info` ("version=9.2.0") or version.cfg of the CANN that is set up."""
    for folder in _cann_folders():
        found = _find_entry(folder / f"{platform.machine()}-linux" / "ascend_toolkit_install.info", r"version=(\S+)")
        # toolkit_running_version=[7.3.0.1.231:8.0.RC2]: the build's number, then CANN's
        found = found or _find_entry(folder / "version.cfg", r"toolkit_\w+=\[[^\]]*?:?([^:\]]+)\]")
        if found:
            return found
    return UNKNOWN


def driver_version() -> str:
    """From the driver's version.info ("Version=25.2.0")."""
    folder = Path(_find_entry(DRIVER_INSTALL_INFO, r"Driver_Install_Path_Param=(\S+)") or DRIVER_FOLDER)
    return _find_entry(folder / "driver" / "version.info", r"Version=(\S+)") or UNKNOWN


def _cann_folders() -> Iterator[Path]:
    for name in CANN_VARIABLES:
        if os.environ.get(name):
            yield Path(os.environ[name])
    yield from (Path(folder).expanduser() for folder in CANN_FOLDERS)


def _find_entry(path: Path, pattern: str) -> str | None:
    """The group of the first match at the start of a line; None if the file is missing or has none."""
    try:
        text = read_bytes(path, MAX_INFO_BYTES).decode(errors="replace")
    except InputError:
        return None
    found = re.search("^" + pattern, text, re.MULTILINE | re.IGNORECASE)
    return found[1] if found else None


def _explain(error: Exception, torch_version: str) -> InputError:
    """An error from the import of torch_npu, or from its first call, as one line with the fix."""
    text = str(error)
    library = re.search(r"([\w.+-]+\.so[\w.]*): cannot open shared object", text)
    if library and "ascend_hal" in library[1]:
        return InputError(
            f"device npu: no Ascend driver ({library[1]} not found); install the driver, or pass it into the container"
        )
    if library:
        return InputError(f"device npu: CANN is not set up ({library[1]} not found); {SET_ENV}")
    reason = text.splitlines()[0] if text else repr(error)
    if "undefined symbol" in text:
        return InputError(
            f"device npu: torch_npu fits neither torch {torch_version} nor the installed CANN ({reason}); "
            "install matching releases"
        )
    if "Two accelerators" in text:
        return InputError(
            f"device npu: torch {torch_version} is built for CUDA, which torch_npu refuses; "
            "install the CPU build of the same torch (README.md, install)"
        )
    if isinstance(error, ImportError):
        return InputError(f"device npu: torch_npu cannot be imported: {reason}; install it again")
    return InputError(f"device npu: torch_npu cannot be used: {reason}; check npu-smi info")
