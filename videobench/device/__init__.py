"""Open a device (npu, cuda or cpu), look at its memory, check what an NPU needs installed."""
