"""Answer Video-Bench with LLaVA-NeXT-Video on an NPU or a GPU, and compare the two."""

import os

# `import torch` imports an installed torch_npu by itself, and fails where CANN is missing. No script may depend on
# that: device/npu.py imports torch_npu where an NPU is asked for, and says what is wrong.
os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
