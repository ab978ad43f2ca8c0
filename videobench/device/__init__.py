"""npu, cuda and cpu: opening one, its memory, and what an NPU needs installed."""
