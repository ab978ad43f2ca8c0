"""How much of the host's memory reading weights takes at the most."""

import sys

import pytest
import torch

from tests.support.random_checkpoint import Shape, make_model, write_checkpoint

MB = 2**20
SLACK_BYTES = 64 * MB  # for what Python and the allocator keep

LOAD = """
import sys
from pathlib import Path
def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
from videobench.device.devices import open_device
device = open_device("cpu")
from videobench.model.checkpoint import load_checkpoint
from videobench.model.engine import load_engine
from transformers import LlavaNextVideoForConditionalGeneration
checkpoint = load_checkpoint(Path(sys.argv[1]))
before = peak()
engine = load_engine(checkpoint, device, sys.argv[2], 4)
print(peak() - before)
"""


@pytest.mark.slow
def test_weights_are_in_memory_once(tmp_path, run_command):
    """In the files' dtype they are mapped, which ranks on one machine share; in another one they are there once beside
    the mapped files, never a second time and not in float32 on their way to 16 bits."""
    folder = write_checkpoint(Shape((1024, 2816, 8, 8), (64, 128, 2, 2), 2048, 336), tmp_path / "model")
    (folder / "model.safetensors").unlink()
    model = make_model(folder, torch.device("cpu"), torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="50MB")
    in_files = 2 * sum(parameter.numel() for parameter in model.parameters())
    assert in_files > 200 * MB
    for dtype, own_copy in (("bfloat16", 0), ("float16", in_files), ("float32", 2 * in_files)):
        done = run_command(sys.executable, "-c", LOAD, folder, dtype, OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) < own_copy + in_files + SLACK_BYTES, dtype
