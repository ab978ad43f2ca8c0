"""Check what an NPU needs beside torch (torch_npu, CANN, the driver); report what is missing in one line with the fix.

Only this module imports torch_npu. The order of the checks matters: a missing CANN, for example, makes the wheel of
torch_npu 2.13.0 fail with a misleading message, so causes are checked before their consequences.
"""

import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

from videobench.device.packages import installed_version
from videobench.errors import InputError

# Where to look for CANN: first the environment (its set_env.sh sets both variables), then the installers' folders: from
# 8.5 on, before 8.5, and for users other than root.
CANN_VARIABLES = ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH")
CANN_FOLDERS = ("/usr/local/Ascend/cann", "/usr/local/Ascend/ascend-toolkit/latest", "~/Ascend/cann")
DRIVER_INSTALL_INFO = Path("/etc/ascend_install.info")  # has a line Driver_Install_Path_Param=/usr/local/Ascend
DRIVER_FOLDER = Path("/usr/local/Ascend")
SET_ENV = "source /usr/local/Ascend/cann/set_env.sh (before CANN 8.5: ascend-toolkit/set_env.sh)"
# With 1, torch_npu computes as torch documents. By default it always uses the tanh formula for gelu, and its own method
# for matrix products (docs of TorchNPU, TORCH_NPU_USE_COMPATIBLE_IMPL and native gelu; unknown before TorchNPU 26.0.0).
# torch_npu reads it when it is imported. The reference uses the erf formula, and the difference is as large as
# rounding, so it would disturb a comparison. A value set by the user is kept, and every reply stores the value in
# force.
COMPATIBLE_VARIABLE = "TORCH_NPU_USE_COMPATIBLE_IMPL"
UNKNOWN = "unknown"


def count_cards() -> int:
    """Count visible NPUs; raises InputError if torch_npu cannot be used."""
    os.environ.setdefault(COMPATIBLE_VARIABLE, "1")  # before torch, which may import torch_npu
    import torch

    try:
        import torch_npu  # noqa: F401

        # is_available() is not used: it has been seen to be True while the count was 0.
        return int(getattr(torch, "npu").device_count())  # noqa: B009  # made by torch_npu
    except Exception as error:  # CANN may raise any type
        raise _explain(error, torch.__version__) from None


def versions() -> dict[str, str]:
    """Return the versions "torch_npu", "cann" and "npu_driver"; "unknown" if not recorded."""
    torch_npu = installed_version("torch_npu") or UNKNOWN
    return {"torch_npu": torch_npu, "cann": cann_version(), "npu_driver": driver_version()}


def cann_version() -> str:
    """Read CANN's version from `<cpu>-linux/ascend_toolkit_install.info` ("version=9.2.0") or version.cfg."""
    for folder in _cann_folders():
        found = _find_entry(folder / f"{platform.machine()}-linux" / "ascend_toolkit_install.info", r"version=(\S+)")
        # toolkit_running_version=[7.3.0.1.231:8.0.RC2]: the build's number, then CANN's
        found = found or _find_entry(folder / "version.cfg", r"toolkit_\w+=\[[^\]]*?:?([^:\]]+)\]")
        if found:
            return found
    return UNKNOWN


def driver_version() -> str:
    """Read the driver's version from its version.info ("Version=25.2.0")."""
    folder = Path(_find_entry(DRIVER_INSTALL_INFO, r"Driver_Install_Path_Param=(\S+)") or DRIVER_FOLDER)
    return _find_entry(folder / "driver" / "version.info", r"Version=(\S+)") or UNKNOWN


def _cann_folders() -> Iterator[Path]:
    for name in CANN_VARIABLES:
        if os.environ.get(name):
            yield Path(os.environ[name])
    yield from (Path(folder).expanduser() for folder in CANN_FOLDERS)


def _find_entry(path: Path, pattern: str) -> str | None:
    """Return the group of the first match at the start of a line; None without a match or a file."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return None
    found = re.search("^" + pattern, text, re.MULTILINE | re.IGNORECASE)
    return found[1] if found else None


def _explain(error: Exception, torch_version: str) -> InputError:
    """Turn an error from importing or first calling torch_npu into one line with the fix."""
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
