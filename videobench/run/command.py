"""What run_npu.py and run_gpu.py do."""

from collections.abc import Sequence

from videobench.run.device_check import check_device
from videobench.run.model_check import check_model
from videobench.run.options import CheckSettings, ModelCheckSettings, parse_args
from videobench.run.runner import run


def main(argv: Sequence[str] | None, device: str) -> int:
    """The exit status; `device` ("npu" or "cuda") is used unless --device names another."""
    settings = parse_args(argv, device)
    if isinstance(settings, CheckSettings):
        return check_device(settings)
    return check_model(settings) if isinstance(settings, ModelCheckSettings) else run(settings)
