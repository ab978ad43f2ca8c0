"""torch.npu of the test double: the names that programs use, with the meaning that the real ones have."""

import atexit
import json
import os
import re
from pathlib import Path

import torch

from torch_npu import _faults
from torch_npu._streams import Event, Stream, current_stream, default_stream, stream  # noqa: F401

_ops = torch.ops.sim_npu
_IN_MACHINE = int(os.environ.get("SIM_NPU_COUNT", "1"))
_MEMORY = int(os.environ.get("SIM_NPU_MEMORY", 64 << 30))
_USED = int(os.environ.get("SIM_NPU_USED", "0"))
_FIRST_GENERATION = os.environ.get("SIM_NPU_SOC") == "910A"
_settings: dict[str, bool] = {}  # what the program has set


def _visible_count() -> int:
    """As the real device_count: the list may name cards that are there, in ascending order, or it ends there."""
    listed = os.environ.get("ASCEND_RT_VISIBLE_DEVICES")
    if listed is None:
        return _IN_MACHINE
    indices = [int(each) for each in re.match(r"[\d,]*", listed)[0].split(",") if each]
    if indices != sorted(set(indices)):
        return 0
    return sum(index < _IN_MACHINE for index in indices)


_ops.init(_visible_count(), max(_MEMORY - _USED, 0), os.environ.get("SIM_NPU_OOM") == "plain")
if "SIM_NPU_NAN" in os.environ:
    _name, _call = os.environ["SIM_NPU_NAN"].rsplit(":", 1)
    _ops.poison(_name, int(_call))
if _faults.FAULT == "no-kernels":
    _faults.WithoutKernels().__enter__()


def _index(device=None) -> int:
    if device is None:
        return _ops.current()
    if isinstance(device, int):
        return device
    device = torch.device(device)
    if device.type != "npu":
        raise ValueError(f"Expected an npu device, but got: {device}")
    return _ops.current() if device.index is None else device.index


# --- The cards ---


def is_available():
    return True  # the real one has been seen to say so beside a count of 0


def device_count():
    return _visible_count()


def is_initialized():
    return True


def init():
    pass


_lazy_init = init


def _is_in_bad_fork():
    return False


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


def get_device_properties(device=None):
    return _Properties()


class _Properties:
    def __init__(self):
        self.name = get_device_name()
        self.total_memory = _MEMORY


def get_device_capability(device=None):
    return None


def is_bf16_supported(including_emulation=False):
    return not _FIRST_GENERATION


def get_amp_supported_dtype():
    return [torch.float16, torch.bfloat16]


class device:
    def __init__(self, device):
        self.index = _index(device)

    def __enter__(self):
        self.previous = _ops.current()
        _ops.set_current(self.index)

    def __exit__(self, *error):
        _ops.set_current(self.previous)


# --- Memory ---


def empty_cache():
    pass


def memory_allocated(device=None):
    return _ops.allocated(_index(device))


memory_reserved = memory_allocated


def max_memory_allocated(device=None):
    return _ops.peak(_index(device))


max_memory_reserved = max_memory_allocated


def reset_peak_memory_stats(device=None):
    _ops.reset_peak(_index(device))


def mem_get_info(device=None):
    return max(_MEMORY - _USED - memory_allocated(device), 0), _MEMORY


# --- Random numbers: those of the CPU ---


def manual_seed(seed):
    torch.random.default_generator.manual_seed(int(seed))


manual_seed_all = manual_seed


def get_rng_state(device="npu"):
    return torch.get_rng_state()


def set_rng_state(state, device="npu"):
    torch.set_rng_state(state)


# --- Streams: everything is done at once ---


def synchronize(device=None):
    _ops.allocated(_index(device))


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
    """Of this process so far: operators and copies, bytes at the most on each card, settings, environment."""
    return {
        **json.loads(_ops.counters()),
        "peak_bytes": [_ops.peak(card) for card in range(_visible_count())],
        "settings": _settings,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "environment": dict(os.environ),
    }


def _write_report(folder):
    Path(folder, f"{os.getpid()}.json").write_text(json.dumps(report()))


if "SIM_NPU_REPORT" in os.environ:
    atexit.register(_write_report, os.environ["SIM_NPU_REPORT"])
