"""torch.npu of the test double: the names that programs use, with the meaning that the real ones have."""

import atexit
import json
import os
import re
from pathlib import Path

import torch

_ops = torch.ops.sim_npu
_IN_MACHINE = int(os.environ.get("SIM_NPU_COUNT", "1"))
_MEMORY = 64 << 30
_USED = int(os.environ.get("SIM_NPU_USED", "0"))
_FIRST_GENERATION = os.environ.get("SIM_NPU_SOC") == "910A"
_settings: dict[str, bool] = {}  # what the program has set


# --- The cards ---


def device_count():
    """As the real one: the list may name cards that are there, in ascending order, or it ends there."""
    listed = os.environ.get("ASCEND_RT_VISIBLE_DEVICES")
    if listed is None:
        return _IN_MACHINE
    indices = [int(each) for each in re.match(r"[\d,]*", listed)[0].split(",") if each]
    if indices != sorted(set(indices)):
        return 0
    return sum(index < _IN_MACHINE for index in indices)


def is_available():
    return True  # the real one has been seen to say so beside a count of 0


def is_initialized():
    return True


def init():
    pass


_lazy_init = init


def current_device():
    return _ops.current()


def set_device(device):
    """Where the real one initialises CANN: cards from Atlas A2 on refuse INF_NAN_MODE_ENABLE=0 there."""
    saturates = os.environ.get("INF_NAN_MODE_ENABLE", "1") == "0"
    if saturates and not _FIRST_GENERATION and os.environ.get("INF_NAN_MODE_FORCE_DISABLE", "0") != "1":
        raise RuntimeError(
            "INF_NAN_MODE_ENABLE shouldn't be set to 0 on the current device. If you want to disable inf-nan mode, "
            "please export INF_NAN_MODE_FORCE_DISABLE=1"
        )
    _ops.set_current(_index(device))


class utils:
    @staticmethod
    def is_support_inf_nan():
        return not _FIRST_GENERATION and os.environ.get("INF_NAN_MODE_FORCE_DISABLE", "0") != "1"


def get_device_name(device=None):
    return "Simulated910A" if _FIRST_GENERATION else "Simulated910B"


def is_bf16_supported():
    return not _FIRST_GENERATION


def get_amp_supported_dtype():  # transformers before 5 turns autocast off around rope, for which torch asks this
    return [torch.float16, torch.bfloat16]


def synchronize(device=None):
    pass  # everything is done at once


# --- Memory ---


def _index(device=None) -> int:
    if device is None:
        return _ops.current()
    if isinstance(device, int):
        return device
    index = torch.device(device).index
    return _ops.current() if index is None else index


def empty_cache():
    pass


def memory_allocated(device=None):
    return _ops.allocated(_index(device))


def max_memory_allocated(device=None):
    return _ops.peak(_index(device))


def reset_peak_memory_stats(device=None):
    _ops.reset_peak(_index(device))


def mem_get_info(device=None):
    return max(_MEMORY - _USED - memory_allocated(device), 0), _MEMORY


# --- Settings: written down for the test ---


def set_compile_mode(jit_compile=False):
    _settings["jit_compile"] = jit_compile


class _Switches:
    def __init__(self, prefix):
        object.__setattr__(self, "_prefix", prefix)

    def __setattr__(self, name, value):
        _settings[f"{self._prefix}.{name}"] = value


config, matmul, conv = _Switches("config"), _Switches("matmul"), _Switches("conv")


def report() -> dict:
    """What this process has done so far: operators, copies, peak bytes on each card, settings, environment."""
    return {
        **json.loads(_ops.counters()),
        "peak_bytes": [_ops.peak(card) for card in range(device_count())],
        "settings": _settings,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "environment": dict(os.environ),
    }


def _write_report(folder):
    Path(folder, f"{os.getpid()}.json").write_text(json.dumps(report()))


_ops.init(device_count(), max(_MEMORY - _USED, 0), False)
if "SIM_NPU_REPORT" in os.environ:
    atexit.register(_write_report, os.environ["SIM_NPU_REPORT"])
